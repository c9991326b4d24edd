"""Runs that faults are done to, the one that is left alone, and the table of what came of all faults."""

import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.faults.processes import TIMES, begin, held

Told = Callable[[str, int, str], None]


@dataclass(frozen=True)
class Undisturbed:
    """A sweep that nothing happened to: its command, what it left, and how long it took in seconds."""

    command: tuple[str, ...]
    held: dict[str, Any]
    seconds: float

    def into(self, run_dir: Path, *more: str) -> tuple[str, ...]:
        """Return the same command for another run folder."""
        return (*self.command, f"run_dir={run_dir}", *more)

    def assert_resumes(self, run_dir: Path) -> None:
        """Call the command for a folder, and compare what it holds then with what this run left."""
        running = begin(run_dir.with_name(f"{run_dir.name}-told"), *self.into(run_dir))
        assert running.wait() == 0, running.told()
        self.assert_equal(run_dir)

    def assert_equal(self, run_dir: Path) -> None:
        """Compare what a folder holds with what this run left."""
        found = held(run_dir)
        for name, content in self.held.items():
            assert found[name] == content, name


@pytest.fixture(scope="session")
def undisturbed(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Undisturbed:
    """A sweep on the tiny pipeline, a group a batch, so that roundings do not depend on what is left."""
    command = (
        *("run", "model=folder", f"model.path={tiny_folder}", "model.self_max_side=16", "device=cpu"),
        *("sampling.num_inference_steps=3", "sampling.max_batch=8", "grid=trade_off"),
        *("grid.methods.p2p.tau=[0,0.5,1]", "grid.methods.sdedit.strength=[0.5]", "metrics=pixel"),
        *("plots=false", f"report={bool(TIMES)}", f"dataset.limit={5 if TIMES else 1}", "seed=[0,1]"),
    )
    folder = tmp_path_factory.mktemp("undisturbed")
    running = begin(folder / "told", *command, f"run_dir={folder / 'run'}")
    began = time.monotonic()
    assert running.wait() == 0, running.told()
    return Undisturbed(command, held(folder / "run"), time.monotonic() - began)


@pytest.fixture
def draw(request: pytest.FixtureRequest) -> random.Random:
    """Draws of a test: the same each time."""
    return random.Random(request.node.nodeid)


@pytest.fixture
def told(record_property: Callable[[str, object], None]) -> Told:
    """Note a line of the table: a fault, how often it was done, and what came of it."""
    return lambda fault, times, outcome: record_property("fault", (fault, times, outcome))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    reports = [one for key in ("passed", "failed") for one in terminalreporter.stats.get(key, [])]
    lines = [value for one in reports for name, value in one.user_properties if name == "fault"]
    if TIMES and lines:
        terminalreporter.section("faults")
        for fault, times, outcome in lines:
            terminalreporter.write_line(f"{fault:58} {times:5}  {outcome}")
