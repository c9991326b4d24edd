"""Tiny random pipelines of diffusers' own editing classes, made of the parts of `tests.tiny`'s."""

from pathlib import Path

import torch
from diffusers import (
    DPMSolverMultistepScheduler,
    EulerAncestralDiscreteScheduler,
    LEditsPPPipelineStableDiffusion,
    StableDiffusionInstructPix2PixPipeline,
    StableDiffusionPipeline,
    UNet2DConditionModel,
)

NO_CHECKER = {"safety_checker": None, "requires_safety_checker": False}
BETAS = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "steps_offset": 1}


def save_instruct_pix2pix(tiny: Path, folder: Path, seed: int = 1) -> Path:
    """Save an InstructPix2Pix pipeline, whose UNet also takes the image's latents, and its own sampler."""
    parts = StableDiffusionPipeline.from_pretrained(tiny, **NO_CHECKER).components
    parts |= {"unet": _unet(8, 2, seed), "scheduler": EulerAncestralDiscreteScheduler(**BETAS)}
    StableDiffusionInstructPix2PixPipeline(**parts, requires_safety_checker=False).save_pretrained(folder)
    return folder


def save_ledits_pp(tiny: Path, folder: Path, seed: int = 1) -> Path:
    """Save a LEDITS++ pipeline: it reads cross-attention at a quarter of the latents' side, and samples by
    its paper's DPM-Solver++.
    """
    parts = StableDiffusionPipeline.from_pretrained(tiny, **NO_CHECKER).components
    del parts["image_encoder"]
    solver = DPMSolverMultistepScheduler(**BETAS, algorithm_type="sde-dpmsolver++", solver_order=2)
    parts |= {"unet": _unet(4, 3, seed), "scheduler": solver}
    LEditsPPPipelineStableDiffusion(**parts, requires_safety_checker=False).save_pretrained(folder)
    return folder


def _unet(in_channels: int, levels: int, seed: int) -> UNet2DConditionModel:
    torch.manual_seed(seed)
    return UNet2DConditionModel(
        sample_size=16,
        in_channels=in_channels,
        out_channels=4,
        down_block_types=("CrossAttnDownBlock2D",) * levels,
        up_block_types=("CrossAttnUpBlock2D",) * levels,
        block_out_channels=(16, *(32,) * (levels - 1)),
        layers_per_block=1,
        attention_head_dim=2,
        cross_attention_dim=32,
        norm_num_groups=8,
    )
