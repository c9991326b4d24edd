"""What workers are given, one at a time: units of work, the largest first, and what becomes of a lost one."""

from __future__ import annotations

import heapq
import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from experiments.planning.plan import Plan
from p2p.groups import batches

if TYPE_CHECKING:
    import pandas as pd

MOST_LOSSES = 2  # of workers over one unit
SCORED_AT_ONCE = 16  # groups at most
LEAST_PART = 4  # edits of a part of a group
SHARES = (2.0, 1.0, 0.5)  # of what is left a worker, beyond which groups are parted: ways that are compared
WORTH = 0.02  # share of the time that a way has to save to be preferred to a simpler one


@dataclass(frozen=True)
class Unit:
    """Groups that a worker makes together and scores, or whose pictures, made before, it scores alone.

    Groups to be made are told by their places in the plan, `made` ones by their names in the records. `cost`
    is in UNet evaluations, 0 where a unit is only scored. `losses` counts the workers that ended over it.
    """

    groups: tuple[int, ...] = ()
    made: tuple[str, ...] = ()
    cost: int = 0
    losses: int = 0

    def records(self, todo: Sequence[pd.DataFrame]) -> list[pd.DataFrame]:
        """Return those of the records that each metric has `todo` which are of groups that it scores."""
        return [left[left["group"].isin(self.made)] for left in todo]

    def alone(self, costs: Sequence[int]) -> list[Unit]:
        """Return a unit for each of its groups."""
        to_make = [Unit(groups=(place,), cost=costs[place]) for place in self.groups]
        return [*to_make, *(Unit(made=(name,)) for name in self.made)]


def plan_units(plan: Plan) -> list[Unit]:
    """Return the batches of a plan as one process would make them, so that the pixels are the same."""
    whole = [group.group() for group in plan.groups]
    parts = batches(whole, plan.sampling, plan.model.guidance_embedded)
    return [Unit(groups=tuple(part), cost=sum(plan.costs[place] for place in part)) for part in parts]


def scoring_units(todo: Sequence[pd.DataFrame], workers: int) -> list[Unit]:
    """Return units of the groups whose records each metric has `todo`, for so many workers."""
    made = sorted({str(name) for left in todo for name in left["group"]})
    size = min(SCORED_AT_ONCE, -(-len(made) // (2 * workers)))
    return [Unit(made=tuple(made[i : i + size])) for i in range(0, len(made), max(1, size))]


def parted_units(plan: Plan, workers: int) -> tuple[Plan, list[Unit]]:
    """Return a plan and its units by which the workers end sooner than by whole batches, where there is one.

    Batches are taken apart, and groups into parts of at least `LEAST_PART` edits, each with the source's
    trajectory again. A group is parted where it costs more than a worker's share of what is left by then, so
    that parts are the smaller the nearer the end is (guided self-scheduling; Polychronopoulos and Kuck 1987).
    """
    alone = [Unit(groups=(place,), cost=cost) for place, cost in enumerate(plan.costs)]
    found = [(plan, plan_units(plan)), (plan, alone)]
    for share in SHARES:
        parted = _part(plan, workers, share)
        found.append((parted, [Unit((place,), cost=cost) for place, cost in enumerate(parted.costs)]))
    best, soonest = found[0], math.inf
    for one in found:
        ends = makespan([unit.cost for unit in costliest_first(one[1])], workers)
        if ends < (1 - WORTH) * soonest:
            best, soonest = one, ends
    return best


def _part(plan: Plan, workers: int, share: float) -> Plan:
    """Return the plan with groups parted that cost more than a `share` of a worker's part of what is left."""
    counts = [1] * len(plan.groups)
    left = sum(plan.costs)
    for place in sorted(range(len(counts)), key=plan.costs.__getitem__, reverse=True):
        most = max(1, len(plan.groups[place].branches) // LEAST_PART)
        cost = plan.costs[place]
        counts[place] = max(1, min(most, math.ceil(cost * workers / (share * left)))) if left else 1
        left -= cost
    groups = []
    for group, count in zip(plan.groups, counts, strict=True):
        ends = [len(group.branches) * number // count for number in range(count + 1)]
        # Neighbours share the most steps.
        groups += [replace(group, branches=group.branches[i:j]) for i, j in itertools.pairwise(ends)]
    return replace(plan, groups=tuple(groups))


def makespan(costs: Iterable[float], workers: int, start: float = 0.0) -> float:
    """Return when the last of the workers ends that begin at `start` and take what is next, in this order."""
    ends = [start] * workers
    for cost in costs:
        heapq.heapreplace(ends, ends[0] + cost)
    return max(ends)


def costliest_first(units: Iterable[Unit]) -> list[Unit]:
    """Return units in the order in which `Units` gives them."""
    return sorted(units, key=lambda unit: -unit.cost)


class Units:
    """Units that wait for a worker; the costliest is given first, of equal ones the one that came first."""

    def __init__(self, units: Iterable[Unit], costs: Sequence[int]) -> None:
        self._costs = costs
        self._order = itertools.count()
        self._waiting: list[tuple[int, int, Unit]] = []
        for unit in units:
            self._put(unit)

    def __len__(self) -> int:
        return len(self._waiting)

    def take(self) -> Unit:
        """Return the unit that is next."""
        return heapq.heappop(self._waiting)[2]

    def lost(self, unit: Unit) -> bool:
        """Put back a unit whose worker ended; return False where it is given up.

        The first time it is tried again as it is, then group by group, as one of them may be what ends
        workers; a group that is alone is given up after the second time.
        """
        unit = replace(unit, losses=unit.losses + 1)
        if unit.losses < MOST_LOSSES:
            self._put(unit)
            return True
        parts = unit.alone(self._costs)
        if len(parts) == 1:
            return False
        for part in parts:
            self._put(part)
        return True

    def _put(self, unit: Unit) -> None:
        heapq.heappush(self._waiting, (-unit.cost, next(self._order), unit))


def places(nodes: Iterable[Mapping[str, float]], cpus: float, gpus: float) -> int:
    """Return how many workers of so many CPUs and GPUs fit onto nodes that have these resources in all.

    Workers with a part of a GPU share one; no worker has parts of two.
    """
    count = 0
    for node in nodes:
        fit = int(node.get("CPU", 0) / cpus + 1e-9)
        if gpus:
            there = node.get("GPU", 0)
            fit = min(fit, int(there / gpus) if gpus >= 1 else int(there) * int(1 / gpus + 1e-9))
        count += fit
    return count
