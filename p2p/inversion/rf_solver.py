"""RF-Solver (Wang et al. 2025, "Taming Rectified Flow for Inversion and Editing", arXiv:2411.04746, Sec.
3.2).

The paper's second-order Taylor step with its derivative as a finite difference over half a step, which is
what the authors' code has, is the explicit midpoint rule; it is written as such here. Their levels are those
of Flux alone, here they are the sampler's. Their edits share values with the inversion's in some blocks,
which is `Projections` here; edits are any method's, and take from the source on its way down (or, with
`keep_states`, on the states of its way up).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from p2p.inversion.flow_inversion import FlowInversion
from p2p.sampling import Sampling


@dataclass(frozen=True)
class RFSolver(FlowInversion):
    """Go up and down by midpoint steps: order 2, two evaluations a step both ways, of edits too."""

    name: ClassVar[str] = "rf_solver"
    up: ClassVar[str] = "midpoint"
    down: ClassVar[str] = "midpoint"
    calls_per_state: ClassVar[int] = 2

    def evaluations(self, sampling: Sampling) -> int:
        """Return how many evaluations of the denoiser one image takes: two a step."""
        return 2 * super().evaluations(sampling)
