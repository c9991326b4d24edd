"""Steps between the noise levels of a diffusion, of sources that were inverted for few steps and their edits.

A state is `sqrt(alpha) x + sqrt(1 - alpha) noise`, which is what the network is given, whatever the scheduler
keeps: of diffusers' scheduler only the levels and the kind of prediction are used, not its step.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from p2p.schedulers import noise_share
from p2p.source_path import SourcePath

ALLOWED = (
    "DDIMScheduler",
    "DDPMScheduler",
    "EulerAncestralDiscreteScheduler",
    "EulerDiscreteScheduler",
    "LCMScheduler",
    "TCDScheduler",
)
_SETTINGS: tuple[tuple[str, tuple[Any, ...]], ...] = (
    ("clip_sample", (None, False)),
    ("thresholding", (None, False)),
    ("prediction_type", ("epsilon", "v_prediction")),
    ("variance_type", (None, "fixed_small", "fixed_small_log", "fixed_large", "fixed_large_log")),
)


@dataclass(frozen=True)
class NoiseLevels:
    """A scheduler's levels, noisiest first: `alphas` are the share of signal (alpha bar) before each step,
    and 1 of the picture after the last.
    """

    timesteps: tuple[int, ...]
    alphas: tuple[float, ...]
    trained: Sequence[float]  # alpha bar by training timestep
    prediction_type: str

    @classmethod
    def of(cls, scheduler: Any) -> NoiseLevels:
        """Return the levels of a scheduler (timesteps set).

        Raises ValueError for another class, for a setting that changes predictions, and where levels are not
        those of whole training timesteps.
        """
        name, config = type(scheduler).__name__, scheduler.config
        if name not in ALLOWED:
            raise ValueError(f"scheduler: {name} has no such noise levels, allowed are {', '.join(ALLOWED)}")
        for setting, allowed in _SETTINGS:
            if config.get(setting) not in allowed:
                raise ValueError(
                    f"scheduler: {setting}={config[setting]} cannot be inverted, allowed is "
                    f"{' or '.join(str(value) for value in allowed if value is not None)}"
                )
        trained = [float(alpha) for alpha in scheduler.alphas_cumprod]
        timesteps = [float(timestep) for timestep in scheduler.timesteps]
        for step, timestep in enumerate(timesteps):
            own = 1 - noise_share(scheduler, step)
            if (
                timestep != int(timestep) or abs(trained[int(timestep)] - own) > 1e-4
            ):  # float32 rounds to 1e-7
                raise ValueError(
                    f"scheduler: step {step + 1} of {len(timesteps)} is at timestep {timestep:g} and "
                    f"{1 - own:.4f} of noise, allowed are levels of whole training timesteps "
                    "(timestep_spacing leading or trailing, no sigmas of another kind)"
                )
        whole = tuple(int(timestep) for timestep in timesteps)
        alphas = tuple(trained[timestep] for timestep in whole)
        return cls(whole, (*alphas, 1.0), trained, str(config.prediction_type))

    def noised(self, step: int, pictures: Tensor, noise: Tensor) -> Tensor:
        """Return the states before a step of pictures with this noise; after the last step, the pictures."""
        return noised(self.alphas[step], pictures, noise)

    def picture(self, step: int, latents: Tensor, output: Tensor) -> Tensor:
        """Return the pictures that the network's output makes of the states before a step."""
        signal, noise = self.alphas[step] ** 0.5, (1 - self.alphas[step]) ** 0.5
        if self.prediction_type == "v_prediction":
            return signal * latents - noise * output
        return (latents - noise * output) / signal

    def mean(self, step: int, latents: Tensor, output: Tensor) -> Tensor:
        """Return the mean of the states after a step given those before it (Ho et al. 2020, Eq. 7).

        It is that of DDIM's step with eta 1 and of Euler-ancestral's; after the last step the picture.
        """
        before, after = self.alphas[step : step + 2]
        ratio = (1 - after) / (1 - before)  # of the shares of noise
        kept = ratio * (before / after) ** 0.5
        own = after**0.5 * (1 - ratio * before / after)
        return own * self.picture(step, latents, output) + kept * latents


def noised(alpha: float, pictures: Tensor, noise: Tensor) -> Tensor:
    """Return pictures with noise, at a share of signal `alpha`."""
    return alpha**0.5 * pictures + (1 - alpha) ** 0.5 * noise


LevelStep = Callable[[NoiseLevels, int, Tensor, Tensor, Sequence[int], Sequence[SourcePath]], Tensor]
"""From levels, step, states, outputs, the group of each row and the groups' paths to the next states.

Row i < len(paths) is the source of group i.
"""


def virtual(
    levels: NoiseLevels,
    step: int,
    latents: Tensor,
    output: Tensor,
    groups: Sequence[int],
    paths: Sequence[SourcePath],
) -> Tensor:
    """Move each row's picture by its prediction less its source's, and noise it anew (`inversion=virtual`).

    The paths' noises are those of the states after each step. Sources stay their pictures, bit by bit.
    """
    predicted = levels.picture(step, latents, output)
    moved = torch.stack(
        [_picture(paths[g]) + (predicted[row] - predicted[g]) for row, g in enumerate(groups)]
    )
    if step + 1 == len(levels.timesteps):
        return moved
    return levels.noised(step + 1, moved, _noise(step, groups, paths))


def ancestral(
    levels: NoiseLevels,
    step: int,
    latents: Tensor,
    output: Tensor,
    groups: Sequence[int],
    paths: Sequence[SourcePath],
) -> Tensor:
    """Take each row to its mean, and add its source's noise of this step (`inversion=noise_shifted`)."""
    return levels.mean(step, latents, output) + _noise(step, groups, paths)


LEVEL_STEPS: Mapping[str, LevelStep] = {"virtual": virtual, "ancestral": ancestral}
"""Every kind of step by the name that a `SourcePath` has for it."""


@dataclass(frozen=True)
class LevelDescent:
    """The way of sources that were inverted for few steps, and of their edits, from noise to pictures."""

    paths: Sequence[SourcePath]  # one per group, all found in one way
    levels: NoiseLevels
    take: LevelStep

    @classmethod
    def of(cls, paths: Sequence[SourcePath], scheduler: Any) -> LevelDescent | None:
        """Return it for paths that step between noise levels, None for any others."""
        kind = paths[0].level_step
        return cls(paths, NoiseLevels.of(scheduler), LEVEL_STEPS[kind]) if kind else None

    def step(self, output: Tensor, step: int, latents: Tensor, groups: Sequence[int]) -> Tensor:
        """Return the latents after a step, given the network's output; `groups` are the rows' own."""
        return self.take(self.levels, step, latents, output.to(latents.dtype), groups, self.paths)


def _picture(path: SourcePath) -> Tensor:
    assert path.picture is not None
    return path.picture


def _noise(step: int, groups: Sequence[int], paths: Sequence[SourcePath]) -> Tensor:
    noises = [path.noises[step] for path in paths if path.noises is not None]
    return torch.stack([noises[group] for group in groups])
