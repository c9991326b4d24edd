"""What FlowEdit and Uni-Edit ask for at each step of a flow: guided velocities, of latents that have prompts
and guidance scales of their own, and how many of the denoiser's rows they take.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor

from p2p.families.model import Conditioning, Model
from p2p.plain_rows import predict_rows
from p2p.sampling import Calls, Sampling
from p2p.trajectory import Trajectory


@dataclass(frozen=True)
class AlongFlow:
    """One edit by two prompts' velocities, of the picture with this number."""

    group: int
    edit: Trajectory

    @property
    def start(self) -> int:
        """The first step at which it asks for velocities."""
        assert self.edit.start is not None
        return self.edit.start

    @property
    def source_prompt(self) -> str:
        """The other prompt, beside the target's."""
        own = self.edit.difference or self.edit.fusion
        assert own is not None
        return own.source_prompt


class Asked(NamedTuple):
    """A velocity that a step asks for: of a prompt, guided, at a state; equal ones are asked for once."""

    state: tuple[object, ...]  # what tells its latents from others
    prompt: str
    guidance_scale: float

    def rows(self, guidance_embedded: bool) -> int:
        """Return how many of the denoiser's rows it takes: two where an unconditional one guides it."""
        return 2 if self.guidance_scale > 1 and not guidance_embedded else 1


def rows_of(
    asked: Callable[[int], Iterable[Asked]], changes: Iterable[int], steps: int, guidance_embedded: bool
) -> int:
    """Return how many of the denoiser's rows the velocities of so many steps take, given those of each.

    At a step that is none of `changes` equal ones are asked for as at the step before.
    """
    count = 0
    for here, there in pairwise(sorted({0, *changes, steps})):
        count += (there - here) * sum(one.rows(guidance_embedded) for one in set(asked(here)))
    return count


@dataclass(frozen=True)
class Velocities:
    """A model's guided velocities for the prompts of some edits."""

    model: Model
    sampling: Sampling
    calls: Calls
    texts: Mapping[str, Conditioning]
    negative: Conditioning | None  # None: there are no unconditional rows

    @classmethod
    def of(cls, model: Model, edits: Sequence[AlongFlow], sampling: Sampling, calls: Calls) -> Velocities:
        """Encode the prompts of the edits, each once, and the negative one."""
        prompts = [prompt for one in edits for prompt in (one.edit.prompt, one.source_prompt)]
        texts = {prompt: model.encode_prompt(prompt) for prompt in dict.fromkeys(prompts)}
        negative = None if model.guidance_embedded else model.encode_prompt(sampling.negative_prompt, True)
        return cls(model, sampling, calls, texts, negative)

    def __call__(self, asked: Mapping[Asked, Tensor], timestep: Tensor) -> dict[Asked, Tensor]:
        """Return guided velocities, given the latents of each; both are (channels, height, width)."""
        told = [self._told(one) for one in asked]
        rows = [
            (latents, text, one.guidance_scale)
            for (one, latents), texts in zip(asked.items(), told, strict=True)
            for text in texts
        ]
        if not rows:
            return {}
        states, texts, scales = zip(*rows, strict=True)
        output = predict_rows(self.model, torch.stack(states), timestep, texts, self.calls, scales)
        parts = output.split([len(texts) for texts in told])
        return {one: self._guided(one, part) for one, part in zip(asked, parts, strict=True)}

    def _told(self, one: Asked) -> list[Conditioning]:
        """Return what each of its rows is told: the negative prompt, where there are two, and its own."""
        if one.rows(self.model.guidance_embedded) == 1:
            return [self.texts[one.prompt]]
        assert self.negative is not None
        return [self.negative, self.texts[one.prompt]]

    def _guided(self, one: Asked, rows: Tensor) -> Tensor:
        if len(rows) == 1:
            return rows[0]
        rescale = self.sampling.guidance_rescale
        return self.model.guide(rows[:1], rows[1:], one.guidance_scale, rescale)[0]
