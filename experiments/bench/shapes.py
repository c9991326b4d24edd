"""Pipelines of SD 1.5's and SDXL's layers with random weights: real widths, or narrower ones."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from p2p import StableDiffusion, StableDiffusionXL
from p2p.loading.tokenizer_files import clip_tokenizer


@dataclass(frozen=True)
class Shapes:
    """The widths of a pipeline whose layers are SD 1.5's."""

    channels: tuple[int, int, int, int]
    heads: int
    groups: int  # of the group norms
    text_width: int
    text_layers: int
    decoder: tuple[int, int, int, int] = (8, 8, 8, 8)  # channels of the autoencoder: the smallest there is
    decoder_layers: int = 1


SHAPES = {
    "sd15": Shapes((320, 640, 1280, 1280), heads=8, groups=32, text_width=768, text_layers=12),
    "sd15_decoding": Shapes(  # the same with Stable Diffusion's own autoencoder, where images are decoded
        (320, 640, 1280, 1280), 8, 32, 768, 12, decoder=(128, 256, 512, 512), decoder_layers=2
    ),
    "narrow": Shapes((80, 160, 320, 320), heads=2, groups=16, text_width=64, text_layers=1),
    "tiny": Shapes((16, 16, 32, 32), heads=2, groups=8, text_width=16, text_layers=1),
}


@dataclass(frozen=True)
class XLShapes:
    """The widths of a pipeline whose layers are SDXL's; its text encoders have two layers each."""

    channels: tuple[int, int, int]
    layers: tuple[int, int, int]  # of each level's transformers
    heads: tuple[int, int, int]
    groups: int  # of the group norms
    text_widths: tuple[int, int]
    pooled: int
    time_width: int  # of each of the six size conditions


XL_SHAPES = {
    "sdxl": XLShapes((320, 640, 1280), (1, 2, 10), (5, 10, 20), 32, (768, 1280), pooled=1280, time_width=256),
    "tiny": XLShapes((16, 16, 32), (1, 1, 2), (2, 2, 4), 8, (16, 24), pooled=16, time_width=8),
}


def random_pipeline(
    shapes: Shapes, device: str, dtype: torch.dtype = torch.float32
) -> StableDiffusionPipeline:
    """Return a pipeline whose activations stay near 1, so that they are finite in float16 too."""
    with torch.device("meta"):
        unet = UNet2DConditionModel(
            sample_size=64,
            block_out_channels=shapes.channels,
            attention_head_dim=shapes.heads,
            cross_attention_dim=shapes.text_width,
            norm_num_groups=shapes.groups,
        )
    tokenizer = clip_tokenizer()
    pipeline = StableDiffusionPipeline(
        vae=_autoencoder(shapes.decoder, shapes.decoder_layers),
        text_encoder=CLIPTextModel(_text_config(tokenizer, shapes.text_width, shapes.text_layers)),
        tokenizer=tokenizer,
        unet=filled(unet.to_empty(device=device)),
        scheduler=_ddim(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    return ready(pipeline, device, dtype)


def random_xl_pipeline(
    shapes: XLShapes, device: str, dtype: torch.dtype = torch.float32
) -> StableDiffusionXLPipeline:
    """Return a pipeline of SDXL's layers as `random_pipeline` does one of Stable Diffusion 1.5's.

    Its autoencoder is the smallest there is: images are not decoded.
    """
    with torch.device("meta"):
        unet = UNet2DConditionModel(
            sample_size=128,
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
            block_out_channels=shapes.channels,
            transformer_layers_per_block=shapes.layers,
            attention_head_dim=shapes.heads,
            cross_attention_dim=sum(shapes.text_widths),
            norm_num_groups=shapes.groups,
            use_linear_projection=True,
            addition_embed_type="text_time",
            addition_time_embed_dim=shapes.time_width,
            projection_class_embeddings_input_dim=6 * shapes.time_width + shapes.pooled,
        )
    tokenizer, second = clip_tokenizer(), clip_tokenizer()
    second.pad_token = "!"
    first_config, second_config = (_text_config(tokenizer, width, 2) for width in shapes.text_widths)
    second_config.projection_dim = shapes.pooled
    pipeline = StableDiffusionXLPipeline(
        vae=_autoencoder((8,) * 4, 1),
        text_encoder=CLIPTextModel(first_config),
        text_encoder_2=CLIPTextModelWithProjection(second_config),
        tokenizer=tokenizer,
        tokenizer_2=second,
        unet=filled(unet.to_empty(device=device)),
        scheduler=_ddim(),
        add_watermarker=False,
    )
    return ready(pipeline, device, dtype)


def model_at(pipeline: StableDiffusionPipeline, side: int) -> StableDiffusion:
    """Return the engine's model for latents of side x side, self-attention injected in every layer."""
    size = side * pipeline.vae_scale_factor
    return StableDiffusion(pipeline, self_max_side=side, blend_side=side // 4, height=size, width=size)


def xl_model_at(pipeline: StableDiffusionXLPipeline, side: int) -> StableDiffusionXL:
    """Return the engine's model for latents of side x side, self-attention injected in every layer."""
    size = side * pipeline.vae_scale_factor
    return StableDiffusionXL(pipeline, self_max_side=side // 2, blend_side=side // 4, height=size, width=size)


def _text_config(tokenizer: CLIPTokenizer, width: int, layers: int) -> CLIPTextConfig:
    return CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=4 * width,
        num_hidden_layers=layers,
        num_attention_heads=max(1, width // 64),
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.eos_token_id,
    )


def _autoencoder(channels: tuple[int, ...], layers: int) -> AutoencoderKL:
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=channels,
        layers_per_block=layers,
        norm_num_groups=min(32, channels[0]),
    )


def _ddim() -> DDIMScheduler:
    return DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
    )


def ready(pipeline: Any, device: str, dtype: torch.dtype) -> Any:
    """Return a pipeline as it is used: quiet, on its device, without gradients."""
    pipeline.set_progress_bar_config(disable=True)
    pipeline.to(device)
    for part in pipeline.components.values():
        if isinstance(part, nn.Module):
            # diffusers' own `to` warns of modules kept in float32, and lists none.
            nn.Module.to(part, dtype=dtype).requires_grad_(False).eval()
    return pipeline


@torch.no_grad()
def filled(unet: Any) -> nn.Module:
    """Fill with noise of variance 1 / fan-in, a million values again and again: drawing them all is slow."""
    noise = torch.randn(2**20, generator=torch.Generator().manual_seed(0)).to(unet.device)
    for name, parameter in unet.named_parameters():
        if parameter.ndim == 1:
            parameter.fill_(1.0 if "norm" in name and name.endswith("weight") else 0.0)
        else:
            repeats = -(-parameter.numel() // len(noise))
            values = noise.repeat(repeats)[: parameter.numel()].view_as(parameter)
            parameter.copy_(values).mul_(parameter[0].numel() ** -0.5)
    return unet
