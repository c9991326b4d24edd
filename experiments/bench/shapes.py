"""Pipelines of Stable Diffusion 1.5's layers with random weights: real widths, or narrower ones."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModel

from p2p import StableDiffusion
from p2p.loading.tokenizer_files import clip_tokenizer


@dataclass(frozen=True)
class Shapes:
    """The widths of a pipeline whose layers are SD 1.5's."""

    channels: tuple[int, int, int, int]
    heads: int
    groups: int  # of the group norms
    text_width: int
    text_layers: int


SHAPES = {
    "sd15": Shapes((320, 640, 1280, 1280), heads=8, groups=32, text_width=768, text_layers=12),
    "narrow": Shapes((80, 160, 320, 320), heads=2, groups=16, text_width=64, text_layers=1),
    "tiny": Shapes((16, 16, 32, 32), heads=2, groups=8, text_width=16, text_layers=1),
}


def random_pipeline(shapes: Shapes, device: str) -> StableDiffusionPipeline:
    """Return a float32 pipeline. Its autoencoder is the smallest there is: images are not decoded here."""
    with torch.device("meta"):
        unet = UNet2DConditionModel(
            sample_size=64,
            block_out_channels=shapes.channels,
            attention_head_dim=shapes.heads,
            cross_attention_dim=shapes.text_width,
            norm_num_groups=shapes.groups,
        )
    unet = _fill(unet.to_empty(device=device))
    tokenizer = clip_tokenizer()
    text_encoder = CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=shapes.text_width,
            intermediate_size=4 * shapes.text_width,
            num_hidden_layers=shapes.text_layers,
            num_attention_heads=max(1, shapes.text_width // 64),
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.eos_token_id,
        )
    )
    vae = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(8,) * 4,
        layers_per_block=1,
        norm_num_groups=8,
    )
    scheduler = DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
    )
    pipeline = StableDiffusionPipeline(
        vae=vae,
        text_encoder=text_encoder,
        tokenizer=tokenizer,
        unet=unet,
        scheduler=scheduler,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.set_progress_bar_config(disable=True)
    pipeline.to(device)
    for part in (unet, text_encoder, vae):
        part.requires_grad_(False).eval()
    return pipeline


def model_at(pipeline: StableDiffusionPipeline, side: int) -> StableDiffusion:
    """Return the engine's model for latents of side x side, self-attention injected in every layer."""
    size = side * pipeline.vae_scale_factor
    return StableDiffusion(pipeline, self_max_side=side, blend_side=side // 4, height=size, width=size)


@torch.no_grad()
def _fill(unet: Any) -> nn.Module:
    """Fill with noise of variance 1 / fan-in, a million values again and again: drawing them all is slow."""
    noise = torch.randn(2**20, generator=torch.Generator().manual_seed(0))
    for name, parameter in unet.named_parameters():
        if parameter.ndim == 1:
            parameter.fill_(1.0 if "norm" in name and name.endswith("weight") else 0.0)
        else:
            repeats = -(-parameter.numel() // len(noise))
            values = noise.repeat(repeats)[: parameter.numel()].view_as(parameter)
            parameter.copy_(values).mul_(parameter[0].numel() ** -0.5)
    return unet
