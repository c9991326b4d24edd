"""Uni-Inv of UniEdit-Flow (Jiao et al. 2025, "UniEdit-Flow: Unleashing Inversion and Editing in the Era of
Flow Models", arXiv:2504.13109, Alg. 1).

Each step up is taken with the velocity at its end, which is what the sampler's Euler step down will ask for.
Differs from the authors' code in the levels of Flux, which there are its own and here the sampler's, and in
that edits are any method's: their Uni-Edit, which mixes two velocities, is `p2p.methods.uni_edit`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from p2p.inversion.flow_inversion import FlowInversion
from p2p.numbers import check_finite, whole_steps
from p2p.sampling import Sampling


@dataclass(frozen=True)
class UniInv(FlowInversion):
    """Go up by corrected steps and down by the sampler's own: one evaluation a step, on the way up one more.

    As an inversion of the ODE it is of order 1, as one of the sampler's steps of order 2. `alpha` is the
    share of the steps that is inverted and denoised, from the image: the paper edits with 0.6 or 0.8, and
    reconstructs with 1, the default.
    """

    alpha: float = 1.0
    name: ClassVar[str] = "uni_inv"
    up: ClassVar[str] = "corrected"

    def __post_init__(self) -> None:
        check_finite("alpha", self.alpha)
        if not 0 < self.alpha <= 1:
            raise ValueError(f"alpha: {self.alpha!r} is not in (0, 1]")

    def check(self, scheduler: object, sampling: Sampling, guidance_embedded: bool = False) -> None:
        """Raise ValueError for a scheduler that is not of a flow, or an alpha that comes to no step."""
        super().check(scheduler, sampling, guidance_embedded)
        steps = sampling.num_inference_steps
        if self.start(steps) == steps:
            raise ValueError(f"alpha: {self.alpha} of {steps} steps is no step, allowed is 1/{steps} or more")

    def start(self, num_inference_steps: int) -> int:
        """Return the first step that is denoised, `T - int(alpha * T)` as in the authors' schedulers."""
        return num_inference_steps - whole_steps(self.alpha, num_inference_steps)

    def evaluations(self, sampling: Sampling) -> int:
        """Return how many evaluations of the denoiser one image takes: one a step, two in the first."""
        return super().evaluations(sampling) + 1
