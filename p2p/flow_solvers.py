"""Steps along the ODE of flow matching, `dx / d sigma = v(x, sigma)`, from one noise level to another, either
way: up to the noise of a picture, and down to its source and edits.

diffusers' scheduler cannot be told to go up: it appends a 0 to the levels that it is given, so that its last
step would lead back to the image.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from p2p.loading.plain_ddim import NAME as DDIM
from p2p.loading.plain_ddim import PlainDDIM
from p2p.source_path import SourcePath

LEAST_NOISE = 0.02  # a step that starts at no more noise than that moves the latents by next to nothing


class Velocity(Protocol):
    """The network's velocity at latents and a noise level; `last` where it is the step's last evaluation."""

    def __call__(self, latents: Tensor, sigma: float, last: bool) -> Tensor: ...


Step = Callable[[Velocity, Tensor, float, float, Tensor | None], tuple[Tensor, Tensor | None]]
"""From velocity, latents, their noise level, the next one, and what the step before kept, to the next latents
and what is kept for the step after."""


def euler(
    velocity: Velocity, latents: Tensor, here: float, there: float, kept: Tensor | None
) -> tuple[Tensor, None]:
    """Take one step with the velocity for the noisier of its two levels: order 1, one evaluation.

    Down it is the scheduler's own step. Up it predicts at the less noisy latents for the level at which the
    way down will: the network is never told level 0, which no sampler asks it for, and a constant velocity
    comes back.
    """
    return latents + (there - here) * velocity(latents, max(here, there), True), None


def midpoint(
    velocity: Velocity, latents: Tensor, here: float, there: float, kept: Tensor | None
) -> tuple[Tensor, None]:
    """Take one step with the velocity halfway, found by half an Euler step: order 2, two evaluations."""
    half = latents + (there - here) / 2 * velocity(latents, here, False)
    return latents + (there - here) * velocity(half, (here + there) / 2, True), None


def kept_midpoint(
    velocity: Velocity, latents: Tensor, here: float, there: float, kept: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Take one step with the velocity halfway, found by the halfway velocity of the step before: order 2.

    One evaluation, two in the first step.
    """
    first = velocity(latents, here, False) if kept is None else kept
    halfway = velocity(latents + (there - here) / 2 * first, (here + there) / 2, True)
    return latents + (there - here) * halfway, halfway


def corrected(
    velocity: Velocity, latents: Tensor, here: float, there: float, kept: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Take one step with the velocity at its end, found by the velocity at the end of the step before.

    One evaluation, two in the first step. It is an implicit Euler step, solved once: what Euler's step down
    from there would undo, but for an error of order 2 in the whole.
    """
    first = velocity(latents, here, False) if kept is None else kept
    end = velocity(latents + (there - here) * first, there, True)
    return latents + (there - here) * end, end


STEPS: Mapping[str, Step] = {
    "euler": euler,
    "midpoint": midpoint,
    "kept_midpoint": kept_midpoint,
    "corrected": corrected,
}
"""Every kind of step by the name that inversions and their `SourcePath` have for it."""


def flow_sigmas(scheduler: Any) -> list[float]:
    """Return a scheduler's noise levels (timesteps set), from noise to 0, one more than steps.

    Raises ValueError for one that does not sample a flow by Euler's steps.
    """
    name = DDIM if isinstance(scheduler, PlainDDIM) else type(scheduler).__name__
    allowed = "FlowMatchEulerDiscreteScheduler"
    if name != allowed:
        raise ValueError(f"scheduler: {name} has no flow's noise levels, allowed is {allowed}")
    for setting in ("stochastic_sampling", "invert_sigmas"):
        if scheduler.config.get(setting):
            raise ValueError(f"scheduler: {setting}=True is no ODE from noise to image, allowed is False")
    return [float(sigma) for sigma in scheduler.sigmas]


def flow_timestep(scheduler: Any, sigma: float) -> Tensor:
    """Return what a pipeline tells its network of a noise level: a float32 scalar, on the CPU.

    At the scheduler's own levels it is the scheduler's own timestep. Families cast it as their pipelines do.
    """
    return torch.tensor(sigma, dtype=torch.float32) * scheduler.config.num_train_timesteps


def steps_that_count(sigmas: Sequence[float]) -> int:
    """Return how many steps between these noise levels start at more than `LEAST_NOISE` of noise.

    Stable Diffusion 3's last step starts at 0.0089 (its pipeline shifts the least level twice), that of a
    schedule with `shift_terminal=0.02` there.
    """
    return sum(sigma > LEAST_NOISE + 1e-6 for sigma in sigmas[:-1])


@dataclass(frozen=True)
class FlowDescent:
    """The way down of sources that were inverted along a flow, and of their edits."""

    paths: Sequence[SourcePath]  # one per group, all found in one way
    sigmas: Sequence[float]
    take: Step

    @classmethod
    def of(cls, paths: Sequence[SourcePath], scheduler: Any) -> FlowDescent | None:
        """Return it for paths of a flow inversion, None for any others."""
        solver = paths[0].solver
        return cls(paths, flow_sigmas(scheduler), STEPS[solver]) if solver else None

    def step(
        self, velocity: Velocity, step: int, latents: Tensor, groups: Sequence[int], kept: Tensor | None
    ) -> tuple[Tensor, Tensor | None]:
        """Return the latents after a step, and what it keeps for the next one; `groups` are the rows' own.

        Row i < len(paths) is the source of group i, which is put on the state that its path has for it.
        """
        here, there = self.sigmas[step : step + 2]
        if self.paths[0].pulls and (eta := self.paths[0].pulls[step]):
            pictures = torch.stack([_picture(self.paths[group]) for group in groups])
            velocity = pulled(velocity, pictures, eta)
        latents, kept = self.take(velocity, latents, here, there, kept)
        for row, path in enumerate(self.paths):
            if path.states is not None:
                latents[row] = path.states[step]
        return latents, kept


def pulled(velocity: Velocity, pictures: Tensor, eta: float) -> Velocity:
    """Return a velocity of which a share `eta` leads straight to these pictures (Rout et al. 2024, Eq.
    15)."""

    def towards(latents: Tensor, sigma: float, last: bool) -> Tensor:
        own = velocity(latents, sigma, last)
        return own + eta * ((latents - pictures) / sigma - own)

    return towards


def _picture(path: SourcePath) -> Tensor:
    assert path.picture is not None
    return path.picture
