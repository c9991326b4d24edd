"""Files and folders that are there whole or not at all, whatever stops and whoever shares their writing."""

import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Yield a path to write to, which takes the place of `path` at the end.

    Where the body raises, nothing of it stays, and an older file at `path` stays as it was. Of several
    writers the last one to finish is kept. The file is flushed to the disk first, and readable by all. Its
    folder is made where there is none. The path has another suffix than `path`: tell libraries the format.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = _beside(path)
    try:
        yield partial
        with partial.open("rb") as written:
            os.fsync(written.fileno())
        partial.chmod(0o644)  # a stricter umask would shut out the workers of other users
        partial.replace(path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def write_whole(path: Path, text: str) -> None:
    """Write a text file as UTF-8, whole or not at all."""
    with whole_file(path) as partial:
        partial.write_text(text, encoding="utf-8")


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


def _beside(path: Path) -> Path:
    """Return a new name in the folder of `path`.

    A leading dot: neither pandas nor pyarrow reads such a file as part of its folder. No parquet suffix: a
    pattern such as *.parquet matches names with a dot too.
    """
    return path.with_name(f".{uuid.uuid4().hex}.partial")
