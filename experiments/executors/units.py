"""What workers are given, one at a time: units of work, the largest first, and what becomes of a lost one."""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from experiments.planning.plan import Plan
from p2p.engine import batches

MOST_LOSSES = 2  # of workers over one unit
SCORED_AT_ONCE = 16  # groups


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

    def alone(self, costs: Sequence[int]) -> list[Unit]:
        """Return a unit for each of its groups."""
        to_make = [Unit(groups=(place,), cost=costs[place]) for place in self.groups]
        return [*to_make, *(Unit(made=(name,)) for name in self.made)]


def plan_units(plan: Plan, made: Iterable[str] = ()) -> list[Unit]:
    """Return the batches of a plan as one process would make them, so that the pixels are the same.

    After them units of the groups that are `made` and lack values.
    """
    whole = [group.group() for group in plan.groups]
    parts = batches(whole, plan.sampling, plan.model.guidance_embedded)
    units = [Unit(groups=tuple(part), cost=sum(plan.costs[place] for place in part)) for part in parts]
    names = list(made)
    parts_made = (names[i : i + SCORED_AT_ONCE] for i in range(0, len(names), SCORED_AT_ONCE))
    return units + [Unit(made=tuple(part)) for part in parts_made]


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
