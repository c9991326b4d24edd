"""The units that workers are given: batches of the plan, the costliest first, lost ones tried twice."""

import pandas as pd
import pytest

from experiments.executors.on_ray import OnRay
from experiments.executors.units import MOST_LOSSES, Unit, Units, places, scoring_units


def taken(units: Units) -> list[Unit]:
    return [units.take() for _ in range(len(units))]


def test_the_costliest_unit_is_given_first_and_equal_ones_in_their_order() -> None:
    units = [
        Unit((0,), cost=1),
        Unit((1,), cost=5),
        Unit((2,), cost=1),
        Unit((3,), cost=9),
        Unit(made=("a",)),
    ]
    assert [unit.groups or unit.made for unit in taken(Units(units, ()))] == [(3,), (1,), (0,), (2,), ("a",)]


def test_a_unit_is_tried_twice_as_it_is_and_then_group_by_group() -> None:
    costs = (3, 7)
    units = Units([Unit((0, 1), cost=10)], costs)
    assert units.lost(units.take())
    [again] = taken(units)
    assert again == Unit((0, 1), cost=10, losses=1)
    assert units.lost(again)
    assert taken(units) == [Unit((1,), cost=7), Unit((0,), cost=3)]


def test_a_group_alone_is_given_up_after_the_second_loss() -> None:
    units = Units([Unit((0,), cost=1)], (1,))
    attempts = 0
    while len(units):
        attempts += 1
        kept = units.lost(units.take())
        assert kept == (attempts < MOST_LOSSES)
    assert attempts == MOST_LOSSES


def test_groups_that_are_only_scored_are_parted_as_those_that_are_made() -> None:
    units = Units([Unit(made=("a", "b"), losses=MOST_LOSSES - 1)], ())
    assert units.lost(units.take())
    assert taken(units) == [Unit(made=("a",)), Unit(made=("b",))]


@pytest.mark.parametrize(
    ("groups", "workers", "sizes"), [(0, 2, []), (3, 2, [1, 1, 1]), (100, 2, [16] * 6 + [4])]
)
def test_groups_are_scored_by_all_workers_each_once(groups: int, workers: int, sizes: list[int]) -> None:
    """Two metrics lack values, of the second half alone the one of them."""
    names = [f"group {number:03d}" for number in range(groups)]
    todo = [pd.DataFrame({"group": names * 2}), pd.DataFrame({"group": names[groups // 2 :]})]
    units = scoring_units(todo, workers)
    assert [len(unit.made) for unit in units] == sizes
    assert [name for unit in units for name in unit.made] == names
    parts = [unit.records(todo) for unit in units]
    assert sum(len(first) for first, _ in parts) == 2 * groups
    assert sum(len(second) for _, second in parts) == len(todo[1])


@pytest.mark.parametrize(
    ("nodes", "cpus", "gpus", "fit"),
    [
        ([{"CPU": 2}], 1, 0, 2),
        ([{"CPU": 3}, {"CPU": 3}], 2, 0, 2),  # not three: no worker has CPUs of two nodes
        ([{"CPU": 1}], 2, 0, 0),
        ([{"CPU": 8}], 1, 1, 0),
        ([{"CPU": 8, "GPU": 2}], 1, 1, 2),
        ([{"CPU": 1, "GPU": 2}], 1, 1, 1),
        ([{"CPU": 8, "GPU": 2}], 1, 0.5, 4),
        ([{"CPU": 8, "GPU": 2}], 1, 0.6, 2),  # one a GPU: no worker has parts of two
        ([{"CPU": 8, "GPU": 3}], 1, 2, 1),
        ([{"CPU": 8, "GPU": 1}], 1, 0.1, 8),
        ([{"GPU": 4}, {}], 1, 1, 0),
    ],
)
def test_workers_have_a_place_on_one_node(
    nodes: list[dict[str, float]], cpus: int, gpus: float, fit: int
) -> None:
    assert places(nodes, cpus, gpus) == fit


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"workers": 0}, "workers: 0 is not a whole number of at least 1"),
        ({"workers": True}, "workers: True is not"),
        ({"cpus_per_worker": 0}, "cpus_per_worker: 0 is not"),
        ({"gpus_per_worker": 1.5}, "gpus_per_worker: 1.5 is not a part of one, nor a whole number"),
        ({"gpus_per_worker": 0}, "gpus_per_worker: 0 is not"),
        ({"address": "ray://10.0.0.1:10001"}, "address: 'ray://10.0.0.1:10001' is no address of a cluster"),
        ({"address": ""}, "address: '' is no address of a cluster"),
    ],
)
def test_options_that_are_none_are_one_line(options: dict[str, object], told: str) -> None:
    with pytest.raises(ValueError, match="^" + told):
        OnRay(**options)  # type: ignore[arg-type]


def test_a_job_of_slurm_has_the_cpus_it_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_CPUS_PER_TASK", "1")
    assert OnRay().plan("cpu") == "executor: Ray on this machine, workers: 1, each with 1 CPU"


def test_nodes_of_a_cluster_are_given_the_variables_of_the_call_but_no_secret(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("HF_HOME", "/data/hub")
    monkeypatch.setenv("HF_TOKEN", "hf_x")
    monkeypatch.setenv("TOKENIZERS_PARALLELISM", "false")
    variables = OnRay(cpus_per_worker=3)._options("cpu")["runtime_env"]["env_vars"]
    assert variables["HF_HOME"] == "/data/hub"
    assert variables["TOKENIZERS_PARALLELISM"] == "false"
    assert "HF_TOKEN" not in variables
    assert (variables["OMP_NUM_THREADS"], variables["CUDA_VISIBLE_DEVICES"]) == ("3", "")
    assert "CUDA_VISIBLE_DEVICES" not in OnRay()._options("cuda")["runtime_env"]["env_vars"]
