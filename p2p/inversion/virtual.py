"""Virtual inversion (Xu et al. 2024, "Inversion-Free Image Editing with Natural Language", CVPR 2024,
arXiv:2312.04965, Sec. 3: the denoising diffusion consistent model, "InfEdit").

No noise is searched: the source's states are the picture with drawn noise, and at each step an edit's
picture is the source's, moved by the difference of what the network makes of the two states. The step of a
consistency model needs no trajectory, so that this is exact in any number of steps.

Differs from the authors' code (sled-group/InfEdit, read, not run): any method edits, Prompt-to-Prompt's maps
among them, where theirs has a control of its own; LocalBlend is Prompt-to-Prompt's, between source and edit;
a latent consistency model is told the guidance scale, the source's own for the source (theirs is told none,
and guided by unconditional rows: `model=lcm_guided`); the picture is the mean of the encoder's, not a sample
of it; states are at least float32.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from p2p.families.model import Model
from p2p.inversion.inversion import Inversion, check_diffusion
from p2p.noise_levels import NoiseLevels
from p2p.numbers import check_finite, whole_steps
from p2p.sampling import Calls, Sampling
from p2p.source_path import SourcePath


@dataclass(frozen=True)
class Virtual(Inversion):
    """Noise the image independently for every step; edits follow it by the difference of two predictions.

    `guidance_scale` is the source's own, its edits have the run's. The first `skip` share of the steps is not
    run. At 0 source and edits start from noise alone, as the authors' code does by default; else from the
    noised picture, which is their "denoising mode" at a strength of 1 - `skip`.
    """

    guidance_scale: float = 1.0
    skip: float = 0.0
    name: ClassVar[str] = "virtual"
    seeded: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_finite("guidance_scale", self.guidance_scale, 1, " (1 is off)")
        check_finite("skip", self.skip)
        if not 0 <= self.skip < 1:
            raise ValueError(f"skip: {self.skip!r} is not in [0, 1)")

    def check(self, scheduler: object, sampling: Sampling, guidance_embedded: bool = False) -> None:
        """Raise ValueError for a scheduler (timesteps set) without such levels, or a skip of no step."""
        check_diffusion(scheduler)
        NoiseLevels.of(scheduler)
        check_skip(self.skip, sampling.num_inference_steps)
        if self.guidance_scale > 1 and not (sampling.guided or guidance_embedded):
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
        """Return 0: no image is inverted."""
        return 0

    def invert(
        self,
        model: Model,
        latents: Tensor,
        prompts: Sequence[str],
        sampling: Sampling,
        generators: Sequence[torch.Generator],
        calls: Calls,
    ) -> list[SourcePath]:
        """Return the paths of images (N, channels, height, width), encoded; prompts are not asked for."""
        steps, start = sampling.num_inference_steps, self.start(sampling.num_inference_steps)
        levels = NoiseLevels.of(model.new_scheduler(steps))
        pictures = latents.to(torch.promote_types(latents.dtype, torch.float32))
        drawn = [model.draw_noise(generators).to(pictures) for _ in range(steps)]
        first = levels.noised(start, pictures, drawn[start]) if start else drawn[0]
        noises = torch.stack([*drawn[1:], torch.zeros_like(pictures)], 1)
        return [
            SourcePath(
                own,
                start,
                noises=noise,
                guidance_scale=self.guidance_scale,
                picture=picture,
                level_step="virtual",
            )
            for own, noise, picture in zip(first, noises, pictures, strict=True)
        ]


def check_skip(skip: float, num_inference_steps: int) -> None:
    """Raise ValueError for a share above 0 that comes to no step."""
    if skip and not whole_steps(skip, num_inference_steps):
        raise ValueError(
            f"skip: {skip} of {num_inference_steps} steps is no step, allowed are 0 and "
            f"1/{num_inference_steps} or more"
        )
