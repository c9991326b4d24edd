"""Direct inversion (Ju et al. 2024, "PnP Inversion: Boosting Diffusion-based Editing with 3 Lines of Code",
arXiv:2310.01506).

At each step the paper adds to the source, and not to its edits, the source's distance from its DDIM
inversion. Here the source is put on the state of the inversion, which is equal but for rounding.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from p2p.families.model import Model
from p2p.inversion.inversion import Inversion, ddim_states
from p2p.sampling import Calls, Sampling
from p2p.source_path import SourcePath


@dataclass(frozen=True)
class Direct(Inversion):
    """Start from DDIM's noise and keep the source, but not its edits, on the states of the inversion."""

    name: ClassVar[str] = "direct"

    def apart(self, sampling: Sampling) -> bool:
        """True: an edit with the source's own prompt is not put on the states of the inversion."""
        return True

    def evaluations(self, sampling: Sampling) -> int:
        """Return how many UNet evaluations one image takes: one a step."""
        return sampling.num_inference_steps

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
        states = ddim_states(model, latents, prompts, sampling, calls).to(model.dtype)
        return [SourcePath(own[0], states=own[1:]) for own in states]
