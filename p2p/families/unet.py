"""What the families around diffusers' UNet2DConditionModel share: its geometry and its call."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any, ClassVar

import torch
from torch import Tensor

from p2p.attention.injection import AnyInjection
from p2p.attention.taking import feature_hooks
from p2p.families.model import Conditioning, Model, each_row, on_device


class UNetModel(Model):
    """A UNet whose levels halve height and width.

    Raises ValueError for a height or width that does not come to whole latents.
    """

    single_layers: ClassVar[bool] = True
    layer_groups: ClassVar[bool] = True

    @classmethod
    def embeds_guidance(cls, config: Mapping[str, Any]) -> bool:
        """Say, from its config, whether the UNet is told the guidance scale, as a distilled LCM's is."""
        return config.get("time_cond_proj_dim") is not None

    @cached_property
    def latent_shape(self) -> tuple[int, int, int]:
        """Channels, height and width of the latents."""
        unet, factor = self.denoiser.config, self.pixels_per_latent
        sample = unet.sample_size if isinstance(unet.sample_size, Sequence) else (unet.sample_size,) * 2
        sides = []
        for name, pixels, own in (("height", self.height, sample[0]), ("width", self.width, sample[1])):
            if pixels is not None and (pixels <= 0 or pixels % factor):
                raise ValueError(f"{name}: {pixels} is no multiple of {factor} above 0")
            if pixels is None and not (isinstance(own, int) and own > 0):
                told = f"the UNet's config tells none (sample_size: {unet.sample_size!r})"
                raise ValueError(f"{name}: {told}, allowed is to give it")
            sides.append(own if pixels is None else pixels // factor)
        return unet.in_channels, sides[0], sides[1]

    def attention_sides(self) -> list[int]:
        """Return the token-grid heights at which the denoiser attends, largest first."""
        return sorted({self.place(layer)[1] for layer in self.attention_layers}, reverse=True)

    def cross_layers(self) -> dict[str, tuple[str, int]]:
        """Return where each cross-attention layer stands: "down", "mid" or "up", and the tokens' height."""
        return {layer: self.place(layer) for layer in self.attention_layers if ".attn2." in layer}

    def layer_stands(self) -> Mapping[str, tuple[str, int]]:
        """Return where each attention layer stands: "down", "mid" or "up", and its height in tokens."""
        return {layer: self.place(layer) for layer in self.attention_layers}

    def place(self, layer: str) -> tuple[str, int]:
        """Return where an attention layer stands: "down", "mid" or "up", and its height in tokens."""
        height, levels = self.latent_shape[1], len(self.denoiser.config.block_out_channels)
        block, index = layer.split(".")[:2]
        level = {"down_blocks": lambda i: i, "up_blocks": lambda i: levels - 1 - i}.get(
            block, lambda _: levels - 1
        )
        side = -(-height // 2 ** level(int(index) if index.isdigit() else 0))  # strides round up
        return block.split("_")[0], side

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
        injection: AnyInjection | None = None,
        guidance_scale: float | Sequence[float] = 1.0,
    ) -> Tensor:
        """Return the denoiser's output for each row; `guidance_scale` is for one that is told it."""
        timestep_cond = None
        if self.guidance_embedded:
            scales = each_row(guidance_scale, len(latents))
            timestep_cond = torch.cat([self._guidance_row(scale, latents) for scale in scales])
        with feature_hooks(self.denoiser, injection.taking if injection else None):
            return self.network(injection)(
                latents,
                on_device(timestep, latents.device),
                timestep_cond=timestep_cond,
                cross_attention_kwargs={"injection": injection} if injection else None,
                return_dict=False,
                **self.denoiser_inputs(conditioning),
            )[0]

    @cached_property
    def _guidance_rows(self) -> dict[tuple[float, torch.device, torch.dtype], Tensor]:
        return {}

    def _guidance_row(self, guidance_scale: float, like: Tensor) -> Tensor:
        """Return what the denoiser is told of a guidance scale: (1, channels), copied to its device once."""
        key = (guidance_scale, like.device, like.dtype)
        if key not in self._guidance_rows:  # in float32 and shifted by 1, as diffusers' pipelines do
            row = self.pipeline.get_guidance_scale_embedding(
                torch.tensor([guidance_scale - 1]), self.denoiser.config.time_cond_proj_dim
            )
            self._guidance_rows[key] = row.to(like)
        return self._guidance_rows[key]

    def denoiser_inputs(self, conditioning: Conditioning) -> Mapping[str, Any]:
        """Return the conditioning by the names of the UNet's arguments."""
        return conditioning
