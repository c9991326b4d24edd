"""What every inversion of a real image answers, and the DDIM steps, forth and back, that inversions share.

Levels and steps are those of Song et al. 2021 (DDIM), Eq. 12; diffusers' scheduler takes the step forth.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from itertools import pairwise
from typing import Any, ClassVar

import torch
from diffusers import DDIMScheduler
from torch import Tensor

from p2p.families.model import Model
from p2p.plain_rows import finite, predict_rows
from p2p.sampling import Calls, Sampling
from p2p.source_path import SourcePath


@dataclass(frozen=True)
class Inversion(ABC):
    """A way to find the noise from which a model denoises to a given image; fields are published settings."""

    name: ClassVar[str]
    seeded: ClassVar[bool] = False  # whether the path depends on the seed
    calls_per_state: ClassVar[int] = 1  # of the denoiser, on the way from noise to image
    first_calls: ClassVar[int] = 0  # more of them in the first step

    @property
    def label(self) -> str:
        """The name, and the settings that are not the published ones: what records and tables show."""
        own = [(field.name, getattr(self, field.name), field.default) for field in fields(self)]
        told = [f"{name}={_spelled(value)}" for name, value, usual in own if value != usual]
        return " ".join([self.name, *told])

    @property
    def settings(self) -> list[Any]:
        """The inversion's name and fields as plain values: its part of the content keys."""
        return [self.name, {name: _spelled(value) for name, value in asdict(self).items()}]

    def check(self, scheduler: Any, sampling: Sampling, guidance_embedded: bool = False) -> None:
        """Raise ValueError for a scheduler (timesteps set), sampling or model that cannot be inverted.

        `guidance_embedded` says that the model is told the guidance scale, or has none.
        """
        check_diffusion(scheduler)
        if guidance_embedded:
            raise ValueError(
                "guidance: a model that takes the guidance scale as an input, or none, cannot be inverted, "
                "allowed are models with unconditional rows, and inversion=virtual"
            )
        ddim_levels(scheduler)

    def start(self, num_inference_steps: int) -> int:
        """Return the first step that is denoised."""
        return 0

    def apart(self, sampling: Sampling) -> bool:
        """True if the source is corrected at each step and its edits are not.

        An edit with the source's own prompt then needs a state of its own.
        """
        return False

    @abstractmethod
    def evaluations(self, sampling: Sampling) -> int:
        """Return how many UNet evaluations one image takes at most; backward passes are not counted."""

    @abstractmethod
    def invert(
        self,
        model: Model,
        latents: Tensor,
        prompts: Sequence[str],
        sampling: Sampling,
        generators: Sequence[torch.Generator],
        calls: Calls,
    ) -> list[SourcePath]:
        """Return a path per image: `latents` (N, channels, height, width) are the encoded images.

        `prompts` and `generators` are N too, one per image. Calls of the denoiser go through `calls`.
        """


def check_diffusion(scheduler: Any) -> None:
    """Raise ValueError for a scheduler of flow matching."""
    if hasattr(scheduler, "scale_noise"):
        raise ValueError(
            f"scheduler: {type(scheduler).__name__} is for flow matching, whose inversions are "
            "reverse_euler, rf_solver, fireflow, rf_inversion and uni_inv"
        )


def _spelled(value: Any) -> str:
    """Return a setting as text, equal for equal numbers: 3 and 3.0 are one."""
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return repr(float(value)).removesuffix(".0") if number else str(value)


@dataclass(frozen=True)
class Level:
    """One DDIM step: its timestep, and the share of signal (alpha bar) before and after the step."""

    timestep: Tensor
    before: Tensor
    after: Tensor


def ddim_levels(scheduler: Any) -> list[Level]:
    """Return a scheduler's steps, noisiest first. Raises ValueError where they cannot be inverted."""
    name = type(scheduler).__name__
    if type(scheduler) is not DDIMScheduler:
        raise ValueError(f"scheduler: {name} cannot be inverted, allowed is DDIMScheduler")
    config = scheduler.config
    for setting, allowed in (
        ("clip_sample", (False,)),
        ("thresholding", (False,)),
        ("prediction_type", ("epsilon", "v_prediction")),
    ):
        if config[setting] not in allowed:
            raise ValueError(
                f"scheduler: {setting}={config[setting]} cannot be inverted, "
                f"allowed is {' or '.join(map(str, allowed))}"
            )
    timesteps = [int(t) for t in scheduler.timesteps]
    stride = config.num_train_timesteps // scheduler.num_inference_steps
    if any(t - stride != following for t, following in pairwise(timesteps)):
        raise ValueError(
            f"scheduler: timestep_spacing={config.timestep_spacing!r} in {len(timesteps)} steps is uneven and"
            " cannot be inverted, allowed is 'leading'"
        )
    alphas = scheduler.alphas_cumprod
    return [
        Level(t, alphas[value], alphas[value - stride] if value >= stride else scheduler.final_alpha_cumprod)
        for t, value in zip(scheduler.timesteps, timesteps, strict=True)
    ]


def ddim_states(
    model: Model, latents: Tensor, prompts: Sequence[str], sampling: Sampling, calls: Calls
) -> Tensor:
    """Return images' states (N, T + 1, channels, height, width), x_T first and the images last.

    DDIM's ODE backwards, without guidance: each step predicts at the less noisy state, for the timestep of
    the noisier one, as google/prompt-to-prompt does (Mokady et al. 2023). Half precision is too coarse to add
    up in, so that states are at least float32. Raises FloatingPointError where states stop being finite.
    """
    scheduler = model.new_scheduler(sampling.num_inference_steps)
    rows = [model.encode_prompt(prompt) for prompt in prompts]
    states = [latents.to(torch.promote_types(latents.dtype, torch.float32))]
    for level in reversed(ddim_levels(scheduler)):
        output = predict_rows(model, states[-1], level.timestep, rows, calls)
        states.append(_noised(scheduler, output, states[-1], level))
    return finite(torch.stack(states[::-1], 1), model.dtype)


def _noised(scheduler: Any, output: Tensor, latents: Tensor, level: Level) -> Tensor:
    """Return the latents one DDIM step noisier, from the level after the step to the level before it."""
    signal, noise = level.after.sqrt(), (1 - level.after).sqrt()
    if scheduler.config.prediction_type == "v_prediction":
        image, epsilon = signal * latents - noise * output, signal * output + noise * latents
    else:
        image, epsilon = (latents - noise * output) / signal, output
    return level.before.sqrt() * image + (1 - level.before).sqrt() * epsilon
