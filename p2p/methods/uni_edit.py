"""Uni-Edit of UniEdit-Flow (Jiao et al. 2025, "UniEdit-Flow: Unleashing Inversion and Editing in the Era of
Flow Models", arXiv:2504.13109).

The image is inverted by Uni-Inv without a prompt, over the last share `alpha` of a flow's steps, and denoised
from there. Each step asks for the velocities of both prompts at the edit: where they differ most the target's
leads, where they agree the source's, and their difference is added `omega` times, most where it is largest.
The authors' two codes (DSL-Lab/UniEdit-Flow, read, not run) disagree on where prompts differ: the one of
Flux's repository takes the mean size of a token's differences, as is done here on every family; the one for
diffusers their mean, in which channels cancel out, and on Stable Diffusion 3 of single latents. Of shares of
steps the first rounds, and the second, as here, cuts off. Differs from both: latents are float32 between
steps, and where velocities differ equally everywhere the area is empty, and not NaN.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, pairwise
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d

from p2p.alignment import Tokenizers, check_prompt
from p2p.families.model import Model
from p2p.flow_solvers import STEPS, flow_sigmas, flow_timestep
from p2p.methods.flow_velocities import AlongFlow, Asked, Velocities, rows_of
from p2p.numbers import check_finite, whole_steps
from p2p.plain_rows import finite
from p2p.sampling import Calls, Sampling
from p2p.trajectory import EditRequest, FlowFusion, Trajectory


@dataclass(frozen=True)
class UniEdit:
    """Invert the last share `alpha` of a flow's steps and denoise them with the velocities of both prompts.

    `omega` is the strength of the edit; the published defaults are for 15 steps, with an alpha of 0.8 on Flux
    too. The guidance scale is of both velocities, whatever the run's; the published one is 1 (off), on Flux
    up to 2. No other inversion is needed: it edits given and generated pictures alike.
    """

    alpha: float = 0.6
    omega: float = 5.0
    guidance_scale: float = 1.0
    name: ClassVar[str] = "uniedit"
    uses_mask: ClassVar[bool] = False

    def __post_init__(self) -> None:
        check_finite("alpha", self.alpha)
        if not 0 < self.alpha <= 1:
            raise ValueError(f"alpha: {self.alpha!r} is not in (0, 1]")
        check_finite("omega", self.omega, 0)
        check_finite("guidance_scale", self.guidance_scale, 1, " (1 is off)")

    def trajectory(
        self, request: EditRequest, tokenizers: Tokenizers, num_inference_steps: int
    ) -> Trajectory:
        """Return the edit of the source image. Raises ValueError for an alpha that comes to no step."""
        check_prompt(request.target_prompt, tokenizers)
        steps = num_inference_steps
        if not (denoised := whole_steps(self.alpha, steps)):
            raise ValueError(f"alpha: {self.alpha} of {steps} steps is no step, allowed is 1/{steps} or more")
        fusion = FlowFusion(request.source_prompt, float(self.omega), float(self.guidance_scale))
        return Trajectory(request.target_prompt, (), steps - denoised, fusion=fusion)


@dataclass(frozen=True)
class FusionEdit(AlongFlow):
    """One edit by two velocities; its start is the first step that is denoised."""

    @property
    def own(self) -> FlowFusion:
        """How its velocities are mixed."""
        assert self.edit.fusion is not None
        return self.edit.fusion


def _wanted(edits: Sequence[FusionEdit], step: int) -> dict[int, tuple[Asked, Asked]]:
    """Return the source's and the target's velocity at a step, for each edit that has begun.

    Edits that begin at one step begin at one state, and share the velocities there.
    """
    wanted: dict[int, tuple[Asked, Asked]] = {}
    for i, one in enumerate(edits):
        if step >= one.start:
            state = ("inverted", one.group) if step == one.start else ("edited", i)
            scale = one.own.guidance_scale
            wanted[i] = Asked(state, one.source_prompt, scale), Asked(state, one.edit.prompt, scale)
    return wanted


def fusion_evaluations(trajectories: Sequence[Trajectory], steps: int, guidance_embedded: bool) -> int:
    """Return the denoiser's rows for the edits of one group by two velocities, inversion included."""
    edits = [FusionEdit(0, one) for one in trajectories if one.fusion]
    if not edits:
        return 0

    def asked(step: int) -> Iterator[Asked]:
        return chain.from_iterable(_wanted(edits, step).values())

    inverted = steps - min(one.start for one in edits) + 1
    changes = {step for one in edits for step in (one.start, one.start + 1)}
    return inverted + rows_of(asked, changes, steps, guidance_embedded)


def edited_by_fusion(
    model: Model, edits: Sequence[FusionEdit], pictures: Tensor, sampling: Sampling, calls: Calls
) -> Tensor:
    """Return the latents of the edits (edits, channels, height, width), all in lockstep.

    `pictures` (groups, channels, height, width) are the encoded sources. Raises FloatingPointError where
    latents stop being finite.
    """
    scheduler = model.new_scheduler(sampling.num_inference_steps)
    velocities = Velocities.of(model, edits, sampling, calls)
    side = model.latent_shape[1] // model.attention_sides()[0]
    inverted = _inverted(model, edits, pictures, scheduler, calls)
    latents: dict[int, Tensor] = {}
    for step, (here, there) in enumerate(pairwise(flow_sigmas(scheduler))):
        wanted = _wanted(edits, step)
        latents = {i: latents[i] if i in latents else inverted[edits[i].group, step] for i in wanted}
        asked = {one: latents[i] for i, both in wanted.items() for one in both}
        found = velocities(asked, flow_timestep(scheduler, here))
        for i, (source, target) in wanted.items():
            velocity = fused(found[source], found[target], edits[i].own.strength, side)
            latents[i] = latents[i] + (there - here) * velocity
    return finite(torch.stack([latents[i] for i in range(len(edits))]), model.dtype)


def _inverted(
    model: Model, edits: Sequence[FusionEdit], pictures: Tensor, scheduler: Any, calls: Calls
) -> dict[tuple[int, int], Tensor]:
    """Return pictures' states by group and step, of the steps at which edits begin.

    A picture goes up once, to its noisiest beginning.
    """
    # Inversions import diffusers, which a plan does without.
    from p2p.inversion.flow_inversion import flow_states, velocity_of
    from p2p.inversion.uni_inv import UniInv

    begun: dict[int, int] = {}
    for one in edits:
        begun[one.group] = min(one.start, begun.get(one.group, one.start))
    states: dict[tuple[int, int], Tensor] = {}
    for first in sorted(set(begun.values())):
        groups = [group for group, start in begun.items() if start == first]
        velocity = velocity_of(model, scheduler, [""] * len(groups), calls)
        up = flow_states(velocity, pictures[groups], flow_sigmas(scheduler)[first:], STEPS[UniInv.up])
        states |= {
            (g, first + i): state for g, row in zip(groups, up, strict=True) for i, state in enumerate(row)
        }
    return states


def fused(source: Tensor, target: Tensor, strength: float, side: int = 1) -> Tensor:
    """Return an edit's velocity, of those of its two prompts (channels, height, width).

    A token is `side` x `side` latents.
    """
    difference = target - source
    area = edited_area(difference, side)
    return source + (area + strength * (1 + area)) * difference


def edited_area(difference: Tensor, side: int = 1) -> Tensor:
    """Return where velocities (channels, height, width) differ, (1, height, width) from 0 to 1.

    It is the mean size of each token's differences, its least made 0 and its largest 1. A token is `side` x
    `side` latents.
    """
    sizes = avg_pool2d(difference.abs().mean(0, keepdim=True), side)
    low, high = sizes.aminmax()
    area = torch.where(high > low, (sizes - low) / (high - low), 0)
    return area.repeat_interleave(side, 1).repeat_interleave(side, 2)
