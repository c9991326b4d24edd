"""Tiny random pipelines of Flux.2's real classes, made offline."""

import torch
from diffusers import (
    AutoencoderKLFlux2,
    FlowMatchEulerDiscreteScheduler,
    Flux2KleinPipeline,
    Flux2Transformer2DModel,
)

from tests.p2p.families.tiny_parts import heed_text
from tests.p2p.families.tiny_qwen import tiny_qwen3_encoder, tiny_qwen3_tokenizer


def tiny_flux2_transformer(text_width: int, guidance_embeds: bool) -> Flux2Transformer2DModel:
    """Return a random transformer of two double- and one single-stream block."""
    transformer = Flux2Transformer2DModel(
        in_channels=16,
        num_layers=2,
        num_single_layers=1,
        attention_head_dim=8,
        num_attention_heads=2,
        joint_attention_dim=3 * text_width,
        axes_dims_rope=(2, 2, 2, 2),
        guidance_embeds=guidance_embeds,
    )
    heed_text(transformer)
    return transformer


def tiny_flux2_vae() -> AutoencoderKLFlux2:
    """Return a random autoencoder of two pixels per latent and direction, with statistics of its patches."""
    vae = AutoencoderKLFlux2(
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        block_out_channels=(8, 16),
        layers_per_block=1,
        norm_num_groups=8,
        sample_size=32,
        latent_channels=4,
    )
    vae.bn.running_mean.normal_(0, 0.3)
    vae.bn.running_var.uniform_(0.5, 2)
    return vae.eval()


def tiny_klein(is_distilled: bool = False) -> Flux2KleinPipeline:
    """Return a random Klein in double precision: the text encoder has the 27 layers that are asked for."""
    torch.manual_seed(0)
    tokenizer = tiny_qwen3_tokenizer()
    pipeline = Flux2KleinPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True),
        vae=tiny_flux2_vae(),
        text_encoder=tiny_qwen3_encoder(tokenizer, layers=27),
        tokenizer=tokenizer,
        transformer=tiny_flux2_transformer(16, guidance_embeds=False),
        is_distilled=is_distilled,
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline.to(torch.float64)
