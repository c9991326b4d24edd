"""DDIM inversion (Song et al. 2021, "Denoising Diffusion Implicit Models").

Without guidance, as null-text inversion and PnP Inversion's "ddim+p2p" take it. Denoised under guidance it
does not lead back to the image: that is what the other inversions mend.
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
class DDIM(Inversion):
    """Start from the noise that DDIM's ODE, run backwards, finds."""

    name: ClassVar[str] = "ddim"

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
        states = ddim_states(model, latents, prompts, sampling, calls)
        noises = states[:, 0].to(model.dtype, copy=True)  # a view would hold all states
        return [SourcePath(noise) for noise in noises]
