"""Edit-friendly DDPM inversion (Huberman-Spiegelglas et al. 2024, "An Edit Friendly DDPM Noise Space:
Inversion and Manipulations", arXiv:2304.06140, Algorithm 1).

Differs from the authors' code: the last step's noise is kept (they drop it), so that the image comes back
exactly; windows of injection count from the first step of the schedule, not from the first that is run, so
that a window which ends there at a share b ends here at `skip` + b.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from p2p.families.model import Model
from p2p.inversion.inversion import Inversion, ddim_levels
from p2p.numbers import check_finite, whole_steps
from p2p.plain_rows import finite, predict_rows
from p2p.sampling import Calls, Sampling
from p2p.source_path import SourcePath


@dataclass(frozen=True)
class EditFriendly(Inversion):
    """Noise the image independently for every step, and keep the noise that leads from one step to the next.

    `guidance_scale` is the source's own, its edits have the run's. The first `skip` share of the steps is not
    run, from 0 (freest edit). The authors' code takes 3.5 for the source; their README skips 36 of 100 steps
    (and guides edits by 15), or 12 of 100 with Prompt-to-Prompt (by 9), which is the default. PnP Inversion's
    benchmark does not guide the source and skips 12 of 50: `guidance_scale` 1, `skip` 0.24.
    """

    guidance_scale: float = 3.5
    skip: float = 0.12
    name: ClassVar[str] = "edit_friendly"
    seeded: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_finite("guidance_scale", self.guidance_scale, 1, " (1 is off)")
        check_finite("skip", self.skip)
        if not 0 <= self.skip < 1:
            raise ValueError(f"skip: {self.skip!r} is not in [0, 1)")

    def check(self, scheduler: object, sampling: Sampling, guidance_embedded: bool = False) -> None:
        """Raise ValueError for a scheduler (timesteps set), sampling or model that cannot be inverted."""
        super().check(scheduler, sampling, guidance_embedded)
        if self.guidance_scale > 1 and not sampling.guided:
            raise ValueError(
                f"guidance_scale: {self.guidance_scale} for the source with guidance off for its edits, "
                "allowed is 1 then"
            )

    def start(self, num_inference_steps: int) -> int:
        """Return the first step that is denoised."""
        return whole_steps(self.skip, num_inference_steps)

    def apart(self, sampling: Sampling) -> bool:
        """Say whether source and edits are guided differently."""
        return self.guidance_scale != sampling.guidance_scale

    def evaluations(self, sampling: Sampling) -> int:
        """Return how many UNet evaluations one image takes."""
        steps = sampling.num_inference_steps - self.start(sampling.num_inference_steps)
        return steps * (2 if self.guidance_scale > 1 else 1)

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
        start = self.start(sampling.num_inference_steps)
        levels = ddim_levels(scheduler)
        text = [model.encode_prompt(prompt) for prompt in prompts]
        negative = [model.encode_prompt(sampling.negative_prompt, True)] * len(prompts)
        image = latents.to(torch.promote_types(latents.dtype, torch.float32))
        states = [
            level.before.sqrt() * image + (1 - level.before).sqrt() * model.draw_noise(generators).to(image)
            for level in levels
        ] + [image]
        noises = [torch.zeros_like(image)] * start
        for step, level in enumerate(levels[start:], start):
            noise_pred = predict_rows(model, states[step], level.timestep, text, calls)
            if self.guidance_scale > 1:
                uncond = predict_rows(model, states[step], level.timestep, negative, calls)
                scale, rescale = self.guidance_scale, sampling.guidance_rescale
                noise_pred = model.guide(uncond, noise_pred, scale, rescale)
            mean = scheduler.step(
                noise_pred,
                level.timestep,
                states[step],
                eta=1.0,
                variance_noise=torch.zeros_like(image),
                return_dict=False,
            )[0]
            noises.append(states[step + 1] - mean)
        kept = finite(torch.stack(noises, 1), model.dtype).to(model.dtype)
        return [
            SourcePath(own, start, noises=noise, guidance_scale=self.guidance_scale)
            for own, noise in zip(states[start].to(model.dtype), kept, strict=True)
        ]
