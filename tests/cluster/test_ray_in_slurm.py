"""Ray inside a job of a real SLURM: started by the call itself, and before it by `ray symmetric-run`."""

import os
import shlex
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.cluster.conftest import ROOT
from tests.cluster.single_node import Slurm, free_port
from tests.cluster.test_ray import HERE, all_there, pixels, run, tiny

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("slurm")]
SEEDS = range(4)
P2P_BENCH = [sys.executable, "-c", "from experiments.run import main; main()"]


def carried_out(slurm: Slurm, folder: Path, *commands: Sequence[str]) -> str:
    """Carry out commands, one after the other, as a job of one CPU; return what they print."""
    pytest.importorskip("ray", reason="needs the extra ray: pip install -e .[ray]")
    script, log = folder / "job.sh", folder / "job.log"
    found = f"{Path(sys.executable).parent}:{os.environ['PATH']}"  # symmetric-run calls `ray` by its name
    variables = {**HERE, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "PATH": found}
    set_up = [f"export {name}={shlex.quote(value)}" for name, value in variables.items()]
    script.write_text("\n".join(["#!/bin/bash", "set -e", *set_up, *map(shlex.join, commands), ""]))
    job = ["sbatch", "--wait", "--cpus-per-task=1", f"--chdir={ROOT}", f"--output={log}", str(script)]
    done = subprocess.run(job, env=slurm.environment, capture_output=True, text=True, timeout=400)
    printed = log.read_text() if log.exists() else ""
    assert done.returncode == 0, done.stderr + printed
    return printed


def test_a_call_inside_a_job_has_the_jobs_processors(
    slurm_node: Slurm, tiny_folder: Path, tmp_path: Path
) -> None:
    here, in_job = tmp_path / "here", tmp_path / "in_job"
    code, out, err = run(*tiny(tiny_folder, here, SEEDS)).ended()
    assert code == 0, out + err
    on_ray = [*tiny(tiny_folder, in_job, SEEDS), "executor=ray"]
    commands = ([*P2P_BENCH, "plan", *on_ray], [*P2P_BENCH, "run", *on_ray])
    assert "Ray on this machine, workers: 1," in carried_out(slurm_node, tmp_path, *commands)
    all_there(in_job, SEEDS)
    assert pixels(in_job) == pixels(here)


def test_a_call_finds_the_ray_that_symmetric_run_started(
    slurm_node: Slurm, tiny_folder: Path, run_dir: Path
) -> None:
    ray = str(Path(sys.executable).with_name("ray"))
    start = ["srun", "--ntasks-per-node=1", ray, "symmetric-run", f"--address=127.0.0.1:{free_port()}"]
    start += ["--min-nodes=1", "--num-cpus=1", "--"]
    call = [*P2P_BENCH, "run", *tiny(tiny_folder, run_dir, SEEDS), "executor=ray", "executor.address=auto"]
    carried_out(slurm_node, run_dir.parent, [*start, *call])
    all_there(run_dir, SEEDS)
