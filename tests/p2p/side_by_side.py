"""MasaCtrl and Plug-and-Play as their authors' code does them, slow on purpose and independent of the engine.

Source and target go through the UNet side by side; every attention forms its probabilities; what the target
takes is overwritten with the source's rows, in both halves of the guidance.
"""

import copy
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

PLACES = (
    "down_blocks.0.attentions.0",
    "down_blocks.1.attentions.0",
    "mid_block.attentions.0",
    "up_blocks.0.attentions.0",
    "up_blocks.0.attentions.1",
    "up_blocks.1.attentions.0",
    "up_blocks.1.attentions.1",
)
LAYERS = [f"{place}.transformer_blocks.0.attn1.processor" for place in PLACES]
"""The tiny UNet's self-attention layers in the order of its forward pass."""


@dataclass
class Taken:
    """What the target takes from the source, and at which calls of the UNet."""

    attention: dict[str, str] = field(default_factory=dict)  # by layer: of "q", "k" and "v"
    attention_steps: range = range(0)
    block: str = ""  # a residual block: its output before the skip is added
    block_steps: range = range(0)
    step: int = 0


def from_source(rows: Tensor) -> Tensor:
    """Give targets their source's rows: of (s, t), or of (unconditional s, t, conditional s, t)."""
    return rows[[0, 0, 2, 2][: len(rows)]]


class FormedProcessor:
    """Attention with formed probabilities."""

    def __init__(self, layer: str, taken: Taken) -> None:
        self.layer, self.taken = layer, taken

    def __call__(
        self, attn: Any, hidden_states: Tensor, encoder_hidden_states: Any = None, **_: Any
    ) -> Tensor:
        context = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        tensors = {"q": attn.to_q(hidden_states), "k": attn.to_k(context), "v": attn.to_v(context)}
        if self.taken.step in self.taken.attention_steps:
            for name in self.taken.attention.get(self.layer, ""):
                tensors[name] = from_source(tensors[name])
        query, key, value = map(attn.head_to_batch_dim, tensors.values())
        maps = (query @ key.transpose(1, 2) * attn.scale).softmax(-1)
        return attn.to_out[1](attn.to_out[0](attn.batch_to_head_dim(maps @ value)))


def residual_forward(block: Any, taken: Taken) -> Callable[[Tensor, Tensor], Tensor]:
    """Write out a residual block of a Stable-Diffusion UNet."""

    def forward(hidden_states: Tensor, temb: Tensor) -> Tensor:
        features = block.conv1(block.nonlinearity(block.norm1(hidden_states)))
        features = features + block.time_emb_proj(block.nonlinearity(temb))[:, :, None, None]
        features = block.conv2(block.nonlinearity(block.norm2(features)))
        if taken.step in taken.block_steps:
            features = from_source(features)
        return block.conv_shortcut(hidden_states) + features

    return forward


@torch.no_grad()
def side_by_side(
    pipeline: Any,
    prompts: tuple[str, str],
    taken: Taken,
    steps: int,
    guidance: float,
    seed: int = 0,
    start: Tensor | None = None,
    put_back: Tensor | None = None,
) -> Tensor:
    """Return the final latents (2, ...) of source and target.

    `start` takes the place of the seed's noise; `put_back` is where the source is put after each step.
    """
    unet = pipeline.unet
    processors = dict(unet.attn_processors)
    unet.set_attn_processor({layer: FormedProcessor(layer, taken) for layer in processors})
    block = unet.get_submodule(taken.block) if taken.block else None
    if block is not None:
        block.forward = residual_forward(block, taken)
    try:
        scheduler = copy.deepcopy(pipeline.scheduler)
        scheduler.set_timesteps(steps)
        if start is None:
            shape = (unet.config.in_channels, unet.config.sample_size, unet.config.sample_size)
            start = torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=unet.dtype)
        latents = torch.stack([start, start])
        texts = [*(["", ""] if guidance > 1 else []), *prompts]
        ids = pipeline.tokenizer(texts, padding="max_length", return_tensors="pt").input_ids
        context = pipeline.text_encoder(ids).last_hidden_state
        for taken.step, timestep in enumerate(scheduler.timesteps):
            output = unet(torch.cat([latents] * (len(texts) // 2)), timestep, context).sample
            if guidance > 1:
                uncond, text = output.chunk(2)
                output = uncond + guidance * (text - uncond)
            latents = scheduler.step(output, timestep, latents).prev_sample
            if put_back is not None:
                latents = torch.stack([put_back[taken.step], latents[1]])
    finally:
        unet.set_attn_processor(processors)
        if block is not None:
            del block.forward
    return latents
