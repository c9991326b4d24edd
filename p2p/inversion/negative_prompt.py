"""Negative-prompt inversion (Miyake et al. 2025, "Negative-prompt Inversion: Fast Image Inversion for Editing
with Text-guided Diffusion Models", arXiv:2305.16807, Sec. 3).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from p2p.families.model import Model, stack_rows
from p2p.inversion.inversion import Inversion, ddim_states
from p2p.sampling import Calls, Sampling
from p2p.source_path import SourcePath


@dataclass(frozen=True)
class NegativePrompt(Inversion):
    """Let the source's own prompt be the negative prompt, so that guidance has no effect on the source.

    Without guidance it is DDIM inversion.
    """

    name: ClassVar[str] = "negative_prompt"

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
        return [
            SourcePath(noise, negatives=stack_rows([model.encode_prompt(prompt)]))
            for noise, prompt in zip(noises, prompts, strict=True)
        ]
