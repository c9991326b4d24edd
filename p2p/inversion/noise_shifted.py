"""Noise-shifted edit-friendly inversion with pseudo-guidance (Deutch et al. 2024, "TurboEdit: Text-Based
Image Editing Using Few-Step Diffusion Models", arXiv:2408.00735). The encoder-based "TurboEdit" of Wu et al.
(arXiv:2408.08332) is another method.

In few steps the noise that edit-friendly inversion keeps is that of levels a step noisier than the network is
told, so each state is made a step less noisy than its level. Pseudo-guidance scales the difference of the two
prompts' predictions at the edit's own state: it is guidance whose negative prompt is the source's, and the
run's `guidance_scale` is its w.

Differs from the authors' code (GiilDe/turbo-edit, read, not run): each step draws from the group's generator;
levels are the run's own schedule (their four steps are five of which the first is left out, the default here,
their three steps are no schedule of diffusers); source and edits get the last step's noise as it is bounded,
so that an edit with the source's prompt is the source; any method edits, Prompt-to-Prompt's maps among them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from p2p.families.model import Model, stack_rows
from p2p.inversion.inversion import Inversion, check_diffusion
from p2p.inversion.virtual import check_skip
from p2p.noise_levels import NoiseLevels, noised
from p2p.numbers import check_finite, whole_steps
from p2p.plain_rows import finite, predict_rows
from p2p.sampling import Calls, Sampling
from p2p.source_path import SourcePath

PUBLISHED_LATENTS = 4 * 64 * 64  # of 512x512, which `last_norm` is of


@dataclass(frozen=True)
class NoiseShifted(Inversion):
    """Noise the image independently for every step, `shift` steps less than the step's level, and keep the
    noise that leads from one step to the next.

    The first `skip` share of the steps is not run. The norm of the last step's noise is at most `last_norm`
    in 512x512's 4 x 64 x 64 latents, and as large for each latent in other sizes; None bounds nothing, and
    the source then comes back exactly. The defaults, with five steps and a guidance scale of 1.5, are the
    published ones.
    """

    skip: float = 0.2
    shift: float = 1.0
    last_norm: float | None = 15.5
    name: ClassVar[str] = "noise_shifted"
    seeded: ClassVar[bool] = True

    def __post_init__(self) -> None:
        for name in ("skip", "shift"):
            check_finite(name, getattr(self, name), 0)
        if self.skip >= 1:
            raise ValueError(f"skip: {self.skip!r} is not in [0, 1)")
        if self.last_norm is not None:
            check_finite("last_norm", self.last_norm, 0)

    def check(self, scheduler: object, sampling: Sampling, guidance_embedded: bool = False) -> None:
        """Raise ValueError for a scheduler (timesteps set), sampling or model that cannot be inverted."""
        check_diffusion(scheduler)
        NoiseLevels.of(scheduler)
        check_skip(self.skip, sampling.num_inference_steps)
        if guidance_embedded:
            raise ValueError(
                "scheduler: pseudo-guidance needs unconditional rows, which a model that takes the guidance "
                "scale as an input has not, allowed is inversion=virtual"
            )
        if sampling.negative_prompt:
            raise ValueError(
                f"negative_prompt: {sampling.negative_prompt!r} does nothing with pseudo-guidance, whose "
                "negative prompt is the source's, allowed is none"
            )

    def start(self, num_inference_steps: int) -> int:
        """Return the first step that is denoised."""
        return whole_steps(self.skip, num_inference_steps)

    def evaluations(self, sampling: Sampling) -> int:
        """Return how many UNet evaluations one image takes: one a step that is run."""
        return sampling.num_inference_steps - self.start(sampling.num_inference_steps)

    def invert(
        self,
        model: Model,
        latents: Tensor,
        prompts: Sequence[str],
        sampling: Sampling,
        generators: Sequence[torch.Generator],
        calls: Calls,
    ) -> list[SourcePath]:
        """Return the paths of images (N, channels, height, width), encoded, with their prompts."""
        scheduler = model.new_scheduler(sampling.num_inference_steps)
        levels, start = NoiseLevels.of(scheduler), self.start(sampling.num_inference_steps)
        text = [model.encode_prompt(prompt) for prompt in prompts]
        pictures = latents.to(torch.promote_types(latents.dtype, torch.float32))
        states = []
        for alpha in self._alphas(levels):
            drawn = model.draw_noise(generators).to(pictures)
            states.append(pictures if alpha is None else noised(alpha, pictures, drawn))
        states.append(pictures)
        noises = [torch.zeros_like(pictures)] * start
        for step in range(start, sampling.num_inference_steps):
            output = predict_rows(model, states[step], scheduler.timesteps[step], text, calls)
            noises.append(states[step + 1] - levels.mean(step, states[step], output))
        noises[-1] = self._bounded(noises[-1])
        kept = finite(torch.stack(noises, 1), model.dtype)
        return [
            SourcePath(own, start, noises=noise, negatives=stack_rows([row]), level_step="ancestral")
            for own, noise, row in zip(states[start], kept, text, strict=True)
        ]

    def _alphas(self, levels: NoiseLevels) -> list[float | None]:
        """Return the share of signal that each step's state has; None: all, no noise."""
        times = levels.timesteps
        stride = times[0] - times[1] if len(times) > 1 else len(levels.trained)
        moved = [time - int(self.shift * stride) for time in times]
        return [levels.trained[time] if time > 0 else None for time in moved]

    def _bounded(self, noise: Tensor) -> Tensor:
        """Return noise (N, channels, height, width), each image's scaled down to the norm it may have."""
        if self.last_norm is None:
            return noise
        most = self.last_norm * (noise[0].numel() / PUBLISHED_LATENTS) ** 0.5
        norm = noise.flatten(1).norm(dim=1)[:, None, None, None]
        return noise * (most / norm.clamp(min=torch.finfo(noise.dtype).tiny)).clamp(max=1)
