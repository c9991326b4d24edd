"""What stops a run, or a part of it: one line says so, nothing half written stays, the next call goes on."""

import errno
import os
import re
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

import pytest

import experiments.running.generate
import experiments.running.saving
import results.store.whole_files
from p2p import ModelSpec
from results.store.records import load_records
from tests.experiments.command import Cli


def killed_while_writing(halfway: Any, patch: pytest.MonkeyPatch) -> Any:
    """Return the engine's `generate`, after which `halfway` is called within each file's writing."""
    generate, settle = experiments.running.generate.generate, results.store.whole_files._settle

    def settle_later(written: IO[bytes]) -> None:
        halfway()
        settle(written)

    def made(*given: Any) -> Any:
        patch.setattr(results.store.whole_files, "_settle", settle_later)
        return generate(*given)

    return made


def signals_once(number: int) -> Callable[[], None]:
    """Return what sends the process a signal at its first call, and gives the main thread time to see it."""
    first = iter([True])

    def halfway() -> None:
        if next(first, False):
            os.kill(os.getpid(), number)
            time.sleep(0.5)

    return halfway


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_a_run_in_one_line(
    number: int,
    code: int,
    cli: Cli,
    tiny: list[str],
    run_dir: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    halfway = signals_once(number)
    before = signal.getsignal(signal.SIGTERM)
    # What a shell without job control starts in the background ignores Ctrl-C, and so did these tests.
    interrupt = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with monkeypatch.context() as patch:
            patch.setattr(experiments.running.generate, "generate", killed_while_writing(halfway, patch))
            assert cli("run", *tiny) == code
    finally:
        signal.signal(signal.SIGINT, interrupt)
    err = capsys.readouterr().err
    assert "stopped; the same command continues where it stood" in err
    assert "Traceback" not in err
    assert not list(run_dir.rglob("*.partial"))
    assert signal.getsignal(signal.SIGTERM) == before


@pytest.mark.parametrize(
    ("number", "multirun"),
    [
        (signal.SIGUSR1, ["-m"]),
        (signal.SIGUSR2, []),
        pytest.param(signal.SIGUSR1, [], marks=pytest.mark.slow),
        pytest.param(signal.SIGUSR2, ["-m"], marks=pytest.mark.slow),
    ],
)
def test_the_signal_of_a_time_limit_ends_a_job_and_fails_no_group(
    number: int,
    multirun: list[str],
    cli: Cli,
    tiny: list[str],
    run_dir: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(*_: Any) -> None:  # as submitit does where no retry is left
        raise RuntimeError("timed-out too many times")

    halfway = signals_once(number)
    before = signal.signal(number, refuse)
    try:
        with monkeypatch.context() as patch:
            patch.setattr(experiments.running.generate, "generate", killed_while_writing(halfway, patch))
            assert cli("run", *multirun, *tiny, "seed=[0,1]") == 1
        assert signal.getsignal(number) is refuse
    finally:
        signal.signal(number, before)
    told = capsys.readouterr()
    assert "error: stopped by the signal of a time limit (timed-out too many times); the same" in told.err
    assert "Traceback" not in told.err + told.out
    records = load_records(run_dir)  # what was made is kept
    assert set(records["status"]) == {"ok"}
    assert all((run_dir / image).exists() for image in records["image"])
    assert not list(run_dir.rglob("*.partial"))
    assert not (run_dir / "tables").exists()
    assert cli("run", *tiny, "seed=[0,1]") == 0


@pytest.mark.parametrize(
    "number",
    [errno.ENOSPC, *(pytest.param(n, marks=pytest.mark.slow) for n in (errno.EROFS, errno.EDQUOT))],
)
@pytest.mark.usefixtures("no_tables")
def test_a_full_disk_stops_the_run_in_one_line_and_the_next_call_goes_on(
    number: int,
    cli: Cli,
    tiny: list[str],
    run_dir: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def full() -> None:
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patch:
        patch.setattr(experiments.running.generate, "generate", killed_while_writing(full, patch))
        assert cli("run", *tiny, "seed=[0,1]", "sampling.max_batch=4") == 1
    told = capsys.readouterr()
    [line] = [line for line in told.err.splitlines() if "error: " in line]
    assert os.strerror(number) in line
    assert str(run_dir / "images") in line
    assert "the same command continues where it stood" in line
    assert "Traceback" not in told.err + told.out
    assert not list(run_dir.rglob("*.partial"))
    assert cli("run", *tiny, "seed=[0,1]") == 0
    assert set(load_records(run_dir)["status"]) == {"ok"}


@pytest.mark.usefixtures("no_tables")
def test_each_failure_is_one_line_and_an_error_without_a_text_names_its_line(
    cli: Cli,
    tiny: list[str],
    run_dir: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(*_: Any) -> None:
        raise AssertionError

    with monkeypatch.context() as patch:
        patch.setattr(experiments.running.generate, "generate", fail)
        assert cli("run", *tiny, "seed=[0,1]") == 1
    told = capsys.readouterr()
    failures = [line for line in told.out.splitlines() if line.startswith("failed: ")]
    cause = "AssertionError: raise AssertionError (test_run_stops.py, line"
    assert [cause in line for line in failures] == [True, True]
    assert "Traceback" not in told.out + told.err
    assert all(cause in error for error in load_records(run_dir)["error"])


def test_a_group_that_cannot_be_recorded_does_not_stop_the_others(
    cli: Cli,
    tiny: list[str],
    run_dir: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    checked = experiments.running.saving.record_rows

    def refuse_seed_one(rows: Any) -> Any:
        if rows[0]["seed"] == 1:
            "\ud800".encode()
        return checked(rows)

    monkeypatch.setattr(experiments.running.saving, "record_rows", refuse_seed_one)
    assert cli("run", *tiny, "seed=[0,1,2]") == 1
    records = load_records(run_dir)
    assert set(records["seed"]) == {0, 2}
    assert set(records["status"]) == {"ok"}
    told = capsys.readouterr().out
    assert "its failure could not be recorded: UnicodeEncodeError" in told
    assert "10 of 15 images are there" in (run_dir / "tables" / "summary.md").read_text()


DAMAGES = {
    "provenance.json": b"{}",
    "provenance/*.json": b"",
    "records/*.parquet": b"PAR1 half",
    "settings/*.parquet": b"",
    "metrics/pixel@3/*.parquet": b"",
    "metrics/pixel@3/columns.json": b"{",
    "metrics/pixel@3/weights.sha256": b"",
    "tables/made_from.json": b"{",
}


LIKE = ("provenance/*.json", "metrics/pixel@3/columns.json")  # damage that others stand for


@pytest.mark.parametrize(
    "damaged", [pytest.param(one, marks=pytest.mark.slow) if one in LIKE else one for one in DAMAGES]
)
def test_a_damaged_file_is_told_and_what_it_held_is_there_again(
    damaged: str, cli: Cli, tiny: list[str], complete_run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = (complete_run / "tables" / "main.csv").read_bytes()
    weights = (complete_run / "metrics" / "pixel@3" / "weights.sha256").read_bytes()
    for file in list(complete_run.glob(damaged)) or [complete_run / damaged]:
        file.write_bytes(DAMAGES[damaged])
    assert cli("run", *tiny) == 0
    assert "Traceback" not in "".join(capsys.readouterr())
    assert (complete_run / "tables" / "main.csv").read_bytes() == table
    assert (complete_run / "metrics" / "pixel@3" / "weights.sha256").read_bytes() == weights
    assert "higher_is_better" in (complete_run / "metrics" / "pixel@3" / "columns.json").read_text()
    capsys.readouterr()
    assert cli("run", *tiny) == 0
    assert not re.search("damaged[,;]|left out", "".join(capsys.readouterr()))


def test_missing_weights_of_values_are_told_and_written(
    cli: Cli, tiny: list[str], complete_run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = complete_run / "metrics" / "pixel@3" / "weights.sha256"
    before = file.read_bytes()
    file.unlink()
    assert cli("run", *tiny) == 0
    assert f"{file}: missing or damaged" in capsys.readouterr().out
    assert file.read_bytes() == before


@pytest.mark.parametrize("in_the_way", ["", "tables", "records", "images", "provenance"])
def test_a_file_in_the_way_is_told_before_a_model_is_loaded(
    in_the_way: str,
    cli: Cli,
    tiny: list[str],
    run_dir: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (run_dir / in_the_way).parent.mkdir(parents=True, exist_ok=True)
    (run_dir / in_the_way).write_text("")
    monkeypatch.setattr(ModelSpec, "load", lambda _: pytest.fail("the model was loaded"))
    assert cli("run", *tiny) == 2
    [line] = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert str(run_dir / in_the_way) in line
