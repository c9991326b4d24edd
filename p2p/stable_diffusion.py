"""The adapter for Stable-Diffusion-shaped pipelines of diffusers: SD 1.x and the embedded model.

It says how prompts are encoded, which attention layers there are, how noise is predicted and how images are
coded.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from diffusers import StableDiffusionPipeline
from diffusers.utils.torch_utils import randn_tensor
from torch import Tensor

from p2p.alignment import encode
from p2p.attention import BatchInjection

DECODED_PIXELS = 64 * 64  # of the latents in one call: one image of SD 1.x, several small ones


@dataclass
class StableDiffusion:
    """A loaded pipeline and the two sides (in tokens) at which this model's maps are injected or read."""

    pipeline: StableDiffusionPipeline
    self_max_side: int = 32
    blend_side: int = 16
    height: int | None = None
    width: int | None = None

    def __post_init__(self) -> None:
        sides = self.attention_sides()
        for name in ("self_max_side", "blend_side"):
            if getattr(self, name) not in sides:
                raise ValueError(
                    f"{name}: {getattr(self, name)} is no side of an attention layer, "
                    f"allowed are {', '.join(map(str, sides))}"
                )

    @property
    def tokenizer(self) -> Any:
        """The tokenizer whose positions the alignment refers to."""
        return self.pipeline.tokenizer

    @cached_property
    def latent_shape(self) -> tuple[int, int, int]:
        """Channels, height and width of the latents."""
        unet, factor = self.pipeline.unet.config, self.pipeline.vae_scale_factor
        sample = unet.sample_size if isinstance(unet.sample_size, Sequence) else (unet.sample_size,) * 2
        height = self.height // factor if self.height else sample[0]
        width = self.width // factor if self.width else sample[1]
        return unet.in_channels, height, width

    def attention_sides(self) -> list[int]:
        """Return the token-grid heights at which the denoiser attends, largest first."""
        height, levels = self.latent_shape[1], len(self.pipeline.unet.config.block_out_channels)
        sides = set()
        for layer in self.pipeline.unet.attn_processors:
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

    def encode_prompts(self, prompts: Sequence[str]) -> Tensor:
        """Return embeddings (prompts, tokens, channels). Raises ValueError for a prompt that is too long."""
        for prompt in prompts:
            encode(prompt, self.tokenizer)
        return self.pipeline.encode_prompt(list(prompts), self.pipeline.device, 1, False)[0]

    def new_scheduler(self, num_inference_steps: int) -> Any:
        """Return a fresh scheduler, timesteps set. Raises ValueError where the T + 1 table does not fit."""
        scheduler = copy.deepcopy(self.pipeline.scheduler)
        set_timesteps(scheduler, num_inference_steps, self.pipeline.device)
        return scheduler

    def draw_noise(self, generators: Sequence[torch.Generator]) -> Tensor:
        """Return standard normal latents (generators, channels, height, width), each from its generator."""
        shape = (1, *self.latent_shape)
        dtype = self.pipeline.unet.dtype
        return torch.cat([randn_tensor(shape, g, self.pipeline.device, dtype) for g in generators])

    def predict(
        self, latents: Tensor, timestep: Tensor, prompt_embeds: Tensor, injection: BatchInjection | None
    ) -> Tensor:
        """Return the denoiser's output for each row."""
        kwargs = {"injection": injection} if injection else None
        return self.pipeline.unet(
            latents,
            timestep,
            encoder_hidden_states=prompt_embeds,
            cross_attention_kwargs=kwargs,
            return_dict=False,
        )[0]

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        """Return images (N, 3, height, width) float32 in [0, 1], rounded to 8 bits as a PNG would be."""
        vae = self.pipeline.vae
        rows = max(1, DECODED_PIXELS // latents[0, 0].numel())
        images = [
            vae.decode(some / vae.config.scaling_factor, return_dict=False)[0] for some in latents.split(rows)
        ]
        if not all(image.isfinite().all() for image in images):
            raise FloatingPointError("images: the autoencoder's output is not finite, try dtype=float32")
        return ((torch.cat(images).float() / 2 + 0.5).clamp(0, 1) * 255).round().cpu() / 255

    @torch.no_grad()
    def encode(self, images: Tensor) -> Tensor:
        """Return scaled latent means of images (N, 3, height, width) in [0, 1]."""
        vae = self.pipeline.vae
        rows = images.to(vae.device, vae.dtype) * 2 - 1
        return (
            torch.cat([vae.encode(row[None]).latent_dist.mode() for row in rows]) * vae.config.scaling_factor
        )


def set_timesteps(scheduler: Any, num_inference_steps: int, device: Any = None) -> int:
    """Set the timesteps and return their number. Raises ValueError where the T + 1 table does not fit."""
    scheduler.set_timesteps(num_inference_steps, device=device)
    calls = len(scheduler.timesteps)
    if calls not in (num_inference_steps, num_inference_steps + 1):
        raise ValueError(
            f"scheduler: {type(scheduler).__name__} calls the UNet {calls} times for {num_inference_steps} "
            "steps, allowed are T or T + 1"
        )
    return calls
