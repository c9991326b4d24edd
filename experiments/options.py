"""The choices of every group of the configuration, as `p2p-bench ls` lists them."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from pathlib import Path

from experiments.config_keys import CONF

GROUPS = (
    "experiment",
    "model",
    "dataset",
    "inversion",
    "method",
    "grid",
    "metrics",
    "executor",
    "tracking",
)


def list_options(arguments: Sequence[str] = ()) -> str:
    """Return every option of every config group with the notes at the head of its file.

    Those of `--config-dir FOLDER` come with the others. Raises ValueError for any other argument.
    """
    lines = []
    for group in GROUPS:
        lines.append(f"{group}:")
        for file in sorted(
            options_of(group, [CONF, *_config_folders(arguments)]), key=lambda file: file.stem
        ):
            first, *more = notes_of(file) or [""]
            lines.append(f"  {file.stem:20} {first}")
            lines += [f"  {'':20} {note}" for note in more if group == "metrics"]
    return "\n".join(lines)


def _config_folders(arguments: Sequence[str]) -> list[Path]:
    """Return the folder that `--config-dir` names, Hydra's flag, if it is given."""
    rest = [part for argument in arguments for part in argument.split("=", 1)]
    if not rest:
        return []
    if len(rest) != 2 or rest[0] not in ("--config-dir", "-cd"):
        raise ValueError(f"ls: {' '.join(arguments)!r}: allowed are --config-dir FOLDER, or run folders")
    if not Path(rest[1]).is_dir():
        raise ValueError(f"--config-dir: there is no folder {rest[1]!r}")
    return [Path(rest[1])]


def options_of(group: str, folders: Iterable[Path]) -> list[Path]:
    """Return the files of a group's options; of two of one name the first folder's."""
    found: dict[str, Path] = {}
    for folder in folders:
        for file in (folder / group).glob("*.yaml"):
            found.setdefault(file.stem, file)
    return list(found.values())


def notes_of(file: Path) -> list[str]:
    """Return the comments that a file of the configuration begins with."""
    comments = itertools.takewhile(lambda line: line.startswith("#"), file.read_text().splitlines())
    return [line[1:].strip() for line in comments if "@package" not in line]
