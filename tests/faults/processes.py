"""`p2p-bench` in processes of its own, which can be killed, and what a run folder holds in the end."""

import multiprocessing
import os
import random
import signal
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pandas as pd
import torch

import experiments.run
from results.store.check_run import DAMAGED, Call, RunCheck
from results.store.records import METRIC_IDENTITY, RECORD_IDENTITY, load_metrics, load_records

TIMES = int(os.environ.get("P2P_FAULTS", 0))
"""How many kills the whole tries; 0: the sample."""
SECONDS = 10.0
"""By when a signal has to have ended a run."""
_forks = multiprocessing.get_context("forkserver")
_forks.set_forkserver_preload(["tests.faults.preloaded"])


def times(share: float, sample: int) -> int:
    """Return how often a fault is tried: a share of what was asked for, or as often as in the sample."""
    return max(1, round(TIMES * share)) if TIMES else sample


@dataclass
class Running:
    """A call of `p2p-bench` that goes on."""

    process: Any
    output: Path

    def wait(self, seconds: float = 120.0) -> int:
        """Return the exit code; minus the number of the signal that killed it."""
        self.process.join(seconds)
        code = self.process.exitcode
        if code is None:
            self.process.kill()
            raise AssertionError(f"it goes on after {seconds} s: {self.told()}")
        return code

    def told(self) -> str:
        """Return what it printed so far."""
        return self.output.read_text(errors="replace")

    def send(self, number: int) -> None:
        """Send a signal, unless it has ended."""
        if self.process.exitcode is None:
            os.kill(self.process.pid, number)


def _call(arguments: Sequence[str], output: str, begun: Connection) -> None:
    file = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(file, 1)
    os.dup2(file, 2)
    sys.argv = ["p2p-bench", *arguments]
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # until the command has a handler of its own
    torch.set_num_threads(1)  # of several calls at once threads wait for each other
    begun.send(True)
    experiments.run.main()


def begin(output: Path, *arguments: str) -> Running:
    """Call `p2p-bench` in a process of its own; return once it has begun."""
    mine, its = _forks.Pipe()
    process = _forks.Process(target=_call, args=(arguments, str(output), its))
    process.start()
    assert mine.recv()
    return Running(process, output)


def wait_at_random(draw: random.Random, seconds: float, running: Running) -> None:
    """Wait for a time drawn evenly between nothing and `seconds`, at most until the call has ended."""
    running.process.join(draw.uniform(0, seconds))


def held(run_dir: Path) -> dict[str, Any]:
    """Return what a run folder holds, without times: records and values, each once, and pictures' bytes.

    AssertionError where a row is there twice.
    """
    raw = pd.read_parquet(run_dir / "records")
    records = load_records(run_dir).sort_values(RECORD_IDENTITY)
    assert len(raw) == len(records), "records are there twice"
    values = load_metrics(run_dir)
    files = sorted(run_dir.glob("metrics/**/*.parquet"))
    assert sum(len(pd.read_parquet(file)) for file in files) == len(values), "values are there twice"
    return {
        "records": records.drop(columns="seconds").to_csv(index=False),
        "values": values.sort_values(METRIC_IDENTITY).to_csv(index=False),
        "pictures": {
            file.relative_to(run_dir): file.read_bytes() for file in run_dir.rglob("images/**/*.png")
        },
        "main table": (run_dir / "tables" / "main.csv").read_bytes(),
    }


def assert_nothing_is_damaged(run_dir: Path) -> None:
    """Whatever ended a run: each file that is there is whole, though others may be missing."""
    if run_dir.exists():
        found = RunCheck(run_dir, [Call()]).findings()
        assert not [str(one) for one in found if one.kind == DAMAGED]


def partials(run_dir: Path) -> list[Path]:
    return sorted(run_dir.rglob("*.partial"))
