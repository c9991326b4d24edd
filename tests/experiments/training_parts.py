"""A tiny objective of the denoiser's training, and scenes for it."""

from functools import cache

import torch
from torch import Tensor
from transformers import CLIPTokenizer

from experiments.embedded.denoiser import (
    build_scheduler,
    build_text_encoder,
    build_unet,
    idle_tokens,
    recording_processors,
    skip_attention,
)
from experiments.embedded.denoising_objective import Objective, draw_step
from experiments.embedded.examples import (
    Examples,
    caption_scenes,
    with_latents,
)
from experiments.embedded.training import WEIGHTS
from experiments.embedded.worlds.scenes.definition import WORLD
from experiments.embedded.worlds.scenes.drawing import draw_scenes

TOKENIZER = WEIGHTS / "pipeline" / "tokenizer"


@cache
def embedded_tokenizer() -> CLIPTokenizer:
    """The embedded pipeline's tokenizer."""
    return CLIPTokenizer.from_pretrained(TOKENIZER)


def made_up_batch(tokenizer: CLIPTokenizer) -> Examples:
    """Eight scenes with made-up latents."""
    captioned = caption_scenes(WORLD, draw_scenes(8, (90, 0)), tokenizer, (90, 1))
    latents = torch.randn(8, 4, 16, 16, generator=torch.Generator().manual_seed(0))
    return with_latents(captioned, latents.half())


def tiny_objective(tokenizer: CLIPTokenizer, bf16: bool = False, **weights: float) -> Objective:
    torch.manual_seed(0)
    unet, text_encoder = build_unet((16, 32), 128), build_text_encoder(tokenizer, (128, 3, 4))
    skip_attention(text_encoder)
    empty = tokenizer("", padding="max_length", return_tensors="pt").input_ids.int()
    cross = recording_processors(unet)
    idle = idle_tokens(tokenizer)
    return Objective(unet, text_encoder, cross, build_scheduler(), empty, idle, bf16, **weights)


def drawn_for(batch: Examples) -> dict[str, Tensor]:
    draw = draw_step(len(batch), 0.0, seed=1, device="cpu")
    dropped = torch.zeros(len(batch), dtype=torch.bool)
    dropped[1] = True
    return {"noise": draw.noise, "timesteps": draw.timesteps, "dropped": dropped}


NONE = torch.zeros(0, dtype=torch.int64)
