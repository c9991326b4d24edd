"""Null-text inversion (Mokady et al. 2023, "Null-text Inversion for Editing Real Images using Guided
Diffusion Models"); settings and early stop of google/prompt-to-prompt's null_text_w_ptp notebook.

The notebook counts its learning rate and early stop in steps of 50; here in shares of the steps, which is the
same at 50. Where a family's text has several tensors, only `encoder_hidden_states` is optimised.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn.functional import mse_loss

from p2p.families.model import Conditioning, Model, stack_rows
from p2p.inversion.inversion import Inversion, ddim_levels, ddim_states
from p2p.numbers import check_finite
from p2p.plain_rows import finite, predict_rows
from p2p.sampling import Calls, Sampling
from p2p.source_path import SourcePath

TEXT = "encoder_hidden_states"
# In float16 the gradient of a mean of squares, about 1e-7 near the early stop, would be rounded to 0. A power
# of two changes no digit: what the embedding gets in float32 is the same.
LOSS_SCALE = 2.0**16


@dataclass(frozen=True)
class NullText(Inversion):
    """Optimise, for each step, the unconditional text embedding so that guidance leads along DDIM's states.

    Adam takes at most `inner_steps` a step, from the embedding of the step before; at step i of T the
    learning rate is `learning_rate * (1 - i / 2T)`, and a loss under `epsilon + epsilon_growth * i / T` is
    the last. Without guidance nothing is optimised, and it is DDIM inversion.
    """

    inner_steps: int = 10
    learning_rate: float = 1e-2
    epsilon: float = 1e-5
    epsilon_growth: float = 1e-3
    name: ClassVar[str] = "null_text"

    def __post_init__(self) -> None:
        if (
            isinstance(self.inner_steps, bool)
            or not isinstance(self.inner_steps, int)
            or self.inner_steps < 0
        ):
            raise ValueError(f"inner_steps: {self.inner_steps!r} is not a whole number of at least 0")
        for name in ("learning_rate", "epsilon", "epsilon_growth"):
            check_finite(name, getattr(self, name), 0)

    def evaluations(self, sampling: Sampling) -> int:
        """Return how many UNet evaluations one image takes at most; early stops save some."""
        optimised = self.inner_steps + 2 if sampling.guided else 0
        return sampling.num_inference_steps * (1 + optimised)

    def invert(
        self,
        model: Model,
        latents: Tensor,
        prompts: Sequence[str],
        sampling: Sampling,
        generators: Sequence[torch.Generator],
        calls: Calls,
    ) -> list[SourcePath]:
        """Return the paths of images (N, channels, height, width), encoded, with their prompts.

        One image after the other, as each stops when it may and gradients take memory.
        """
        states = ddim_states(model, latents, prompts, sampling, calls)
        noises = states[:, 0].to(model.dtype, copy=True)  # a view would hold all states
        if not sampling.guided:
            return [SourcePath(noise) for noise in noises]
        return [
            SourcePath(noise, negatives=self._negatives(model, own, prompt, sampling, calls))
            for noise, own, prompt in zip(noises, states, prompts, strict=True)
        ]

    def _negatives(
        self, model: Model, states: Tensor, prompt: str, sampling: Sampling, calls: Calls
    ) -> Conditioning:
        """Return the unconditional conditioning of every step, for states (T + 1, ...) from x_T on."""
        scheduler = model.new_scheduler(sampling.num_inference_steps)
        text, negative = model.encode_prompt(prompt), model.encode_prompt(sampling.negative_prompt, True)
        scale, rescale = sampling.guidance_scale, sampling.guidance_rescale
        embedding, latents, found = negative[TEXT].to(states.dtype), states[:1], []
        for i, level in enumerate(ddim_levels(scheduler)):
            text_pred = predict_rows(model, latents, level.timestep, [text], calls)
            share = i / sampling.num_inference_steps
            embedding = embedding.clone().requires_grad_()
            adam = torch.optim.Adam([embedding], self.learning_rate * (1 - share / 2))
            for _ in range(self.inner_steps):
                with torch.enable_grad():
                    row = {**negative, TEXT: embedding.to(model.dtype)}
                    uncond = predict_rows(model, latents, level.timestep, [row], calls)
                    noise_pred = model.guide(uncond, text_pred, scale, rescale)
                    step = scheduler.step(noise_pred, level.timestep, latents, return_dict=False)[0]
                    loss = mse_loss(step, states[i + 1 : i + 2])
                    adam.zero_grad()
                    (LOSS_SCALE * loss).backward(inputs=[embedding])  # the weights get no gradients
                assert embedding.grad is not None
                embedding.grad /= LOSS_SCALE
                adam.step()
                reached = loss.item()  # the early stop has to know it: it waits for the device
                if not math.isfinite(reached):
                    finite(step, model.dtype)
                if reached < self.epsilon + self.epsilon_growth * share:
                    break
            embedding = embedding.detach()
            found.append({**negative, TEXT: embedding.to(model.dtype)})
            uncond = predict_rows(model, latents, level.timestep, found[-1:], calls)
            noise_pred = model.guide(uncond, text_pred, scale, rescale)
            latents = scheduler.step(noise_pred, level.timestep, latents, return_dict=False)[0]
        finite(latents, model.dtype)
        return stack_rows(found)
