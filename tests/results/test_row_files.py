"""Rows in files that are merged: whatever stops a writer, whoever merges beside it, each row is read once.

Kills are told apart by the operation on a file that they come before.
"""

import errno
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from results.store import records, row_files
from results.store.records import (
    METRICS,
    RECORDS,
    load,
    load_metrics,
    load_records,
    merge_rows,
    metric_files,
    metric_rows,
    record_files,
    record_rows,
    scored_keys,
    write_metrics,
    write_records,
)
from results.store.row_files import RowFiles, listed
from tests.results.test_records import METRIC, failed, file_of, rows, values

SHARES = tuple(np.linspace(0, 1, 12))


class Killed(BaseException):
    """Stands for SIGKILL: nothing of the writer's own runs after it."""


def group(tau: float) -> pd.DataFrame:
    return rows(float(tau)).assign(group=f"tau-{tau:.3f}")


def files(run_dir: Path) -> list[Path]:
    return sorted((run_dir / "records").glob("*.parquet"))


@contextmanager
def killed_before(count: int, patch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Let the operation number `count` on a file, and all after it, raise; yield those that were done."""
    done: list[str] = []

    def counted(name: str, original: Callable[..., object]) -> Callable[..., object]:
        def operation(*args: object, **kwargs: object) -> object:
            if len(done) >= count:
                raise Killed
            done.append(name)
            return original(*args, **kwargs)

        return operation

    with patch.context() as patched:
        for name in ("replace", "unlink"):
            patched.setattr(os, name, counted(name, getattr(os, name)))
            patched.setattr(Path, name, counted(name, getattr(Path, name)))
        yield done


def write_and_merge(run_dir: Path) -> None:
    with record_files(run_dir) as writer:
        for tau in SHARES[3:8]:
            writer.write(record_rows(group(tau)))
    merge_rows(run_dir)


@pytest.fixture
def merged_from_two(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(row_files, "MERGED_FROM", 2)


@pytest.mark.usefixtures("merged_from_two")
def test_a_kill_between_any_two_operations_loses_no_row_and_doubles_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    counts = []
    for count in range(100):
        run_dir = tmp_path / str(count)
        for tau in SHARES[:3]:
            write_records(run_dir, group(tau))
        with killed_before(count, monkeypatch) as done:
            try:
                write_and_merge(run_dir)
                break
            except Killed:
                pass
        loaded = load_records(run_dir)
        assert not loaded.duplicated(["key", "pair_id", "method"]).any()
        assert set(SHARES[:3]) <= set(loaded["tau"]) <= set(SHARES[:8])
        counts.append(len(loaded))
        write_and_merge(run_dir)  # the next call
        assert sorted(pd.read_parquet(run_dir / "records")["tau"]) == list(SHARES[:8])
    assert counts == sorted(counts)  # what was written once is there for good
    assert {"replace", "unlink"} == set(done)
    assert len(counts) == len(done) > 20


@pytest.mark.usefixtures("merged_from_two")
def test_writers_and_mergers_at_once_lose_no_row_and_readers_see_whole_files(tmp_path: Path) -> None:
    write_records(tmp_path, rows(0.55))
    shared = record_rows(rows(0.57).assign(group="shared"))  # a group that all of them make: the same rows
    problems: list[BaseException] = []

    def guarded(work: Callable[[], None]) -> Callable[[], None]:
        def run() -> None:
            try:
                work()
            except BaseException as problem:
                problems.append(problem)

        return run

    def write(taus: np.ndarray) -> None:
        with record_files(tmp_path) as writer:
            for tau in taus:
                writer.write(record_rows(group(tau)))
                writer.write(shared)
        merge_rows(tmp_path)

    def read() -> None:
        seen = 0
        while not done.is_set():
            seen, before = len(load(tmp_path)), seen
            assert seen >= before

    def tidy() -> None:
        while not done.is_set():
            merge_rows(tmp_path)

    done = threading.Event()
    others = [threading.Thread(target=guarded(work)) for work in (read, tidy, tidy)]
    shares = np.array(SHARES).reshape(4, 3)
    writers = [threading.Thread(target=guarded(lambda taus=taus: write(taus))) for taus in shares]  # type: ignore[misc]
    for thread in [*others, *writers]:
        thread.start()
    for thread in writers:
        thread.join()
    done.set()
    for thread in others:
        thread.join()
    assert not problems
    merge_rows(tmp_path)
    assert len(load_records(tmp_path)) == len(pd.read_parquet(tmp_path / "records")) == 14


def test_two_that_merge_the_same_files_at_once_leave_each_row_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for tau in SHARES[:4]:
        write_records(tmp_path, group(tau))
    put_together = row_files._put_together

    def second(*args: object) -> None:
        monkeypatch.setattr(row_files, "_put_together", put_together)
        merge_rows(tmp_path)  # another process, between this one's reading and its writing
        put_together(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(row_files, "_put_together", second)
    merge_rows(tmp_path)
    assert len(files(tmp_path)) == 1
    assert sorted(pd.read_parquet(tmp_path / "records")["tau"]) == list(SHARES[:4])


def test_a_reader_whose_files_are_gone_lists_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for tau in SHARES[:4]:
        write_records(tmp_path, group(tau))
    read = row_files.read_table

    def late(*args: object) -> object:
        monkeypatch.setattr(row_files, "read_table", read)
        merge_rows(tmp_path)
        return read(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(row_files, "read_table", late)
    assert len(load_records(tmp_path)) == 4


def test_what_is_scored_is_read_at_one_moment_while_others_write(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = list(rows(*SHARES[:3])["key"])
    write_metrics(tmp_path, METRIC, values(keys[:1], 0.5))
    read = records.read_newest

    def then_others_write(*args: object, **named: object) -> object:
        found = read(*args, **named)  # type: ignore[arg-type]
        write_metrics(tmp_path, METRIC, values(keys[1:], 0.5))
        return found

    monkeypatch.setattr(records, "read_newest", then_others_write)
    assert scored_keys(tmp_path, [[METRIC]]) == [(set(keys[:1]), True)]


def test_a_file_that_is_listed_and_cannot_be_found_is_an_error_and_no_endless_loop(tmp_path: Path) -> None:
    write_records(tmp_path, rows(0.2))
    (tmp_path / "records" / "b.parquet").symlink_to(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match="nowhere|b.parquet"):
        load_records(tmp_path)


def test_a_listing_that_a_merge_overtook_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A merged file came when its place in the folder was passed, and what it holds went before its own."""
    write_records(tmp_path, rows(0.2))
    glob, torn = Path.glob, [[]]
    monkeypatch.setattr(Path, "glob", lambda path, pattern: torn.pop() if torn else glob(path, pattern))
    assert listed(tmp_path / "records") == files(tmp_path)


def test_a_writer_of_many_groups_leaves_few_files_and_a_file_for_each_group_it_has_not_merged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(row_files, "MERGED_FROM", 5)
    counts = []
    with record_files(tmp_path) as writer:
        for tau in SHARES:
            writer.write(record_rows(group(tau)))
            counts.append(len(files(tmp_path)))
            assert len(load_records(tmp_path)) == len(counts)
    assert counts == [1, 2, 3, 4, 1, 2, 3, 4, 5, 2, 3, 4]
    assert len(files(tmp_path)) == 3
    merge_rows(tmp_path)
    assert len(files(tmp_path)) == 1
    assert len(load_records(tmp_path)) == 12


def test_a_stopped_writer_merges_nothing_on_its_way_out(tmp_path: Path) -> None:
    def stopped() -> None:
        with record_files(tmp_path) as writer:
            writer.write(record_rows(rows(0.2)))
            writer.write(record_rows(rows(0.4)))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stopped()
    assert len(files(tmp_path)) == len(load_records(tmp_path)) == 2


def test_a_later_writers_rows_are_newer_whatever_its_clock_says(tmp_path: Path) -> None:
    first = rows(0.2, 0.4)
    for seconds in (1.0, 2.0, 3.0):
        write_records(tmp_path, first.assign(seconds=seconds))
        merge_rows(tmp_path)
        write_records(tmp_path, failed(first))
        assert load_records(tmp_path)["seconds"].tolist() == [seconds] * 2
    assert [int(file.name.split("-")[0]) for file in files(tmp_path)] == [5, 6]


def test_writers_of_one_moment_have_files_of_their_own(tmp_path: Path) -> None:
    writers = [record_files(tmp_path), record_files(tmp_path)]
    for writer, tau in zip(writers, SHARES, strict=False):
        writer._number = 0
        writer.write(record_rows(group(tau)))
    assert len(files(tmp_path)) == len(load_records(tmp_path)) == 2


def test_a_folder_of_a_file_a_group_is_read_and_merged_when_it_is_written_to(tmp_path: Path) -> None:
    for tau in SHARES[:4]:
        folder = tmp_path / "records" if tau else tmp_path / "metrics" / METRIC
        table = record_rows(group(tau)) if tau else metric_rows(values(group(SHARES[1])["key"], 0.5), METRIC)
        path = RowFiles(folder, RECORDS if tau else METRICS).write(table)
        path.rename(path.with_name(f"tau-{tau:.3f}.parquet"))
    write_records(tmp_path, group(SHARES[1]).assign(seconds=9.0))
    assert sorted(load_records(tmp_path)["seconds"]) == [0.5, 0.5, 9.0]
    assert load(tmp_path)[METRIC].notna().sum() == 1
    merge_rows(tmp_path)
    assert len(files(tmp_path)) == 1
    assert sorted(pd.read_parquet(file_of(tmp_path))["seconds"]) == [0.5, 0.5, 9.0]


def test_metric_values_are_merged_by_family(tmp_path: Path) -> None:
    keys = rows(0.2, 0.4)["key"]
    for family in ("pie/structure@1", "toy@1"):
        write_metrics(tmp_path, family, values(keys, np.nan, "none").assign(metric=family))
        write_metrics(tmp_path, family, values(keys, 0.5).assign(metric=family))
    merge_rows(tmp_path)
    found = sorted(file.parent for file in tmp_path.rglob("*.parquet"))
    assert found == [tmp_path / "metrics" / family for family in ("pie/structure@1", "toy@1")]
    assert load_metrics(tmp_path)["value"].tolist() == [0.5] * 4


def test_a_merge_of_what_is_merged_writes_nothing(tmp_path: Path) -> None:
    write_and_merge(tmp_path)
    before = file_of(tmp_path).stat().st_mtime_ns
    merge_rows(tmp_path)
    assert file_of(tmp_path).stat().st_mtime_ns == before


def gathered(tau: float) -> pa.Table:
    return metric_rows(values(group(tau)["key"], tau), METRIC)


def test_rows_that_can_be_had_again_go_into_a_file_together_and_none_waits_for_ever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, now = tmp_path / "metrics" / METRIC, [0.0]
    monkeypatch.setattr(row_files, "GATHERED_ROWS", 3)
    monkeypatch.setattr(row_files.time, "monotonic", lambda: now[0])
    counts = []
    with metric_files(tmp_path, METRIC) as writer:
        for tau, seconds in zip(SHARES[:8], (0, 1, 2, 3, 14, 15, 16, 17), strict=True):
            now[0] = seconds
            writer.gather(gathered(tau))
            counts.append(len(load_metrics(tmp_path)))
    assert counts == [0, 0, 3, 3, 5, 5, 5, 8]
    assert len(listed(folder)) == 1
    assert len(load_metrics(tmp_path)) == 8


def test_what_was_gathered_is_written_where_a_call_is_broken_off(tmp_path: Path) -> None:
    def stopped() -> None:
        with metric_files(tmp_path, METRIC) as writer:
            writer.gather(gathered(0.2))
            writer.gather(gathered(0.4))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stopped()
    assert len(load_metrics(tmp_path)) == 2


def test_what_could_not_be_written_waits_for_a_disk_that_can(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(row_files, "GATHERED_ROWS", 1)
    with metric_files(tmp_path, METRIC) as writer:
        with monkeypatch.context() as patched:
            patched.setattr(row_files, "write_whole", full)
            with pytest.raises(OSError, match="No space left"):
                writer.gather(gathered(0.2))
        assert load_metrics(tmp_path).empty
        writer.gather(gathered(0.4))
        assert sorted(load_metrics(tmp_path)["value"]) == [0.2, 0.4]
