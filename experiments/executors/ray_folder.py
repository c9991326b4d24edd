"""The folder in which a Ray of this machine works; those of calls that were killed are removed."""

from __future__ import annotations

import contextlib
import os
import shutil
from pathlib import Path
from tempfile import gettempdir, mkdtemp
from typing import IO

PREFIX = "p2p-ray-"


def short_folder() -> Path:
    """Return /tmp where one can write to it, whatever TMPDIR says, as its path is short; else TMPDIR's."""
    return Path("/tmp" if os.access("/tmp", os.W_OK | os.X_OK) else gettempdir())


class RayFolder:
    """A new folder in `parent`, whose path is short: that of a socket in it has at most 107 letters.

    A lock in it, which ends with this process however that ends, tells other calls that it is in use.
    """

    def __init__(self, parent: Path) -> None:
        for left in parent.glob(f"{PREFIX}*"):
            if not _in_use(left):
                shutil.rmtree(left, ignore_errors=True)
        self.path = Path(mkdtemp(prefix=PREFIX, dir=parent))
        self._lock = (self.path / "starts").open("w", encoding="utf-8")
        _lock(self._lock)
        (self.path / "starts").rename(self.path / "in_use")  # a lock from when it is seen

    def remove(self) -> None:
        """Remove the folder and what is in it."""
        shutil.rmtree(self.path, ignore_errors=True)
        self._lock.close()


def _in_use(folder: Path) -> bool:
    """Say whether a call uses a folder, or may: of one without a lock, or of another user, nobody knows."""
    try:
        with (folder / "in_use").open(encoding="utf-8") as file:
            return not _lock(file)
    except OSError:
        return True


def _lock(file: IO[str]) -> bool:
    """Lock a file; return False where another process has it, or where there are no such locks."""
    with contextlib.suppress(ImportError, OSError):
        import fcntl

        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return True
    return False
