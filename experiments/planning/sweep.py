"""Which edits share a source, and what each group costs, before any content key is made.

It is all that a shard needs to find its part; `experiments.planning.make_plan` makes the keys of that part.
"""

from __future__ import annotations

import itertools
import random
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

from torch import Tensor

from experiments.datasets.pair import Pair
from experiments.inputs.content_hash import content_hash
from experiments.planning.content_keys import Source
from experiments.planning.model_facts import ModelFacts
from experiments.planning.pair_inputs import PairInputs, read_inputs
from experiments.planning.plan import NamedMethod, group_cost
from p2p.groups import Group
from p2p.sampling import Sampling
from p2p.trajectory import Trajectory
from results.collector import seldom_collected

if TYPE_CHECKING:
    from p2p.inversion import Inversion


@dataclass(frozen=True)
class Cell:
    """One edit: a pair, and a method with all its parameters."""

    inputs: PairInputs
    named: NamedMethod
    trajectory: Trajectory

    def content(self, source: Source, calls: int) -> list[Any]:
        """Return what the edit's content key hashes, of a trajectory of `calls` calls of the denoiser."""
        drawn = source.path_seed if self.trajectory.from_noise else source.seed
        digest = self.trajectory.digest(calls)
        return [source.prompt, drawn, digest, *source.real, *self.inputs.judged_by]


@dataclass
class Shared:
    """The edits of one source, as `Sweep.groups` has them."""

    cells: list[Cell] = field(default_factory=list)  # an image each
    repeats: list[Cell] = field(default_factory=list)  # other parameters for an image of a cell
    candidates: list[Cell] = field(default_factory=list)  # which `tau: auto` chooses from
    merged: int = 0  # settings that give the image of a cell, with equal parameters or others


@dataclass(frozen=True)
class Sweep:
    """Every pair x inversion x seed x method of a run."""

    inputs: Sequence[PairInputs]
    seeds: Sequence[int]
    methods: Sequence[NamedMethod]
    model: ModelFacts
    sampling: Sampling
    inversions: Sequence[Inversion | None]
    image_format: str
    drawn: int | None

    @cached_property
    def groups(self) -> dict[Source, Shared]:
        """Each source with its edits, in the order of the data set.

        An image that several settings give stands once, with the source that gave it first: settings with
        equal windows in steps, seeds where a real image's path does not depend on the seed, inversions where
        a method starts from the picture itself.
        """
        groups: dict[Source, Shared] = defaultdict(Shared)
        calls = self.calls
        seen: dict[tuple[Any, ...], tuple[Shared, list[Mapping[str, Any]]]] = {}  # of each image
        pairs = [(one, *self._cells(one)) for one in self.inputs]
        for inversion, seed, (one, cells, drawn) in itertools.product(self.inversions, self.seeds, pairs):
            sources = {
                True: Source(one.pair.source_prompt, seed, one.image, inversion),
                False: Source(one.pair.source_prompt, seed, one.image, None),
            }
            for place, cell in enumerate(cells):
                from_noise = cell.trajectory.from_noise
                if not from_noise and inversion != self.inversions[0]:
                    continue
                if drawn is not None and (seed, place) not in drawn:
                    continue
                source, named = sources[from_noise], cell.named
                prompt, path_seed, digest, *others = cell.content(source, calls)
                image = (one.pair.id, named.name, prompt, path_seed, digest, *map(repr, others))
                if image not in seen:
                    shared = groups[source]
                    seen[image] = shared, [named.params]
                    shared.cells.append(cell)
                else:
                    shared, settings = seen[image]
                    shared.merged += 1
                    shared.repeats += [] if named.params in settings else [cell]
                    settings.append(named.params)
                # Re-weighting alone is no edit at tau 1, so there a larger tau is not a freer edit.
                if named.auto_tau and one.pair.source_prompt != one.pair.target_prompt:
                    shared.candidates.append(cell)
        return dict(groups)

    def _cells(self, one: PairInputs) -> tuple[list[Cell], set[tuple[int, int]] | None]:
        """Return a pair's edit by each method, and which (seed, place of a method) it has; None: all."""
        cells = [Cell(one, named, path) for named, path in zip(self.methods, one.trajectories, strict=True)]
        return cells, _draw(one.pair.id, self.seeds, self.methods, self.drawn) if self.drawn else None

    @cached_property
    def costs(self) -> tuple[int, ...]:
        """What the group of each source is counted as where work is shared out, as `Plan.costs`."""
        known: dict[tuple[int, ...], int] = {}  # seeds of a pair cost the same
        costs = []
        for source, shared in self.groups.items():
            edits = tuple(cell.trajectory for cell in shared.cells)
            like = (*map(id, edits), id(source.inversion))
            if like not in known:
                image = _not_read if source.image else None
                group = Group(source.prompt, source.seed, edits, image, source.inversion)
                known[like] = group_cost(group, self.model, self.sampling)
            costs.append(known[like])
        return tuple(costs)

    @property
    def calls(self) -> int:
        """How many calls of a denoiser read a trajectory at most, the model's or its upscaler's."""
        return max(self.model.calls, self.model.upscaler_calls)

    def digest(self, names: Sequence[Any]) -> str:
        """Return a hash of all that was asked for; `names` are further plain values that it tells apart."""
        sampling = self.sampling
        asked: list[Any] = [*names, self.model.identity, sampling.num_inference_steps]
        asked += [sampling.guidance_scale, sampling.guidance_rescale, sampling.negative_prompt]
        asked += [self.image_format, self.drawn, [*self.seeds]]
        asked += [one.settings if one else None for one in self.inversions]
        asked += [[named.name, dict(named.params), named.auto_tau] for named in self.methods]
        for one in self.inputs:
            pair, image = one.pair, one.image.digest if one.image else ""
            asked += [pair.id, pair.source_prompt, pair.target_prompt, pair.edit_type, pair.difficulty]
            asked += [pair.instruction, image, one.mask_digest, one.ideal_digest]
            asked += [[t.digest(self.calls), t.from_noise, dict(t.record)] for t in one.trajectories]
        return content_hash(asked)


@seldom_collected()
def make_sweep(
    pairs: Sequence[Pair],
    seeds: Iterable[int],
    methods: Sequence[NamedMethod],
    model: ModelFacts,
    sampling: Sampling,
    inversions: Sequence[Inversion | None] = (None,),
    image_format: str = "png",
    drawn: int | None = None,
) -> Sweep:
    """Read what belongs to the pairs, and make the sweep; pictures are saved in the format `image_format`.

    With `drawn` a pair has so many of each method's seeds and settings, drawn by its id. Raises one
    ValueError that lists every pair and method that cannot be combined.
    """
    seeds = _check_seeds(seeds)
    _check_drawn(drawn, methods)
    sampling.rows_per_state(model.guidance_embedded)
    inputs = read_inputs(pairs, methods, model, sampling, inversions)
    return Sweep(inputs, seeds, methods, model, sampling, inversions, image_format, drawn)


def _not_read() -> Tensor:
    raise AssertionError("what a group costs does not depend on its picture")


def _check_seeds(seeds: Iterable[int]) -> list[int]:
    checked = list(seeds)
    if not checked:
        raise ValueError("seeds: none given, at least one is needed")
    for seed in checked:
        if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed < 2**32:
            raise ValueError(f"seeds: {seed!r} is not a whole number in [0, 2^32)")
    return checked


def _check_drawn(drawn: int | None, methods: Sequence[NamedMethod]) -> None:
    if drawn is None:
        return
    if isinstance(drawn, bool) or not isinstance(drawn, int) or drawn < 1:
        raise ValueError(f"grid.drawn: {drawn!r} must be a whole number from 1, or null for all settings")
    if any(named.auto_tau for named in methods):
        raise ValueError("grid.drawn: tau=auto chooses from all of its taus, allowed is null")


def _draw(
    pair_id: str, seeds: Sequence[int], methods: Sequence[NamedMethod], count: int
) -> set[tuple[int, int]]:
    """Return each (seed, place among `methods`) that a pair has: `count` of each method, drawn by its id.

    All of them where a method has no more. Other pairs do not matter.
    """
    cells: dict[str, list[tuple[int, int]]] = {}
    for place, named in enumerate(methods):
        cells.setdefault(named.name, []).extend((seed, place) for seed in seeds)
    rng = random.Random(pair_id)
    return {cell for there in cells.values() for cell in rng.sample(there, min(count, len(there)))}
