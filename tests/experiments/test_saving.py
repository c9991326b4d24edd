"""What is made is saved meanwhile: in order, never far behind, each picture before its record."""

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import experiments.running.generate
import experiments.running.saving
from experiments.running.saving import AHEAD
from results.store.records import load_records
from results.store.row_files import RowFiles
from tests.experiments.command import Cli

PATIENCE = 60.0  # seconds after which a test fails that would else wait for ever
ALONE = ("sampling.max_batch=2",)  # each group is a batch

pytestmark = pytest.mark.usefixtures("no_tables")


@pytest.fixture
def generate(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[list[int]], None]], list[list[int]]]:
    """Let a function see the seeds of each batch before it is made; returns all that were made."""

    def watched(look: Callable[[list[int]], None]) -> list[list[int]]:
        original, made = experiments.running.generate.generate, []

        def watching(model: Any, groups: Any, *given: Any) -> Any:
            made.append([group.seed for group in groups])
            look(made[-1])
            return original(model, groups, *given)

        monkeypatch.setattr(experiments.running.generate, "generate", watching)
        return made

    return watched


@pytest.fixture
def write(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[int], None]], list[int]]:
    """Let a function see the seed of each group before it is saved; returns all that were saved."""

    def watched(look: Callable[[int], None]) -> list[int]:
        original, saved = experiments.running.saving.write_pictures, []

        def watching(made: Any) -> Any:
            look(made.rows.group.seed)
            rows = original(made)
            saved.append(made.rows.group.seed)
            return rows

        monkeypatch.setattr(experiments.running.saving, "write_pictures", watching)
        return saved

    return watched


def test_the_next_batch_is_made_while_one_is_saved(
    cli: Cli, tiny: list[str], run_dir: Path, generate: Any, write: Any
) -> None:
    """Saving the first batch waits for the second one to begin, which without threads would be for ever."""
    second = threading.Event()
    generate(lambda seeds: second.set() if seeds == [1] else None)
    saved = write(lambda seed: None if second.wait(PATIENCE) else pytest.fail("no batch was begun meanwhile"))
    assert cli("run", *tiny, *ALONE, "seed=[0,1,2]") == 0
    assert saved == [0, 1, 2]
    assert set(load_records(run_dir)["status"]) == {"ok"}


def test_no_batch_is_made_where_saving_is_too_far_behind(
    cli: Cli, tiny: list[str], generate: Any, write: Any
) -> None:
    """The bound is reached, as the first batch is not saved before, and not exceeded while that goes on."""
    ahead: list[int] = []
    reached = threading.Event()

    def look(seeds: list[int]) -> None:
        ahead.append(seeds[0] - len(saved))
        if ahead[-1] == AHEAD:
            reached.set()

    def wait(seed: int) -> None:
        assert reached.wait(PATIENCE)
        if seed == 0:
            time.sleep(1)  # in which one more batch could begin

    generate(look)
    saved = write(wait)
    assert cli("run", *tiny, *ALONE, "seed=[0,1,2,3,4,5]") == 0
    assert max(ahead) == AHEAD
    assert saved == [0, 1, 2, 3, 4, 5]


def test_pictures_are_there_before_their_records(
    cli: Cli, tiny: list[str], run_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write, recorded = RowFiles.write, []

    def checked(files: RowFiles, rows: Any) -> Any:
        if files.folder.name == "records":
            recorded.extend((run_dir / image).is_file() for image in rows["image"].to_pylist())
        return write(files, rows)

    monkeypatch.setattr(RowFiles, "write", checked)
    assert cli("run", *tiny, "seed=[0,1]") == 0
    assert recorded == [True] * len(load_records(run_dir))


def test_a_group_that_cannot_be_saved_has_no_other_made_again(
    cli: Cli,
    tiny: list[str],
    run_dir: Path,
    generate: Any,
    write: Any,
    capsys: pytest.CaptureFixture[str],
) -> None:
    failing = iter([True])

    def fail_once(seed: int) -> None:
        if seed == 1 and next(failing, False):
            raise ValueError("no such colour")

    made, _ = generate(lambda seeds: None), write(fail_once)
    assert cli("run", *tiny, "seed=[0,1,2]") == 1
    assert made == [[0, 1, 2]]
    told = capsys.readouterr()
    [line] = [line for line in told.out.splitlines() if line.startswith("failed: ")]
    assert line == "failed: 'a cat on a bench', seed 1: ValueError: no such colour"
    assert "Traceback" not in told.out + told.err
    records = load_records(run_dir)
    failed = records[records["status"] == "failed"]
    assert set(failed["seed"]) == {1}
    assert set(failed["error"]) == {"ValueError: no such colour"}
    assert set(records.loc[records["status"] == "ok", "seed"]) == {0, 2}
    assert cli("run", *tiny, "seed=[0,1,2]") == 0
    assert made == [[0, 1, 2], [1]]


def test_a_stop_saves_what_is_in_hand_and_drops_what_waits(
    cli: Cli, tiny: list[str], run_dir: Path, generate: Any, write: Any
) -> None:
    """The first batch is being saved and the second one waits when the third one is interrupted."""
    stopping = threading.Event()

    def stop_at_two(seeds: list[int]) -> None:
        if seeds == [2] and not stopping.is_set():
            stopping.set()
            raise KeyboardInterrupt

    def wait(_: int) -> None:
        assert stopping.wait(PATIENCE)
        time.sleep(0.5)  # until what waits was dropped

    made, saved = generate(stop_at_two), write(wait)
    assert cli("run", *tiny, *ALONE, "seed=[0,1,2]") == 130
    assert saved == [0]
    records = load_records(run_dir)
    assert set(records["seed"]) == {0}
    assert set(records["status"]) == {"ok"}
    assert not list(run_dir.rglob("*.partial"))
    assert cli("run", *tiny, *ALONE, "seed=[0,1,2]") == 0
    assert made == [[0], [1], [2], [1], [2]]
