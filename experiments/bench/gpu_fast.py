"""Time, memory and waits of the engine on a GPU, beside plain diffusers and beside the loop of formed maps.

Real shapes with random weights, float16 on CUDA. Memory is torch's count on CUDA alone; elsewhere the figures
of memory and of waits are left out, and the calls are made all the same.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch

from experiments.bench import compiled, edit, naive
from experiments.bench.measuring import Clock, Measured, Ratio, held_memory, in_turn
from experiments.bench.shapes import SHAPES, XL_SHAPES, model_at, random_pipeline, random_xl_pipeline
from experiments.bench.sweep import model_calls, pair_groups
from experiments.bench.synchronisations import count_synchronisations
from p2p import EditRequest, Group, MasaCtrl, PlugAndPlay, PromptToPrompt, Sampling, StableDiffusion, generate
from p2p.engine import tree_latents
from p2p.evaluations import plan_evaluations
from p2p.groups import batches
from p2p.trajectory import Method

GUIDANCE = 7.5
Say = Callable[[str], None]


def dtype_of(clock: Clock) -> torch.dtype:
    """Return the precision that is measured: float16 on CUDA; processors compute in it slowly, if at all."""
    return torch.float16 if clock.device.type == "cuda" else torch.float32


def measure_edit(shapes: str, side: int, steps: int, rounds: int, clock: Clock, say: Say) -> Measured:
    """Measure one edit of Stable Diffusion 1.5's layers against plain diffusers making the same two images.

    The worse of replace and refine counts, everything injected in every layer and at every step. The loop of
    formed maps runs once, after them.
    """
    pipeline = random_pipeline(SHAPES[shapes], str(clock.device), dtype_of(clock))
    jobs = {operator: _job(operator, side, steps) for operator in edit.TARGETS}
    given = _answers(pipeline, {"plain": jobs["replace"], **jobs}, rounds, clock, say)
    formed = _answers(pipeline, {f"materialised {name}": job for name, job in jobs.items()}, 1, clock, say)
    measured = Measured(details={"edit_shapes": f"{shapes}, {side}x{side} latents, {steps} steps"})
    _compare(measured, "edit_vs_plain", given, given["plain"], clock)
    _compare(measured, "materialised_vs_plain", formed, given["plain"], clock)
    return measured


def measure_xl(shapes: str, side: int, steps: int, clock: Clock, say: Say) -> Measured:
    """Measure one edit of SDXL's layers against plain diffusers making the same two images."""
    pipeline = random_xl_pipeline(XL_SHAPES[shapes], str(clock.device), dtype_of(clock))
    jobs = {operator: _job(operator, side, steps) for operator in edit.TARGETS}
    given = _answers(pipeline, {"plain": jobs["replace"], **jobs}, 1, clock, say)
    measured = Measured(details={"sdxl_shapes": f"{shapes}, {side}x{side} latents, {steps} steps"})
    _compare(measured, "sdxl_edit_vs_plain", given, given["plain"], clock)
    return measured


def _job(operator: str, side: int, steps: int) -> edit.Job:
    return {"operator": operator, "side": side, "guidance": GUIDANCE, "steps": steps}


def _answers(
    pipeline: edit.Pipeline, jobs: dict[str, edit.Job], rounds: int, clock: Clock, say: Say
) -> dict[str, list[dict[str, Any]]]:
    """Return what each job's rounds gave, in turn, after a first run of each that is in no figure."""
    engines = {name: name.split()[0] if name.split()[0] not in edit.TARGETS else "engine" for name in jobs}
    for name, job in jobs.items():
        edit.run(engines[name], pipeline, job | {"steps": 1})
    loaded = held_memory(clock.device)
    answers: dict[str, list[dict[str, Any]]] = {name: [] for name in jobs}

    def seconds(name: str) -> float:
        answers[name].append(edit.answer(engines[name], pipeline, clock, loaded, jobs[name]))
        return answers[name][-1]["seconds"]

    in_turn({name: lambda name=name: seconds(name) for name in jobs}, rounds, say)  # type: ignore[misc]
    return answers


def _compare(
    measured: Measured,
    key: str,
    given: dict[str, list[dict[str, Any]]],
    plain: list[dict[str, Any]],
    clock: Clock,
) -> None:
    """Add the worst ratio to plain of the edits' times and, on CUDA, of their memory."""
    for unit, name in (("seconds", "time"), *([("bytes", "memory")] if clock.device.type == "cuda" else [])):
        base = [one[unit] for one in plain]
        ratios = {
            what: Ratio.of([one[unit] / other for one, other in zip(some, base)])
            for what, some in given.items()
            if what != "plain"
        }
        measured.figures[f"{key}_{name}"] = max(ratios.values(), key=lambda ratio: ratio.value)
        measured.details[f"{key}_{name}"] = {what: ratio.value for what, ratio in ratios.items()}
        measured.details[f"{key}_{unit}"] = {
            what: [one[unit] for one in some] for what, some in given.items()
        }


def measure_compiled(shapes: str, side: int, steps: int, rounds: int, clock: Clock, say: Say) -> Measured:
    """Measure one edit of Stable Diffusion 1.5's layers as it is against the same edit compiled.

    The edit is refined with everything injected at every step, so that there is one graph to compile.
    """
    model = model_at(random_pipeline(SHAPES[shapes], str(clock.device), dtype_of(clock)), side)
    sampling = Sampling(steps, GUIDANCE)
    method = PromptToPrompt(tau=0.0, self_replace_steps=1.0)
    request = EditRequest(edit.SOURCE, edit.TARGETS["refine"])
    trajectory = method.trajectory(request, model.tokenizers, steps)
    return compiled.measure(model, [Group(edit.SOURCE, 0, (trajectory,))], sampling, rounds, clock, say)


def measure_sweep(
    shapes: str,
    side: int,
    pairs: int,
    taus: Sequence[float],
    sampling: Sampling,
    sample: int,
    clock: Clock,
    say: Say,
) -> Measured:
    """Measure a sweep over tau as a tree against the loop of formed maps, one edit after the other.

    Of that loop `sample` edits, evenly spread, are made; their mean stands for each, as every edit takes the
    same calls of the same size. Text encoding and decoding are part of both times.
    """
    pipeline = random_pipeline(SHAPES[shapes], str(clock.device), dtype_of(clock))
    model = StableDiffusion(
        pipeline, self_max_side=side // 2, blend_side=side // 4, height=8 * side, width=8 * side
    )
    groups = pair_groups(model, pairs, taus, sampling)
    edits = [(group, edited) for group in groups for edited in group.edits]
    chosen = [(2 * i + 1) * len(edits) // (2 * sample) for i in range(sample)]

    def alone(number: int) -> torch.Tensor:
        group, edited = edits[number]
        return naive.edit_images(model, group.source_prompt, edited, group.seed, sampling)

    few = pair_groups(model, 1, taus, Sampling(2, sampling.guidance_scale))
    generate(model, few, Sampling(2, sampling.guidance_scale))  # what is set up once is in no figure
    naive.edit_images(model, few[0].source_prompt, few[0].edits[0], 0, Sampling(2, sampling.guidance_scale))
    began = clock.now()
    trees = [
        image
        for numbers in batches(groups, sampling)
        for edited in generate(model, [groups[number] for number in numbers], sampling)
        for image in edited.images
    ]
    tree = clock.now() - began
    say(f"tree of {len(edits)} edits: {tree:.2f} s")
    times, differences = [], []
    for number in chosen:
        began = clock.now()
        target = alone(number)[1]
        times.append(clock.now() - began)
        differences.append((target - trees[number]).abs().mean().item())
        say(f"edit {number + 1} of {len(edits)} alone: {times[-1]:.2f} s")
    calls = model_calls(model, sampling)
    planned = plan_evaluations(groups, calls, sampling)
    unshared = len(edits) * calls * 4
    return Measured(
        {"sweep_speedup": Ratio.of_sums([sum(times) / sample * len(edits)], [tree])},
        {
            "sweep_shapes": f"{shapes}, {side}x{side} latents, {sampling.num_inference_steps} steps",
            "sweep_edits": len(edits),
            "sweep_edits_made_alone": sample,
            "sweep_seconds_of_an_edit_alone": times,
            "sweep_seconds_of_the_tree": tree,
            "sweep_evaluations_saved": unshared / planned,
            "sweep_mean_difference": differences,
        },
    )


def measure_waits(steps: int, clock: Clock, say: Say) -> Measured:
    """Measure how many times a step waits for the device, beyond what a step of diffusers' own call does.

    Waits of a run of `steps` are taken from waits of a run of twice as many, so that text and set-up are left
    out. The number of waits does not depend on widths, so the shapes are tiny. The method that waits most
    counts.
    """
    pipeline = random_pipeline(SHAPES["tiny"], str(clock.device), dtype_of(clock))
    side = 16
    model = model_at(pipeline, side)
    blend = ("cat", "dog")
    methods: dict[str, tuple[Method, EditRequest]] = {
        operator: (PromptToPrompt(tau=0.0, self_replace_steps=1.0), EditRequest(edit.SOURCE, target))
        for operator, target in edit.TARGETS.items()
    }
    swap = EditRequest(edit.SOURCE, edit.TARGETS["replace"])
    methods["local_blend"] = (
        PromptToPrompt(tau=0.0),
        EditRequest(edit.SOURCE, edit.TARGETS["replace"], blend_words=blend),
    )
    methods["masactrl"] = (MasaCtrl(start_step=0), swap)
    methods["plug_and_play"] = (PlugAndPlay(1.0, 1.0), swap)

    def engine(name: str, count: int) -> None:
        method, request = methods[name]
        trajectory = method.trajectory(request, model.tokenizers, count)
        tree_latents(model, [Group(edit.SOURCE, 0, (trajectory,))], Sampling(count, GUIDANCE))

    def plain(count: int) -> None:
        edit.run("plain", pipeline, _job("replace", side, count))

    runs: dict[str, Callable[[int], None]] = {
        "plain": plain,
        **{name: partial(engine, name) for name in methods},
    }
    waits: dict[str, float] = {}
    for name, run in runs.items():
        run(steps)
        if clock.device.type == "cuda":
            counts = {n: count_synchronisations(partial(run, n)) for n in (steps, 2 * steps)}
            waits[name] = waits_a_step(counts)
            say(f"{name}: {waits[name]:g} a step")
    if not waits:
        return Measured()
    beyond = {name: count - waits["plain"] for name, count in waits.items() if name != "plain"}
    figure = Ratio(max(beyond.values()), min(beyond.values()), max(beyond.values()))
    return Measured({"waits_per_step": figure}, {"waits_per_step": waits})


def waits_a_step(counts: Mapping[int, int]) -> float:
    """Return the waits of one step; `counts` maps two runs' numbers of steps to their numbers of waits."""
    few, many = min(counts), max(counts)
    return (counts[many] - counts[few]) / (many - few)
