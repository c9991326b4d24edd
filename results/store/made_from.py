"""What tables, plots and strips were made of: with equal rows and equal code there is nothing to redo."""

import hashlib
import importlib.metadata
import json
from collections.abc import Sequence
from functools import cache
from pathlib import Path, PurePosixPath
from typing import Any

import pandas as pd
import pyarrow as pa

from results.store.run_folder import RunFolder
from results.store.whole_files import write_whole

LIBRARIES = ("matplotlib", "numpy", "pandas", "pillow", "scipy")


def digest(frames: Sequence[pd.DataFrame], values: Sequence[Any]) -> str:
    """Return a hash of rows, of plain values, and of the code and the libraries that make tables of them."""
    made = hashlib.sha256(_code().encode())
    for frame in frames:
        for name, column in frame.items():
            # Text as CSV took longer than all tables of a large run.
            rows = pa.array(column)
            whole = rows.combine_chunks() if isinstance(rows, pa.ChunkedArray) else rows
            made.update(f"{name} {column.dtype}".encode())
            made.update(pa.record_batch([whole], ["rows"]).serialize())
    made.update(json.dumps(values, sort_keys=True, default=str).encode())
    return made.hexdigest()


def write(folder: RunFolder, inputs: str, paths: Sequence[Path], earlier: Sequence[Path] = ()) -> None:
    """Keep what the files at `paths`, all inside the run folder, were made of.

    `earlier` are drawings of a call before this one that still lie there.
    """
    files = {path.relative_to(folder.root).as_posix(): _content(path) for path in sorted(paths)}
    left = sorted(path.relative_to(folder.root).as_posix() for path in earlier)
    told = {"inputs": inputs, "files": files, "earlier": left}
    write_whole(folder.made_from, json.dumps(told, indent=1) + "\n")


def written(folder: RunFolder) -> list[Path]:
    """Return the tables, plots and strips that calls before this one wrote; [] where that is not known."""
    try:
        told = json.loads(folder.made_from.read_text(encoding="utf-8"))
        names = [PurePosixPath(name) for name in [*told["files"], *told.get("earlier", ())]]
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return []
    of = {folder.tables.name, folder.plots.name, folder.strips.name}
    return [folder.root / name for name in names if len(name.parts) == 2 and name.parts[0] in of]


def stamp(folder: RunFolder) -> str:
    """Return the hash of what the tables were made of; "" where that is not known."""
    try:
        return str(json.loads(folder.made_from.read_text(encoding="utf-8"))["inputs"])
    except (OSError, ValueError, KeyError, TypeError):
        return ""


def kept(folder: RunFolder, inputs: str) -> tuple[Path, ...]:
    """Return the files that were made of equal inputs; () where they were not, or one is gone or changed."""
    try:
        before = json.loads(folder.made_from.read_text(encoding="utf-8"))
        if before["inputs"] != inputs:
            return ()
        files = {folder.root / name: content for name, content in before["files"].items()}
        return tuple(files) if all(_content(file) == content for file, content in files.items()) else ()
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return ()


def _content(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


@cache
def _code() -> str:
    """Return a hash of this package's files and of the versions of the libraries that draw and count.

    Published numbers and the report's template, scripts and styles are files of the package too.
    """
    made = hashlib.sha256()
    for file in sorted(Path(__file__).parents[1].rglob("*")):
        if file.is_file() and "__pycache__" not in file.parts:
            made.update(file.read_bytes())
    made.update(repr([importlib.metadata.version(name) for name in LIBRARIES]).encode())
    return made.hexdigest()
