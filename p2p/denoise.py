"""The denoising loop: a tree's states in lockstep, each step one batched prediction and one scheduler step.

Targets read their source's attention (attention.py) in the same call, or from a bank where a step takes
several calls. Inside the loop the processor never waits for the device: what the rows take is put there
before the first step (prepared.py), the scheduler's timesteps and coefficients stay on the CPU, and whether
latents are finite is asked after the last step.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from p2p.attention.source_bank import SourceBank
from p2p.families.model import Conditioning, Model, stack_rows
from p2p.memory import attempt
from p2p.prepared import Indices, Preparation
from p2p.sampling import Calls, Sampling
from p2p.schedulers import fork, scale_model_input, take_step
from p2p.source_path import SourcePath, replay_step
from p2p.tree import Node
from p2p.word_maps import WordMaps


def denoise(
    model: Model,
    sources: Sequence[SourcePath],
    levels: Sequence[Sequence[Node]],
    scheduler: Any,
    sampling: Sampling,
    calls: Calls,
) -> tuple[Tensor, WordMaps]:
    """Denoise a tree's states; return latents (last nodes, channels, height, width) and maps.

    `sources` are one per group, all generated or all inverted in one way; they start at the same step, and
    every branch of a group gets the same noise. `levels` are the nodes of each step from there on. Raises
    FloatingPointError where latents stop being finite.
    """
    _check_self_limits(model, levels)
    injections = [node.injection for level in levels for node in level if node.injection]
    model.check_layers(injection.layers for injection in injections if injection.layers)
    start, latents = sources[0].start, torch.stack([path.latents for path in sources])
    generators = [path.generator for path in sources if path.generator is not None]
    prompts = sorted({node.prompt for level in levels for node in level})
    texts = {prompt: model.encode_prompt(prompt) for prompt in prompts}
    per_node = sampling.rows_per_state(model.guidance_embedded)
    guided = per_node == 2
    negative = model.encode_prompt(sampling.negative_prompt, negative=True) if guided else None
    index = Indices(latents.device)
    prepared = Preparation.of(levels, per_node, model, index, max(1, calls.max_rows // per_node))
    maps = WordMaps.of(levels, model, index, start)
    forks = [index([node.parent for node in level]) for level in levels]
    with model.injection_processors() as layers:
        steps = zip(levels, forks, scheduler.timesteps[start:], strict=True)
        for step, (level, parents, timestep) in enumerate(steps, start):
            fork(scheduler, parents, latents)
            latents = latents[parents]
            maps.fork(parents)
            uncond = [path.negative(step, negative) for path in sources] if negative else None
            noise_pred = _predict(
                model,
                latents,
                prepared,
                step - start,
                scheduler,
                timestep,
                sources,
                texts,
                uncond,
                layers,
                sampling,
                calls,
                maps,
            )
            groups = [node.group for node in level]
            if generators:
                latents = take_step(scheduler, noise_pred, timestep, latents, groups, generators)
            else:
                latents = replay_step(scheduler, noise_pred, timestep, latents, groups, sources, step)
            latents = maps.blend(level, latents)
    if not latents.isfinite().all():
        broken = sorted(
            {
                node.prompt
                for node, ok in zip(levels[-1], latents.isfinite().flatten(1).all(1), strict=True)
                if not ok
            }
        )
        raise FloatingPointError(
            f"latents: not finite for prompts {broken}; half precision may overflow, try dtype=float32"
        )
    return latents, maps


def _check_self_limits(model: Model, levels: Sequence[Sequence[Node]]) -> None:
    """Raise ValueError where a profile's self-attention would be injected in no layer at all."""
    smallest = model.pixels(model.attention_sides()[-1])
    injections = [node.injection for level in levels for node in level if node.injection]
    limits = [i.self_max_pixels for i in injections if i.self_attention and i.self_max_pixels]
    if min(limits, default=smallest) < smallest:
        raise ValueError(
            f"profile: self-attention would be injected in layers of at most {min(limits)} tokens, but the "
            f"smallest of this model has {smallest}; allowed are a profile without a limit (fixed) and "
            "self_replace_steps 0"
        )


def _predict(
    model: Model,
    latents: Tensor,
    prepared: Preparation,
    number: int,
    scheduler: Any,
    timestep: Tensor,
    sources: Sequence[SourcePath],
    texts: dict[str, Conditioning],
    negatives: Sequence[Conditioning] | None,
    layers: tuple[str, ...],
    sampling: Sampling,
    calls: Calls,
    maps: WordMaps,
) -> Tensor:
    """Return the guided noise prediction of every node of a level, in calls of `calls.max_rows` rows, sources
    first.
    """
    level, per_node = prepared.levels[number], prepared.per_node
    bank = SourceBank()
    scaled = scale_model_input(scheduler, latents, timestep)
    predictions = []
    begin = 0
    while begin < len(level):
        nodes = level[begin : begin + max(1, calls.max_rows // per_node)]
        rows = scaled[begin : begin + len(nodes)].repeat(per_node, 1, 1, 1)
        conditioning = _conditioning(nodes, texts, negatives)
        words = maps.words(begin, len(nodes), per_node)
        chunk = prepared.chunk(number, begin, len(nodes))
        injection = chunk.at_step(prepared.mixes, bank, words, maps.active_layers)
        bank.keep = begin + len(nodes) < len(level)
        kept = dict(bank.layers)
        call = partial(model.predict, rows, timestep, conditioning, injection, sampling.guidance_scale)
        output = attempt(call, "denoiser: at one state" if len(nodes) == 1 else None)
        if output is None:
            bank.layers = kept  # what the broken call had added
            calls.max_rows = max(per_node, per_node * (len(nodes) // 2))
            continue
        if injection and sorted(injection.visited) != sorted(layers):
            raise RuntimeError(
                f"attention: {len(set(layers) - set(injection.visited))} layers did not call their processor"
            )
        if injection and injection.taking:
            injection.taking.check()
        if injection:
            maps.add(begin, len(nodes), injection)
        calls.on_rows(len(rows))
        begin += len(nodes)
        if negatives:
            uncond, text = output.chunk(2)
            output = _guide(model, uncond, text, nodes, sources, sampling)
        predictions.append(output)
    return torch.cat(predictions)


def _conditioning(
    nodes: Sequence[Node], texts: dict[str, Conditioning], negatives: Sequence[Conditioning] | None
) -> Conditioning:
    """Return the conditioning of one call's rows: unconditional ones, each its group's, before the others."""
    own = [node.condition.rows if node.condition else {} for node in nodes]
    both = list(zip(nodes, own, strict=True))
    uncond = [{**negatives[node.group], **rows} for node, rows in both] if negatives else []
    return stack_rows([*uncond, *({**texts[node.prompt], **rows} for node, rows in both)])


def _guide(
    model: Model,
    uncond: Tensor,
    text: Tensor,
    nodes: Sequence[Node],
    sources: Sequence[SourcePath],
    sampling: Sampling,
) -> Tensor:
    """Return guided predictions: an inverted source may have its own scale, its edits a shrunk guidance."""
    scale, rescale = sampling.guidance_scale, sampling.guidance_rescale
    guided = model.guide(uncond, text, scale, rescale)
    for i, node in enumerate(nodes):
        path, row = sources[node.group], slice(i, i + 1)
        if 0 in node.branches and path.guidance_scale is not None:
            guided[row] = model.guide(uncond[row], text[row], path.guidance_scale, rescale)
        elif 0 not in node.branches and path.shrink is not None:
            shrunk = uncond[row] + path.shrink(text[row] - uncond[row])
            guided[row] = model.guide(uncond[row], shrunk, scale, rescale)
    return guided
