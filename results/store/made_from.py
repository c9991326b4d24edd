"""What tables, plots and strips were made of: with equal rows and equal code there is nothing to redo."""

import hashlib
import importlib.metadata
import json
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import pandas as pd

from results.store.run_folder import RunFolder
from results.store.whole_files import write_whole

LIBRARIES = ("matplotlib", "numpy", "pandas", "pillow", "scipy")


def digest(frames: Sequence[pd.DataFrame], values: Sequence[Any]) -> str:
    """Return a hash of rows, of plain values, and of the code and the libraries that make tables of them."""
    made = hashlib.sha256(_code().encode())
    for frame in frames:
        made.update(frame.to_csv(index=False).encode("utf-8", "surrogatepass"))
    made.update(json.dumps(values, sort_keys=True, default=str).encode())
    return made.hexdigest()


def write(folder: RunFolder, inputs: str, paths: Sequence[Path]) -> None:
    """Keep what the files at `paths`, all inside the run folder, were made of."""
    names = sorted(path.relative_to(folder.root).as_posix() for path in paths)
    write_whole(folder.made_from, json.dumps({"inputs": inputs, "files": names}, indent=1) + "\n")


def kept(folder: RunFolder, inputs: str) -> tuple[Path, ...]:
    """Return the files that were made of equal inputs, () where they were not, or where one is gone."""
    try:
        before = json.loads(folder.made_from.read_text(encoding="utf-8"))
        files = tuple(folder.root / name for name in before["files"])
        return files if before["inputs"] == inputs and all(file.is_file() for file in files) else ()
    except (OSError, ValueError, KeyError, TypeError):
        return ()


@cache
def _code() -> str:
    """Return a hash of this package's sources and of the versions of the libraries that draw and count."""
    made = hashlib.sha256()
    for file in sorted(Path(__file__).parents[1].rglob("*.py")):
        made.update(file.read_bytes())
    made.update(repr([importlib.metadata.version(name) for name in LIBRARIES]).encode())
    return made.hexdigest()
