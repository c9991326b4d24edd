"""FlowEdit (Kulikov et al. 2025, "FlowEdit: Inversion-Free Text-Based Editing Using Pre-Trained Flow Models",
ICCV 2025, arXiv:2412.08629, Alg. 1).

The image is moved by the difference of two velocities: the target's at the edit, noised, and the source's at
the source image with the same noise. Differs from the authors' code: latents are float32 between steps; a
guidance scale of 1 takes one row, not two; each draw has a generator of its own, seeded from the group's
seed, that draws for every step of the schedule, so that edits with other `n_max`, targets and scales meet the
same noise, and a sweep asks for the source's velocity once; in the last `n_min` steps, where one version of
their code does not move, Euler's steps are taken.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar

import torch
from torch import Tensor

from p2p.alignment import Tokenizers, check_prompt
from p2p.families.model import Model
from p2p.flow_solvers import flow_sigmas, flow_timestep
from p2p.methods.flow_velocities import AlongFlow, Asked, Velocities, rows_of
from p2p.numbers import check_finite
from p2p.plain_rows import finite
from p2p.sampling import Calls, Sampling
from p2p.trajectory import EditRequest, FlowDifference, Trajectory


@dataclass(frozen=True)
class FlowEdit:
    """Edit the last `n_max` steps of a flow by differences of velocities, means of `n_avg` draws of noise.

    The last `n_min` steps are plain denoising of the target prompt instead. The two guidance scales are the
    edit's own, whatever the run's. The defaults are published for Flux in 28 steps; for Stable Diffusion 3 it
    is 33 of 50 steps with 3.5 and 13.5. No inversion is needed: it edits given and generated pictures alike.
    """

    n_max: int = 24
    n_min: int = 0
    n_avg: int = 1
    source_guidance_scale: float = 1.5
    target_guidance_scale: float = 5.5
    name: ClassVar[str] = "flowedit"
    uses_mask: ClassVar[bool] = False

    def __post_init__(self) -> None:
        for name, least in (("n_max", 1), ("n_min", 0), ("n_avg", 1)):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise ValueError(f"{name}: {value!r} is not a whole number of at least {least}")
        if self.n_min > self.n_max:
            raise ValueError(f"n_min: {self.n_min} is more than n_max, {self.n_max}")
        for name in ("source_guidance_scale", "target_guidance_scale"):
            check_finite(name, getattr(self, name), 1, " (1 is off)")

    def trajectory(
        self, request: EditRequest, tokenizers: Tokenizers, num_inference_steps: int
    ) -> Trajectory:
        """Return the edit of the source image. Raises ValueError for more steps than there are."""
        check_prompt(request.target_prompt, tokenizers)
        steps = num_inference_steps
        if self.n_max > steps:
            raise ValueError(f"n_max: {self.n_max} of {steps} steps, allowed are 1 to {steps}")
        difference = FlowDifference(
            request.source_prompt,
            float(self.source_guidance_scale),
            float(self.target_guidance_scale),
            self.n_avg,
            steps - self.n_min,
        )
        return Trajectory(request.target_prompt, (), steps - self.n_max, difference=difference)


@dataclass(frozen=True)
class DifferenceEdit(AlongFlow):
    """One edit by differences; pictures and seeds are one per group."""

    @property
    def own(self) -> FlowDifference:
        """How the picture is moved."""
        assert self.edit.difference is not None
        return self.edit.difference


def _wanted(edits: Sequence[DifferenceEdit], step: int) -> dict[int, list[tuple[Asked, Asked | None]]]:
    """Return the target's and the source's velocity of each draw at a step, for each edit that has begun.

    The source's, which edits of one picture share, is None where the target prompt is denoised.
    """
    wanted: dict[int, list[tuple[Asked, Asked | None]]] = {}
    for i, one in enumerate(edits):
        if step >= one.start:
            own = one.own
            targets = [
                Asked(("edited", i, draw), one.edit.prompt, own.target_guidance_scale)
                for draw in range(own.draws)
            ]
            sources = [
                Asked(("source", one.group, draw), own.source_prompt, own.source_guidance_scale)
                for draw in range(own.draws)
            ]
            moved = step < own.sampled_from
            wanted[i] = [*zip(targets, sources, strict=True)] if moved else [(targets[0], None)]
    return wanted


def difference_evaluations(trajectories: Sequence[Trajectory], steps: int, guidance_embedded: bool) -> int:
    """Return the denoiser's rows for the edits of one group by differences."""
    edits = [DifferenceEdit(0, one) for one in trajectories if one.difference]

    def asked(step: int) -> Iterator[Asked]:
        return (one for pairs in _wanted(edits, step).values() for pair in pairs for one in pair if one)

    changes = {step for one in edits for step in (one.start, one.own.sampled_from)}
    return rows_of(asked, changes, steps, guidance_embedded)


def edited_by_differences(
    model: Model,
    edits: Sequence[DifferenceEdit],
    pictures: Tensor,
    seeds: Sequence[int],
    sampling: Sampling,
    calls: Calls,
) -> Tensor:
    """Return the latents of the edits (edits, channels, height, width), all in lockstep.

    `pictures` (groups, channels, height, width) are the encoded sources. Raises FloatingPointError where
    latents stop being finite.
    """
    scheduler = model.new_scheduler(sampling.num_inference_steps)
    pictures = pictures.to(torch.promote_types(pictures.dtype, torch.float32))
    velocities = Velocities.of(model, edits, sampling, calls)
    draws = [(one.group, draw) for one in edits for draw in range(one.own.draws)]
    generators = {
        (group, draw): torch.Generator().manual_seed((seeds[group] + draw) % 2**63)
        for group, draw in dict.fromkeys(draws)
    }
    latents = [pictures[one.group] for one in edits]
    for step, (here, there) in enumerate(pairwise(flow_sigmas(scheduler))):
        noised = {
            key: (1 - here) * pictures[key[0]] + here * model.draw_noise([generator])[0].to(pictures)
            for key, generator in generators.items()
        }
        wanted = _wanted(edits, step)
        asked: dict[Asked, Tensor] = {}
        for i, pairs in wanted.items():
            group = edits[i].group
            # First, so that an edit that has not moved stands where its source does, bit by bit.
            moved = latents[i] - pictures[group]
            if step == edits[i].own.sampled_from:
                latents[i] = noised[group, 0] + moved
            for draw, (target, source) in enumerate(pairs):
                if source is None:
                    asked[target] = latents[i]
                else:
                    asked[target] = noised[group, draw] + moved
                    asked[source] = noised[group, draw]
        found = velocities(asked, flow_timestep(scheduler, here))
        for i, pairs in wanted.items():
            terms = [found[target] - found[source] if source else found[target] for target, source in pairs]
            latents[i] = latents[i] + (there - here) * torch.stack(terms).mean(0)
    return finite(torch.stack(latents), model.dtype)
