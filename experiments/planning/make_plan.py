"""From a sweep, or a shard's part of one, to a plan with the content keys of all its pictures."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from experiments.inputs.content_hash import Beginning, content_hash
from experiments.planning.content_keys import Source
from experiments.planning.pair_inputs import PairInputs
from experiments.planning.plan import Branch, GroupPlan, NamedMethod, Plan, share
from experiments.planning.sweep import Cell, Sweep
from results.collector import seldom_collected
from results.spelling import spell_json


@seldom_collected()
def plan_of(sweep: Sweep, index: int = 0, count: int = 1) -> Plan:
    """Return the plan of a sweep, or of what one of `count` machines does of it, as `shard` parts plans.

    A part's plan tells of its own groups' candidates, repeated and merged settings alone.
    """
    whole = list(sweep.groups.items())
    places = range(len(whole)) if count == 1 else share(sweep.costs, index, count)
    base, saved = _base(sweep), _base(sweep, sweep.image_format)
    groups, candidates, repeated, merged = [], [], [], 0
    for source, shared in (whole[place] for place in places):
        branches = _Branches(source, saved, sweep.calls)
        groups.append(_group(source, [branches.of(cell) for cell in shared.cells], base, saved))
        candidates += [_candidate(branches.of(cell), cell.named) for cell in shared.candidates]
        repeated += [branches.of(cell) for cell in shared.repeats]
        merged += shared.merged
    model, sampling = sweep.model, sweep.sampling
    return Plan(
        tuple(groups),
        model,
        sampling,
        content_hash([model.identity, sampling.negative_prompt, *_of_format(sweep.image_format)])[:8],
        merged,
        any(named.auto_tau for named in sweep.methods),
        _each_once(candidates),
        tuple(repeated),
        sweep.image_format,
    )


def _base(sweep: Sweep, image_format: str = "png") -> Beginning:
    """Return what all content keys of the plan begin with, those of pictures saved in a format too."""
    sampling = sweep.sampling
    base: list[Any] = [sweep.model.identity, sampling.num_inference_steps, float(sampling.guidance_scale)]
    base.append(sampling.negative_prompt)
    if sampling.guidance_rescale:  # keys of images made without it stay what they were
        base.append({"guidance_rescale": float(sampling.guidance_rescale)})
    return Beginning([*base, *_of_format(image_format)])


def _of_format(image_format: str) -> list[Any]:
    """Return what content keys say of the format in which pictures are saved: nothing of PNG, the first."""
    return [] if image_format == "png" else [{"image_format": image_format}]


class _Branches:
    """Makes the branches of one source; those of one pair share the keys of what it is given."""

    def __init__(self, source: Source, saved: Beginning, calls: int) -> None:
        self.source, self.saved, self.calls = source, saved, calls
        self._given: dict[int, tuple[str, str, str]] = {}  # by the id of a pair's inputs

    def of(self, cell: Cell) -> Branch:
        """Return the branch of one of the source's edits."""
        one = cell.inputs
        if id(one) not in self._given:
            self._given[id(one)] = _given_keys(one, self.source, self.saved)
        source_key, reconstruction_key, ideal_key = self._given[id(one)]
        return Branch(
            one.pair,
            cell.named.name,
            cell.named.params,
            cell.trajectory,
            self.saved.hash(cell.content(self.source, self.calls)),
            source_key,
            reconstruction_key,
            one.mask_digest,
            cell.named.method.uses_mask,
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
        "params": spell_json(others),
        "rule": named.auto_tau,
        "tau": float(named.params["tau"]),
    }


def _each_once(candidates: Sequence[dict[str, Any]]) -> tuple[dict[str, Any], ...]:
    """Return the candidates without repetitions: seeds give equal ones where they do not change the image."""
    return tuple({tuple(candidate.items()): candidate for candidate in candidates}.values())
