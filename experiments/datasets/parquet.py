"""Rows of a data set of the Hugging Face hub that lies on this machine: Parquet or Arrow files of one folder.

Read as tables; no code of the data set is run, and nothing is fetched.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.ipc
import pyarrow.parquet

from experiments.datasets.files import check_folder
from experiments.datasets.pair import single_spaced

BATCH = 64  # rows held at once: each may hold several pictures


def read_rows(path: str | Path, columns: Sequence[str]) -> Iterator[tuple[Path, dict[str, Any]]]:
    """Yield (file, row) of one file, or of all Parquet and Arrow files of a folder by name.

    Raises ValueError where there is no file, or where a file lacks one of `columns`.
    """
    given = Path(path).expanduser()
    files = [given] if given.is_file() else _files(check_folder(path))
    if not files:
        raise ValueError(f"path = {str(path)!r}: holds no .parquet and no .arrow file")
    for file in files:
        try:
            for batch in _batches(file, columns):
                yield from ((file, row) for row in batch.to_pylist())
        except pa.ArrowInvalid as error:
            raise ValueError(f"{file}: cannot be read ({str(error).splitlines()[0]})") from error


def picture(value: Any) -> bytes:
    """Return the encoded bytes of a picture's cell. ValueError where the table does not hold the picture."""
    if isinstance(value, dict) and isinstance(value.get("bytes"), bytes):
        return bytes(value["bytes"])
    raise ValueError("the table does not hold the picture itself")


def text(row: dict[str, Any], name: str) -> str:
    """Return a text with its white space closed up. ValueError where the cell holds none."""
    if not isinstance(row[name], str):
        raise ValueError(f"{name} = {row[name]!r}: must be a text")
    return single_spaced(row[name])


def _files(folder: Path) -> list[Path]:
    return sorted(file for suffix in ("parquet", "arrow") for file in folder.rglob(f"*.{suffix}"))


def _batches(file: Path, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
    if file.suffix == ".parquet":
        with pyarrow.parquet.ParquetFile(file) as table:
            _check_columns(file, columns, table.schema_arrow.names)
            yield from table.iter_batches(BATCH, columns=list(columns))
    else:
        with pa.memory_map(str(file)) as source, _open_arrow(source) as reader:
            _check_columns(file, columns, reader.schema.names)
            for batch in reader:
                yield batch.select(list(columns))


def _open_arrow(source: pa.NativeFile) -> Any:
    # `datasets` writes the stream format.
    return pyarrow.ipc.open_stream(source)


def _check_columns(file: Path, columns: Sequence[str], there: Sequence[str]) -> None:
    if missing := [name for name in columns if name not in there]:
        raise ValueError(f"{file}: has no column {', '.join(missing)}; it has {', '.join(there)}")
