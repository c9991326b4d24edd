"""FlowEdit (Kulikov et al. 2025, "FlowEdit: Inversion-Free Text-Based Editing Using Pre-Trained Flow Models",
ICCV 2025, arXiv:2412.08629, Alg. 1).

The image is moved by the difference of two velocities: the target's at the edit, noised, and the source's at
the source image with the same noise. Differs from the authors' code: latents are float32 between steps; a
guidance scale of 1 takes one row, not two; each draw has a generator of its own, seeded from the group's
seed, that draws for every step of the schedule, so that edits with other `n_max`, targets and scales meet the
same noise, and a sweep asks for the source's velocity once; in the last `n_min` steps, where one version of
their code does not move, Euler's steps are taken.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar

import torch
from torch import Tensor

from p2p.alignment import Tokenizers, check_prompt
from p2p.families.model import Conditioning, Model
from p2p.flow_solvers import flow_sigmas, flow_timestep
from p2p.numbers import check_finite
from p2p.plain_rows import finite, predict_rows
from p2p.sampling import Calls, Sampling
from p2p.trajectory import EditRequest, FlowDifference, Trajectory


@dataclass(frozen=True)
class FlowEdit:
    """Edit the last `n_max` steps of a flow by differences of velocities, means of `n_avg` draws of noise.

    The last `n_min` steps are plain denoising of the target prompt instead. The two guidance scales are the
    edit's own, whatever the run's. The defaults are published for Flux in 28 steps; for Stable Diffusion 3 it
    is 33 of 50 steps with 3.5 and 13.5. No inversion is needed: it edits given and generated pictures alike.
    """

    n_max: int = 24
    n_min: int = 0
    n_avg: int = 1
    source_guidance_scale: float = 1.5
    target_guidance_scale: float = 5.5
    name: ClassVar[str] = "flowedit"
    uses_mask: ClassVar[bool] = False

    def __post_init__(self) -> None:
        for name, least in (("n_max", 1), ("n_min", 0), ("n_avg", 1)):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise ValueError(f"{name}: {value!r} is not a whole number of at least {least}")
        if self.n_min > self.n_max:
            raise ValueError(f"n_min: {self.n_min} is more than n_max, {self.n_max}")
        for name in ("source_guidance_scale", "target_guidance_scale"):
            check_finite(name, getattr(self, name), 1, " (1 is off)")

    def trajectory(
        self, request: EditRequest, tokenizers: Tokenizers, num_inference_steps: int
    ) -> Trajectory:
        """Return the edit of the source image. Raises ValueError for more steps than there are."""
        check_prompt(request.target_prompt, tokenizers)
        steps = num_inference_steps
        if self.n_max > steps:
            raise ValueError(f"n_max: {self.n_max} of {steps} steps, allowed are 1 to {steps}")
        difference = FlowDifference(
            request.source_prompt,
            float(self.source_guidance_scale),
            float(self.target_guidance_scale),
            self.n_avg,
            steps - self.n_min,
        )
        return Trajectory(request.target_prompt, (), steps - self.n_max, difference=difference)


def difference_evaluations(edits: Sequence[Trajectory], steps: int, guidance_embedded: bool) -> int:
    """Return the denoiser's rows for the edits of one group by differences; a source's velocity is shared."""

    def rows(scale: float) -> int:
        return 2 if scale > 1 and not guidance_embedded else 1

    count, sources = 0, set()
    for edit in edits:
        if (own := edit.difference) and edit.start is not None:
            moved = range(edit.start, own.sampled_from)
            count += (len(moved) * own.draws + steps - own.sampled_from) * rows(own.target_guidance_scale)
            sources |= {
                (own.source_guidance_scale, draw, step) for draw in range(own.draws) for step in moved
            }
    return count + sum(rows(scale) for scale, _, _ in sources)


_Key = tuple[object, ...]


@dataclass(frozen=True)
class DifferenceEdit:
    """One edit by differences, of the picture with this number; pictures and seeds are one per group."""

    group: int
    edit: Trajectory

    @property
    def own(self) -> FlowDifference:
        """How the picture is moved."""
        assert self.edit.difference is not None
        return self.edit.difference

    @property
    def start(self) -> int:
        """The first step."""
        assert self.edit.start is not None
        return self.edit.start

    def source(self, draw: int) -> _Key:
        """What tells its source's velocities at a draw from others."""
        return "source", self.group, self.own.source_guidance_scale, draw


def edited_by_differences(
    model: Model,
    edits: Sequence[DifferenceEdit],
    pictures: Tensor,
    seeds: Sequence[int],
    sampling: Sampling,
    calls: Calls,
) -> Tensor:
    """Return the latents of the edits (edits, channels, height, width), all in lockstep.

    `pictures` (groups, channels, height, width) are the encoded sources. Raises FloatingPointError where
    latents stop being finite.
    """
    scheduler = model.new_scheduler(sampling.num_inference_steps)
    pictures = pictures.to(torch.promote_types(pictures.dtype, torch.float32))
    prompts = [prompt for one in edits for prompt in (one.edit.prompt, one.own.source_prompt)]
    velocities = Velocities.of(model, prompts, sampling, calls)
    draws = [(one.group, draw) for one in edits for draw in range(one.own.draws)]
    generators = {
        (group, draw): torch.Generator().manual_seed((seeds[group] + draw) % 2**63)
        for group, draw in dict.fromkeys(draws)
    }
    latents = [pictures[one.group] for one in edits]
    for step, (here, there) in enumerate(pairwise(flow_sigmas(scheduler))):
        noised = {
            key: (1 - here) * pictures[key[0]] + here * model.draw_noise([generator])[0].to(pictures)
            for key, generator in generators.items()
        }
        begun = [i for i, one in enumerate(edits) if step >= one.start]
        asked: dict[_Key, Asked] = {}
        for i in begun:
            one, picture = edits[i], pictures[edits[i].group]
            if step > one.own.sampled_from:
                asked["target", i, 0] = Asked(latents[i], one.edit.prompt, one.own.target_guidance_scale)
                continue
            for draw in range(one.own.draws if step < one.own.sampled_from else 1):
                # In this order, so that an edit that has not moved stands where its source does, bit by bit.
                moved = noised[one.group, draw] + (latents[i] - picture)
                asked["target", i, draw] = Asked(moved, one.edit.prompt, one.own.target_guidance_scale)
                if step < one.own.sampled_from:
                    at, scale = noised[one.group, draw], one.own.source_guidance_scale
                    asked[one.source(draw)] = Asked(at, one.own.source_prompt, scale)
                else:
                    latents[i] = moved
        found = velocities(asked, flow_timestep(scheduler, here))
        for i in begun:
            one = edits[i]
            if step < one.own.sampled_from:
                differences = [
                    found["target", i, draw] - found[one.source(draw)] for draw in range(one.own.draws)
                ]
                velocity = torch.stack(differences).mean(0)
            else:
                velocity = found["target", i, 0]
            latents[i] = latents[i] + (there - here) * velocity
    return finite(torch.stack(latents), model.dtype)


@dataclass(frozen=True)
class Asked:
    """A velocity that is asked for: at latents (channels, height, width), of a prompt, guided."""

    latents: Tensor
    prompt: str
    guidance_scale: float


@dataclass(frozen=True)
class Velocities:
    """Guided velocities of latents that have prompts and guidance scales of their own."""

    model: Model
    sampling: Sampling
    calls: Calls
    texts: Mapping[str, Conditioning]
    negative: Conditioning | None  # None: there are no unconditional rows

    @classmethod
    def of(cls, model: Model, prompts: Sequence[str], sampling: Sampling, calls: Calls) -> Velocities:
        """Encode the prompts that will be asked for, each once, and the negative one."""
        texts = {prompt: model.encode_prompt(prompt) for prompt in dict.fromkeys(prompts)}
        negative = None if model.guidance_embedded else model.encode_prompt(sampling.negative_prompt, True)
        return cls(model, sampling, calls, texts, negative)

    def __call__(self, asked: Mapping[_Key, Asked], timestep: Tensor) -> dict[_Key, Tensor]:
        """Return the velocities by the keys they are asked for, each (channels, height, width)."""
        rows: list[tuple[Tensor, Conditioning, float]] = []
        for one in asked.values():
            if self._guided(one) and self.negative is not None:
                rows.append((one.latents, self.negative, one.guidance_scale))
            rows.append((one.latents, self.texts[one.prompt], one.guidance_scale))
        if not rows:
            return {}
        latents, texts, scales = zip(*rows, strict=True)
        output = predict_rows(self.model, torch.stack(latents), timestep, texts, self.calls, scales)
        found, place = {}, 0
        for key, one in asked.items():
            if self._guided(one):
                uncond, text = output[place : place + 1], output[place + 1 : place + 2]
                rescale = self.sampling.guidance_rescale
                found[key] = self.model.guide(uncond, text, one.guidance_scale, rescale)[0]
                place += 2
            else:
                found[key] = output[place]
                place += 1
        return found

    def _guided(self, one: Asked) -> bool:
        return self.negative is not None and one.guidance_scale > 1
