"""What the tests of the command line share: how it is called, and a run of one pair on the tiny pipeline."""

import shutil
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

import omegaconf.base
import pytest

import results.summary
from results.summary import Summary
from tests.experiments.command import PAIR, Cli, on_tiny, p2p_bench


@pytest.fixture(scope="session", autouse=True)
def _interpolations_are_parsed_once() -> Iterator[None]:
    """Keep what OmegaConf makes of `${...}`: the same ones in each configuration took a sixth of its time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(omegaconf.base, "parse", lru_cache(4096)(omegaconf.base.parse))
        yield


@pytest.fixture
def cli() -> Cli:
    """Call `p2p-bench` in this process; return its exit code."""
    return p2p_bench


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    return tmp_path / "run"


@pytest.fixture
def tiny_without_pair(tiny_folder: Path, run_dir: Path) -> list[str]:
    """Overrides for a run on the tiny pipeline, to which those of a data set are added."""
    return on_tiny(tiny_folder, run_dir)


@pytest.fixture
def tiny(tiny_without_pair: list[str]) -> list[str]:
    """Overrides for a run of one pair on the tiny pipeline."""
    return [*tiny_without_pair, *PAIR]


@pytest.fixture
def no_tables(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a run end with its records and values: tables, at which such a test does not look, are a third of
    its time.
    """
    monkeypatch.setattr(results.summary, "summarise", lambda *_, **__: Summary("", (), {}, {}, 0, 0))


@pytest.fixture(scope="session")
def complete_tiny_run(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run folder that `run` with the overrides of `tiny` leaves; read only."""
    run_dir = tmp_path_factory.mktemp("complete") / "run"
    assert p2p_bench("run", *on_tiny(tiny_folder, run_dir), *PAIR) == 0
    return run_dir


@pytest.fixture
def complete_run(complete_tiny_run: Path, run_dir: Path) -> Path:
    """A copy of that run, in the folder that `tiny` names."""
    return shutil.copytree(complete_tiny_run, run_dir)
