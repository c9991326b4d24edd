"""Units shared out among workers, on a stand-in for Ray whose calls are carried out where they are made."""

import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest

from evaluation.pixel import Pixel
from experiments.executors.on_ray import OnRay, signals_wait
from experiments.executors.ray_cluster import Cluster
from experiments.executors.ray_folder import RayFolder, short_folder
from experiments.executors.units import Unit
from experiments.executors.worker import Worker
from results.store.records import RECORD_IDENTITY, load_metrics, load_records
from tests.experiments.command import Cli

SEEDS = "seed=[0,1]"

pytestmark = pytest.mark.usefixtures("no_tables")


class RayError(Exception):
    """That a worker has ended."""


class RayTaskError(RayError):
    """That a worker's call has raised."""

    def __init__(self, cause: Exception) -> None:
        super().__init__(str(cause))
        self.cause = cause


@dataclass(eq=False)
class Ended:
    """A call, and what it has come to."""

    error: Exception | None
    value: Any = None


@dataclass
class Actor:
    """A worker in this process; `ends` says before which of its calls it ends."""

    worker: Any
    ends: Callable[[str, Any], bool]
    alive: bool = True

    def __getattr__(self, name: str) -> Any:
        return SimpleNamespace(remote=lambda *given: self._call(name, *given))

    def _call(self, name: str, *given: Any) -> Any:
        self.alive = self.alive and not self.ends(name, given)
        if not self.alive:
            return Ended(RayError("The actor is dead"))
        try:
            return Ended(None, getattr(self.worker, name)(*given))
        except Exception as error:
            return Ended(RayTaskError(error))


class Ray(SimpleNamespace):
    """As much of Ray as is used."""

    def __init__(self) -> None:
        super().__init__(exceptions=SimpleNamespace(RayError=RayError, RayTaskError=RayTaskError))
        self.actors: list[Actor] = []
        self.ends: Callable[[str, Any], bool] = lambda name, given: False

    def put(self, value: Any) -> Any:
        return value

    def remote(self, kind: type) -> Any:
        def made() -> Actor:
            self.actors.append(Actor(kind(), lambda name, given: self.ends(name, given)))
            return self.actors[-1]

        return SimpleNamespace(options=lambda **_: SimpleNamespace(remote=made))

    def wait(self, calls: list[Any], timeout: float) -> tuple[list[Any], list[Any]]:
        return calls, []

    def get(self, call: Any) -> Any:
        if call.error is not None:
            raise call.error
        return call.value

    def kill(self, actor: Actor) -> None:
        actor.alive = False

    def shutdown(self) -> None:
        pass


def devices(*always: bool) -> pytest.MarkDecorator:
    """Whether a worker's denoiser and metrics share their cores: cases that always run, the other slow."""
    cases = [
        pytest.param(shared, id=name, marks=() if shared in always else pytest.mark.slow)
        for shared, name in ((True, "one device"), (False, "two devices"))
    ]
    return pytest.mark.parametrize("ray", cases, indirect=True)


@pytest.fixture
def ray(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Ray]:
    """Ray with a place for two workers, whose denoiser and metrics share cores or do not (`devices`)."""
    made = Ray()
    monkeypatch.setitem(sys.modules, "ray", made)
    monkeypatch.setattr(OnRay, "check", lambda *_: None)
    monkeypatch.setattr(OnRay, "start", lambda *_: Cluster(2, {}, None))
    monkeypatch.setattr("experiments.executors.worker.same_cores", lambda _: request.param)
    made.beside = not request.param
    return made


def values(run_dir: Path) -> pd.DataFrame:
    return load_metrics(run_dir).sort_values(["key", "metric"], ignore_index=True)


def recorded(run_dir: Path) -> pd.DataFrame:
    records = load_records(run_dir).drop(columns="seconds")
    return records.sort_values(RECORD_IDENTITY, ignore_index=True)


@devices(True, False)
def test_workers_make_and_score_what_one_process_does(
    ray: Ray, cli: Cli, tiny: list[str], run_dir: Path, tmp_path: Path
) -> None:
    scored: list[str] = []

    def seen(name: str, given: Any) -> bool:
        scored.extend(given[0].made if name == "carry_out" else ())
        return False

    ray.ends = seen
    few = "sampling.max_batch=4"  # a unit for each seed
    assert cli("run", *tiny, SEEDS, few, "executor=ray") == 0
    assert len(ray.actors) == 2
    assert bool(scored) != ray.beside  # beside making, or afterwards
    here = tmp_path / "here"
    assert cli("run", *tiny, SEEDS, few, f"run_dir={here}") == 0
    pd.testing.assert_frame_equal(recorded(run_dir), recorded(here))
    pd.testing.assert_frame_equal(values(run_dir), values(here))


@devices(False)
def test_what_a_worker_had_not_scored_when_it_ended_is_scored_by_others(
    ray: Ray, cli: Cli, tiny: list[str], run_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Values wait to be written, and are lost with the first worker, which has made a unit."""
    monkeypatch.setattr("experiments.scoring.score_stream.ScoreStream._score", lambda _: None)
    ray.ends = lambda name, given: name == "end_scoring"
    assert cli("run", *tiny, SEEDS, "sampling.max_batch=4", "executor=ray") == 0
    assert len(ray.actors) == 4  # two more, as both ended
    assert set(load_metrics(run_dir)["key"]) == set(load_records(run_dir)["key"])


@devices(False)
def test_a_worker_that_cannot_load_by_the_time_of_scoring_leaves_it_to_the_others(
    ray: Ray, cli: Cli, tiny: list[str], run_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It starts for a unit to make, and is not needed for the one unit to score."""
    scored: list[str] = []

    def seen(name: str, given: Any) -> bool:
        scored.extend(given[0].made if name == "carry_out" else ())
        return False

    def loaded(self: Worker, work: Any) -> Any:
        if len(ray.actors) == 2:
            raise OSError("no weights on this node")
        return load(self, work)

    def late(calls: list[Any], timeout: float) -> tuple[list[Any], list[Any]]:
        return [call for call in calls if call.error is None or scored], []

    load, ray.ends, ray.wait = Worker.load, seen, late
    monkeypatch.setattr(Worker, "load", loaded)
    monkeypatch.setattr("experiments.scoring.score_stream.ScoreStream._score", lambda _: None)
    one_unit = "experiments.executors.ray_cluster.scoring_units"
    monkeypatch.setattr(one_unit, lambda todo, _: [Unit(made=tuple(todo[0]["group"].unique()))])
    assert cli("run", *tiny, SEEDS, "sampling.max_batch=4", "executor=ray") == 0
    assert len(ray.actors) == 2
    assert set(load_metrics(run_dir)["key"]) == set(load_records(run_dir)["key"])


@devices(False)
def test_a_worker_that_starts_to_score_loads_no_denoiser(
    ray: Ray, cli: Cli, tiny: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    to_make: list[int] = []

    def loaded(self: Worker, work: Any) -> Any:
        to_make.append(len(work.plan.groups))
        return load(self, work)

    load = Worker.load
    monkeypatch.setattr(Worker, "load", loaded)
    monkeypatch.setattr("experiments.scoring.score_stream.ScoreStream._score", lambda _: None)
    ray.ends = lambda name, given: name == "end_scoring"
    assert cli("run", *tiny, SEEDS, "sampling.max_batch=4", "executor=ray") == 0
    assert to_make == [2, 2, 0, 0]


@devices(True, False)
def test_a_unit_whose_worker_ended_is_made_by_another(
    ray: Ray, cli: Cli, tiny: list[str], run_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ended: list[Any] = []

    def once(name: str, given: Any) -> bool:
        if name == "carry_out" and not ended:
            ended.append(given[0])
            return True
        return False

    ray.ends = once
    assert cli("run", *tiny, SEEDS, "sampling.max_batch=4", "executor=ray") == 0
    assert "1 workers ended before their time" in capsys.readouterr().out
    assert set(load_records(run_dir)["status"]) == {"ok"}
    assert set(load_metrics(run_dir)["key"]) == set(load_records(run_dir)["key"])


@devices(True)
def test_a_group_that_cannot_be_scored_is_told_and_left(
    ray: Ray, cli: Cli, tiny: list[str], run_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(self: Pixel, edits: Any) -> Any:
        raise ValueError("no score today")

    with monkeypatch.context() as patch:
        patch.setattr(Pixel, "__call__", broken)
        assert cli("run", *tiny, SEEDS, "executor=ray") == 1
    assert load_metrics(run_dir).empty
    assert cli("run", *tiny, SEEDS, "executor=ray") == 0
    assert set(load_metrics(run_dir)["key"]) == set(load_records(run_dir)["key"])


@devices(True)
def test_the_end_of_scoring_raises_what_a_worker_met(ray: Ray, cli: Cli, tiny: list[str]) -> None:
    """Also a disk that is full, by which the call ends as it would in one process."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Worker, "end_scoring", lambda _: (_ for _ in ()).throw(OSError(28, "No space left")))
        assert cli("run", *tiny, SEEDS, "executor=ray") != 0


@devices(True)
def test_workers_end_where_the_folder_cannot_be_written_before_they_begin(
    ray: Ray, cli: Cli, tiny: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A multirun goes on in this process: its next job starts Ray again."""
    ended: list[bool] = []
    ray.shutdown = lambda: ended.append(True)
    full = OSError(28, "No space left on device")
    written = "experiments.running.provenance.write_provenance"
    monkeypatch.setattr(written, lambda *_: (_ for _ in ()).throw(full))
    assert cli("run", *tiny, "executor=ray") == 1
    assert ended
    assert not ray.actors


@devices(True)
@pytest.mark.parametrize("depth", [1, 2])
def test_a_signal_that_comes_as_a_system_error_stops_the_call(
    ray: Ray, cli: Cli, tiny: list[str], depth: int, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(*_: Any, **__: Any) -> Any:
        error: BaseException = KeyboardInterrupt()
        for _ in range(depth):
            told = SystemError("returned a result with an exception set")
            told.__cause__, error = error, told
        raise error

    ray.wait = interrupted
    assert cli("run", *tiny, "executor=ray") == 130
    assert capsys.readouterr().err.endswith("stopped; the same command continues where it stood\n")


@pytest.mark.parametrize(("count", "left"), [(1, 0), (2, 1)])
def test_a_signal_while_ray_starts_is_heard_when_it_has_started(count: int, left: int) -> None:
    """A handler that raised while Ray forks would not be heard; a second signal is heard at once."""
    steps, before = ["to start"], signal.default_int_handler
    found = signal.signal(signal.SIGINT, before)  # which a shell's background jobs are started without

    def start() -> None:
        with signals_wait():
            for _ in range(count):
                signal.raise_signal(signal.SIGINT)
            steps.clear()

    try:
        with pytest.raises(KeyboardInterrupt):
            start()
        assert len(steps) == left
        assert signal.getsignal(signal.SIGINT) is before
    finally:
        signal.signal(signal.SIGINT, found)


@pytest.mark.parametrize("code", [15, 1])
def test_what_ray_makes_of_a_sigterm_while_it_starts_is_a_stop(
    cli: Cli, tiny: list[str], code: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def ended(*_: Any) -> Any:
        with signals_wait():
            signal.signal(signal.SIGTERM, lambda *_: sys.exit(code))  # as Ray does
            signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr(OnRay, "check", lambda *_: None)
    monkeypatch.setattr(OnRay, "start", ended)
    assert cli("run", *tiny, "executor=ray") == 143
    assert capsys.readouterr().err.endswith("stopped; the same command continues where it stood\n")


def test_the_folder_of_a_killed_call_is_removed_by_the_next(tmp_path: Path) -> None:
    """That of a call which goes on stays, and one that nobody has locked yet."""
    code = (
        "import sys, time; from pathlib import Path; from experiments.executors.ray_folder import RayFolder\n"
        "own = RayFolder(Path(sys.argv[1])); print(own.path, flush=True); time.sleep(60)"
    )
    command = [sys.executable, "-c", code, str(tmp_path)]
    (starts := tmp_path / "p2p-ray-starts").mkdir()
    with (
        subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as first,
        subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as second,
    ):
        assert first.stdout
        assert second.stdout
        killed, goes_on = Path(first.stdout.readline().strip()), Path(second.stdout.readline().strip())
        first.kill()
        first.wait()
        assert killed.exists()
        own = RayFolder(tmp_path)
        assert {*tmp_path.iterdir()} == {goes_on, starts, own.path}
        own.remove()
        assert {*tmp_path.iterdir()} == {goes_on, starts}
        second.kill()


def test_ray_works_elsewhere_where_nothing_can_be_written_to_tmp(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in a container whose root is read-only."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    assert short_folder() == Path("/tmp")
    monkeypatch.setattr("os.access", lambda path, mode: str(path) != "/tmp")
    assert short_folder() == tmp_path


@devices(True)
def test_an_error_of_ray_s_own_is_not_taken_for_a_signal(ray: Ray, cli: Cli, tiny: list[str]) -> None:
    def broken(*_: Any, **__: Any) -> Any:
        raise SystemError("unknown opcode")

    ray.wait = broken
    with pytest.raises(SystemError, match="unknown opcode"):
        cli("run", *tiny, "executor=ray")
