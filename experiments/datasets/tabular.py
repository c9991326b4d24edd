"""A user's own pairs from a table: CSV with a header, or JSON Lines (one object a line). UTF-8.

Columns are the fields of `Pair`. `id`, `source_prompt` and `target_prompt` are required; an empty cell or
null leaves the field out. `weights` is a JSON object ({"red": 2, "pea soup": 0.5}), `blend_words` a JSON
list of two (["cat", "dog"]); `image`, `mask` and `ideal` are paths, relative ones from the table's folder;
`ideal` may be a folder of pictures any of which would do.
In CSV a quote inside a quoted cell is written twice: "{""red"": 2}".
"""

import csv
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from experiments.datasets.dataset import Dataset
from experiments.datasets.pair import Pair, find_problems, raise_problems

COLUMNS = tuple(column.name for column in fields(Pair))
REQUIRED = ("id", "source_prompt", "target_prompt")
JSON_COLUMNS = ("weights", "blend_words")
PATH_COLUMNS = ("image", "mask", "ideal")

# The line a row begins on, its values by column, and what is wrong with it so far.
Row = tuple[int, dict[str, Any], list[str]]


@dataclass(frozen=True, kw_only=True)
class Table(Dataset):
    """The pairs of one `.csv` or `.jsonl` file; without a `name` it has the file's."""

    name: str | None = None  # type: ignore[assignment]  # a text once it is made
    path: str | Path

    def __post_init__(self) -> None:
        object.__setattr__(self, "name", self.name or Path(self.path).stem)

    def read(self) -> list[Pair]:
        return read_pairs(Path(self.path).expanduser())


def read_pairs(path: Path) -> list[Pair]:
    """Read a table; ValueError names the line of every row that cannot be used."""
    readers = {".csv": _csv_rows, ".jsonl": _jsonl_rows}
    if path.suffix.lower() not in readers:
        raise ValueError(f"path = {str(path)!r}: must end in {' or '.join(readers)}")
    if not path.is_file():
        raise ValueError(f"path = {str(path)!r}: there is no such file")
    try:
        # newline="": the csv module's own rule. The signature some editors write at the start is dropped.
        with path.open(encoding="utf-8-sig", newline="") as lines:
            rows = list(readers[path.suffix.lower()](lines))
    except UnicodeDecodeError as error:
        raise ValueError(f"path = {str(path)!r}: is not UTF-8 ({error})") from error
    if not rows:
        raise ValueError(f"path = {str(path)!r}: has no rows")
    return _pairs(rows, path)


def _pairs(rows: Sequence[Row], path: Path) -> list[Pair]:
    pairs: list[Pair] = []
    lines: list[int] = []
    found: list[tuple[int, str]] = []
    for line, values, problems in rows:
        problems = problems or list(_type_problems(values))
        found += [(line, problem) for problem in problems]
        if not problems:
            pairs.append(_pair(values, path.parent))
            lines.append(line)
    found += [(lines[position], problem) for position, problem in find_problems(pairs)]
    found.sort(key=lambda item: item[0])
    raise_problems((f"line {line}: {problem}" for line, problem in found), where=str(path))
    return pairs


def _pair(values: dict[str, Any], folder: Path) -> Pair:
    converted = values | {"id": str(values["id"])}
    converted |= {name: folder / values[name] for name in PATH_COLUMNS if name in values}
    if "blend_words" in values:
        converted["blend_words"] = tuple(values["blend_words"])
    return Pair(**converted)


def _type_problems(values: dict[str, Any]) -> Iterator[str]:
    if unknown := [name for name in values if name not in COLUMNS]:
        yield f"unknown {', '.join(map(repr, unknown))}: the columns are {', '.join(COLUMNS)}"
    for name in REQUIRED:
        if name not in values:
            yield f"{name} must not be empty"
    for name, value in values.items():
        if name == "weights":
            if not isinstance(value, dict):
                yield f"{name} = {value!r}: must be an object of word and factor"
        elif name == "blend_words":
            if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
                yield f"{name} = {value!r}: must be a list of two texts"
        elif name == "id" and type(value) is int:
            continue
        elif name in COLUMNS and not isinstance(value, str):
            yield f"{name} = {value!r}: must be a text"


def _csv_rows(lines: Iterable[str]) -> Iterator[Row]:
    reader = csv.reader(lines, skipinitialspace=True, strict=True)
    header: list[str] = []
    while True:
        line = reader.line_num + 1
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            yield line, {}, [f"is not CSV ({error}); a quote inside a quoted cell is written twice"]
            continue
        if not any(cells):
            continue
        if header:
            yield line, *_csv_cells(header, cells)
        elif problems := _header_problems(header := [name.strip() for name in cells]):
            yield line, {}, problems
            return


def _csv_cells(header: Sequence[str], cells: Sequence[str]) -> tuple[dict[str, Any], list[str]]:
    if len(cells) > len(header):
        hint = "a cell with a comma in it must stand in double quotes"
        return {}, [f"has {len(cells)} cells, the header {len(header)}; {hint}"]
    values: dict[str, Any] = {name: cell for name, cell in zip(header, cells, strict=False) if cell}
    problems = []
    for name in JSON_COLUMNS:
        if name in values:
            values[name], problem = _from_json(values[name])
            problems += [f"{name} = {problem}"] if problem else []
    return values, problems


def _header_problems(header: Sequence[str]) -> list[str]:
    faults = {
        "unknown": [name for name in header if name not in COLUMNS],
        "missing": [name for name in REQUIRED if name not in header],
        "twice": sorted({name for name in header if header.count(name) > 1}),
    }
    told = [f"{what} {', '.join(map(repr, names))}" for what, names in faults.items() if names]
    allowed = f"the columns are {', '.join(COLUMNS)}; the first three are required"
    other = [mark for mark in ";\t|" if any(mark in name for name in header)]
    hint = f"; cells are parted by commas, not by {other[0]!r}" if other else ""
    return [f"header: {'; '.join(told)} ({allowed}{hint})"] if told else []


def _jsonl_rows(lines: Iterable[str]) -> Iterator[Row]:
    for line, text in enumerate(lines, start=1):
        if not text.strip():
            continue
        values, problem = _from_json(text)
        if problem is None and not isinstance(values, dict):
            problem = f"{text.strip()!r}: must be a JSON object"
        if problem is not None:
            yield line, {}, [problem]
        else:
            yield line, {name: value for name, value in values.items() if value not in (None, "")}, []


def _from_json(text: str) -> tuple[Any, str | None]:
    try:
        return json.loads(text, object_pairs_hook=_unique), None
    except RecursionError:
        return None, f"{text.strip()[:40]!r}...: lists or objects in one another, more than can be read"
    except ValueError as error:
        return None, f"{text.strip()!r}: is not JSON ({error})"


def _unique(items: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(items)
    if len(values) < len(items):
        raise ValueError(f"a key stands twice in {[key for key, _ in items]}")
    return values
