"""What a run will do: groups of branches with their content keys, and what they cost, exactly.

`experiments.planning.make_plan` makes it.
"""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

from torch import Tensor

from experiments.datasets.pair import Pair, slug
from experiments.inputs.content_hash import content_hash
from experiments.inputs.real_images import RealImage
from experiments.planning.model_facts import ModelFacts
from p2p.evaluations import plan_evaluations, unshared_evaluations
from p2p.groups import Group
from p2p.loading.pipeline_spec import PipelineSpec
from p2p.sampling import Sampling
from p2p.trajectory import Method, Trajectory

if TYPE_CHECKING:
    from p2p.inversion import Inversion

Identity = tuple[str, str, str]
"""What names a record: content key, pair, method."""


@dataclass(frozen=True)
class NamedMethod:
    """A method with all its parameters, under the name of its YAML file, which records and tables use."""

    name: str
    method: Method
    params: Mapping[str, Any]  # as given in the grid
    auto_tau: str = ""  # the rule (JSON) by which one of several taus is kept, after the metrics


@dataclass(frozen=True)
class Branch:
    """One image to make: an edit of one pair by one method with all its parameters."""

    pair: Pair
    method: str
    params: Mapping[str, Any]
    trajectory: Trajectory
    key: str
    source_record_key: str  # key of the source image's record; mask and ideal are part of it
    reconstruction_record_key: str = ""  # key of the reconstruction's record; mask and ideal are part of it
    mask_digest: str = ""  # of the pair's mask, "" where it has none
    uses_mask: bool = False  # of the method
    ideal_digest: str = ""  # of the pair's ideal, "" where it has none
    ideal_key: str = ""  # key of the ideal's record
    given: bool = False  # the source, what an inversion leads back to, or an ideal: no edit

    @property
    def identity(self) -> Identity:
        """What names the branch's record."""
        return self.key, self.pair.id, self.method

    def given_picture(self, method: str, key: str) -> Branch:
        """Return the picture `method`, "source", "reconstruction" or "ideal", of the branch's pair.

        A source and a reconstruction have the source prompt as their target prompt.
        """
        pair = self.pair
        if method != "ideal":
            pair = Pair(pair.id, pair.source_prompt, pair.source_prompt, pair.edit_type, pair.difficulty)
        none = Trajectory("", ())
        return replace(
            self, pair=pair, method=method, params={}, trajectory=none, key=key, uses_mask=False, given=True
        )


@dataclass(frozen=True)
class GroupPlan:
    """One source prompt and seed, or image, with all branches that share the source's trajectory.

    Pairs of a group may differ in masks and ideals, so the group's keys, after which files are named, leave
    masks and ideals out. The keys of reconstruction and inversion are "" for a generated source.
    """

    source_prompt: str
    seed: int
    source_file_key: str
    branches: tuple[Branch, ...]
    image: RealImage | None = None
    inversion: Inversion | None = None
    reconstruction_file_key: str = ""
    inversion_key: str = ""

    @property
    def inverts(self) -> bool:
        """Whether any branch starts from the noise that an inversion finds."""
        return self.inversion is not None and any(b.trajectory.from_noise for b in self.branches)

    @property
    def id(self) -> str:
        """A name for the group's files: the same for the same branches."""
        content = [self.source_file_key, *sorted(f"{b.key} {b.pair.id} {b.method}" for b in self.branches)]
        return f"{slug(self.source_prompt)[:40]}-s{self.seed}-{content_hash(content)[:12]}"

    def pictures(self) -> list[Branch]:
        """Return all pictures of the group, pair by pair, in the order in which they are recorded.

        The source, the reconstruction where the group inverts, the ideal where the pair has one, the edits.
        """
        pictures: list[Branch] = []
        pairs: set[str] = set()
        for branch in self.branches:
            if branch.pair.id not in pairs:
                pairs.add(branch.pair.id)
                given = self.given_identities(branch)
                pictures += [branch.given_picture(method, key) for key, _, method in given]
            pictures.append(branch)
        return pictures

    def given_identities(self, branch: Branch) -> list[Identity]:
        """Return what names the records of the pictures that are given of a branch's pair."""
        keys = {"source": branch.source_record_key}
        if self.inverts:
            keys["reconstruction"] = branch.reconstruction_record_key
        if branch.ideal_digest:
            keys["ideal"] = branch.ideal_key
        return [(key, branch.pair.id, method) for method, key in keys.items()]

    def group(self, size: tuple[int, int] | None = None) -> Group:
        """Return what the engine needs; `size` (height, width) is needed where real images will be read."""

        def read() -> Tensor:
            assert self.image is not None
            assert size is not None
            return self.image.read(size)

        trajectories = tuple(branch.trajectory for branch in self.branches)
        return Group(
            self.source_prompt, self.seed, trajectories, read if self.image else None, self.inversion
        )


@dataclass(frozen=True)
class Plan:
    """All groups of a run, in the order of the data set, and what they cost."""

    groups: tuple[GroupPlan, ...]
    model: ModelFacts
    sampling: Sampling
    setup: str  # a short hash of model, scheduler, precision, negative prompt, format: tables part by it
    merged: int = 0  # settings that give the same image as another one
    auto_tau: bool = False
    candidates: tuple[Mapping[str, Any], ...] = ()  # of `tau: auto`, as `results.tables.auto_tau` keeps them
    repeated_branches: tuple[Branch, ...] = ()  # merged settings whose parameters differ from the kept one's
    image_format: str = "png"  # in which pictures are saved, one of `results.store.picture_files.FORMATS`

    @cached_property
    def evaluations(self) -> int:
        """The number of UNet evaluations (batch rows), the upscaler's included.

        Exact, but that inversions may stop early; evaluations by other pipelines are not counted.
        """
        return sum(self.group_evaluations)

    @cached_property
    def group_evaluations(self) -> tuple[int, ...]:
        """The number of UNet evaluations of each group, counted as in `evaluations`."""
        return tuple(_evaluations(group.group(), self.model, self.sampling) for group in self.groups)

    @cached_property
    def upscaler_evaluations(self) -> int:
        """How many of the evaluations are the upscaler's."""
        if not self.model.upscaler_calls:
            return 0
        return self.evaluations - self._cost(plan_evaluations, 0, self.groups)

    @property
    def unshared_evaluations(self) -> int:
        """The number of UNet evaluations if every branch ran by itself, each with a source of its own."""
        return self._cost(unshared_evaluations, self.model.upscaler_calls, self.groups)

    def _cost(self, count: Callable[..., int], upscaler_calls: int, plans: Sequence[GroupPlan]) -> int:
        groups = [one.group() for one in plans]
        model = self.model
        return count(groups, model.calls, self.sampling, model.guidance_embedded, upscaler_calls)

    @property
    def inversion_evaluations(self) -> int:
        """How many of the evaluations are for inversions, at most."""
        used = [group.inversion for group in self.groups if group.inverts]
        return sum(inversion.evaluations(self.sampling) for inversion in used if inversion)

    @property
    def external_evaluations(self) -> int:
        """About how many rows the denoisers of other pipelines take, by their methods' `rows_per_step`."""
        return sum(_external_evaluations(group.group(), self.sampling) for group in self.groups)

    @cached_property
    def costs(self) -> tuple[int, ...]:
        """What each group is counted as where work is shared out: other pipelines' evaluations included."""
        return tuple(
            evaluations + _external_evaluations(group.group(), self.sampling)
            for evaluations, group in zip(self.group_evaluations, self.groups, strict=True)
        )

    @property
    def pipelines(self) -> list[PipelineSpec]:
        """The other pipelines that branches are made by, each once."""
        calls = [b.trajectory.external for group in self.groups for b in group.branches]
        return list(dict.fromkeys(call.spec for call in calls if call))

    @property
    def images(self) -> int:
        """The number of edited images, sources not counted."""
        return sum(len(group.branches) for group in self.groups)

    def keys(self) -> set[str]:
        """Return the content keys of all images, sources included."""
        return {key for key, _, _ in self.rows()}

    def rows(self) -> set[Identity]:
        """Return the identities of all records of the plan: edits, sources, reconstructions, ideals."""
        return {picture.identity for group in self.groups for picture in group.pictures()}


def expand(axes: Mapping[str, Any] | Sequence[Mapping[str, Any]] | None) -> list[dict[str, Any]]:
    """Return the parameter sets of a method's grid: the product of its axes, or the union of such grids.

    A list is an axis, anything else one value; a window is therefore written as a list in a list, `[[0.2,
    1.0]]`.
    """
    if not isinstance(axes, Mapping):
        return [params for part in axes or [{}] for params in expand(part)] if axes is not None else [{}]
    if empty := [name for name, value in axes.items() if value == []]:
        raise ValueError(f"{empty[0]}: [] has no value, allowed are one or more")
    values = [value if isinstance(value, list) else [value] for value in axes.values()]
    return [dict(zip(axes, combination, strict=True)) for combination in itertools.product(*values)]


def without(plan: Plan, done: Callable[[Branch], bool]) -> Plan:
    """Return the plan with the branches that are not done yet; groups with none left are dropped."""
    left = [replace(g, branches=tuple(b for b in g.branches if not done(b))) for g in plan.groups]
    return replace(plan, groups=tuple(group for group in left if group.branches))


def shard(plan: Plan, index: int, count: int) -> Plan:
    """Return what one of `count` machines does: its `share` of the groups."""
    if count == 1:
        return plan
    return replace(plan, groups=tuple(plan.groups[place] for place in share(plan.costs, index, count)))


def share(costs: Sequence[int], index: int, count: int) -> list[int]:
    """Return the places, of groups of these costs, that one of `count` machines does, in their order.

    Shares are of about equally many evaluations: the costliest group that is left goes to the share with the
    least so far (Graham 1969), of equal ones to that with the fewest groups, then to the first, so that every
    machine finds the same shares. Two shares differ by one group's evaluations at most.
    """
    shares = [(0, 0, number) for number in range(count)]
    mine = []
    for place in sorted(range(len(costs)), key=costs.__getitem__, reverse=True):
        load, groups, number = shares[0]
        heapq.heapreplace(shares, (load + costs[place], groups + 1, number))
        if number == index:
            mine.append(place)
    return sorted(mine)


def group_cost(group: Group, model: ModelFacts, sampling: Sampling) -> int:
    """Return what a group is counted as where work is shared out: other pipelines' evaluations included."""
    return _evaluations(group, model, sampling) + _external_evaluations(group, sampling)


def _evaluations(group: Group, model: ModelFacts, sampling: Sampling) -> int:
    return plan_evaluations([group], model.calls, sampling, model.guidance_embedded, model.upscaler_calls)


def _external_evaluations(group: Group, sampling: Sampling) -> int:
    calls = [edit.external for edit in group.edits]
    return sum(call.evaluations(sampling.num_inference_steps) for call in calls if call)
