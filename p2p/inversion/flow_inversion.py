"""What the inversions of flow matching share: one loop over the sampler's noise levels, from the image up.

The way down, of the source and of its edits, goes over the same levels (`p2p.flow_solvers.FlowDescent`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, ClassVar

import torch
from torch import Tensor

from p2p.families.model import Model
from p2p.flow_solvers import STEPS, Step, Velocity, flow_sigmas, flow_timestep
from p2p.inversion.inversion import Inversion
from p2p.plain_rows import finite, predict_rows
from p2p.sampling import Calls, Sampling
from p2p.source_path import SourcePath

UNGUIDED = 1.0


@dataclass(frozen=True)
class FlowInversion(Inversion):
    """Follow the flow's ODE from the image to noise under the source prompt, without guidance.

    The source is denoised without guidance too, its edits with the run's. A network that is told the guidance
    scale is told 1 for both ways of the source. Latents are at least float32 between steps: in bfloat16 no
    way up comes back. With `keep_states` the source, and not its edits, is put on the states of the way up,
    as by direct inversion.
    """

    keep_states: bool = False
    up: ClassVar[str] = "euler"  # the steps to noise, by their names in `STEPS`
    down: ClassVar[str] = "euler"  # those of the source and its edits

    def check(self, scheduler: object, sampling: Sampling, guidance_embedded: bool = False) -> None:
        """Raise ValueError for a scheduler that is not of a flow, or settings that come to no step."""
        flow_sigmas(scheduler)

    def apart(self, sampling: Sampling) -> bool:
        """Say whether the source is guided unlike its edits, or put on states that they are not put on."""
        return self.keep_states or sampling.guidance_scale != UNGUIDED

    def evaluations(self, sampling: Sampling) -> int:
        """Return how many evaluations of the denoiser one image takes: one a step."""
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
        start = self.start(sampling.num_inference_steps)
        velocity = velocity_of(model, scheduler, prompts, calls)
        states = flow_states(velocity, latents, flow_sigmas(scheduler)[start:], STEPS[self.up])
        return self.paths(finite(states, model.dtype), start)

    def paths(self, states: Tensor, start: int) -> list[SourcePath]:
        """Return the paths of images whose states (N, steps + 1, ...), noise first, begin before step
        `start`."""
        kept: Sequence[Tensor | None] = [None] * len(states)
        if self.keep_states:  # of all steps, as a path holds them
            left_out = states[:, :1].expand(-1, start, *states.shape[2:])
            kept = list(torch.cat([left_out, states[:, 1:]], 1))
        noises = states[:, 0].clone()  # a view would hold all states
        return [
            SourcePath(noise, start, states=own, guidance_scale=UNGUIDED, solver=self.down)
            for noise, own in zip(noises, kept, strict=True)
        ]


def velocity_of(model: Model, scheduler: Any, prompts: Sequence[str], calls: Calls) -> Velocity:
    """Return the velocity of latents, a row for each of the prompts, without guidance."""
    rows = [model.encode_prompt(prompt) for prompt in prompts]

    def predicted(latents: Tensor, sigma: float, last: bool) -> Tensor:
        return predict_rows(model, latents, flow_timestep(scheduler, sigma), rows, calls)

    return predicted


def flow_states(velocity: Velocity, latents: Tensor, sigmas: Sequence[float], up: Step) -> Tensor:
    """Return images' states (N, levels, channels, height, width), noise first and the images last.

    `sigmas` are the noise levels of the way down, the image's 0 last.
    """
    states, kept = [latents.to(torch.promote_types(latents.dtype, torch.float32))], None
    for here, there in pairwise(sigmas[::-1]):
        state, kept = up(velocity, states[-1], here, there, kept)
        states.append(state)
    return torch.stack(states[::-1], 1)
