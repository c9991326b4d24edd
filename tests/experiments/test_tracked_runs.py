"""Runs that are copied to W&B while they are sharded, swept and called again: one copy each."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from experiments.job import Job, track
from p2p import Sampling
from results.store.records import load_records
from results.summary import summarise
from tests.experiments.command import Cli
from tests.results.test_tracking import Copy, logged


def copies(run_dir: Path) -> dict[str, Copy]:
    """Return the offline copies in a run folder by their names."""
    ids = [path.name.rpartition("-")[2] for path in run_dir.glob("wandb/offline-run-*")]
    found = [logged(run_dir, run_id) for run_id in ids]
    return {copy.run.display_name: copy for copy in found}


def test_each_shard_has_a_copy_and_the_whole_has_one_however_often_they_are_called(
    cli: Cli, tiny: list[str], run_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tracked = ["name=mine", *tiny, "seed=[0,1,2]", "tracking=wandb"]
    for index in (0, 1, 0):
        assert cli("run", *tracked, f"shard={index}/2") == 0
    told = capsys.readouterr().out
    assert told.count("to send it: wandb sync ") == 5  # of two shards, and of the whole once the second ended
    found = {copy.run.job_type + str(copy.summary["pictures"]): copy for copy in copies(run_dir).values()}
    assert set(found) == {"shard10", "shard5", "run15"}
    assert {copy.run.run_group for copy in found.values()} == {"mine"}
    assert "tables/main|path" in found["run15"].summary
    assert "records" in found["run15"].artifacts
    assert [len(copy.history) for copy in found.values()] == [1, 1, 1]
    keys = {key for key in found["shard5"].summary if key.startswith("ssim@3/p2p")}
    assert keys == {"ssim@3/p2p, τ 0", "ssim@3/p2p, τ 1"}


def test_each_job_of_a_sweep_has_a_copy_of_its_own_pictures(cli: Cli, tiny: list[str], run_dir: Path) -> None:
    sweep = ["-m", f"hydra.sweep.dir={run_dir}/hydra", "tau=0,1", "tracking=wandb"]
    assert cli("run", *sweep, *tiny, "report=true") == 0
    found = copies(run_dir)
    assert len(found) == 2
    for tau in (0, 1):
        (copy,) = (copy for name, copy in found.items() if f"tau={tau}" in name)
        assert copy.run.job_type == "sweep"
        assert [key for key in copy.summary if key.startswith("ssim@3/p2p")] == [f"ssim@3/p2p, τ {tau}"]
        assert "report" in copy.artifacts


@pytest.mark.parametrize(
    ("command", "told"), [({}, ""), ({"command": ["run", "tau=0"]}, "p2p-bench run tau=0")]
)
def test_a_job_made_in_python_has_a_copy_without_a_command(
    complete_run: Path, command: dict[str, Any], told: str
) -> None:
    calls = []
    tracking = SimpleNamespace(log_run=lambda run_dir, call: calls.append(call))
    nothing: dict[str, Any] = dict.fromkeys(("model", "dataset", "auto_tau"))
    job = Job(
        run_dir=complete_run, methods=[], seeds=[0], sampling=Sampling(), metrics=[], tracking=tracking,
        reference=[], shard=(0, 1), inversions=[None], cache_dir=complete_run, plots=False,
        config={"name": "mine"}, command=command, **nothing,
    )  # fmt: skip
    keys = set(load_records(complete_run)["key"])
    track(job, keys, multirun=False, summary=summarise(complete_run, draw=False))
    [call] = calls
    assert call.command == told
    assert len(call.rows) == 5
