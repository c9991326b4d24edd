"""Tiny random pipelines of DeepFloyd IF's two stages."""

from pathlib import Path
from typing import Any

import torch
from diffusers import DDPMScheduler, IFPipeline, IFSuperResolutionPipeline, UNet2DConditionModel

from tests.p2p.families.unets import look_at_the_prompt
from tests.tiny_text import tiny_t5_encoder, tiny_t5_tokenizer


def tiny_unet(**config: Any) -> UNet2DConditionModel:
    unet = UNet2DConditionModel(
        block_out_channels=(16, 32),
        layers_per_block=1,
        mid_block_type="UNetMidBlock2DSimpleCrossAttn",
        out_channels=6,
        cross_attention_dim=32,
        encoder_hid_dim=32,
        attention_head_dim=8,
        addition_embed_type="text",
        addition_embed_type_num_heads=2,
        cross_attention_norm="group_norm",
        resnet_time_scale_shift="scale_shift",
        norm_num_groups=8,
        act_fn="gelu",
        **config,
    )
    return look_at_the_prompt(unet)


def tiny_scheduler(**config: Any) -> DDPMScheduler:
    return DDPMScheduler(
        beta_schedule="squaredcos_cap_v2",
        thresholding=True,
        dynamic_thresholding_ratio=0.95,
        sample_max_value=1.5,
        **config,
    )


def save_tiny_deepfloyd(folder: Path) -> Path:
    """Save "base", 16x16 pixels with attention at 16x16 and 8x8, and "upscaler", 32x32 with it at 16x16."""
    torch.manual_seed(0)
    tokenizer = tiny_t5_tokenizer()
    base = IFPipeline(
        tokenizer,
        tiny_t5_encoder(tokenizer),
        tiny_unet(
            sample_size=16,
            in_channels=3,
            down_block_types=("SimpleCrossAttnDownBlock2D",) * 2,
            up_block_types=("SimpleCrossAttnUpBlock2D",) * 2,
        ),
        tiny_scheduler(variance_type="learned_range"),
        safety_checker=None,
        feature_extractor=None,
        watermarker=None,
        requires_safety_checker=False,
    )
    upscaler = IFSuperResolutionPipeline(
        tokenizer,
        None,
        tiny_unet(
            sample_size=32,
            in_channels=6,
            down_block_types=("ResnetDownsampleBlock2D", "SimpleCrossAttnDownBlock2D"),
            up_block_types=("SimpleCrossAttnUpBlock2D", "ResnetUpsampleBlock2D"),
            class_embed_type="timestep",
            only_cross_attention=(False, True),
            mid_block_only_cross_attention=False,
        ),
        tiny_scheduler(variance_type="learned_range"),
        tiny_scheduler(),
        safety_checker=None,
        feature_extractor=None,
        watermarker=None,
        requires_safety_checker=False,
    )
    base.save_pretrained(folder / "base")
    upscaler.save_pretrained(folder / "upscaler")
    return folder
