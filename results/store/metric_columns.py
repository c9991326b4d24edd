"""What is known of a metric's columns, kept beside their values: whether higher is better."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from results.store.run_folder import RunFolder
from results.store.whole_files import write_whole


def write_columns(
    run_dir: Path, family: str, names: Sequence[str], higher_is_better: Mapping[str, bool]
) -> None:
    """Keep the columns of a metric family; one that `higher_is_better` lacks has no better direction."""
    columns = {name: {"higher_is_better": higher_is_better.get(name)} for name in names}
    file, text = RunFolder(run_dir).columns_file(family), json.dumps(columns, indent=1)
    if not file.exists() or file.read_bytes() != text.encode():
        write_whole(file, text)


def family_columns(run_dir: Path, family: str) -> set[str]:
    """Return the columns of one metric family of a run; empty where that was not kept."""
    file = RunFolder(run_dir).columns_file(family)
    return {str(name) for name in json.loads(file.read_text(encoding="utf-8"))} if file.exists() else set()


def load_columns(run_dir: Path) -> dict[str, bool | None]:
    """Return for each column, of all families of a run, whether higher is better; None where neither is.

    A column that was scored before this was kept is not there. ValueError names a file that does not say so.
    """
    directions: dict[str, bool | None] = {}
    for file in sorted(RunFolder(run_dir).metrics.rglob(RunFolder(run_dir).columns_file("").name)):
        directions |= directions_of(file)
    return directions


def directions_of(file: Path) -> dict[str, bool | None]:
    """Return what a file of one family tells, as `load_columns` does. ValueError where it does not."""
    try:
        columns = json.loads(file.read_text(encoding="utf-8"))
        told = {str(name): column["higher_is_better"] for name, column in columns.items()}
        if wrong := [up for up in told.values() if not (up is None or isinstance(up, bool))]:
            raise ValueError(f"higher_is_better is {wrong[0]!r}")
    except (ValueError, AttributeError, KeyError, TypeError) as error:
        cause = f"{type(error).__name__}: {error}".splitlines()[0]
        raise ValueError(
            f'{file}: {cause}; allowed is {{"name": {{"higher_is_better": true, false or null}}}}'
        ) from error
    return told
