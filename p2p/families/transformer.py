"""What transformers over patches of latents share: one grid of tokens in every layer, and an autoencoder."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import torch
from torch import Tensor

from p2p.families.autoencoder import decode_latents, encode_images
from p2p.families.model import Model


@dataclass
class LatentTransformer(Model):
    """A transformer over square patches of an autoencoder's latents.

    Raises ValueError for a height or width that does not fall into patches.
    """

    half_precision: ClassVar[str] = "bfloat16"  # that of the weights of Flux and Stable Diffusion 3.5

    @property
    def denoiser(self) -> Any:
        """The network that is called at each step."""
        return self.pipeline.transformer

    @property
    def patch_size(self) -> int:
        """Latents per token and direction."""
        size: int = self.denoiser.config.patch_size
        return size

    @property
    def sample_size(self) -> int:
        """Height and width of the latents where none is asked for. ValueError where the config has none."""
        size = self.denoiser.config.sample_size
        if not isinstance(size, int):
            raise ValueError(f"height: the transformer's config tells none (sample_size: {size!r})")
        return size

    @property
    def channels(self) -> int:
        """Channels of the latents."""
        channels: int = self.denoiser.config.in_channels
        return channels

    @cached_property
    def latent_shape(self) -> tuple[int, int, int]:
        """Channels, height and width of the latents."""
        factor = self.pixels_per_latent
        sides = []
        for name, pixels in (("height", self.height), ("width", self.width)):
            pixels = self.sample_size * factor if pixels is None else pixels
            if pixels <= 0 or pixels % (factor * self.patch_size):
                raise ValueError(f"{name}: {pixels} is no multiple of {factor * self.patch_size} above 0")
            sides.append(pixels // factor)
        return self.channels, sides[0], sides[1]

    def attention_sides(self) -> list[int]:
        """Return the token-grid heights at which the denoiser attends: one."""
        return [self.latent_shape[1] // self.patch_size]

    def cross_layers(self) -> dict[str, tuple[str, int]]:
        """Return where each layer that attends to text stands: all have the one height, in no part."""
        side = self.attention_sides()[0]
        layers = self.attention_layers
        return {layer: ("all", side) for layer in layers if self.attends_to_text(layer)}

    def attends_to_text(self, layer: str) -> bool:
        """Say whether an attention layer has text keys."""
        return True

    def pixels(self, side: int) -> int:
        """Return the tokens of a layer of this height: `side` x `side` for square images."""
        return side * (self.latent_shape[2] // self.patch_size)

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        """Return images (N, 3, height, width) float32 in [0, 1], rounded to 8 bits as a PNG would be."""
        return decode_latents(self.pipeline.vae, latents)

    @torch.no_grad()
    def encode(self, images: Tensor) -> Tensor:
        """Return scaled latent means of images (N, 3, height, width) in [0, 1]."""
        return encode_images(self.pipeline.vae, images, self.dtype)
