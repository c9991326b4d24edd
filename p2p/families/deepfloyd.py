"""DeepFloyd IF, built like the paper's Imagen: pixels, T5, text and image keys in one softmax, two stages."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import torch
from diffusers.models.attention_processor import Attention, AttnAddedKVProcessor, AttnAddedKVProcessor2_0
from torch import Tensor
from torch.nn.functional import interpolate

from p2p.attention.injection import AnyInjection, LayerAttention, injection_processors
from p2p.attention.joint import inject_joint
from p2p.families.model import Conditioning, eight_bits
from p2p.families.unet import UNetModel


class AddedKeysProcessor:
    """diffusers' AttnAddedKVProcessor2_0, plus injection: pixels attend to text and pixels together."""

    def __init__(self, layer: str) -> None:
        self.layer = layer

    def __call__(
        self,
        attn: Attention,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor,
        attention_mask: Tensor | None = None,
        injection: AnyInjection | None = None,
    ) -> Tensor:
        """Attend from (rows, channels, height, width) to text (rows, tokens, channels) and to itself."""
        if attention_mask is not None:
            raise ValueError(f"attention_mask: given at {self.layer}, but DeepFloyd's UNets have none")
        if attn.norm_cross:
            encoder_hidden_states = attn.norm_encoder_hidden_states(encoder_hidden_states)
        pixels = attn.group_norm(hidden_states.flatten(2)).transpose(1, 2)
        key, value = attn.add_k_proj(encoder_hidden_states), attn.add_v_proj(encoder_hidden_states)
        text_tokens = slice(0, key.shape[1])
        if not attn.only_cross_attention:
            key = torch.cat([key, attn.to_k(pixels)], 1)
            value = torch.cat([value, attn.to_v(pixels)], 1)
        query, key, value = (
            projected.unflatten(-1, (attn.heads, -1)).transpose(1, 2)
            for projected in (attn.to_q(pixels), key, value)
        )
        attention = LayerAttention(self.layer, query, key, value, attn.scale)
        if injection is None:
            output = attention.attend()
        else:
            injection.visited.append(self.layer)
            output = inject_joint(attention, text_tokens, injection)
        output = attn.to_out[1](attn.to_out[0](output.transpose(1, 2).flatten(2)))
        return output.transpose(1, 2).reshape(hidden_states.shape) + hidden_states


@dataclass
class DeepFloyd(UNetModel):
    """The base stage; where the UNet predicts a variance too, guidance leaves it the text row's."""

    self_max_side: int = 16
    blend_side: int = 16

    pipeline_name: ClassVar[str] = "IFPipeline"
    load_options: ClassVar[Mapping[str, Any]] = {
        "safety_checker": None,
        "feature_extractor": None,
        "watermarker": None,
        "requires_safety_checker": False,
    }
    text_blocks: ClassVar[Mapping[str, int | None]] = {"tokenizer": 77}
    lower_case: ClassVar[bool] = True
    single_layers: ClassVar[bool] = False  # text and pixels share one softmax

    @property
    def pixels_per_latent(self) -> int:
        """Pixels of an image's side per latent: it denoises the pixels themselves."""
        return 1

    def injection_processors(self) -> AbstractContextManager[tuple[str, ...]]:
        """Install the engine's attention processors, give the layers' names, restore the old ones."""
        replaced = (AttnAddedKVProcessor, AttnAddedKVProcessor2_0)
        return injection_processors(self.denoiser, AddedKeysProcessor, replaced)

    def cross_layers(self) -> dict[str, tuple[str, int]]:
        """Return where each layer stands ("down", "mid", "up"; its height): all attend to text too."""
        return {layer: self.place(layer) for layer in self.attention_layers}

    def _encode_prompt(self, prompt: str, negative: bool) -> Conditioning:
        embeds = self.pipeline.encode_prompt(prompt, do_classifier_free_guidance=False, device=self.device)[0]
        return {"encoder_hidden_states": embeds}

    def predict(
        self,
        latents: Tensor,
        timestep: Tensor,
        conditioning: Conditioning,
        injection: AnyInjection | None = None,
        guidance_scale: float | Sequence[float] = 1.0,
    ) -> Tensor:
        """Return noise for each row, and the variance where the scheduler takes a learned one."""
        output = super().predict(latents, timestep, conditioning, injection)
        learned = self.pipeline.scheduler.config.get("variance_type") in ("learned", "learned_range")
        return output if learned else output[:, : self.latent_shape[0]]

    def guide(self, uncond: Tensor, text: Tensor, guidance_scale: float, guidance_rescale: float) -> Tensor:
        """Return the guided noise, with the text row's variance where there is one."""
        channels = self.latent_shape[0]
        noise = super().guide(uncond[:, :channels], text[:, :channels], guidance_scale, guidance_rescale)
        return torch.cat([noise, text[:, channels:]], 1)

    def decode(self, latents: Tensor) -> Tensor:
        """Return images (N, 3, height, width) float32 in [0, 1], rounded to 8 bits as a PNG would be."""
        return eight_bits(latents)

    def encode(self, images: Tensor) -> Tensor:
        """Return images (N, 3, height, width) in [0, 1] as the denoiser sees them."""
        return images.to(self.device, self.dtype) * 2 - 1


@dataclass
class DeepFloydUpscaler(DeepFloyd):
    """The super-resolution stage, told of a smaller image with noise on it, and of how much that is."""

    noise_level: ClassVar[int] = 250  # diffusers' default

    pipeline_name: ClassVar[str] = "IFSuperResolutionPipeline"
    load_options: ClassVar[Mapping[str, Any]] = {
        **DeepFloyd.load_options,
        "tokenizer": None,  # the base stage's is used
        "text_encoder": None,
    }

    @cached_property
    def latent_shape(self) -> tuple[int, int, int]:
        """Channels, height and width of the image; the UNet's input has the smaller one's channels too."""
        channels, height, width = super().latent_shape
        return channels // 2, height, width

    def condition(self, images: Tensor, noise: Tensor) -> Conditioning:
        """Return one row for each of the smaller images (N, 3, height, width) in [0, 1]."""
        enlarged = interpolate(
            self.encode(images), self.latent_shape[1:], mode="bilinear", align_corners=True
        )
        level = torch.full((len(images),), self.noise_level, device=self.device)
        noised = self.pipeline.image_noising_scheduler.add_noise(enlarged, noise, level)
        return {"low_resolution": noised, "class_labels": level}

    def predict(
        self,
        latents: Tensor,
        timestep: Tensor,
        conditioning: Conditioning,
        injection: AnyInjection | None = None,
        guidance_scale: float | Sequence[float] = 1.0,
    ) -> Tensor:
        """Return noise for each row, and the variance where the scheduler takes a learned one."""
        if "low_resolution" not in conditioning:
            raise ValueError("pipeline: IFSuperResolutionPipeline runs only as the upscaler of another model")
        rest = {name: rows for name, rows in conditioning.items() if name != "low_resolution"}
        both = torch.cat([latents, conditioning["low_resolution"]], 1)
        return super().predict(both, timestep, rest, injection)
