"""RF-Inversion (Rout et al. 2025, "Semantic Image Inversion and Editing using Rectified Stochastic
Differential Equations", arXiv:2410.10792, Alg. 1 and 2).

As in the paper the way up has an empty prompt and is drawn to noise, the way down to the picture. Differs
from the authors' code in diffusers (examples/community/pipeline_flux_rf_inversion.py): there the way up tells
the network evenly spaced levels while it steps along the sampler's, noise comes from torch's global state,
the network is told a guidance scale of 0 on the way up and here 1, and its velocity is asked for at the level
that a step leaves; here, as by `reverse_euler`, at the noisier of a step's levels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from p2p.families.model import Model
from p2p.flow_solvers import Velocity, flow_sigmas
from p2p.inversion.flow_inversion import FlowInversion, flow_states, velocity_of
from p2p.numbers import check_finite, whole_steps
from p2p.plain_rows import finite
from p2p.sampling import Calls, Sampling
from p2p.source_path import SourcePath


@dataclass(frozen=True)
class RFInversion(FlowInversion):
    """Go up drawn to random noise, by a share `gamma`, and down drawn to the image, by a share `eta`.

    `eta` holds from `eta_start` to `eta_stop`, shares of the steps, both as `int(T * share)`, for the source
    and its edits alike: it is what keeps the picture. The defaults are those of the pipeline's example.
    """

    gamma: float = 0.5
    eta: float = 0.9
    eta_start: float = 0.0
    eta_stop: float = 0.25
    name: ClassVar[str] = "rf_inversion"
    seeded: ClassVar[bool] = True

    def __post_init__(self) -> None:
        for name in ("gamma", "eta", "eta_start", "eta_stop"):
            check_finite(name, getattr(self, name))
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name}: {getattr(self, name)!r} is not in [0, 1]")
        if self.eta_start > self.eta_stop:
            raise ValueError(f"eta_start: {self.eta_start!r} is beyond eta_stop, {self.eta_stop!r}")

    def check(self, scheduler: object, sampling: Sampling, guidance_embedded: bool = False) -> None:
        """Raise ValueError for a scheduler that is not of a flow, or an eta that holds for no step."""
        super().check(scheduler, sampling, guidance_embedded)
        if self.eta and not any(self._pulls(sampling)):
            raise ValueError(
                f"eta_stop: from {self.eta_start} to {self.eta_stop} of {sampling.num_inference_steps} steps "
                f"is no step, allowed is 1/{sampling.num_inference_steps} more, or eta 0"
            )

    def invert(
        self,
        model: Model,
        latents: Tensor,
        prompts: Sequence[str],
        sampling: Sampling,
        generators: Sequence[torch.Generator],
        calls: Calls,
    ) -> list[SourcePath]:
        """Return the paths of images (N, channels, height, width), encoded; the way up has no prompts."""
        scheduler = model.new_scheduler(sampling.num_inference_steps)
        pictures = latents.to(torch.promote_types(latents.dtype, torch.float32))
        noise, pulls = model.draw_noise(generators).to(pictures), self._pulls(sampling)

        def drawn(
            velocity: Velocity, some: Tensor, here: float, there: float, kept: Tensor | None
        ) -> tuple[Tensor, None]:
            own = velocity(some, max(here, there), True)
            straight = (noise - some) / (1 - here)
            return some + (there - here) * (own + self.gamma * (straight - own)), None

        velocity = velocity_of(model, scheduler, [""] * len(prompts), calls)
        states = finite(flow_states(velocity, pictures, flow_sigmas(scheduler), drawn), model.dtype)
        return [
            replace(path, picture=picture, pulls=pulls)
            for path, picture in zip(self.paths(states, 0), pictures, strict=True)
        ]

    def _pulls(self, sampling: Sampling) -> tuple[float, ...]:
        """Return by step the share of the velocity that leads straight to the image."""
        steps = sampling.num_inference_steps
        first, end = (whole_steps(share, steps) for share in (self.eta_start, self.eta_stop))
        return tuple(self.eta if first <= step < end else 0.0 for step in range(steps))
