"""From pairs x inversions x seeds x methods to a plan, before anything runs."""

from __future__ import annotations

import itertools
import json
import random
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from experiments.datasets.pair import Pair
from experiments.inputs.content_hash import Beginning, content_hash
from experiments.planning.content_keys import Source
from experiments.planning.model_facts import ModelFacts
from experiments.planning.pair_inputs import PairInputs, read_inputs
from experiments.planning.plan import Branch, GroupPlan, Identity, NamedMethod, Plan
from p2p.sampling import Sampling
from p2p.trajectory import Trajectory

if TYPE_CHECKING:
    from p2p.inversion import Inversion


def make_plan(
    pairs: Sequence[Pair],
    seeds: Iterable[int],
    methods: Sequence[NamedMethod],
    model: ModelFacts,
    sampling: Sampling,
    inversions: Sequence[Inversion | None] = (None,),
    image_format: str = "png",
    drawn: int | None = None,
) -> Plan:
    """Plan every pair x inversion x seed x method; pictures are saved in the format `image_format`.

    With `drawn` a pair has so many of each method's seeds and settings, as `_draw` says.

    An image that several settings give is made once: settings with equal windows in steps, seeds where a real
    image's path does not depend on the seed, inversions where a method starts from the picture itself. Raises
    one ValueError that lists every pair and method that cannot be combined.
    """
    seeds = _check_seeds(seeds)
    _check_drawn(drawn, methods)
    sampling.rows_per_state(model.guidance_embedded)
    inputs = read_inputs(pairs, methods, model, sampling, inversions)
    base = _base(model, sampling)
    saved = _base(model, sampling, image_format)
    calls = max(model.calls, model.upscaler_calls)
    kept = [_draw(one.pair.id, seeds, methods, drawn) for one in inputs] if drawn else []
    groups: dict[Source, list[Branch]] = {}
    seen: dict[Identity, list[Mapping[str, Any]]] = {}  # the parameters of all settings that give an image
    merged, repeated, candidates = 0, [], []
    for inversion, seed, (number, one) in itertools.product(inversions, seeds, enumerate(inputs)):
        given: dict[Source, tuple[str, str, str]] = {}
        for place, (named, trajectory) in enumerate(zip(methods, one.trajectories, strict=True)):
            if not trajectory.from_noise and inversion != inversions[0]:
                continue
            if drawn and (seed, place) not in kept[number]:
                continue
            inverted = inversion if trajectory.from_noise else None
            source = Source(one.pair.source_prompt, seed, one.image, inverted)
            branches = groups.setdefault(source, [])
            if source not in given:
                given[source] = _given_keys(one, source, saved)
            branch = _branch(one, named, trajectory, source, saved, calls, given[source])
            # Re-weighting alone is no edit at tau 1, so there a larger tau is not a freer edit.
            if named.auto_tau and one.pair.source_prompt != one.pair.target_prompt:
                candidates.append(_candidate(branch, named))
            settings = seen.setdefault(branch.identity, [])
            if not settings:
                branches.append(branch)
            else:
                merged += 1
                repeated += [] if branch.params in settings else [branch]
            settings.append(branch.params)
    return Plan(
        tuple(_group(source, branches, base, saved) for source, branches in groups.items() if branches),
        model,
        sampling,
        content_hash([model.identity, sampling.negative_prompt, *_of_format(image_format)])[:8],
        merged,
        any(named.auto_tau for named in methods),
        _each_once(candidates),
        tuple(repeated),
        image_format,
    )


def _base(model: ModelFacts, sampling: Sampling, image_format: str = "png") -> Beginning:
    """Return what all content keys of the plan begin with, those of pictures saved in a format too."""
    base: list[Any] = [model.identity, sampling.num_inference_steps, float(sampling.guidance_scale)]
    base.append(sampling.negative_prompt)
    if sampling.guidance_rescale:  # keys of images made without it stay what they were
        base.append({"guidance_rescale": float(sampling.guidance_rescale)})
    return Beginning([*base, *_of_format(image_format)])


def _of_format(image_format: str) -> list[Any]:
    """Return what content keys say of the format in which pictures are saved: nothing of PNG, the first."""
    return [] if image_format == "png" else [{"image_format": image_format}]


def _branch(
    one: PairInputs,
    named: NamedMethod,
    trajectory: Trajectory,
    source: Source,
    base: Beginning,
    calls: int,
    given_keys: tuple[str, str, str],
) -> Branch:
    drawn = source.path_seed if trajectory.from_noise else source.seed
    content = [source.prompt, drawn, trajectory.digest(calls), *source.real, *one.judged_by]
    source_key, reconstruction_key, ideal_key = given_keys
    return Branch(
        one.pair,
        named.name,
        named.params,
        trajectory,
        base.hash(content),
        source_key,
        reconstruction_key,
        one.mask_digest,
        named.method.uses_mask,
        one.ideal_digest,
        ideal_key,
    )


def _given_keys(one: PairInputs, source: Source, base: Beginning) -> tuple[str, str, str]:
    """Return the record keys of a pair's source, reconstruction and ideal; "" for what it does not have."""
    judged_by = one.judged_by
    return (
        source.key(base, judged_by),
        source.reconstruction_key(base, judged_by),
        source.ideal_key(base, one.pair.target_prompt, judged_by) if one.ideal_digest else "",
    )


def _group(source: Source, branches: Sequence[Branch], base: Beginning, saved: Beginning) -> GroupPlan:
    """Return a source's group. Its pairs may differ in masks and ideals, so its keys leave those out.

    An inversion does not depend on how pictures are saved, and has a key of `base`.
    """
    return GroupPlan(
        source.prompt,
        source.seed,
        source.key(saved),
        tuple(branches),
        source.image,
        source.inversion,
        source.reconstruction_key(saved),
        source.inversion_key(base),
    )


def _candidate(branch: Branch, named: NamedMethod) -> dict[str, Any]:
    """Return the row of one image that `tau: auto` chooses from, in the columns of CANDIDATE_TYPES."""
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
    """Return the candidates without repetitions: seeds give equal ones where they do not change the image."""
    return tuple({tuple(candidate.items()): candidate for candidate in candidates}.values())


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
