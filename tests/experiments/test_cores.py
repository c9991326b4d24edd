"""Which cores jobs compute on: those of one machine share it, one of SLURM keeps to what it asked for."""

import os

import pytest

from experiments import cores
from experiments.run_arguments import job_count
from tests.experiments.command import Cli


@pytest.fixture(autouse=True)
def six_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "environ", {**os.environ})
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: range(6), raising=False)
    for name in (cores.THREADS, "SLURM_CPUS_PER_TASK"):
        os.environ.pop(name, None)


@pytest.mark.parametrize(
    ("overrides", "count"),
    [
        (["seed=0"], 1),
        (["shard=0/4,1/4,2/4,3/4", "seed=[0,1]"], 4),
        (["tau=0,0.5", "seed=range(3)", "~plots"], 6),
        (["tau=choice(0,0.5)"], 2),
        (["tau=interval(0,1)"], 1),  # of Optuna's sweeper
        (["tau=[0"], 1),  # Hydra itself tells what is wrong
    ],
)
def test_jobs_are_counted_as_hydra_makes_them(overrides: list[str], count: int) -> None:
    assert job_count(overrides) == count


@pytest.mark.parametrize(("jobs", "threads"), [(1, "6"), (2, "3"), (4, "1"), (100, "1")])
def test_jobs_of_one_machine_share_its_cores(jobs: int, threads: str) -> None:
    cores.share_cores(jobs)
    assert os.environ[cores.THREADS] == threads


def test_threads_that_the_user_set_stay() -> None:
    os.environ |= {cores.THREADS: "5", "SLURM_CPUS_PER_TASK": "2"}
    cores.share_cores(3)
    cores.keep_to_own_cores()
    assert os.environ[cores.THREADS] == "5"


@pytest.mark.parametrize(("asked", "threads"), [("2", "2"), ("40", "6"), (None, None)])
def test_a_job_of_slurm_keeps_to_the_processors_that_it_asked_for(
    asked: str | None, threads: str | None
) -> None:
    os.environ |= {"SLURM_CPUS_PER_TASK": asked} if asked else {}
    cores.keep_to_own_cores()
    assert os.environ.get(cores.THREADS) == threads


@pytest.mark.parametrize(
    ("more", "threads"), [(["shards=3"], "2"), (["-m", "tau=0,1"], "3"), (["hydra/launcher=basic"], None)]
)
def test_a_call_with_submitits_local_launcher_shares_them(
    more: list[str], threads: str | None, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("experiments.run._with_hydra", lambda task: None)
    launcher = [] if threads is None else ["hydra/launcher=submitit_local"]
    assert cli("run", *launcher, *more) == 0
    assert os.environ.get(cores.THREADS) == threads
