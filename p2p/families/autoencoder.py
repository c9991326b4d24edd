"""Latents to images and back, for every family that has an autoencoder."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pixel_shuffle, pixel_unshuffle

from p2p.families.model import eight_bits, execution_device
from p2p.memory import in_calls

DECODED_PIXELS = 64 * 64  # of the latents in one call: one image of SD 1.x, several small ones


def decode_latents(vae: Any, latents: Tensor) -> Tensor:
    """Return images (N, 3, height, width) in [0, 1] with 8-bit values, on the CPU.

    `DECODED_PIXELS` or one in a call; where memory runs out, half as many. Raises torch.OutOfMemoryError, in
    one line, where one is too much.
    """
    rows = _unscaled(vae, latents).to(_device(vae), vae.dtype)
    at_once = max(1, DECODED_PIXELS // latents[0, 0].numel())

    def decode(some: Tensor) -> Tensor:
        if _of_patches(vae):
            some = pixel_shuffle(some, 2)
        if not _of_videos(vae):
            return eight_bits(vae.decode(some, return_dict=False)[0])
        return eight_bits(vae.decode(some[:, :, None], return_dict=False)[0][:, :, 0])

    return in_calls(decode, rows, at_once, "autoencoder: to decode one image")


def encode_images(vae: Any, images: Tensor, dtype: torch.dtype) -> Tensor:
    """Return scaled latents of images (N, 3, height, width) in [0, 1]: the mean, where there is a spread.

    One image in a call. Raises torch.OutOfMemoryError, in one line, where that is too much.
    """

    def encode(some: Tensor) -> Tensor:
        pixels = some.to(_device(vae), vae.dtype) * 2 - 1
        encoded = vae.encode(pixels[:, :, None] if _of_videos(vae) else pixels)
        means: Tensor = encoded.latent_dist.mode() if hasattr(encoded, "latent_dist") else encoded.latents
        means = means[:, :, 0] if _of_videos(vae) else means
        return pixel_unshuffle(means, 2) if _of_patches(vae) else means

    means = in_calls(encode, images, 1, "autoencoder: to encode one image")
    if _of_patches(vae):
        mean, deviation = _batch_statistics(vae, means)
        return ((means - mean) / deviation).to(dtype)
    scale, shift = scale_and_shift(vae)
    return ((means - shift) * scale).to(dtype)


def _unscaled(vae: Any, latents: Tensor) -> Tensor:
    if _of_patches(vae):
        mean, deviation = _batch_statistics(vae, latents)
        return latents * deviation + mean
    scale, shift = scale_and_shift(vae)
    return latents / scale + shift


def _device(vae: Any) -> torch.device:
    return execution_device(vae) or vae.device


def _of_videos(vae: Any) -> bool:
    """Say whether an autoencoder's images are videos of one frame, as Qwen-Image's are."""
    return "temperal_downsample" in vae.config  # diffusers' spelling


def _of_patches(vae: Any) -> bool:
    """Say whether latents are patches of 2 x 2 of an autoencoder's own, normalised, as Flux.2's are."""
    return hasattr(vae, "bn")


def _batch_statistics(vae: Any, latents: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean and deviation (1, channels, 1, 1) of latents of patches, in their precision."""
    found = vae.bn.running_mean, (vae.bn.running_var + vae.config.batch_norm_eps).sqrt()
    mean, deviation = (one.view(1, -1, 1, 1).to(latents) for one in found)
    return mean, deviation


def scale_and_shift(vae: Any) -> tuple[float | Tensor, float | Tensor]:
    """Return what latents are divided by before decoding, and what is added to them then.

    An autoencoder of videos has numbers of its own for each channel: tensors (1, channels, 1, 1).
    """
    config = vae.config
    if _of_videos(vae):
        own = [config.latents_mean, config.latents_std]
        mean, std = torch.tensor(own, device=_device(vae), dtype=vae.dtype)[:, None, :, None, None]
        return 1 / std, mean
    if config.get("latents_mean") is not None or config.get("latents_std") is not None:
        raise ValueError(
            "vae: latents_mean and latents_std are given, allowed are scaling_factor and shift_factor"
        )
    return config.scaling_factor, config.get("shift_factor") or 0.0
