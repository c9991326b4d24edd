"""From pairs x seeds x methods to groups of branches, with content keys and the exact cost, before anything
runs.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from torch import Tensor

from experiments.datasets.pair import Pair, raise_problems, slug
from experiments.ideals import ideal_digest
from experiments.masks import mask_digest, read_mask
from experiments.real_images import RealImage
from experiments.sources import Source, content_hash
from p2p.alignment import Tokenizers, encode
from p2p.denoise import Sampling
from p2p.edits import EditRequest, Method, Trajectory
from p2p.engine import Group, plan_evaluations
from p2p.inversion import Inversion
from p2p.layers import NO_LAYERS
from p2p.pipelines import PipelineSpec
from p2p.schedulers import check_start

RECORD = (
    "operator",
    "tau",
    "cross_start",
    "cross_end",
    "self_start",
    "self_end",
    "weights",
    "blend",
    "strength",
)


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
    source_key: str  # of the source image's own record
    reconstruction_key: str = ""  # of that of what an inversion leads back to
    mask: str = ""  # a hash of the pair's mask, "" where it has none
    uses_mask: bool = False  # of the method
    ideal: str = ""  # a hash of the pair's ideal, "" where it has none
    ideal_key: str = ""  # of the record of that ideal

    @property
    def identity(self) -> Identity:
        """What names the branch's record."""
        return self.key, self.pair.id, self.method


@dataclass(frozen=True)
class GroupPlan:
    """One source prompt and seed, or image, with all branches that share the source's trajectory.

    An inverted image has two more keys: of its reconstruction, and of its inversion, kept under that name.
    """

    source_prompt: str
    seed: int
    source_key: str
    branches: tuple[Branch, ...]
    image: RealImage | None = None
    inversion: Inversion | None = None
    reconstruction_key: str = ""
    inversion_key: str = ""

    @property
    def inverts(self) -> bool:
        """Whether any branch starts from the noise that an inversion finds."""
        return self.inversion is not None and any(b.trajectory.from_noise for b in self.branches)

    @property
    def id(self) -> str:
        """A name for the group's files: the same for the same branches."""
        content = [self.source_key, *sorted(f"{b.key} {b.pair.id} {b.method}" for b in self.branches)]
        return f"{slug(self.source_prompt)[:40]}-s{self.seed}-{content_hash(content)[:12]}"

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
    calls: int  # UNet calls of one trajectory
    sampling: Sampling
    guidance_embedded: bool  # the denoiser has no unconditional rows: one row a state
    setup: str  # a short hash of model, scheduler, precision and negative prompt, so that tables part them
    merged: int = 0  # settings that come to the same steps as another one, and so to the same image
    upscaler_calls: int = 0  # of one trajectory, by the model's upscaler
    auto_tau: bool = False
    candidates: tuple[Mapping[str, Any], ...] = ()  # of `tau: auto`, as `results.auto_tau` keeps them

    @cached_property
    def evaluations(self) -> int:
        """The number of UNet evaluations (batch rows), the upscaler's included.

        It is exact, but for what inversions may save, and without those of other pipelines.
        """
        groups = [group.group() for group in self.groups]
        return plan_evaluations(
            groups, self.calls, self.sampling, self.guidance_embedded, self.upscaler_calls
        )

    @cached_property
    def upscaler_evaluations(self) -> int:
        """Those of the upscaler alone."""
        groups = [group.group() for group in self.groups]
        return self.evaluations - plan_evaluations(groups, self.calls, self.sampling, self.guidance_embedded)

    @property
    def unshared_evaluations(self) -> int:
        """What the same branches cost one at a time, each with its own source."""
        once = self.calls + self.upscaler_calls
        nodes = inversions = 0
        for group in self.groups:
            first = group.inversion.start(self.sampling.num_inference_steps) if group.inversion else 0
            for edit in (branch.trajectory for branch in group.branches):
                nodes += 0 if group.image and not edit.from_noise else once - first
                if edit.external is None:
                    nodes += once - (first if edit.start is None else edit.start)
                if group.inversion and edit.from_noise:
                    inversions += group.inversion.evaluations(self.sampling)
        return nodes * self.sampling.rows_per_state(self.guidance_embedded) + inversions

    @property
    def inversion_evaluations(self) -> int:
        """How many of the evaluations are for inversions, at most."""
        used = [group.inversion for group in self.groups if group.inverts]
        return sum(inversion.evaluations(self.sampling) for inversion in used if inversion)

    @property
    def external_evaluations(self) -> int:
        """About how many rows the denoisers of other pipelines take, by their methods' `rows_per_step`."""
        calls = [b.trajectory.external for group in self.groups for b in group.branches]
        return sum(call.evaluations(self.sampling.num_inference_steps) for call in calls if call)

    @property
    def pipelines(self) -> list[PipelineSpec]:
        """The other pipelines that branches are made by, each once."""
        calls = [b.trajectory.external for group in self.groups for b in group.branches]
        return list(dict.fromkeys(call.method.spec for call in calls if call))

    @property
    def images(self) -> int:
        """The number of edited images, sources not counted."""
        return sum(len(group.branches) for group in self.groups)

    def keys(self) -> set[str]:
        """Return the content keys of all images, sources included."""
        return {key for key, _, _ in self.rows()}

    def rows(self) -> set[Identity]:
        """Return which records the plan makes, those of sources, reconstructions and ideals included."""
        branches = [(group, branch) for group in self.groups for branch in group.branches]
        sources = {(b.source_key, b.pair.id, "source") for _, b in branches}
        sources |= {(b.reconstruction_key, b.pair.id, "reconstruction") for g, b in branches if g.inverts}
        sources |= {(b.ideal_key, b.pair.id, "ideal") for _, b in branches if b.ideal}
        return sources | {b.identity for g in self.groups for b in g.branches}


def expand(axes: Mapping[str, Any] | Sequence[Mapping[str, Any]] | None) -> list[dict[str, Any]]:
    """Return the parameter sets of a method's grid: the product of its axes, or the union of such grids.

    A list is an axis, anything else one value; a window is therefore written as a list in a list, `[[0.2,
    1.0]]`.
    """
    if not isinstance(axes, Mapping):
        return [params for part in axes or [{}] for params in expand(part)] if axes is not None else [{}]
    values = [value if isinstance(value, list) else [value] for value in axes.values()]
    return [dict(zip(axes, combination, strict=True)) for combination in itertools.product(*values)]


def make_plan(
    pairs: Sequence[Pair],
    seeds: Iterable[int],
    methods: Sequence[NamedMethod],
    identity: str,
    tokenizers: Tokenizers,
    calls: int,
    sampling: Sampling,
    guidance_embedded: bool = False,
    upscaler_calls: int = 0,
    inversions: Sequence[Inversion | None] = (None,),
    scheduler: Any = None,
    single_layers: bool = True,
) -> Plan:
    """Plan every pair x inversion x seed x method.

    `identity` stands for the model in the content keys, `single_layers` is its family's; `scheduler`, with
    its timesteps set, is what `inversions` of the pairs' images are checked with. Raises one ValueError that
    lists every pair and method that cannot be combined. Branches that would give the same image twice are
    kept once: so are those of other seeds where an image's path does not depend on the seed.
    """
    seeds = _check_seeds(seeds)
    sampling.rows_per_state(guidance_embedded)
    images, problems = _images(pairs)
    problems += _inversion_problems(inversions, pairs, scheduler, sampling, guidance_embedded)
    if upscaler_calls:
        problems += [
            f"pair {pair.id!r}: has an image, which cannot be the source of a model with an upscaler, "
            "allowed are generated sources"
            for pair in pairs
            if pair.image is not None
        ]
    for prompt in dict.fromkeys([sampling.negative_prompt, *(pair.source_prompt for pair in pairs)]):
        try:
            for tokenizer in tokenizers:
                encode(prompt, tokenizer)
        except ValueError as error:
            problems.append(str(error))
    trajectories: dict[tuple[str, int], Trajectory] = {}
    masks: dict[str, str] = {}
    ideals: dict[str, str] = {}
    for pair in pairs:
        try:
            masks[pair.id] = mask_digest(read_mask(pair.mask, pair.id)) if pair.mask else ""
        except ValueError as error:
            problems.append(str(error))
        try:
            ideals[pair.id] = ideal_digest(pair.ideal) if pair.ideal else ""
        except ValueError as error:
            problems.append(f"pair {pair.id!r}: {error}")
        request = EditRequest(
            pair.source_prompt, pair.target_prompt, pair.weights, pair.blend_words, pair.instruction
        )
        for number, named in enumerate(methods):
            try:
                trajectory = named.method.trajectory(request, tokenizers, sampling.num_inference_steps)
                check_start(trajectory.start or 0, calls, sampling.num_inference_steps)
            except ValueError as error:
                problems.append(f"pair {pair.id!r}, {named.name}: {error}")
                continue
            if unknown := sorted(set(trajectory.record) - set(RECORD)):
                problems.append(f"{named.name}: records {unknown}, allowed are {', '.join(RECORD)}")
            if trajectory.layers and not single_layers:
                problems.append(f"{named.name}: {NO_LAYERS}")
            if pair.image is not None and None in inversions and trajectory.from_noise:
                problems.append(
                    f"pair {pair.id!r}, {named.name}: starts from the noise of its image, which only an "
                    "inversion finds, such as inversion=direct"
                )
            trajectories[pair.id, number] = trajectory
    problems += _unused_weights(methods, trajectories)
    raise_problems(dict.fromkeys(problems), "the plan")
    base = [identity, sampling.num_inference_steps, float(sampling.guidance_scale), sampling.negative_prompt]
    if sampling.guidance_rescale:  # keys of images made without it stay what they were
        base.append({"guidance_rescale": float(sampling.guidance_rescale)})
    groups: dict[Source, list[Branch]] = {}
    seen: set[Identity] = set()
    merged, rows_read = 0, max(calls, upscaler_calls)
    candidates: list[dict[str, Any]] = []
    for inversion, seed, pair in itertools.product(inversions, seeds, pairs):
        # Mask and ideal change no pixel, but what metrics say of them, and their values are kept under this
        # key alone: under another mask the same image is another one. Pairs that differ in them share a
        # group, and so every step; what an inversion finds is kept without them.
        judged = [masks[pair.id]] if masks[pair.id] else []
        judged += [f"ideal {ideals[pair.id]}"] if ideals[pair.id] else []
        for number, named in enumerate(methods):
            trajectory = trajectories[pair.id, number]
            from_image = not trajectory.from_noise  # and so without an inversion, once for all of them
            if from_image and inversion != inversions[0]:
                continue
            source = Source(pair.source_prompt, seed, images.get(pair.id), None if from_image else inversion)
            branches = groups.setdefault(source, [])
            drawn = source.path_seed if trajectory.from_noise else seed
            digest = trajectory.digest(rows_read)
            key = content_hash([*base, pair.source_prompt, drawn, digest, *source.real, *judged])
            branch = Branch(
                pair,
                named.name,
                named.params,
                trajectory,
                key,
                source.key(base, judged),
                source.reconstruction_key(base, judged),
                masks[pair.id],
                named.method.uses_mask,
                ideals[pair.id],
                source.ideal_key(base, pair.target_prompt, judged) if pair.ideal else "",
            )
            # Re-weighting alone is no edit at tau 1, so there a larger tau is not a freer edit.
            if named.auto_tau and pair.source_prompt != pair.target_prompt:
                candidates.append(_candidate(branch, named))
            if branch.identity in seen:
                merged += 1
                continue
            seen.add(branch.identity)
            branches.append(branch)
    plans = [
        GroupPlan(
            source.prompt,
            source.seed,
            source.key(base),
            tuple(branches),
            source.image,
            source.inversion,
            source.reconstruction_key(base),
            source.inversion_key(base),
        )
        for source, branches in groups.items()
        if branches
    ]
    return Plan(
        tuple(plans),
        calls,
        sampling,
        guidance_embedded,
        content_hash([identity, sampling.negative_prompt])[:8],
        merged,
        upscaler_calls,
        any(named.auto_tau for named in methods),
        _each_once(candidates),
    )


def _candidate(branch: Branch, named: NamedMethod) -> dict[str, Any]:
    """Return one of the images that `tau: auto` chooses from; another setting may have made it first."""
    others = {name: value for name, value in named.params.items() if name != "tau"}
    return {
        "key": branch.key,
        "pair_id": branch.pair.id,
        "method": branch.method,
        "params": json.dumps(others, sort_keys=True),
        "rule": named.auto_tau,
        "tau": float(named.params["tau"]),
    }


def _each_once(candidates: Sequence[dict[str, Any]]) -> tuple[dict[str, Any], ...]:
    """Return candidates without those of further seeds, where an image's path does not depend on the seed."""
    return tuple({tuple(candidate.items()): candidate for candidate in candidates}.values())


def _images(pairs: Sequence[Pair]) -> tuple[dict[str, RealImage], list[str]]:
    """Return the pairs' images by pair, and what is wrong with the others."""
    images, problems = {}, []
    for pair in pairs:
        try:
            if pair.image is not None:
                images[pair.id] = RealImage.of(pair.image)
        except ValueError as error:
            problems.append(f"pair {pair.id!r}: {error}")
    return images, problems


def _inversion_problems(
    inversions: Sequence[Inversion | None],
    pairs: Sequence[Pair],
    scheduler: Any,
    sampling: Sampling,
    guidance_embedded: bool,
) -> Iterator[str]:
    """Yield what keeps the inversions from being made."""
    for inversion in filter(None, inversions):
        for pair in pairs:
            if pair.image is None:
                yield (
                    f"pair {pair.id!r}: has no image that {inversion.name} could invert, "
                    "allowed is inversion=none"
                )
        try:
            inversion.check(scheduler, sampling, guidance_embedded)
        except ValueError as error:
            yield f"{inversion.name}: {error}"


def _unused_weights(
    methods: Sequence[NamedMethod], trajectories: Mapping[tuple[str, int], Trajectory]
) -> Iterator[str]:
    """Yield the methods whose number for the pairs' weights meets no pair that has any."""
    for number, named in enumerate(methods):
        if isinstance(named.params.get("weights"), (int, float)):
            records = [t.record for (_, n), t in trajectories.items() if n == number]
            if not any(record.get("weights") for record in records):
                yield f"{named.name}: weights = {named.params['weights']}, but no pair re-weights a word"


def without(plan: Plan, done: Callable[[Branch], bool]) -> Plan:
    """Return the plan with the branches that are not done yet; groups with none left are dropped."""
    left = [replace(g, branches=tuple(b for b in g.branches if not done(b))) for g in plan.groups]
    return replace(plan, groups=tuple(group for group in left if group.branches))


def shard(plan: Plan, index: int, count: int) -> Plan:
    """Return every `count`-th group from `index` on: what one of `count` machines does."""
    return replace(plan, groups=plan.groups[index::count])


def _check_seeds(seeds: Iterable[int]) -> list[int]:
    checked = list(seeds)
    if not checked:
        raise ValueError("seeds: none given, at least one is needed")
    for seed in checked:
        if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed < 2**32:
            raise ValueError(f"seeds: {seed!r} is not a whole number in [0, 2^32)")
    return checked
