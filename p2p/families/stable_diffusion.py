"""Stable Diffusion 1.x and whatever has its shape, such as the embedded model."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import torch
from diffusers import StableDiffusionPipeline
from torch import Tensor

from p2p.attention import BatchInjection
from p2p.families.model import Conditioning, Model, eight_bits


@dataclass
class StableDiffusion(Model):
    """A UNet with cross-attention to one text encoder, in the latents of an autoencoder."""

    self_max_side: int = 32
    blend_side: int = 16

    pipeline_class: ClassVar[Any] = StableDiffusionPipeline
    load_options: ClassVar[Mapping[str, Any]] = {"safety_checker": None, "requires_safety_checker": False}

    @cached_property
    def latent_shape(self) -> tuple[int, int, int]:
        """Channels, height and width of the latents."""
        unet, factor = self.denoiser.config, self.pipeline.vae_scale_factor
        sample = unet.sample_size if isinstance(unet.sample_size, Sequence) else (unet.sample_size,) * 2
        height = self.height // factor if self.height else sample[0]
        width = self.width // factor if self.width else sample[1]
        return unet.in_channels, height, width

    @classmethod
    def guidance_embedded_in(cls, folder: Path | None) -> bool:
        """Say whether the UNet of a pipeline's folder is told the guidance scale, as a distilled LCM's is."""
        file = folder / "unet" / "config.json" if folder else None
        if file is None or not file.is_file():
            return False
        return json.loads(file.read_text()).get("time_cond_proj_dim") is not None

    @property
    def guidance_embedded(self) -> bool:
        """Whether the UNet is told the guidance scale, as LCM's is; then there are no unconditional rows."""
        return self.denoiser.config.time_cond_proj_dim is not None

    def attention_sides(self) -> list[int]:
        """Return the token-grid heights at which the denoiser attends, largest first."""
        return sorted({self._side(layer) for layer in self.denoiser.attn_processors}, reverse=True)

    def cross_layers(self) -> dict[str, tuple[str, int]]:
        """Return where each cross-attention layer stands: "down", "mid" or "up", and the tokens' height."""
        layers = (layer for layer in self.denoiser.attn_processors if ".attn2." in layer)
        return {layer: (layer.split("_")[0], self._side(layer)) for layer in layers}

    def _side(self, layer: str) -> int:
        height, levels = self.latent_shape[1], len(self.denoiser.config.block_out_channels)
        block, index = layer.split(".")[:2]
        level = {"down_blocks": lambda i: i, "up_blocks": lambda i: levels - 1 - i}.get(
            block, lambda _: levels - 1
        )
        return -(-height // 2 ** level(int(index) if index.isdigit() else 0))  # strides round up

    def pixels(self, side: int) -> int:
        """Return the tokens of the layer with this height: `side` x `side` for square images."""
        _, height, width = self.latent_shape
        level = round(math.log2(height / side))
        return side * -(-width // 2**level)

    def _encode_prompt(self, prompt: str, negative: bool) -> Conditioning:
        return {"encoder_hidden_states": self.pipeline.encode_prompt([prompt], self.device, 1, False)[0]}

    def predict(
        self,
        latents: Tensor,
        timestep: Tensor,
        conditioning: Conditioning,
        injection: BatchInjection | None = None,
        guidance_scale: float = 1.0,
    ) -> Tensor:
        """Return the denoiser's output for each row; `guidance_scale` is for one that is told it."""
        timestep_cond = None
        if self.guidance_embedded:  # in float32 and shifted by 1, as diffusers' pipelines do
            scales = torch.tensor(guidance_scale - 1).repeat(len(latents))
            timestep_cond = self.pipeline.get_guidance_scale_embedding(
                scales, self.denoiser.config.time_cond_proj_dim
            ).to(latents)
        return self.denoiser(
            latents,
            timestep,
            timestep_cond=timestep_cond,
            cross_attention_kwargs={"injection": injection} if injection else None,
            return_dict=False,
            **conditioning,
        )[0]

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        """Return images (N, 3, height, width) float32 in [0, 1], rounded to 8 bits as a PNG would be."""
        vae = self.pipeline.vae
        images = [vae.decode(row[None] / vae.config.scaling_factor, return_dict=False)[0] for row in latents]
        return eight_bits(torch.cat(images))

    @torch.no_grad()
    def encode(self, images: Tensor) -> Tensor:
        """Return scaled latent means of images (N, 3, height, width) in [0, 1]."""
        vae = self.pipeline.vae
        rows = images.to(vae.device, vae.dtype) * 2 - 1
        return (
            torch.cat([vae.encode(row[None]).latent_dist.mode() for row in rows]) * vae.config.scaling_factor
        )
