"""A tiny random pipeline of Z-Image's real classes, made offline."""

from collections.abc import Mapping
from typing import ClassVar

import torch
from diffusers import FlowMatchEulerDiscreteScheduler, ZImagePipeline, ZImageTransformer2DModel

from p2p import ZImage
from tests.p2p.families.tiny_parts import heed_text, tiny_vae
from tests.p2p.families.tiny_qwen import tiny_qwen3_encoder, tiny_qwen3_tokenizer

TEXT = 64  # two multiples of 32


def tiny_z_image() -> ZImagePipeline:
    """Return a random pipeline in double precision: two layers, one of each refiner, visible padding."""
    torch.manual_seed(0)
    transformer = ZImageTransformer2DModel(
        in_channels=4,
        dim=32,
        n_layers=2,
        n_refiner_layers=1,
        n_heads=2,
        n_kv_heads=2,
        cap_feat_dim=16,
        axes_dims=[4, 6, 6],
        axes_lens=[128, 64, 64],
    )
    heed_text(transformer)
    with torch.no_grad():  # 0 at initialisation
        transformer.x_pad_token.normal_()
        transformer.cap_pad_token.normal_()
    tokenizer = tiny_qwen3_tokenizer()
    pipeline = ZImagePipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
        vae=tiny_vae(shift=0.1),
        text_encoder=tiny_qwen3_encoder(tokenizer, layers=3),
        tokenizer=tokenizer,
        transformer=transformer,
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline.to(torch.float64)


class ShortZImage(ZImage):
    """Z-Image with room for two multiples of 32 tokens of text, for speed."""

    text_blocks: ClassVar[Mapping[str, int | None]] = {"tokenizer": TEXT}


def short_z_image(pixels: int = 24) -> ZImage:
    """Return a model of images of this side; 24 have 36 tokens, and so 28 of padding."""
    side = pixels // 4
    return ShortZImage(tiny_z_image(), side, side, height=pixels, width=pixels)
