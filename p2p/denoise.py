"""The denoising loop: a tree's states in lockstep, each step one batched prediction and one scheduler step.

Targets read their source's attention (attention.py) in the same call, or from a bank where a step takes
several calls.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from p2p.attention import BatchInjection, SourceBank
from p2p.families.model import Conditioning, Model, stack_rows
from p2p.source import SourcePath, replay_step
from p2p.tree import Node
from p2p.word_maps import WordMaps


@dataclass(frozen=True)
class Sampling:
    """How every image is denoised. Names and meanings as in diffusers: `guidance_scale` 1 is off."""

    num_inference_steps: int = 50
    guidance_scale: float = 7.5
    negative_prompt: str = ""
    max_batch: int = 64  # UNet rows per call; guidance takes two per image

    def __post_init__(self) -> None:
        for name, kind, least, note in (
            ("num_inference_steps", int, 1, ""),
            ("guidance_scale", (int, float), 1, " (1 is off)"),
            ("max_batch", int, 2, ""),
        ):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, kind) or not value >= least:
                number = "a whole number" if kind is int else "a number"
                raise ValueError(f"{name}: {value!r} is not {number} of at least {least}{note}")
        if not isinstance(self.negative_prompt, str):
            raise ValueError(f"negative_prompt: {self.negative_prompt!r} is not a text")

    @property
    def guided(self) -> bool:
        """Whether unconditional rows are needed."""
        return self.guidance_scale > 1


@dataclass
class Calls:
    """The calls of the denoiser: at most `max_rows` rows each, halved for good where memory runs out."""

    max_rows: int
    on_rows: Callable[[int], object] = lambda rows: None  # told the rows of each call that was made


def denoise(
    model: Model,
    sources: Sequence[SourcePath],
    levels: Sequence[Sequence[Node]],
    scheduler: Any,
    sampling: Sampling,
    calls: Calls,
) -> Tensor:
    """Denoise a tree's states; return latents (last nodes, channels, height, width).

    `sources` are one per group, all generated or all inverted in one way; they start at the same step, and
    every branch of a group gets the same noise. `levels` are the nodes of each step from there on. Raises
    FloatingPointError where latents stop being finite.
    """
    start, latents = sources[0].start, torch.stack([path.latents for path in sources])
    generators = [path.generator for path in sources if path.generator is not None]
    prompts = sorted({node.prompt for level in levels for node in level})
    texts = {prompt: model.encode_prompt(prompt) for prompt in prompts}
    negative = model.encode_prompt(sampling.negative_prompt, negative=True) if sampling.guided else None
    with model.injection_processors() as layers:
        maps = WordMaps.of(levels[0], model)
        steps = zip(levels, scheduler.timesteps[start:], strict=True)
        for step, (level, timestep) in enumerate(steps, start):
            parents = torch.tensor([node.parent for node in level], device=latents.device)
            _fork(scheduler, parents, latents)
            latents = latents[parents]
            maps.fork(level, parents)
            uncond = [path.negative(step, negative) for path in sources] if negative else None
            noise_pred = _predict(
                model,
                latents,
                level,
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
                latents = _step(scheduler, noise_pred, timestep, latents, groups, generators)
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
    return latents


def _predict(
    model: Model,
    latents: Tensor,
    level: Sequence[Node],
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
    """Return every node's guided noise prediction, in calls of `calls.max_rows` rows, sources first."""
    per_node = 2 if negatives else 1
    bank = SourceBank()
    scaled = scheduler.scale_model_input(latents, timestep)
    predictions = []
    begin = 0
    while begin < len(level):
        nodes = level[begin : begin + max(1, calls.max_rows // per_node)]
        rows = scaled[begin : begin + len(nodes)].repeat(per_node, 1, 1, 1)
        conditioning = stack_rows(
            ([negatives[node.group] for node in nodes] if negatives else [])
            + [texts[node.prompt] for node in nodes]
        )
        injection = _injection(level, begin, nodes, per_node, bank, model, maps)
        kept = dict(bank.layers)
        try:
            output = model.predict(rows, timestep, conditioning, injection)
        except torch.OutOfMemoryError:
            if len(nodes) == 1:
                raise
            bank.layers = kept  # what the broken call had added
            calls.max_rows = max(per_node, per_node * (len(nodes) // 2))
            torch.cuda.empty_cache()
            continue
        if injection and sorted(injection.visited) != sorted(layers):
            raise RuntimeError(
                f"attention: {len(set(layers) - set(injection.visited))} layers did not call their processor"
            )
        if injection:
            maps.add(begin, len(nodes), injection)
        calls.on_rows(len(rows))
        begin += len(nodes)
        if negatives:
            uncond, text = output.chunk(2)
            output = _guide(model, uncond, text, nodes, sources, sampling.guidance_scale)
        predictions.append(output)
    return torch.cat(predictions)


def _guide(
    model: Model,
    uncond: Tensor,
    text: Tensor,
    nodes: Sequence[Node],
    sources: Sequence[SourcePath],
    guidance_scale: float,
) -> Tensor:
    """Return guided predictions: an inverted source may have its own scale, its edits a shrunk guidance."""
    guided = model.guide(uncond, text, guidance_scale)
    for i, node in enumerate(nodes):
        path, row = sources[node.group], slice(i, i + 1)
        if 0 in node.branches and path.guidance_scale is not None:
            guided[row] = model.guide(uncond[row], text[row], path.guidance_scale)
        elif 0 not in node.branches and path.shrink is not None:
            shrunk = uncond[row] + path.shrink(text[row] - uncond[row])
            guided[row] = model.guide(uncond[row], shrunk, guidance_scale)
    return guided


def _injection(
    level: Sequence[Node],
    begin: int,
    nodes: Sequence[Node],
    per_node: int,
    bank: SourceBank,
    model: Model,
    maps: WordMaps,
) -> BatchInjection | None:
    """Return what one chunk's rows take from the sources, or None where nobody takes anything this step."""
    injections = [node.injection for node in level if node.injection]
    own_limit = model.pixels(model.self_max_side)
    any_cross = any(i.cross is not None for i in injections)
    largest_self = max((i.self_max_pixels or own_limit for i in injections if i.self_attention), default=0)
    words = maps.words(begin, len(nodes), per_node)
    if not (any_cross or largest_self or words is not None):
        return None
    device, dtype = model.device, model.dtype
    first = (per_node - 1) * len(nodes)  # conditional rows come after unconditional ones
    cross = [
        (first + i, n.group, n.injection.cross)
        for i, n in enumerate(nodes)
        if n.injection and n.injection.cross
    ]
    replaced = [entry for entry in cross if not entry[2].own_share.any()]
    mixed = [entry for entry in cross if entry[2].own_share.any()]
    itself = [
        (first + i, n.group, n.injection.self_max_pixels or own_limit)
        for i, n in enumerate(nodes)
        if n.injection and n.injection.self_attention
    ]

    def index(values: Sequence[int]) -> Tensor:
        return torch.tensor(values, dtype=torch.int64, device=device)

    def stack(tensors: Sequence[Tensor]) -> Tensor:
        return torch.stack(list(tensors)).to(device, dtype) if tensors else torch.empty(0, device=device)

    return BatchInjection(
        source_rows=index([first + i for i, node in enumerate(nodes) if 0 in node.branches]),
        replaced_rows=index([row for row, _, _ in replaced]),
        replaced_slots=index([slot for _, slot, _ in replaced]),
        replaced_mix=stack([c.source_mix for _, _, c in replaced]),
        mixed_rows=index([row for row, _, _ in mixed]),
        mixed_slots=index([slot for _, slot, _ in mixed]),
        mixed_mix=stack([c.source_mix for _, _, c in mixed]),
        mixed_own=stack([c.own_share for _, _, c in mixed]),
        self_rows=index([row for row, _, _ in itself]),
        self_slots=index([slot for _, slot, _ in itself]),
        self_max_pixels=tuple(limit for _, _, limit in itself),
        any_cross=any_cross,
        largest_self=largest_self,
        bank=bank,
        words=words,
        words_pixels=model.pixels(model.blend_side),
    )


def _fork(scheduler: Any, parents: Tensor, latents: Tensor) -> None:
    """Give every node its parent's part of a multistep scheduler's history (latent-shaped tensors)."""

    def fork(value: Any) -> Any:
        if isinstance(value, Tensor) and value.shape == latents.shape:
            return value[parents]
        if isinstance(value, list):
            return [fork(item) for item in value]
        return value

    for name, value in vars(scheduler).items():
        if isinstance(value, (Tensor, list)):
            setattr(scheduler, name, fork(value))


def _step(
    scheduler: Any,
    noise_pred: Tensor,
    timestep: Tensor,
    latents: Tensor,
    groups: Sequence[int],
    generators: Sequence[torch.Generator],
) -> Tensor:
    """Take one scheduler step; a stochastic scheduler draws once per group, the same for each of its rows."""
    if "generator" not in inspect.signature(scheduler.step).parameters:
        return scheduler.step(noise_pred, timestep, latents, return_dict=False)[0]
    states = [generator.get_state() for generator in generators]
    rows = [torch.Generator() for _ in groups]
    for row, group in zip(rows, groups, strict=True):
        row.set_state(states[group])
    latents = scheduler.step(noise_pred, timestep, latents, return_dict=False, generator=rows)[0]
    for row, group in zip(rows, groups, strict=True):
        generators[group].set_state(row.get_state())
    return latents
