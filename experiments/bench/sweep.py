"""The tree against one branch at a time, and against what its UNet evaluations cost at the least.

`sweep_speedup`: tau values x pairs of the embedded model, naive seconds / tree seconds, images equal.
`sweep_vs_bound`: tree seconds / seconds of its UNet calls bare. `naive_vs_diffusers_step`: that the naive
loop is no straw man. `sweep_evaluations_saved` is what of the speedup is counting. Text encoding and decoding
are part of every time.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from diffusers.models.attention_processor import AttnProcessor

from experiments.bench import naive
from experiments.bench.bare import BareCalls
from experiments.bench.measuring import Clock, Measured, Ratio, in_turn
from experiments.datasets.embedded_pairs import COUNTS, scene_pairs
from p2p import Calls, EditRequest, Group, Model, PromptToPrompt, Sampling, generate
from p2p.evaluations import plan_evaluations
from p2p.groups import batches

# Batches of other sizes round differently in float32, and denoising carries that on; a value at a rounding
# step of 8 bits may then fall on its other side.
LEVELS = 2  # most by which an 8-bit value may differ
SHARE = 0.01  # most of the values that may


def measure(
    model: Model,
    pairs: int,
    taus: Sequence[float],
    sampling: Sampling,
    clock: Clock,
    say: Callable[[str], None],
) -> Measured:
    """Measure on `pairs` pairs, of each edit type in turn. Raises RuntimeError where images differ."""
    groups = pair_groups(model, pairs, taus, sampling)
    tree: list[float] = []
    one_by_one: list[float] = []
    bound: list[float] = []
    images = differing = values = 0
    largest = 0.0
    parts = {"text": 0.0, "decoding": 0.0}
    evaluations = 0
    for numbers in batches(groups, sampling):
        some = [groups[number] for number in numbers]
        bare = BareCalls(model, clock, every=3)
        began = clock.now()
        edited = generate(model, some, sampling, Calls(sampling.max_batch, bare.on_rows))
        tree.append(clock.now() - began - bare.spent)
        bound.append(bare.bound())
        evaluations += sum(rows * number for rows, number in bare.counts.items())
        _add_parts(parts, model, some, clock)
        began = clock.now()
        alone = [
            [
                naive.edit_images(model, group.source_prompt, edit, group.seed, sampling)
                for edit in group.edits
            ]
            for group in some
        ]
        one_by_one.append(clock.now() - began)
        for ours, theirs in zip(edited, alone, strict=True):
            for image, (source, target) in zip(ours.images, theirs, strict=True):
                difference = (torch.stack([ours.source, image]) - torch.stack([source, target])).abs() * 255
                largest = max(largest, difference.max().item())
                differing += int((difference > 0.5).sum())
                values += difference.numel()
                images += 2
        say(
            f"{len(tree)}: pairs up to {numbers[-1] + 1} of {len(groups)}: tree {tree[-1]:.1f} s, its bound "
            f"{bound[-1]:.1f} s, one by one {one_by_one[-1]:.1f} s; {differing} of {values} values differ"
        )
    planned = plan_evaluations(groups, model_calls(model, sampling), sampling)
    if evaluations != planned:
        raise RuntimeError(f"sweep: {evaluations} UNet evaluations, planned {planned}")
    if round(largest) > LEVELS or differing > SHARE * values:
        raise RuntimeError(
            f"sweep: tree and naive loop differ by up to {largest:.0f} levels in {differing} of {values} "
            f"values, allowed are {LEVELS} levels in {SHARE:.0%}"
        )
    unshared = len(taus) * pairs * model_calls(model, sampling) * (4 if sampling.guided else 2)
    return Measured(
        {
            "sweep_speedup": Ratio.of_sums(one_by_one, tree),
            "sweep_vs_bound": Ratio.of_sums(tree, bound),
        },
        {
            "sweep_evaluations": planned,
            "sweep_evaluations_one_by_one": unshared,
            "sweep_evaluations_saved": unshared / planned,
            "sweep_text_share": parts["text"] / sum(tree),
            "sweep_decoding_share": parts["decoding"] / sum(tree),
            "sweep_images_compared": images,
            "sweep_largest_8_bit_difference": round(largest),
            "sweep_8_bit_values_that_differ": differing,
            "sweep_8_bit_values": values,
            "sweep_8_bit_tolerance": f"{LEVELS} levels in at most {SHARE:.0%} of the values",
        },
    )


def measure_step(
    model: Model, sampling: Sampling, rounds: int, clock: Clock, say: Callable[[str], None]
) -> Measured:
    """Measure a naive run, maps edited at every step, against a plain one of diffusers with formed maps."""
    pair = scene_pairs({"swap": 1})[0].pair()
    request = EditRequest(pair.source_prompt, pair.target_prompt)
    method = PromptToPrompt(tau=0.0, self_replace_steps=1.0)
    edit = method.trajectory(request, model.tokenizers, sampling.num_inference_steps)
    pipeline = model.pipeline

    def plain() -> None:
        original = dict(pipeline.unet.attn_processors)
        pipeline.unet.set_attn_processor(AttnProcessor())
        try:
            pipeline(
                [pair.source_prompt, pair.target_prompt],
                num_inference_steps=sampling.num_inference_steps,
                guidance_scale=sampling.guidance_scale,
                generator=[torch.Generator().manual_seed(0) for _ in range(2)],
                output_type="latent",
            )
        finally:
            pipeline.unet.set_attn_processor(original)

    def ours() -> None:
        naive.edit_latents(model, pair.source_prompt, edit, 0, sampling)

    plain()
    times = in_turn(
        {"diffusers": lambda: clock.seconds(plain), "naive": lambda: clock.seconds(ours)}, rounds, say
    )
    ratios = [a / b for a, b in zip(times["naive"], times["diffusers"], strict=True)]
    return Measured({"naive_vs_diffusers_step": Ratio.of(ratios)})


def model_calls(model: Model, sampling: Sampling) -> int:
    """Return how often one trajectory calls the UNet."""
    return len(model.new_scheduler(sampling.num_inference_steps).timesteps)


def pair_groups(model: Model, pairs: int, taus: Sequence[float], sampling: Sampling) -> list[Group]:
    """Return a group for each of `pairs` scene pairs, of each edit type in turn, edited at every tau."""
    types = list(COUNTS)
    counts = {kind: sum(i % len(types) == k for i in range(pairs)) for k, kind in enumerate(types)}
    groups = []
    for seed, scene in enumerate(scene_pairs({kind: count for kind, count in counts.items() if count})):
        pair = scene.pair()
        request = EditRequest(pair.source_prompt, pair.target_prompt, pair.weights)
        edits = tuple(
            PromptToPrompt(tau=tau).trajectory(request, model.tokenizers, sampling.num_inference_steps)
            for tau in taus
        )
        groups.append(Group(pair.source_prompt, seed, edits))
    return groups


def _add_parts(parts: dict[str, float], model: Model, groups: Sequence[Group], clock: Clock) -> None:
    """Add the seconds that text encoding and decoding take by themselves."""
    prompts = sorted({t.prompt for group in groups for t in group.tree().values()} | {""})
    latents = torch.zeros(
        sum(len(group.tree()) for group in groups), *model.latent_shape, device=clock.device
    )
    with torch.no_grad():
        parts["text"] += clock.seconds(lambda: [model.encode_prompt(prompt) for prompt in prompts])
        parts["decoding"] += clock.seconds(lambda: model.decode(latents.to(model.pipeline.vae.dtype)))
