"""Renders made to look like generated pictures (soft, blotched, noisy, ...), to train what judges those.

Renders only: nothing here knows the diffusion model or its autoencoder.
"""

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d, interpolate, pad

Index = tuple[Tensor, Tensor, Tensor]


def to_float(images: Tensor) -> Tensor:
    """Turn (N, 64, 64, 3) uint8 into (N, 3, 64, 64) float32 in [0, 1], channels last in memory."""
    return (images.permute(0, 3, 1, 2).float() / 255).contiguous(memory_format=torch.channels_last)


def shift_and_mirror(
    n: int, side: int, generator: torch.Generator, most: int = 3, mirror: bool = True
) -> Index:
    """Return an index that moves n pictures by up to `most` pixels and mirrors half, unless forbidden.

    `pictures[index]` and `labels[index]` move alike, whatever follows (N, side, side); edges repeat.
    """
    dy, dx = torch.randint(-most, most + 1, (2, n, 1), generator=generator)
    ys = (torch.arange(side) + dy).clamp(0, side - 1)
    xs = (torch.arange(side) + dx).clamp(0, side - 1)
    mirrored = (torch.rand(n, 1, generator=generator) < 0.5) & mirror
    xs = torch.where(mirrored, xs.flip(1), xs)
    return torch.arange(n)[:, None, None], ys[:, :, None], xs[:, None, :]


def degrade(images: Tensor, generator: torch.Generator) -> Tensor:
    """Return (N, 3, H, W) images in [0, 1] as a small generative model might paint them."""
    n, _, height, width = images.shape

    def uniform(low: float, high: float, channels: int = 1) -> Tensor:
        return low + (high - low) * torch.rand(n, channels, 1, 1, generator=generator)

    def normal(h: int, w: int) -> Tensor:
        return torch.randn(n, 3, h, w, generator=generator)

    images = images.lerp(avg_pool2d(pad(images, (1, 1, 1, 1), mode="replicate"), 3, 1), uniform(-0.5, 1))
    halved = interpolate(avg_pool2d(images, 2), scale_factor=2, mode="bilinear")
    images = images.lerp(halved, uniform(-0.8, 0.8).clamp(min=0))
    images = images.lerp(_coarse_blocks(images, uniform(0.02, 0.12)), (uniform(0, 1) < 0.25).float())
    blotches = interpolate(normal(height // 4, width // 4), size=(height, width), mode="bilinear")
    images = images + uniform(-0.04, 0.05).clamp(min=0) * blotches
    images = images + uniform(-0.03, 0.03).clamp(min=0) * normal(height, width)
    return (images * uniform(0.93, 1.07, 3) + uniform(-0.04, 0.04, 3)).clamp(0, 1)


def _coarse_blocks(images: Tensor, step: Tensor) -> Tensor:
    """Round each 8x8 block's cosine coefficients, the higher the coarser, as JPEG does."""
    n, channels, height, width = images.shape
    k = torch.arange(8.0)
    basis = torch.cos(torch.pi / 8 * (k + 0.5) * k[:, None]) / 2  # rows: frequencies
    basis[0] /= 2**0.5
    blocks = images.reshape(n, channels, height // 8, 8, width // 8, 8).transpose(3, 4)
    steps = step[..., None, None] * (1 + k + k[:, None])
    coefficients = ((basis @ blocks @ basis.T) / steps).round() * steps
    return (basis.T @ coefficients @ basis).transpose(3, 4).reshape(images.shape)
