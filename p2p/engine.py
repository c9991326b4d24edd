"""Groups of edits in, images out, everything shared that can be.

`Group` -> tree of states (tree.py) -> one batched loop (denoise.py) -> images, from which SDEdit starts and
which an upscaler enlarges (upscaling.py).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from p2p.denoise import Calls, Sampling, denoise
from p2p.edits import EditRequest, Method, Trajectory
from p2p.families.deepfloyd import DeepFloydUpscaler
from p2p.families.model import Model
from p2p.schedulers import check_start
from p2p.tree import Node, build_tree
from p2p.upscaling import upscaled_latents, upscaled_states
from p2p.word_maps import WordMaps


@dataclass(frozen=True)
class Group:
    """One source (a prompt and a seed) and all edits of it."""

    source_prompt: str
    seed: int
    edits: tuple[Trajectory, ...]

    def tree(self) -> tuple[Trajectory, ...]:
        """Return the source and the edits that start from its noise."""
        return tuple(trajectory for trajectory in self.trajectories() if trajectory.start is None)

    def trajectories(self) -> tuple[Trajectory, ...]:
        """Return the source and all edits."""
        return (Trajectory(self.source_prompt, ()), *self.edits)


@dataclass(frozen=True)
class Edited:
    """A group's images, (3, height, width) float32 in [0, 1] with 8-bit values, in the order of its edits."""

    source: Tensor
    images: tuple[Tensor, ...]


def plan_evaluations(
    groups: Sequence[Group],
    calls: int,
    sampling: Sampling,
    guidance_embedded: bool = False,
    upscaler_calls: int = 0,
) -> int:
    """Return the exact number of UNet evaluations (rows) of `generate`, at `calls` calls a trajectory.

    `guidance_embedded` is the model's; `upscaler_calls` is the same of its upscaler, 0 where it has none.
    """
    per_node = sampling.rows_per_state(guidance_embedded)
    tree = sum(len(level) for group in groups for level in build_tree([group.tree()], calls))
    noised = sum(calls - edit.start for group in groups for edit in group.edits if edit.start is not None)
    upscaled = upscaler_calls * sum(upscaled_states(group.trajectories()) for group in groups)
    return (tree + noised + upscaled) * per_node


@torch.no_grad()
def generate(
    model: Model, groups: Sequence[Group], sampling: Sampling, calls: Calls | None = None
) -> list[Edited]:
    """Return the images of the groups, denoised in lockstep in calls of at most `sampling.max_batch` rows.

    `calls` is told of each call, and keeps what memory allows from one batch of groups to the next.

    A row never reads another row but its own source, so the source does not depend on the edits that ride
    along, up to rounding: a matrix product over the batch's rows alone (the time embedding's), and a
    convolution of a single row, sum in another order at other batch sizes. Measured on the CPU over 6 steps,
    embedded model: latents differ by at most 4e-5 in float32 and 2e-13 in float64. Bit for bit where the
    source has a call of its own, with guidance `max_batch=2`. Untrained, sharp weights may amplify a rounding
    to 3e-2 in float32.
    """
    calls = calls or Calls(sampling.max_batch)
    generators = [torch.Generator().manual_seed(group.seed) for group in groups]
    latents = tree_latents(model, groups, sampling, calls, generators)
    images = dict(zip(latents, model.decode(torch.stack(list(latents.values()))), strict=True))
    sources = torch.stack([images[g, 0] for g in range(len(groups))])
    noised = _sdedit(model, groups, sources, sampling, calls)
    edited = []
    for g, group in enumerate(groups):
        from_tree = iter([images[g, branch] for branch in range(1, len(group.tree()))])
        edits = tuple(next(from_tree) if e.start is None else noised[g, i] for i, e in enumerate(group.edits))
        edited.append(Edited(sources[g], edits))
    if model.upscaler is None:
        return edited
    return upscale(model.upscaler, groups, edited, sampling, calls, generators)


@torch.no_grad()
def upscale(
    upscaler: DeepFloydUpscaler,
    groups: Sequence[Group],
    edited: Sequence[Edited],
    sampling: Sampling,
    calls: Calls | None = None,
    generators: Sequence[torch.Generator] | None = None,
) -> list[Edited]:
    """Return the images of the groups enlarged, edited by the groups' own injections in this stage too.

    The groups' windows may be others than those of the base stage. Without `generators`, which go on from the
    base stage, each group's starts from its seed.
    """
    generators = generators or [torch.Generator().manual_seed(group.seed) for group in groups]
    trees = [group.trajectories() for group in groups]
    small = [torch.stack([one.source, *one.images]) for one in edited]
    calls = calls or Calls(sampling.max_batch)
    latents = upscaled_latents(upscaler, trees, small, sampling, calls, generators)
    large = [upscaler.decode(rows) for rows in latents]
    return [Edited(images[0], tuple(images[1:])) for images in large]


def edit(
    model: Model,
    source_prompt: str,
    edits: Sequence[tuple[str, Method]],
    seed: int = 0,
    sampling: Sampling | None = None,
) -> Edited:
    """Return the image of a prompt and a seed, and its edits, each a target prompt and a method."""
    sampling = sampling or Sampling()
    steps = sampling.num_inference_steps
    trajectories = (
        method.trajectory(EditRequest(source_prompt, target), model.tokenizers, steps)
        for target, method in edits
    )
    return generate(model, [Group(source_prompt, seed, tuple(trajectories))], sampling)[0]


def batches(
    groups: Sequence[Group], sampling: Sampling, guidance_embedded: bool = False
) -> Iterator[list[int]]:
    """Yield the numbers of the groups that fill one call's rows together (at least one group), in order."""
    batch: list[int] = []
    rows = 0
    for number, group in enumerate(groups):
        wanted = len(group.tree()) * sampling.rows_per_state(guidance_embedded)
        if batch and rows + wanted > sampling.max_batch:
            yield batch
            batch, rows = [], 0
        batch.append(number)
        rows += wanted
    if batch:
        yield batch


@torch.no_grad()
def tree_latents(
    model: Model,
    groups: Sequence[Group],
    sampling: Sampling,
    calls: Calls | None = None,
    generators: Sequence[torch.Generator] | None = None,
) -> dict[tuple[int, int], Tensor]:
    """Return final latents by (group, branch), 0 the source, of all that starts from the source's noise.

    `generators`, one per group and seeded by it, are drawn from where they are given.
    """
    nodes, latents, _ = denoise_tree(model, groups, sampling, calls, generators)
    return {
        (node.group, branch): row
        for node, row in zip(nodes, latents, strict=True)
        for branch in node.branches
    }


@torch.no_grad()
def denoise_tree(
    model: Model,
    groups: Sequence[Group],
    sampling: Sampling,
    calls: Calls | None = None,
    generators: Sequence[torch.Generator] | None = None,
) -> tuple[list[Node], Tensor, WordMaps]:
    """Return the last nodes, their latents, and the maps that their trajectories asked for."""
    generators = generators or [torch.Generator().manual_seed(group.seed) for group in groups]
    scheduler = model.new_scheduler(sampling.num_inference_steps)
    levels = build_tree([group.tree() for group in groups], len(scheduler.timesteps))
    latents = model.draw_noise(generators) * getattr(scheduler, "init_noise_sigma", 1.0)
    calls = calls or Calls(sampling.max_batch)
    latents, maps = denoise(model, latents, levels, scheduler, 0, generators, sampling, calls)
    return levels[-1], latents, maps


def _sdedit(
    model: Model,
    groups: Sequence[Group],
    sources: Tensor,
    sampling: Sampling,
    calls: Calls,
) -> dict[tuple[int, int], Tensor]:
    """Return SDEdit's images by (group, edit); all edits that start at one step go together."""
    by_start: dict[int, list[tuple[int, int, str]]] = {}
    for g, group in enumerate(groups):
        for i, edit in enumerate(group.edits):
            if edit.start is not None:
                by_start.setdefault(edit.start, []).append((g, i, edit.prompt))
    images: dict[tuple[int, int], Tensor] = {}
    encoded = model.encode(sources) if by_start else sources
    for start, rows in by_start.items():
        scheduler = model.new_scheduler(sampling.num_inference_steps)
        check_start(start, len(scheduler.timesteps), sampling.num_inference_steps)
        if hasattr(scheduler, "set_begin_index"):
            scheduler.set_begin_index(start)
        # One draw per group, not the source's own x_T: SDEdit does not know the source's noise.
        generators = [torch.Generator().manual_seed(derived_seed(groups[g].seed)) for g, _, _ in rows]
        noise = model.draw_noise(generators)
        timesteps = scheduler.timesteps[start:]
        latents = encoded[[g for g, _, _ in rows]]
        times = timesteps[:1].repeat(len(rows))
        if hasattr(scheduler, "scale_noise"):  # flow matching
            latents = scheduler.scale_noise(latents, times, noise)
        else:
            latents = scheduler.add_noise(latents, noise, times)
        level = [Node(n, n, prompt, None, (0,)) for n, (_, _, prompt) in enumerate(rows)]
        levels = [level] * len(timesteps)
        latents, _ = denoise(model, latents, levels, scheduler, start, generators, sampling, calls)
        images |= {(g, i): image for (g, i, _), image in zip(rows, model.decode(latents), strict=True)}
    return images


def derived_seed(seed: int) -> int:
    """Return SDEdit's noise seed: a function of the seed, independent of the source's own noise."""
    return (seed * 6364136223846793005 + 1442695040888963407) % 2**63
