"""A store's rows in parquet files that never change: written at once, merged later, by many writers, no lock.

A writer puts rows into a file of their own, at once or with others that come within seconds, and merges its
files when there are many of them. A merged file is in place before those it holds go: a writer that is killed
loses no row that was written, and at worst leaves rows twice, which loading and the next merge see to.
"""

from __future__ import annotations

import hashlib
import re
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset
import pyarrow.parquet

from results.store.whole_files import write_whole

MERGED_FROM = 64
"""From how many files on a writer merges its own."""
GATHERED_ROWS, GATHERED_SECONDS = 256, 10.0
"""From how many gathered rows on, or seconds after the first of them, a writer writes them."""
_AT_ONCE = 2**22  # rows that are read together: each such part of a file has dictionaries of its own
_ARROW = {
    "string": pa.string(),
    "Int64": pa.int64(),
    "int64": pa.int64(),
    "float64": pa.float64(),
    "bool": pa.bool_(),
    "boolean": pa.bool_(),
}
# Of rows written when there was no such column; no text that is written is missing.
_BEFORE = {"uses_mask": False, "guidance_rescale": 0.0, "image_bytes": 0}
_NUMBERED = re.compile(r"(\d{8,})-([0-9a-f]{16})\.parquet")


@dataclass(frozen=True)
class RowKind:
    """What the rows of a store are: their columns, which of these name a row, and which rows are settled.

    Of rows with one name a settled one is kept, else the newest.
    """

    types: Mapping[str, str]
    identity: tuple[str, ...]
    settled: Callable[[pa.Table], pa.ChunkedArray]

    @cached_property
    def schema(self) -> pa.Schema:
        """The schema of the files."""
        return arrow_schema(self.types)


class RowFiles:
    """One writer's files in a store's folder; the end of its context writes what is gathered, and merges.

    Any number of writers may share the folder, on any machine. Files are numbered so that those of a later
    writer are newer, whatever the machines' clocks say, and their names hash their content, so that files of
    two writers have one name only where they are equal.
    """

    def __init__(self, folder: Path, kind: RowKind) -> None:
        self.folder, self.kind = folder, kind
        self._number: int | None = None
        self._own: list[tuple[Path, pa.Table]] = []
        self._gathered: list[pa.Table] = []
        self._since = 0.0  # when the first of them came

    def __enter__(self) -> RowFiles:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: BaseException | TracebackType | None) -> None:
        if kind is None:
            self._write_gathered()
            self._merge_own()
        else:
            with suppress(OSError):  # what ended the body is what is told
                self._write_gathered()

    def write(self, rows: pa.Table) -> Path:
        """Write rows of the kind's schema to a file, whole or not at all; return its path."""
        if self._number is None:
            self._number = max(map(_number, listed(self.folder)), default=0)
        self._number += 1
        path = _write(self.folder, self._number, _content(rows, small=True))
        self._own.append((path, rows))
        if len(self._own) == MERGED_FROM:
            self._merge_own()
        return path

    def gather(self, rows: pa.Table) -> None:
        """Take rows that can be had again: they wait for others, so that many go into one file.

        They are written by the call that finds `GATHERED_ROWS` of them, or the first one `GATHERED_SECONDS`
        old, else at the end of the context, also where its body raises.
        """
        if not self._gathered:
            self._since = time.monotonic()
        self._gathered.append(rows)
        enough = sum(map(len, self._gathered)) >= GATHERED_ROWS
        if enough or time.monotonic() - self._since >= GATHERED_SECONDS:
            self._write_gathered()

    def _write_gathered(self) -> None:
        if self._gathered:
            self.write(pa.concat_tables(self._gathered))  # where that fails, they wait for the next call
            self._gathered = []

    def _merge_own(self) -> None:
        """Put the writer's own small files into one; one that is gone was merged by another process."""
        there = [(path, rows) for path, rows in self._own if path.exists()]
        self._own = []
        if len(there) > 1:
            _put_together(
                self.folder, self.kind, [path for path, _ in there], pa.concat_tables([r for _, r in there])
            )


def merge(folder: Path, kind: RowKind, keep: Callable[[pa.Table], Any] | None = None) -> None:
    """Put all files of a folder into one, each row once; with `keep`, only the rows of which it is true.

    Safe beside writers and other processes that merge. ValueError names a file that cannot be read.
    """
    files = listed(folder)
    while len(files) > 1 or (keep and files):
        try:
            _put_together(folder, kind, files, read_table(files, kind.types), keep)
            return
        except FileNotFoundError:  # another process merged it since: its rows are in that one's file
            files = [file for file in files if file.exists()]


def listed(folder: Path, pattern: str = "*.parquet") -> list[Path]:
    """Return the files of a folder, the oldest first.

    Those from before files had numbers come first; of two such files of one group the first name counts more.
    """
    before: list[Path] | None = None
    # While files are merged, a listing may miss both the merged file and one that it holds.
    while before != (now := sorted(folder.glob(pattern), reverse=True)):
        before = now
    return sorted(now, key=_number)


def read_newest(
    folder: Path, types: Mapping[str, str], pattern: str = "*.parquet", coded: bool = False
) -> pa.Table:
    """Return the rows of a folder's files, the oldest first; rows may be there twice (`each_once`).

    `coded` is as in `read_table`.
    """
    while True:
        files = listed(folder, pattern)
        try:
            return read_table(files, types, coded)
        except FileNotFoundError:  # merged since it was listed
            if files == listed(folder, pattern):
                raise


def each_once(rows: pa.Table, kind: RowKind) -> pa.Table:
    """Return each row once: of several with one identity a settled one, and the last of these."""
    rows = rows.combine_chunks()  # a dictionary of thousands of chunks takes minutes
    code = np.zeros(len(rows), np.int64)
    for name in kind.identity:
        own, names = pd.factorize(_codes(rows[name]))
        code, _ = pd.factorize(code * len(names) + own)
    if not len(code) or code.max() + 1 == len(code):
        return rows
    settled = np.asarray(kind.settled(rows))
    order = np.concatenate([np.flatnonzero(~settled), np.flatnonzero(settled)])
    last = np.empty(code.max() + 1, np.int64)
    last[code[order]] = order  # of several values for one place numpy keeps the last
    return rows.take(np.sort(last))


def arrow_schema(types: Mapping[str, str]) -> pa.Schema:
    """Return the schema of columns given by pandas' names of their types, which its metadata tell pandas."""
    empty = pd.DataFrame({name: pd.Series(dtype=kind) for name, kind in types.items()})
    told = pa.Schema.from_pandas(empty, preserve_index=False).metadata
    return pa.schema([(name, _ARROW[kind]) for name, kind in types.items()], told)


def arrow_rows(rows: pd.DataFrame | Sequence[Mapping[str, Any]], kind: RowKind, what: str) -> pa.Table:
    """Return rows as a table of a kind's schema. ValueError says what of `what` breaks it."""
    given = set(map(str, rows)) if isinstance(rows, pd.DataFrame) else set().union(*rows)
    missing, unknown = sorted(set(kind.types) - given), sorted(given - set(kind.types))
    if unknown or (missing and len(rows)):
        raise ValueError(f"{what}: missing columns {missing}, unknown columns {unknown}")
    arrays, identity = [], {}
    for name, column_type in kind.types.items():
        column = rows[name] if isinstance(rows, pd.DataFrame) else [row.get(name) for row in rows]
        if name in kind.identity:
            identity[name] = column
        try:
            array = pa.array(column, _ARROW[column_type], from_pandas=True)  # NaN and NA are missing values
        except (TypeError, ValueError) as error:
            told = str(error).splitlines()[0]
            raise ValueError(f"{what}: column {name} is not {column_type}: {told}") from error
        if array.null_count and column_type not in ("Int64", "float64", "boolean"):
            told = "; empty text is ''" if column_type == "string" else ""
            raise ValueError(f"{what}: column {name} has missing values{told}")
        arrays.append(array)
    counted = Counter(zip(*identity.values(), strict=True))
    if twice := counted.total() - len(counted):
        first = next(name for name, count in counted.items() if count > 1)
        raise ValueError(f"{what}: {twice} repeated rows, first {dict(zip(identity, first, strict=True))}")
    return pa.Table.from_arrays(arrays, schema=kind.schema)


def read_table(files: Sequence[Path], types: Mapping[str, str], coded: bool = False) -> pa.Table:
    """Return the rows of parquet files of one schema, in their order; with `coded`, texts as dictionaries.

    FileNotFoundError where a file is gone, ValueError names one that cannot be read.
    """
    schema = arrow_schema(types)
    if coded:
        text = pa.dictionary(pa.int32(), pa.string())
        schema = pa.schema([each.with_type(text) if each.type == pa.string() else each for each in schema])
    if not files:
        return schema.empty_table()
    try:
        texts = [each.name for each in schema if pa.types.is_dictionary(each.type)]
        parquet = pyarrow.dataset.ParquetFileFormat(dictionary_columns=texts)
        dataset = pyarrow.dataset.dataset([str(file) for file in files], schema=schema, format=parquet)
        table = dataset.to_table(batch_size=_AT_ONCE)
    except FileNotFoundError:
        raise
    except (pa.ArrowException, OSError) as error:
        if len(files) > 1:
            for file in files:
                read_table([file], types)
        cause = str(error).splitlines()[0]
        raise ValueError(f"{files[0]}: cannot be read ({cause}); delete it and run again") from error
    for place, (name, kind) in enumerate(types.items()):
        filling = "" if kind == "string" else _BEFORE.get(name)
        if filling is not None and table[name].null_count:
            table = table.set_column(place, schema.field(name), pc.fill_null(table[name], filling))
    return table


def as_frame(table: pa.Table, types: Mapping[str, str]) -> pd.DataFrame:
    """Return a table as a frame whose columns have these types."""
    # Without this the windows, which are nullable, would come back as floats.
    mapped = {pa.int64(): pd.Int64Dtype(), pa.string(): pd.StringDtype()}
    return table.to_pandas(types_mapper=mapped.get).astype(dict(types))


def read_rows(files: Sequence[Path], types: Mapping[str, str]) -> pd.DataFrame:
    """Return the rows of parquet files of one schema; empty where there is no file."""
    return as_frame(read_table(files, types), types)


def write_plan_rows(folder: Path, rows: pd.DataFrame, types: Mapping[str, str]) -> Path:
    """Write what a plan tells of its records to a file named after its content: the same plan is one file."""
    typed = rows.astype(dict(types))[list(types)]
    path = folder / f"{_plan_name(typed)}.parquet"
    write_rows(path, typed, types)
    return path


def _plan_name(typed: pd.DataFrame) -> str:
    return hashlib.sha256(typed.to_csv().encode()).hexdigest()[:16]


def plan_is_as_written(file: Path, rows: pd.DataFrame) -> bool:
    """Say whether a plan's rows, as pandas reads them from a file, are those that its name hashes."""
    return file.stem == _plan_name(rows)


def is_as_written(file: Path) -> bool:
    """Say whether a file's bytes are those that its name hashes; of files from before they did, True."""
    found = _NUMBERED.fullmatch(file.name)
    return not found or found[2] == hashlib.sha256(file.read_bytes()).hexdigest()[:16]


def write_rows(path: Path, rows: pd.DataFrame, types: Mapping[str, str]) -> None:
    """Write rows of a schema to a parquet file, whole or not at all."""
    write_whole(path, _content(pa.Table.from_pandas(rows, schema=arrow_schema(types), preserve_index=False)))


def _put_together(
    folder: Path,
    kind: RowKind,
    files: Sequence[Path],
    rows: pa.Table,
    keep: Callable[[pa.Table], Any] | None = None,
) -> None:
    """Write the rows that files hold, given with them, to one file, and remove those."""
    once = each_once(rows, kind)
    if keep is not None:
        once = once.filter(pa.array(keep(once)))
        if len(files) == 1 and len(once) == len(rows):
            return
    made = _write(folder, max(map(_number, files)), _content(once)) if len(once) else None
    for path in files:
        if path != made:
            path.unlink(missing_ok=True)


def _write(folder: Path, number: int, content: bytes) -> Path:
    path = folder / f"{number:08d}-{hashlib.sha256(content).hexdigest()[:16]}.parquet"
    write_whole(path, content)
    return path


def _content(rows: pa.Table, small: bool = False) -> bytes:
    """Return the bytes of a parquet file; a small one is for a few rows that are soon merged."""
    content = pa.BufferOutputStream()
    bare = {"compression": "none", "use_dictionary": False, "write_statistics": False, "store_schema": False}
    pyarrow.parquet.write_table(rows, content, **(bare if small else {}))
    return bytes(content.getvalue())


def _number(file: Path) -> int:
    """Return the number in a file's name; 0 where the file is from before files had numbers."""
    found = _NUMBERED.fullmatch(file.name)
    return int(found[1]) if found else 0


def _codes(column: pa.ChunkedArray) -> np.ndarray:
    """Return a number for each value of a column, equal for equal values."""
    encoded = column if pa.types.is_dictionary(column.type) else column.dictionary_encode()
    return np.asarray(encoded.unify_dictionaries().combine_chunks().indices)
