"""What the families around diffusers' UNet2DConditionModel share: its geometry and its call."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

from torch import Tensor

from p2p.attention import BatchInjection
from p2p.families.model import Conditioning, Model


class UNetModel(Model):
    """A UNet whose levels halve height and width."""

    @property
    def pixels_per_latent(self) -> int:
        """Pixels of an image's side per latent."""
        return 1

    @cached_property
    def latent_shape(self) -> tuple[int, int, int]:
        """Channels, height and width of the latents."""
        unet, factor = self.denoiser.config, self.pixels_per_latent
        sample = unet.sample_size if isinstance(unet.sample_size, Sequence) else (unet.sample_size,) * 2
        height = self.height // factor if self.height else sample[0]
        width = self.width // factor if self.width else sample[1]
        return unet.in_channels, height, width

    def attention_sides(self) -> list[int]:
        """Return the token-grid heights at which the denoiser attends, largest first."""
        height, levels = self.latent_shape[1], len(self.denoiser.config.block_out_channels)
        sides = set()
        for layer in self.denoiser.attn_processors:
            block, index = layer.split(".")[:2]
            level = {"down_blocks": lambda i: i, "up_blocks": lambda i: levels - 1 - i}.get(
                block, lambda _: levels - 1
            )
            sides.add(-(-height // 2 ** level(int(index) if index.isdigit() else 0)))  # strides round up
        return sorted(sides, reverse=True)

    def pixels(self, side: int) -> int:
        """Return the tokens of the layer with this height: `side` x `side` for square images."""
        _, height, width = self.latent_shape
        level = round(math.log2(height / side))
        return side * -(-width // 2**level)

    def predict(
        self,
        latents: Tensor,
        timestep: Tensor,
        conditioning: Conditioning,
        injection: BatchInjection | None = None,
        guidance_scale: float = 1.0,
    ) -> Tensor:
        """Return the denoiser's output for each row."""
        kwargs = {"injection": injection} if injection else None
        inputs = self.denoiser_inputs(conditioning)
        return self.denoiser(latents, timestep, cross_attention_kwargs=kwargs, return_dict=False, **inputs)[0]

    def denoiser_inputs(self, conditioning: Conditioning) -> Mapping[str, Any]:
        """Return the conditioning by the names of the UNet's arguments."""
        return conditioning
