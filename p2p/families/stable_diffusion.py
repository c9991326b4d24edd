"""Stable Diffusion 1.x and 2.x (v-prediction lies in the scheduler), and whatever has their shape."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from p2p.families.autoencoder import decode_latents, encode_images
from p2p.families.model import Conditioning
from p2p.families.unet import UNetModel


@dataclass
class StableDiffusion(UNetModel):
    """A UNet with cross-attention to one text encoder, in the latents of an autoencoder."""

    self_max_side: int = 32
    blend_side: int = 16

    pipeline_name: ClassVar[str] = "StableDiffusionPipeline"
    expands_tokens: ClassVar[bool] = True
    scheduler_corrections: ClassVar[Mapping[str, Any]] = {"steps_offset": 1, "clip_sample": False}
    load_options: ClassVar[Mapping[str, Any]] = {
        "safety_checker": None,
        "feature_extractor": None,  # the checker's
        "requires_safety_checker": False,
    }

    @property
    def vae(self) -> Any:
        """The autoencoder."""
        return self.pipeline.vae

    def _encode_prompt(self, prompt: str, negative: bool) -> Conditioning:
        return {"encoder_hidden_states": self.pipeline.encode_prompt([prompt], self.device, 1, False)[0]}

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        """Return images (N, 3, height, width) float32 in [0, 1], rounded to 8 bits as a PNG would be."""
        return decode_latents(self.vae, latents)

    @torch.no_grad()
    def encode(self, images: Tensor) -> Tensor:
        """Return scaled latent means of images (N, 3, height, width) in [0, 1]."""
        return encode_images(self.vae, images, self.dtype)


@dataclass
class LatentConsistency(StableDiffusion):
    """Stable Diffusion distilled to a few steps (Luo et al. 2023, "Latent Consistency Models"): its UNet is
    told the guidance scale, whether or not its config is on this machine yet.
    """

    pipeline_name: ClassVar[str] = "LatentConsistencyModelPipeline"
    scheduler_corrections: ClassVar[Mapping[str, Any]] = {}
    load_options: ClassVar[Mapping[str, Any]] = {**StableDiffusion.load_options, "image_encoder": None}

    @classmethod
    def embeds_guidance(cls, config: Mapping[str, Any]) -> bool:
        """Say that the UNet is told the guidance scale."""
        return True


@dataclass
class GuidedLatentConsistency(LatentConsistency):
    """A latent consistency model as InfEdit's authors run it (Xu et al. 2024): its UNet is told no scale, and
    guided by unconditional rows.
    """

    @classmethod
    def embeds_guidance(cls, config: Mapping[str, Any]) -> bool:
        """Say that the UNet is not told the guidance scale."""
        return False
