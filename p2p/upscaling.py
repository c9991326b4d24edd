"""The super-resolution stage of a pixel model: the same edits once more, on the images of the base stage.

Hertz et al. 2022 edit Imagen so: its stages are edited one after the other. Every branch enlarges its own
image, so that branches share a state only where they are one image already.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from p2p.denoise import denoise
from p2p.families.model import Model
from p2p.sampling import Calls, Sampling
from p2p.source_path import SourcePath
from p2p.trajectory import Condition, Trajectory
from p2p.tree import build_tree


def upscaled_latents(
    model: Model,
    trees: Sequence[Mapping[int, Trajectory]],
    images: Sequence[Tensor],
    sampling: Sampling,
    calls: Calls,
    generators: Sequence[torch.Generator],
) -> list[Tensor]:
    """Return the final latents of each tree, (trajectories, channels, height, width).

    `trees` are trajectories by branch, the source first. `images`, (trajectories, 3, ...) in [0, 1] in the
    same order, are what each enlarges. One generator per tree goes on from where it is: initial noise, the
    condition's noise, then each step's, as in diffusers; all trajectories of a tree get the same draw.
    """
    scheduler = model.new_scheduler(sampling.num_inference_steps)
    starts = model.draw_noise(generators) * scheduler.init_noise_sigma
    noises = model.draw_noise(generators)
    conditioned = [
        _conditioned(model, tree, small, noise)
        for tree, small, noise in zip(trees, images, noises, strict=True)
    ]
    levels = build_tree(conditioned, len(scheduler.timesteps))
    sources = [SourcePath(start, generator=g) for start, g in zip(starts, generators, strict=True)]
    latents, _ = denoise(model, sources, levels, scheduler, sampling, calls)
    rows = {(node.group, branch): row for row, node in enumerate(levels[-1]) for branch in node.branches}
    return [latents[[rows[g, branch] for branch in tree]] for g, tree in enumerate(trees)]


def upscaled_states(tree: Mapping[int, Trajectory]) -> int:
    """Return how many states a tree's trajectories take in the stage, at every step."""
    return len({trajectory.digest() for trajectory in tree.values()})


def _conditioned(
    model: Model, tree: Mapping[int, Trajectory], images: Tensor, noise: Tensor
) -> dict[int, Trajectory]:
    rows = model.condition(images, noise.expand(len(images), *noise.shape))
    told = {}
    for i, (branch, trajectory) in enumerate(tree.items()):
        condition = Condition({name: values[i] for name, values in rows.items()}, trajectory.digest())
        # SDEdit's are conditioned on their own image too, and otherwise plain.
        told[branch] = replace(trajectory, start=None, condition=condition)
    return told
