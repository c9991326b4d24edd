"""The denoising loop: a tree's states in lockstep, each step one batched prediction and one scheduler step.

Inside the loop the processor never waits for the device: what the rows take is put there before the first
step (prepared.py), the scheduler's timesteps and coefficients stay on the CPU, and whether latents are finite
is asked after the last step.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from p2p.conditioning import Texts
from p2p.denoising_run import DenoisingRun
from p2p.dense_calls import DenseCalls
from p2p.devices import overflow_advice
from p2p.families.model import Model
from p2p.flow_solvers import FlowDescent
from p2p.noise_levels import LevelDescent
from p2p.prepared import Indices, Preparation, check_injections, check_prompts
from p2p.sampling import Calls, Sampling
from p2p.schedulers import fork, take_step
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
    check_injections([node.injection for level in levels for node in level if node.injection], model)
    check_prompts(levels, model)
    start, latents = sources[0].start, torch.stack([path.latents for path in sources])
    generators = [path.generator for path in sources if path.generator is not None]
    texts = Texts.of(levels, model, sampling)
    index = Indices(latents.device)
    per_node = sampling.rows_per_state(model.guidance_embedded)
    prepared = Preparation.of(levels, per_node, model, index, max(1, calls.max_rows // per_node))
    dense = DenseCalls.of(prepared) if model.compile else None
    maps = WordMaps.of(levels, model, index, start)
    forks = [index([node.parent for node in level]) for level in levels]
    descent, by_levels = FlowDescent.of(sources, scheduler), LevelDescent.of(sources, scheduler)
    scaling = by_levels.levels if by_levels else scheduler  # states between levels are the network's input
    kept: Tensor | None = None  # what a flow's step keeps for the next one, by state
    with model.injection_processors() as layers:
        run = DenoisingRun(model, scaling, sources, sampling, calls, texts, prepared, maps, layers, dense)
        steps = zip(levels, forks, scheduler.timesteps[start:], strict=True)
        for number, (level, parents, timestep) in enumerate(steps):
            fork(scheduler, parents, latents)
            latents = latents[parents]
            maps.fork(parents)
            groups = [node.group for node in level]
            if descent:
                kept = None if kept is None else kept[parents]
                velocity = run.velocity(number)
                latents, kept = descent.step(velocity, start + number, latents, groups, kept)
            elif by_levels:
                noise_pred = run.predict(latents, number, timestep)
                latents = by_levels.step(noise_pred, start + number, latents, groups)
            elif generators:
                noise_pred = run.predict(latents, number, timestep)
                latents = take_step(scheduler, noise_pred, timestep, latents, groups, generators)
            else:
                noise_pred = run.predict(latents, number, timestep)
                latents = replay_step(scheduler, noise_pred, start + number, latents, groups, sources)
            latents = maps.blend(level, latents)
    _check_finite(latents, levels[-1], model.dtype)
    return latents, maps


def _check_finite(latents: Tensor, nodes: Sequence[Node], dtype: torch.dtype) -> None:
    """Raise FloatingPointError where a node's latents are not finite, with the prompts of all such nodes.

    `dtype` is the model's.
    """
    if latents.isfinite().all():
        return
    finite = latents.isfinite().flatten(1).all(1)
    broken = sorted({node.prompt for node, ok in zip(nodes, finite, strict=True) if not ok})
    raise FloatingPointError(f"latents: not finite for prompts {broken}{overflow_advice(dtype)}")
