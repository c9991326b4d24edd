"""Source prompts from a table of the user's, for sets that come with target prompts only."""

import csv
from collections.abc import Iterable, Mapping
from pathlib import Path

from experiments.datasets.pair import raise_problems, single_spaced

COLUMNS = ("id", "source_prompt")


def read_source_prompts(path: str | Path | None) -> dict[str, str]:
    """Read a CSV with the columns `id` and `source_prompt`; None gives none. ValueError names bad lines."""
    if path is None:
        return {}
    file = Path(path).expanduser()
    if not file.is_file():
        raise ValueError(f"source_prompts = {str(path)!r}: there is no such file")
    with file.open(encoding="utf-8-sig", newline="") as lines:
        reader = csv.DictReader(lines, skipinitialspace=True)
        if tuple(reader.fieldnames or ()) != COLUMNS:
            columns = ", ".join(COLUMNS)
            raise ValueError(
                f"{file}: the columns must be {columns}, parted by a comma, are {reader.fieldnames}"
            )
        rows = [(reader.line_num, row) for row in reader]
    prompts: dict[str, str] = {}
    problems = []
    for line, row in rows:
        if not row["id"] or not row["source_prompt"] or None in row:
            problems.append(f"line {line}: must be an id and a prompt; put a prompt with a comma in quotes")
        elif row["id"] in prompts:
            problems.append(f"line {line}: id {row['id']!r} stands twice")
        else:
            prompts[row["id"]] = single_spaced(row["source_prompt"])
    raise_problems(problems, str(file))
    return prompts


def check_source_prompts(
    name: str, given: Mapping[str, str], needed: Iterable[str], all_ids: Iterable[str]
) -> None:
    """Raise ValueError, in one line, where a needed source prompt is not given, or one for no image."""
    if missing := [key for key in dict.fromkeys(needed) if key not in given]:
        raise ValueError(
            f"{name}: {len(missing)} images have a target prompt only; give source_prompts, a CSV with the "
            f"columns {', '.join(COLUMNS)}, for {_listed(missing)}"
        )
    if unknown := sorted(set(given) - set(all_ids)):
        raise ValueError(f"source_prompts: no image has the id {_listed(unknown)}")


def _listed(ids: list[str]) -> str:
    return ", ".join(ids[:5]) + (f" ... ({len(ids)} in all)" if len(ids) > 5 else "")
