"""Files and folders that are there whole or not at all, whatever stops and whoever shares their writing."""

import errno
import os
import re
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

PARTIAL = re.compile(r".*[0-9a-f]{32}\.partial")
"""The names of files that are being written, or that a killed writer left."""
HOUR = 3600.0
_FILES = (
    *(".csv", ".html", ".jpg", ".json", ".md", ".parquet", ".pdf", ".png", ".safetensors", ".sha256"),
    *(".tex", ".webp"),
)
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Yield a path to write to, which takes the place of `path` at the end.

    Where the body raises, nothing of it stays, and an older file at `path` stays as it was. Of several
    writers the last one to finish is kept. The file is flushed to the disk first, and readable by all. Its
    folder is made where there is none. The path has another suffix than `path`: tell libraries the format.
    """
    with _replacing(path) as partial:
        yield partial
        with partial.open("rb") as written:
            _settle(written)


def write_whole(path: Path, content: str | bytes) -> None:
    """Write a file, text as UTF-8, whole or not at all."""
    with _replacing(path) as partial:
        _write_settled(partial, content.encode() if isinstance(content, str) else content)


def write_once(path: Path, content: bytes) -> bytes:
    """Write a file unless there is one by then, whole or not at all; return what is there in the end.

    Of several writers the first one to finish is kept, unlike those of `whole_file`. On a file system without
    hard links that holds for all but writers of the same moment.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = _beside(path)
    try:
        _write_settled(partial, content)
        try:
            path.hardlink_to(partial)
        except FileExistsError:
            return path.read_bytes()
        except OSError:
            if path.exists():
                return path.read_bytes()
            partial.replace(path)
        return content
    except BaseException as error:
        _name(error, path)
        raise
    finally:
        partial.unlink(missing_ok=True)


def no_room(error: BaseException) -> bool:
    """Say whether nothing more can be written: the disk or the quota is full, or the disk is read-only."""
    return isinstance(error, OSError) and error.errno in _NO_ROOM


def check_writable(folder: Path) -> None:
    """Make a folder and write a file in it for a moment. OSError names what is in the way, and what to do."""
    for above in (folder, *folder.parents):
        if above.exists():
            if not above.is_dir():
                raise NotADirectoryError(f"{above}: is a file, allowed is a folder; move it away")
            break
    try:
        write_whole(folder / ".written", b"0" * 65536)
        (folder / ".written").unlink(missing_ok=True)
    except OSError as error:
        cause = error.strerror or str(error)
        raise OSError(f"{folder}: cannot be written to ({cause}); free space or choose another") from error


def check_files(folder: Path) -> None:
    """Raise IsADirectoryError where below a folder another one has the name of a file, by its suffix."""
    for above, folders, _ in os.walk(folder):
        for name in sorted(folders):
            if Path(name).suffix in _FILES:
                raise IsADirectoryError(f"{Path(above, name)}: is a folder, allowed is a file; move it away")


def sweep_partials(folder: Path, older_than: float = HOUR) -> list[Path]:
    """Remove files below a folder that a killed writer left half written; return their paths.

    A file that was changed within `older_than` seconds stays, as its writer may live, on whatever machine.
    Ages are by the clock of the folder's own file system, as machines' clocks differ.
    """
    if not folder.is_dir():
        return []
    found = [file for file in folder.rglob("*.partial") if PARTIAL.fullmatch(file.name) and file.is_file()]
    if not found:
        return []
    with whole_file(folder / ".now") as partial:
        partial.touch()
        now = partial.stat().st_mtime
    (folder / ".now").unlink(missing_ok=True)
    swept = []
    for file in found:
        try:
            if now - file.stat().st_mtime > older_than:
                file.unlink()
                swept.append(file)
        except FileNotFoundError:  # its writer lived, or another worker swept it
            continue
    return swept


def framed_size(file: Path | str, begin: bytes, end: bytes) -> int:
    """Return the size in bytes of a file that begins and ends so, as whole ones of its format do, else 0."""
    try:
        content = os.open(file, os.O_RDONLY | getattr(os, "O_BINARY", 0))  # half the time of a file object
        try:
            first = os.read(content, len(begin))
            size = os.lseek(content, -len(end), os.SEEK_END) + len(end)
            last = os.read(content, len(end))
        finally:
            os.close(content)
    except OSError:  # also where it is shorter
        return 0
    return size if first == begin and last == end and size >= len(begin) + len(end) else 0


def set_aside(file: Path) -> Path:
    """Rename a damaged file so that nothing reads it, and return its new path, `_NAME.damaged` beside it."""
    aside = file.with_name(f"_{file.name}.damaged")
    file.replace(aside)
    return aside


@contextmanager
def whole_folder(path: Path) -> Iterator[Path]:
    """Yield an empty folder to fill, which becomes `path` at the end.

    Where the body raises, nothing of it stays. FileExistsError where `path` holds something by then: of
    several writers the first one to finish is kept. Unlike `whole_file` it flushes nothing to the disk.
    """
    partial = _beside(path)
    partial.mkdir(parents=True)
    try:
        yield partial
        try:
            partial.replace(path)
        except OSError as error:  # which one depends on the file system
            if path.exists():
                raise FileExistsError(f"{path}: is there already") from error
            raise
    except BaseException:
        shutil.rmtree(partial)
        raise


@contextmanager
def _replacing(path: Path) -> Iterator[Path]:
    """Yield a path beside `path` to write a settled file to, which takes its place at the end."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = _beside(path)
    try:
        yield partial
        partial.replace(path)
    except BaseException as error:
        partial.unlink(missing_ok=True)
        _name(error, path)
        raise


def _write_settled(partial: Path, content: bytes) -> None:
    """Write a new file and settle it; opening it again to do so cost a third of the time."""
    with partial.open("wb") as writing:
        writing.write(content)
        writing.flush()
        _settle(writing)


def _settle(written: IO[bytes]) -> None:
    """Flush a written file to the disk and make it readable by all."""
    os.fsync(written.fileno())
    os.chmod(written.name, 0o644)  # a stricter umask would shut out the workers of other users


def _name(error: BaseException, path: Path) -> None:
    """Let an error of the operating system say which file it is about, where it does not."""
    if isinstance(error, OSError) and error.errno is not None and error.filename is None:
        error.filename = str(path)


def _beside(path: Path) -> Path:
    """Return a new name in the folder of `path`.

    A leading dot: neither pandas nor pyarrow reads such a file as part of its folder. No parquet suffix: a
    pattern such as *.parquet matches names with a dot too.
    """
    return path.with_name(f".{uuid.uuid4().hex}.partial")
