"""Pipelines of Stable Diffusion 3's and Flux's blocks with random weights: real widths and texts, few
blocks.
"""

from __future__ import annotations

import string
from dataclasses import dataclass

import torch
from diffusers import (
    AutoencoderKL,
    FlowMatchEulerDiscreteScheduler,
    FluxPipeline,
    FluxTransformer2DModel,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
)
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    T5Config,
    T5EncoderModel,
    T5TokenizerFast,
)

from experiments.bench.shapes import filled, ready
from p2p import Flux, StableDiffusion3
from p2p.loading.tokenizer_files import clip_tokenizer


@dataclass(frozen=True)
class FlowShapes:
    """The width of a transformer's blocks, how many there are, and which of them are injected."""

    flux: bool
    heads: int
    head: int  # channels of a head
    rotary: tuple[int, int, int]  # of Flux: a head's channels for each axis of positions
    double: int
    single: int  # of Flux
    injected: str


FLOW_SHAPES = {
    "sd3": FlowShapes(False, 24, 64, (0, 0, 0), double=3, single=0, injected="double-1"),
    "flux": FlowShapes(True, 24, 128, (16, 56, 56), double=1, single=1, injected="single-0"),
    "sd3_tiny": FlowShapes(False, 2, 8, (0, 0, 0), double=2, single=0, injected="double-1"),
    "flux_tiny": FlowShapes(True, 2, 8, (2, 2, 4), double=1, single=1, injected="single-0"),
}
TEXT, POOLED = 32, 16  # widths of the text: text is encoded outside of what is measured


def random_flow_pipeline(shapes: FlowShapes, device: str) -> StableDiffusion3Pipeline | FluxPipeline:
    """Return a pipeline in float32 whose autoencoder and text encoders are the smallest there are.

    Stable Diffusion 3 has no T5, in the place of whose 256 tokens stand zeros.
    """
    tokenizer = clip_tokenizer()
    vae = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(8,) * 4,
        norm_num_groups=8,
        latent_channels=16,
        shift_factor=0.0,
    )
    if shapes.flux:
        with torch.device("meta"):
            flux = FluxTransformer2DModel(
                in_channels=64,
                num_layers=shapes.double,
                num_single_layers=shapes.single,
                attention_head_dim=shapes.head,
                num_attention_heads=shapes.heads,
                joint_attention_dim=TEXT,
                pooled_projection_dim=POOLED,
                guidance_embeds=True,
                axes_dims_rope=shapes.rotary,
            )
        letters = _letters()
        pipeline = FluxPipeline(
            scheduler=FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True),
            vae=vae,
            text_encoder=CLIPTextModel(_clip(POOLED)),
            tokenizer=tokenizer,
            text_encoder_2=_t5(letters),
            tokenizer_2=letters,
            transformer=filled(flux.to_empty(device=device)),
        )
        return ready(pipeline, device, torch.float32)
    sd3 = SD3Transformer2DModel(  # not on "meta": its grid of positions is computed when it is made
        sample_size=128,
        in_channels=16,
        num_layers=shapes.double,
        attention_head_dim=shapes.head,
        num_attention_heads=shapes.heads,
        joint_attention_dim=TEXT,
        caption_projection_dim=shapes.heads * shapes.head,
        pooled_projection_dim=POOLED,
        out_channels=16,
        pos_embed_max_size=96,
    )
    pipeline = StableDiffusion3Pipeline(
        transformer=filled(sd3.to(device)),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
        vae=vae,
        text_encoder=CLIPTextModelWithProjection(_clip(POOLED)),
        tokenizer=tokenizer,
        text_encoder_2=CLIPTextModelWithProjection(_clip(POOLED)),
        tokenizer_2=clip_tokenizer(),
        text_encoder_3=None,
        tokenizer_3=None,
    )
    return ready(pipeline, device, torch.float32)


def flow_model_at(pipeline: StableDiffusion3Pipeline | FluxPipeline, side: int) -> StableDiffusion3 | Flux:
    """Return the engine's model for latents of side x side, two of them to a token and direction."""
    size, tokens = side * pipeline.vae_scale_factor, side // 2
    kind = Flux if isinstance(pipeline, FluxPipeline) else StableDiffusion3
    return kind(pipeline, tokens, tokens, height=size, width=size)


def _clip(width: int) -> CLIPTextConfig:
    tokenizer = clip_tokenizer()
    return CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=2 * width,
        num_hidden_layers=1,
        num_attention_heads=2,
        projection_dim=width // 2,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )


def _letters() -> T5TokenizerFast:
    """Return a tokenizer of letters, as T5's own is not at hand."""
    pieces = [(letter, -2.0) for letter in ["\u2581", *string.ascii_letters]]
    return T5TokenizerFast(vocab=[("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), *pieces], extra_ids=0)


def _t5(tokenizer: T5TokenizerFast) -> T5EncoderModel:
    config = T5Config(
        vocab_size=len(tokenizer), d_model=TEXT, d_kv=TEXT // 4, d_ff=2 * TEXT, num_layers=1, num_heads=4
    )
    return T5EncoderModel(config)
