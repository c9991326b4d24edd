"""FireFlow (Deng et al. 2025, "FireFlow: Fast Inversion of Rectified Flow for Image Semantic Editing",
arXiv:2412.07517, Alg. 1).

A midpoint step whose first velocity is the one that the step before it found halfway. Differs from the
authors' code in the levels, which are the sampler's here and not Flux's alone, and in that edits are any
method's; theirs share values with the inversion's in some blocks, which is `Projections` here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from p2p.inversion.flow_inversion import FlowInversion
from p2p.sampling import Sampling


@dataclass(frozen=True)
class FireFlow(FlowInversion):
    """Go up and down by midpoint steps that keep their velocity: order 2, one evaluation a step and one more.

    Where branches of a tree part, each goes on from the velocity of the state that they shared.
    """

    name: ClassVar[str] = "fireflow"
    up: ClassVar[str] = "kept_midpoint"
    down: ClassVar[str] = "kept_midpoint"
    first_calls: ClassVar[int] = 1

    def evaluations(self, sampling: Sampling) -> int:
        """Return how many evaluations of the denoiser one image takes: one a step, two in the first."""
        return super().evaluations(sampling) + 1
