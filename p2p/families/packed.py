"""What flow-matching transformers over packed latents share: 2 x 2 latents to a token, and their schedule."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from torch import Tensor

from p2p.families.flow_matching import flow_options, shift
from p2p.families.transformer import LatentTransformer


@dataclass
class PackedTransformer(LatentTransformer):
    """A transformer of Flux's or Qwen-Image's kind. Latents are kept as images and packed for each call."""

    self_max_side: int = 64
    blend_side: int = 64

    patch_size: ClassVar[int] = 2
    latents_per_token: ClassVar[int] = 4

    @property
    def sample_size(self) -> int:
        """Height and width of the latents where none is asked for."""
        size: int = self.pipeline.default_sample_size
        return size

    @property
    def channels(self) -> int:
        """Channels of the latents: a quarter of a token's, as a token holds 2 x 2 latents."""
        channels: int = self.denoiser.config.in_channels
        return channels // self.latents_per_token

    @classmethod
    def timestep_options(
        cls, scheduler: Any, num_inference_steps: int, image_tokens: int
    ) -> Mapping[str, Any]:
        """Return evenly spaced noise levels and the shift, which dynamic schedules apply."""
        sigmas = np.linspace(1.0, 1 / num_inference_steps, num_inference_steps)
        return flow_options(scheduler, shift(scheduler.config, image_tokens, 1.15), sigmas.tolist())


def packed(latents: Tensor) -> Tensor:
    """Return latents (rows, channels, height, width) as tokens (rows, tokens, 4 channels)."""
    tokens = latents.unflatten(3, (-1, 2)).unflatten(2, (-1, 2)).permute(0, 2, 4, 1, 3, 5)
    return tokens.flatten(3).flatten(1, 2)


def unpacked(tokens: Tensor, height: int) -> Tensor:
    """Return tokens (rows, tokens, 4 channels) as latents (rows, channels, height, width)."""
    latents = tokens.unflatten(1, (height // 2, -1)).unflatten(3, (-1, 2, 2)).permute(0, 3, 1, 4, 2, 5)
    return latents.flatten(4).flatten(2, 3)
