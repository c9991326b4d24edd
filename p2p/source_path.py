"""What a group's source starts from and, where it is an inverted real image, what it replays at each step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from p2p.families.model import Conditioning

NORMS = ("l0", "l1")


@dataclass(frozen=True)
class Shrink:
    """Proximal guidance: what of "text minus unconditional" is left (Han et al. 2024).

    Entries up to the threshold become 0; of the others "l0" keeps all (hard), "l1" what exceeds it (soft):
    the proximal operators of those norms. The authors' code subtracts the threshold under "l0" too, and twice
    under "l1". The threshold is a `quantile` of the entries' sizes, unless given.
    """

    norm: str = "l0"
    quantile: float = 0.7
    threshold: float | None = None

    def __call__(self, difference: Tensor) -> Tensor:
        """Return one row's difference, shrunk.

        As in the authors' code the quantile is over source and target together. The source's difference is 0
        under negative-prompt inversion, so that 0.7 of all is 0.4 of the target's.
        """
        sizes = difference.abs()
        threshold: float | Tensor
        if self.threshold is not None:
            threshold = self.threshold
        else:
            both = torch.cat([torch.zeros_like(sizes), sizes]).flatten()
            threshold = both.to(torch.promote_types(both.dtype, torch.float32)).quantile(self.quantile)
        kept = sizes - threshold if self.norm == "l1" else sizes
        return torch.where(sizes > threshold, kept.to(difference.dtype) * difference.sign(), 0)


@dataclass(frozen=True)
class SourcePath:
    """A source's latents before step `start`, and what its inversion found; tensors over all T steps.

    `generator` is that of a generated source, from which a stochastic scheduler draws; an inverted one has
    none. `guidance_scale` is the source's own, where it is not that of its edits.
    """

    latents: Tensor  # (channels, height, width)
    start: int = 0
    generator: torch.Generator | None = None
    states: Tensor | None = None  # (T, channels, height, width): the source after each step, put back
    noises: Tensor | None = None  # (T, channels, height, width): added to each step's mean in all rows, eta 1
    # (of virtual steps: of the states after each step)
    negatives: Conditioning | None = None  # each (T, ...), or (1, ...) for all: in place of the negative
    guidance_scale: float | None = None
    shrink: Shrink | None = None  # of the guidance of edits
    solver: str | None = None  # a flow's steps down, in `p2p.flow_solvers.STEPS`; None: the scheduler's own
    level_step: str | None = None  # steps in `p2p.noise_levels.LEVEL_STEPS`; None: the scheduler's own
    picture: Tensor | None = None  # (channels, height, width): that edits are drawn to or follow
    pulls: tuple[float, ...] = ()  # by step: the share of the velocity that leads to the picture

    def negative(self, step: int, default: Conditioning) -> Conditioning:
        """Return the unconditional conditioning of a step."""
        if self.negatives is None:
            return default
        return {name: rows[step if len(rows) > 1 else 0] for name, rows in self.negatives.items()}


def replay_step(
    scheduler: Any,
    noise_pred: Tensor,
    step: int,
    latents: Tensor,
    groups: Sequence[int],
    sources: Sequence[SourcePath],
) -> Tensor:
    """Take one DDIM step of rows whose sources were inverted; row i < len(sources) is source i itself.

    Either all sources have `noises` or none has.
    """
    timestep = scheduler.timesteps[step]
    noises = [path.noises[step] for path in sources if path.noises is not None]
    if noises:
        none = torch.zeros_like(latents)
        latents = scheduler.step(
            noise_pred, timestep, latents, eta=1.0, variance_noise=none, return_dict=False
        )[0]
        latents = latents + torch.stack([noises[group] for group in groups])
    else:
        latents = scheduler.step(noise_pred, timestep, latents, return_dict=False)[0]
    for row, path in enumerate(sources):
        if path.states is not None:
            latents[row] = path.states[step]
    return latents
