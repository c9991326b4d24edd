"""The baseline: Prompt-to-Prompt as published implementations do it, one edit at a time with formed maps.

Every attention layer forms its probabilities, the controller edits the target's conditional ones in place;
source and target, each with guidance, are one UNet call a step. What is injected comes from the same
`Trajectory` as the engine's, so that the images can be compared.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from p2p.families.model import Model, stack_rows
from p2p.sampling import Sampling
from p2p.trajectory import Trajectory


@dataclass
class Controller:
    """Edits the maps of one step; `step` is set by the loop."""

    edit: Trajectory
    self_max_pixels: int
    step: int = 0

    def __call__(self, maps: Tensor, is_cross: bool) -> None:
        """Edit maps (rows, heads, pixels, keys) in place; the last two rows are source and target."""
        injection = self.edit.injections[self.step] if self.edit.injections else None
        if injection is None:
            return
        source, target = maps[-2], maps[-1]
        if is_cross and injection.cross is not None:
            mix, own = injection.cross.source_mix, injection.cross.own_share
            target.mul_(own.to(maps)).add_(source @ mix.to(maps))
        limit = injection.self_max_pixels or self.self_max_pixels
        if not is_cross and injection.self_attention and maps.shape[2] <= limit:
            target.copy_(source)


class MaterialisingProcessor:
    """Attention with formed probabilities, which the controller edits."""

    def __init__(self, controller: Controller) -> None:
        self.controller = controller

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        temb: Tensor | None = None,
    ) -> Tensor:
        """Attend from (rows, pixels, channels) to the text, or to itself."""
        context = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        query = attn.head_to_batch_dim(attn.to_q(hidden_states))
        key, value = attn.head_to_batch_dim(attn.to_k(context)), attn.head_to_batch_dim(attn.to_v(context))
        maps = ((query * attn.scale) @ key.transpose(1, 2)).softmax(-1)
        self.controller(maps.unflatten(0, (-1, attn.heads)), encoder_hidden_states is not None)
        return attn.to_out[1](attn.to_out[0](attn.batch_to_head_dim(maps @ value)))


@torch.no_grad()
def edit_latents(model: Model, source_prompt: str, edit: Trajectory, seed: int, sampling: Sampling) -> Tensor:
    """Return the final latents (2, channels, height, width) of source and target."""
    controller = Controller(edit, model.pixels(model.self_max_side))
    prompts = [source_prompt, edit.prompt]
    if sampling.guided:
        prompts = [sampling.negative_prompt] * 2 + prompts
    conditioning = stack_rows([model.encode_prompt(prompt) for prompt in prompts])
    scheduler = model.new_scheduler(sampling.num_inference_steps)
    noise = model.draw_noise([torch.Generator().manual_seed(seed)])
    latents = noise.repeat(2, 1, 1, 1) * scheduler.init_noise_sigma
    with _installed(model.pipeline.unet, controller):
        for step, timestep in enumerate(scheduler.timesteps):
            controller.step = step
            rows = scheduler.scale_model_input(latents, timestep)
            rows = torch.cat([rows] * (len(prompts) // 2))
            noise_pred = model.predict(rows, timestep, conditioning)
            if sampling.guided:
                uncond, conditional = noise_pred.chunk(2)
                noise_pred = uncond + sampling.guidance_scale * (conditional - uncond)
            latents = scheduler.step(noise_pred, timestep, latents, return_dict=False)[0]
    return latents


@torch.no_grad()
def edit_images(model: Model, source_prompt: str, edit: Trajectory, seed: int, sampling: Sampling) -> Tensor:
    """Return the images (2, 3, height, width) of source and target, float32 in [0, 1] with 8-bit values."""
    vae = model.pipeline.vae
    latents = edit_latents(model, source_prompt, edit, seed, sampling)
    images = vae.decode(latents / vae.config.scaling_factor, return_dict=False)[0]
    return ((images.float() / 2 + 0.5).clamp(0, 1) * 255).round().cpu() / 255


@contextmanager
def _installed(unet: Any, controller: Controller) -> Iterator[None]:
    original = dict(unet.attn_processors)
    unet.set_attn_processor({layer: MaterialisingProcessor(controller) for layer in original})
    try:
        yield
    finally:
        unet.set_attn_processor(original)
