"""Groups that are parted among workers: the same pictures, sooner, and no part without need."""

from collections import Counter

import pytest

from experiments.datasets.pair import Pair
from experiments.embedded.training import WEIGHTS
from experiments.executors.units import (
    LEAST_PART,
    Unit,
    Units,
    costliest_first,
    makespan,
    parted_units,
    plan_units,
)
from experiments.planning.make_plan import plan_of
from experiments.planning.model_facts import ModelFacts
from experiments.planning.plan import NamedMethod, Plan
from experiments.planning.sweep import make_sweep
from p2p import ModelSpec, PromptToPrompt, Sampling, SDEdit

TAUS = [number / 10 for number in range(11)]


def planned(seeds: int, max_batch: int = 16) -> Plan:
    """Return a plan of as many groups as seeds, each of 33 edits by P2P and 2 by SDEdit."""
    sampling = Sampling(10, 7.5, max_batch=max_batch)
    pairs = [Pair(word, "a cat and a dog", f"a {word} and a dog") for word in ("fox", "ball", "horse")]
    methods = [NamedMethod("p2p", PromptToPrompt(tau=tau), {"tau": tau}) for tau in TAUS]
    methods.append(NamedMethod("sdedit", SDEdit(0.5), {"strength": 0.5}))
    facts = ModelFacts.of(ModelSpec("embedded", str(WEIGHTS / "pipeline"), 16, 16), 10)
    return plan_of(make_sweep(pairs, range(seeds), methods, facts, sampling))


def ends(plan: Plan, workers: int, parted: bool) -> float:
    units = parted_units(plan, workers)[1] if parted else plan_units(plan)
    return makespan([unit.cost for unit in costliest_first(units)], workers)


@pytest.mark.parametrize(
    ("costs", "workers", "last"),
    [([3, 3, 2, 2, 2], 2, 7), ([2, 2, 2, 3, 3], 2, 7), ([1, 1, 4], 2, 5), ([5], 4, 5), ([], 3, 0)],
)
def test_the_makespan_is_that_of_workers_who_take_what_is_next(
    costs: list[int], workers: int, last: int
) -> None:
    assert makespan(costs, workers) == last
    assert makespan(costs, workers, start=1.5) == last + 1.5


def test_units_are_simulated_in_the_order_in_which_they_are_given() -> None:
    units = [Unit((place,), cost=cost) for place, cost in enumerate([2, 7, 2, 9, 7])]
    waiting = Units(units, ())
    assert costliest_first(units) == [waiting.take() for _ in units]


@pytest.mark.parametrize(("seeds", "workers"), [(1, 4), (3, 2), (5, 8)])
def test_parts_are_of_the_same_pictures_and_end_sooner(seeds: int, workers: int) -> None:
    plan = planned(seeds)
    parted, units = parted_units(plan, workers)
    edits = Counter(branch.identity for group in plan.groups for branch in group.branches)
    assert Counter(branch.identity for group in parted.groups for branch in group.branches) == edits
    assert parted.rows() == plan.rows()
    assert sorted(place for unit in units for place in unit.groups) == list(range(len(parted.groups)))
    assert [unit.cost for unit in units] == [sum(parted.costs[i] for i in unit.groups) for unit in units]
    assert min(len(group.branches) for group in parted.groups) >= LEAST_PART
    assert ends(plan, workers, parted=True) < 0.9 * ends(plan, workers, parted=False)


@pytest.mark.parametrize(("seeds", "workers"), [(1, 1), (4, 2)])
def test_nothing_is_parted_where_whole_groups_end_as_soon(seeds: int, workers: int) -> None:
    plan = planned(seeds)
    assert parted_units(plan, workers) == (plan, plan_units(plan))


def test_groups_of_one_batch_are_taken_apart_before_they_are_parted() -> None:
    plan = planned(2, max_batch=1024)
    assert len(plan_units(plan)) == 1
    parted, units = parted_units(plan, 2)
    assert parted == plan
    assert [unit.groups for unit in units] == [(0,), (1,)]
