"""Shards by the launchers that need no cluster: joblib's processes, and submitit's on this machine."""

import os
import signal
from contextlib import suppress
from pathlib import Path

import pytest

from results.store.records import has_records, load_records
from tests.cluster.conftest import Call, in_the_way_of
from tests.cluster.single_node import waited
from tests.experiments.command import PAIR, on_tiny

pytestmark = pytest.mark.slow


def needs(launcher: str, extra: str) -> None:
    pytest.importorskip(
        f"hydra_plugins.{launcher}", reason=f"needs the extra {extra}: pip install -e .[{extra}]"
    )


def test_joblib_works_through_shards_side_by_side(tiny_folder: Path, run_dir: Path) -> None:
    needs("hydra_joblib_launcher", "joblib")
    tiny = [*on_tiny(tiny_folder, run_dir), *PAIR, "seed=[0,1,2]"]
    code, out, err = Call(
        "run", *tiny, "shards=2", "hydra/launcher=joblib", "hydra.launcher.n_jobs=2"
    ).ended()
    assert code == 0, out + err
    records = load_records(run_dir)
    assert set(records["seed"]) == {0, 1, 2}
    assert set(records["status"]) == {"ok"}
    assert "this one, the last to end, makes the tables" in out
    assert (run_dir / "tables" / "summary.md").read_text().startswith("15 images of 1 pair.")


def test_a_failure_under_submitit_is_told_with_where_its_job_printed(
    tiny_folder: Path, run_dir: Path
) -> None:
    needs("hydra_submitit_launcher", "slurm")
    in_the_way_of(run_dir, 1)
    tiny = [*on_tiny(tiny_folder, run_dir), *PAIR, "seed=[0,1,2]"]
    code, out, err = Call("run", *tiny, "shards=2", "hydra/launcher=submitit_local").ended()
    assert code == 1, out + err
    [line] = [line for line in err.splitlines() if line.startswith("error: ")]
    assert line.startswith("error: job 1: 1 groups failed, see the records; it printed to ")
    assert line.endswith("`p2p-bench plan` with the same arguments tells what each shard has done")
    assert "Traceback" not in err
    folder = Path(line.split("it printed to ")[1].split("; ")[0])
    assert "1 groups failed, the next call" in "".join(file.read_text() for file in folder.glob("*_log.out"))
    records = load_records(run_dir)
    assert set(records.loc[records["status"] == "ok", "seed"]) == {0, 2}


def test_a_killed_job_of_submitit_is_one_line(tiny_folder: Path, run_dir: Path) -> None:
    needs("hydra_submitit_launcher", "slurm")
    tiny = [*on_tiny(tiny_folder, run_dir), *PAIR, f"seed=[{','.join(map(str, range(24)))}]"]
    call = Call("run", *tiny, "sampling.max_batch=4", "shards=1", "hydra/launcher=submitit_local")
    waited(lambda: has_records(run_dir))
    [job] = processes("submitit.core._submit", str(run_dir))
    os.kill(job, signal.SIGKILL)
    code, out, err = call.ended()
    assert code == 1, out + err
    [line] = [line for line in err.splitlines() if line.startswith("error: ")]
    assert line.startswith("error: Job ")
    assert " has not produced any output (state: " in line
    assert line.endswith("`p2p-bench plan` with the same arguments tells what each shard has done")
    assert "Traceback" not in err


def processes(*words: str) -> list[int]:
    """Return the processes whose command line has all the words."""
    found = []
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):  # ended by now
            command = file.read_bytes().decode(errors="replace")
            found += [int(file.parent.name)] if all(word in command for word in words) else []
    return found
