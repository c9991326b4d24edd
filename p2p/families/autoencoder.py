"""Latents to images and back, for every family that has an autoencoder."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from p2p.families.model import execution_device

DECODED_PIXELS = 64 * 64  # of the latents in one call: one image of SD 1.x, several small ones


def decode_latents(vae: Any, latents: Tensor) -> Tensor:
    """Return images (N, 3, height, width) around [-1, 1], `DECODED_PIXELS` or one in a call."""
    scale, shift = scale_and_shift(vae)
    rows = (latents / scale + shift).to(_device(vae), vae.dtype)
    at_once = max(1, DECODED_PIXELS // latents[0, 0].numel())
    return torch.cat([vae.decode(some, return_dict=False)[0] for some in rows.split(at_once)])


def encode_images(vae: Any, images: Tensor, dtype: torch.dtype) -> Tensor:
    """Return scaled latents of images (N, 3, height, width) in [0, 1]: the mean, where there is a spread."""
    scale, shift = scale_and_shift(vae)
    encoded = [vae.encode(row[None]) for row in images.to(_device(vae), vae.dtype) * 2 - 1]
    means = [one.latent_dist.mode() if hasattr(one, "latent_dist") else one.latents for one in encoded]
    return ((torch.cat(means) - shift) * scale).to(dtype)


def _device(vae: Any) -> torch.device:
    return execution_device(vae) or vae.device


def scale_and_shift(vae: Any) -> tuple[float, float]:
    """Return what latents are divided by before decoding, and what is added to them then."""
    config = vae.config
    if config.get("latents_mean") is not None or config.get("latents_std") is not None:
        raise ValueError(
            "vae: latents_mean and latents_std are given, allowed are scaling_factor and shift_factor"
        )
    return config.scaling_factor, config.get("shift_factor") or 0.0
