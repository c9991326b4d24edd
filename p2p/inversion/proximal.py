"""Proximal negative-prompt inversion (Han et al. 2024, "ProxEdit: Improving Tuning-Free Real Image Editing
with Proximal Guidance", arXiv:2306.05414).

Without the paper's optional inversion and reconstruction guidance, which the published runs of PnP
Inversion's benchmark ask for but do not pass on.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from p2p.families.model import Model
from p2p.inversion.negative_prompt import NegativePrompt
from p2p.numbers import check_finite
from p2p.sampling import Calls, Sampling
from p2p.source_path import NORMS, Shrink, SourcePath


@dataclass(frozen=True)
class Proximal(NegativePrompt):
    """Negative-prompt inversion whose edits are guided only where text and source prompt differ much.

    `quantile` of the differences, or a `threshold` in place of it, bounds what is ignored: see `Shrink`.
    PnP Inversion's benchmark has a quantile of 0.75, and what it calls "l0" is "l1" here.
    """

    norm: str = "l0"
    quantile: float = 0.7
    threshold: float | None = None
    name: ClassVar[str] = "proximal"

    def __post_init__(self) -> None:
        if self.norm not in NORMS:
            raise ValueError(f"norm: {self.norm!r} is not one of {', '.join(map(repr, NORMS))}")
        check_finite("quantile", self.quantile)
        if not 0 <= self.quantile < 1:
            raise ValueError(f"quantile: {self.quantile!r} is not in [0, 1)")
        if self.threshold is not None:
            check_finite("threshold", self.threshold, 0)

    def invert(
        self,
        model: Model,
        latents: Tensor,
        prompts: Sequence[str],
        sampling: Sampling,
        generators: Sequence[torch.Generator],
        calls: Calls,
    ) -> list[SourcePath]:
        """Return the paths of images (N, channels, height, width), encoded, with their prompts."""
        shrink = Shrink(self.norm, self.quantile, self.threshold)
        paths = super().invert(model, latents, prompts, sampling, generators, calls)
        return [replace(path, shrink=shrink) for path in paths]
