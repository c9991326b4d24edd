"""Shards on a real SLURM of one node: requeued, failed, at their limit, killed."""

import os
import signal
from contextlib import suppress
from pathlib import Path

import pytest

from results.store.records import has_records, load_records
from tests.cluster import single_node
from tests.cluster.conftest import Call, in_the_way_of
from tests.cluster.single_node import Slurm, waited
from tests.experiments.command import PAIR, on_tiny

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("slurm")]
SEED = range(24)  # enough for signals to come while groups are left
SEEDS = f"seed=[{','.join(map(str, SEED))}]"
SHARDS = ("shards=2", "hydra/launcher=p2p_slurm")


def submitted(slurm: Slurm, tiny_folder: Path, run_dir: Path, *more: str) -> Call:
    """Start a run of two shards on the cluster; few rows a call, so that groups are recorded one by one."""
    overrides = [*on_tiny(tiny_folder, run_dir), *PAIR, SEEDS, "sampling.max_batch=4", *SHARDS, *more]
    return Call("run", *overrides, SLURM_CONF=slurm.environment["SLURM_CONF"])


def recorded(run_dir: Path) -> set[int]:
    """Return the seeds that have a record."""
    return set(load_records(run_dir)["seed"]) if has_records(run_dir) else set()


def array(slurm: Slurm) -> str:
    """Return the number of the array, once both of its jobs run."""
    states = waited(lambda: list(slurm.jobs().values()) == ["RUNNING"] * 2 and slurm.jobs())
    assert isinstance(states, dict)
    return str(next(iter(states))).split("_")[0]


def test_a_preempted_shard_is_requeued_and_goes_on_in_its_folder(
    slurm: Slurm, tiny_folder: Path, run_dir: Path
) -> None:
    call = submitted(slurm, tiny_folder, run_dir)
    job = f"{array(slurm)}_0"
    assert slurm.job(job)["TresPerNode"] == "gres:gpu:1"
    waited(lambda: any(seed % 2 == 0 for seed in recorded(run_dir)))
    slurm("scancel", "--signal=USR2", job)
    waited(lambda: slurm.job(job)["JobState"] == "PENDING")
    before = {file: file.stat().st_mtime_ns for file in run_dir.rglob("images/**/*.png")}
    first = {seed for seed in recorded(run_dir) if seed % 2 == 0}
    assert 0 < len(first) < len(SEED) // 2
    slurm("scontrol", "update", f"JobId={slurm.job(job)['JobId']}", "StartTime=now")
    code, out, err = call.ended()
    assert code == 0, out + err
    assert slurm.job(job)["Restarts"] == "1"
    records = load_records(run_dir)
    assert set(records["status"]) == {"ok"}
    assert set(records["seed"]) == set(SEED)
    kept = [run_dir / image for image in records.loc[records["seed"].isin(first), "image"]]
    assert all(file.stat().st_mtime_ns == before[file] for file in kept)
    [sweep] = (run_dir / "hydra").iterdir()
    assert {entry.name for entry in sweep.iterdir()} >= {"0", "1", "jobs", "multirun.yaml"}
    printed = "".join(file.read_text() for file in (sweep / "jobs" / job).glob("*_log.out"))
    assert f"{len(first) * 4} images are there already" in printed
    assert "this one, the last to end, makes the tables" in printed
    assert (run_dir / "tables" / "summary.md").read_text().startswith(f"{5 * len(SEED)} images of 1 pair.")


def test_exit_codes_and_the_last_line_tell_of_a_shard_that_failed_and_of_one_at_its_limit(
    slurm: Slurm, tiny_folder: Path, run_dir: Path
) -> None:
    in_the_way_of(run_dir, 2)
    limit = ["hydra.launcher.timeout_min=10", "hydra.launcher.max_num_timeout=0"]
    call = submitted(slurm, tiny_folder, run_dir, *limit)
    number = array(slurm)
    waited(lambda: any(seed % 2 for seed in recorded(run_dir)))
    slurm("scancel", "--signal=USR2", f"{number}_1")
    code, out, err = call.ended()
    assert code == 1, out + err
    [sweep] = (run_dir / "hydra").iterdir()
    [line] = [line for line in err.splitlines() if line.startswith("error: ")]
    told = f"error: job 0: 1 groups failed, see the records; it printed to {sweep}/jobs/{number}_0; "
    assert line == f"{told}`p2p-bench plan` with the same arguments tells what each shard has done"
    assert [slurm.job(f"{number}_{index}")["ExitCode"] for index in range(2)] == ["1:0", "1:0"]
    records = load_records(run_dir)
    assert set(records.loc[records["status"] == "failed", "seed"]) == {2}
    printed = "".join(file.read_text() for file in (sweep / "jobs" / f"{number}_1").glob("*_log.err"))
    assert "error: stopped by the signal of a time limit (Job not requeued because: timed-out" in printed
    code, out, _ = Call("plan", *on_tiny(tiny_folder, run_dir), *PAIR, SEEDS, *SHARDS).ended()
    assert code == 0
    states = out.splitlines()[-2:]
    assert states[0].endswith("11 groups are there, 1 failed")
    assert states[1].endswith(f"{len({s for s in recorded(run_dir) if s % 2})} groups are there")


def test_a_killed_shard_is_seen_in_the_run_folder_though_the_launcher_waits(
    slurm: Slurm, tiny_folder: Path, run_dir: Path
) -> None:
    slow = "sampling.num_inference_steps=40"  # so that groups are left when it is killed
    call = submitted(slurm, tiny_folder, run_dir, slow)
    number = array(slurm)
    waited(lambda: any(seed % 2 for seed in recorded(run_dir)))
    slurm("scancel", "--signal=KILL", f"{number}_1")
    waited(lambda: not slurm.jobs())
    os.kill(call.pid, signal.SIGINT)
    code, out, err = call.ended(30)
    assert code == 130
    assert "jobs that a cluster has go on until it is told otherwise (scancel)" in err
    there = recorded(run_dir)
    assert {0, 2, 22} < there != set(SEED)
    assert not (run_dir / "tables").exists()
    code, out, err = Call("tables", str(run_dir), "--no-plots").ended()
    assert code == 0
    assert out.startswith(f"{5 * len(there)} images of 1 pair.")


def test_a_cluster_leaves_no_process_behind_where_a_test_fails(slurm: Slurm) -> None:
    with suppress(ZeroDivisionError), single_node.started() as own:
        own("sbatch", "--output=/dev/null", "--wrap", "sleep 300")
        waited(lambda: list(own.jobs().values()) == ["RUNNING"])
        assert len(of_cluster(own)) > 4
        raise ZeroDivisionError
    waited(lambda: not of_cluster(own), 20)
    assert not own.folder.exists()
    assert of_cluster(slurm)


def of_cluster(cluster: Slurm) -> list[str]:
    """Return the processes of a cluster and of its jobs."""
    found = []
    for file in Path("/proc").glob("[0-9]*/environ"):
        with suppress(OSError):  # ended by now
            found += [file.parent.name] if str(cluster.folder).encode() in file.read_bytes() else []
    return found
