"""A file or a folder is there whole or not at all: after an error, beside another writer, for other users."""

import os
from pathlib import Path

import pandas as pd
import pytest

from results.store.whole_files import (
    check_writable,
    sweep_partials,
    whole_file,
    whole_folder,
    write_once,
    write_whole,
)


def stopped_halfway(path: Path) -> None:
    with whole_file(path) as partial:
        partial.write_text("half")
        raise KeyboardInterrupt


def folder_stopped_halfway(path: Path) -> None:
    with whole_folder(path) as partial:
        (partial / "deep").mkdir()
        (partial / "deep" / "file.txt").write_text("half")
        raise KeyboardInterrupt


def overtaken(path: Path) -> None:
    with whole_folder(path) as slow:
        (slow / "slow.txt").write_text("slow")
        with whole_folder(path) as quick:
            (quick / "quick.txt").write_text("quick")


@pytest.mark.parametrize("before", [None, "old"])
def test_a_body_that_raises_leaves_nothing_and_keeps_the_old_file(tmp_path: Path, before: str | None) -> None:
    path = tmp_path / "file.txt"
    if before is not None:
        path.write_text(before)
    with pytest.raises(KeyboardInterrupt):
        stopped_halfway(path)
    assert {file.name: file.read_text() for file in tmp_path.iterdir()} == (
        {} if before is None else {"file.txt": before}
    )


def test_a_body_that_writes_nothing_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), whole_file(tmp_path / "file.txt"):
        pass
    assert not list(tmp_path.iterdir())


def test_of_two_writers_of_a_file_the_last_to_finish_is_kept_whole(tmp_path: Path) -> None:
    path = tmp_path / "folder" / "file.txt"
    with whole_file(path) as first:
        first.write_text("first")
        with whole_file(path) as second:
            second.write_text("second")
        assert path.read_text() == "second"
    assert path.read_text() == "first"
    assert [file.name for file in path.parent.iterdir()] == ["file.txt"]


def test_what_is_being_written_is_no_part_of_its_folder(tmp_path: Path) -> None:
    pd.DataFrame({"a": [1]}).to_parquet(tmp_path / "one.parquet")
    with whole_file(tmp_path / "two.parquet") as partial:
        partial.write_bytes(b"PAR1 half a file")
        assert len(pd.read_parquet(tmp_path)) == len(list(tmp_path.glob("*.parquet"))) == 1
        pd.DataFrame({"a": [2]}).to_parquet(partial)
    assert len(pd.read_parquet(tmp_path)) == 2


def test_a_file_is_readable_by_all_whatever_the_umask(tmp_path: Path) -> None:
    before = os.umask(0o077)
    try:
        write_whole(tmp_path / "file.txt", "τ")
    finally:
        os.umask(before)
    assert (tmp_path / "file.txt").stat().st_mode & 0o777 == 0o644
    assert (tmp_path / "file.txt").read_bytes() == "τ".encode()


def test_a_folder_whose_body_raises_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        folder_stopped_halfway(tmp_path / "folder")
    assert not list(tmp_path.iterdir())


def test_of_two_writers_of_a_folder_the_first_to_finish_is_kept_whole(tmp_path: Path) -> None:
    path = tmp_path / "folder"
    with pytest.raises(FileExistsError, match="folder: is there already"):
        overtaken(path)
    assert [str(file.relative_to(tmp_path)) for file in sorted(tmp_path.rglob("*"))] == [
        "folder",
        "folder/quick.txt",
    ]


def test_of_two_writers_once_the_first_is_kept_and_both_are_told_so(tmp_path: Path) -> None:
    assert write_once(tmp_path / "a" / "file", b"first") == b"first"
    assert write_once(tmp_path / "a" / "file", b"second") == b"first"
    assert [file.read_bytes() for file in (tmp_path / "a").iterdir()] == [b"first"]


def test_without_hard_links_the_first_is_kept_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def none(*_: object) -> None:
        raise PermissionError("no hard links here")

    monkeypatch.setattr(Path, "hardlink_to", none)
    test_of_two_writers_once_the_first_is_kept_and_both_are_told_so(tmp_path)


def test_a_full_disk_names_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    for write in (write_whole, write_once):
        with pytest.raises(OSError, match=r"No space left on device: '.*file\.txt'"):
            write(tmp_path / "file.txt", b"content")
    with pytest.raises(OSError, match=r"run: cannot be written to \(No space left on device\)"):
        check_writable(tmp_path / "run")
    assert not [file for file in tmp_path.rglob("*") if file.is_file()]


def test_what_killed_writers_left_is_swept_once_no_writer_can_live(tmp_path: Path) -> None:
    with whole_file(tmp_path / "deep" / "living.txt") as living:
        living.write_text("half")
        old = living.with_name("provenance." + living.name.strip("."))
        for file in (old, tmp_path / "mine.partial"):
            file.write_text("half")
            os.utime(file, (0, 0))
        assert sweep_partials(tmp_path) == [old]
        assert living.exists()
    assert sorted(file.name for file in tmp_path.rglob("*") if file.is_file()) == [
        "living.txt",
        "mine.partial",
    ]
    assert sweep_partials(tmp_path / "nowhere") == []
