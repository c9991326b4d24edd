"""The run folder's records and metric values: their columns and checks, written and loaded.

Records hold one row per image; metric values are long rows, one per image and metric. Files of both are
those of `results.store.row_files`.
"""

import json
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from results.store.row_files import RowFiles, RowKind, arrow_rows, as_frame, each_once, merge, read_newest
from results.store.run_folder import RunFolder

WINDOWS = ["cross_start", "cross_end", "self_start", "self_end"]  # in steps
EFFECT_TYPES: dict[str, str] = {
    "operator": "string",
    "tau": "float64",
    **dict.fromkeys(WINDOWS, "Int64"),
    **dict.fromkeys(("weights", "blend"), "string"),
    "strength": "float64",
}
"""What a method with its parameters comes to for a pair: the columns that a method may fill in."""
PATH_COLUMNS = ["image", "source_image", "mask", "ideal"]  # inside the run folder, "" for none
JSON_COLUMNS = ("weights", "blend", "params")  # text that is a JSON object
_PLACE = ("key", "group", "pair_id", "dataset", "model", "setup", "edit_type", "difficulty")
_MADE = ("source_prompt", "target_prompt", "method", "inversion")
_OUTCOME = (*PATH_COLUMNS, "image_sha256", "mask_digest", "status", "error", "warnings", "instruction")
_WHOLE = ("seed", "effective_steps", "num_inference_steps", "image_bytes")
_REAL = ("guidance_scale", "guidance_rescale", "start_timestep", "start_noise", "seconds")

RECORD_TYPES: dict[str, str] = {
    **dict.fromkeys((*_PLACE, *_MADE), "string"),
    **EFFECT_TYPES,
    **dict.fromkeys(("params", *_OUTCOME), "string"),
    **dict.fromkeys(_WHOLE, "int64"),
    **dict.fromkeys(_REAL, "float64"),
    "uses_mask": "bool",
}
_EMPTY: dict[str, Any] = {
    "string": "",
    "Int64": pd.NA,
    "int64": 0,
    "float64": float("nan"),
    "bool": False,
}
NOTHING: dict[str, Any] = {
    name: "{}" if name in JSON_COLUMNS else _EMPTY[kind] for name, kind in RECORD_TYPES.items()
}
"""What each column of a record holds where there is nothing to tell."""
METRIC_TYPES: dict[str, str] = {"key": "string", "metric": "string", "value": "float64", "reason": "string"}
# One image may serve two pairs (a shared source) or two methods, so the key alone does not name a row.
RECORD_IDENTITY = ["key", "pair_id", "method"]
METRIC_IDENTITY = ["key", "metric"]
RECORDS = RowKind(RECORD_TYPES, tuple(RECORD_IDENTITY), lambda rows: pc.equal(rows["status"], "ok"))
METRICS = RowKind(
    METRIC_TYPES, tuple(METRIC_IDENTITY), lambda rows: pc.invert(pc.is_null(rows["value"], nan_is_null=True))
)
Rows: TypeAlias = pd.DataFrame | Sequence[Mapping[str, Any]]

_SAFE_NAME = re.compile(r"[A-Za-z0-9][\w.@+-]*", re.ASCII)


def record_files(run_dir: Path) -> RowFiles:
    """Return a writer of records, for one process; rows are those of `record_rows`."""
    return RowFiles(RunFolder(run_dir).records, RECORDS)


def metric_files(run_dir: Path, family: str) -> RowFiles:
    """Return a writer of one metric family's values, e.g. `lpips_embedded@1`; rows are `metric_rows`'.

    ValueError where the family's name makes no path.
    """
    safe = "/".join(_safe(part) for part in family.split("/"))
    return RowFiles(RunFolder(run_dir).metrics_folder(safe), METRICS)


def record_rows(rows: Rows) -> pa.Table:
    """Return records, one row per image, as they are written. ValueError names what breaks the schema."""
    table = arrow_rows(rows, RECORDS, "records")
    _check_record_rows(table)
    return table


def metric_rows(rows: Rows, family: str) -> pa.Table:
    """Return values of a metric family as they are written. ValueError where a missing one has no reason."""
    table = arrow_rows(rows, METRICS, family)
    if table["value"].null_count:
        untold = pc.and_(pc.is_null(table["value"]), pc.equal(table["reason"], ""))
        if count := pc.sum(untold).as_py():
            raise ValueError(f"{family}: {count} missing values have no reason")
    return table


def write_records(run_dir: Path, rows: Rows) -> None:
    """Add records to the run, in a file of their own."""
    record_files(run_dir).write(record_rows(rows))


def write_metrics(run_dir: Path, family: str, rows: Rows) -> None:
    """Add values of one metric family to the run, in a file of their own."""
    metric_files(run_dir, family).write(metric_rows(rows, family))


def merge_rows(run_dir: Path) -> None:
    """Put the run's records into one file, and each metric family's values, whoever wrote them."""
    folder = RunFolder(run_dir)
    merge(folder.records, RECORDS)
    for family in sorted({file.parent for file in folder.metrics.rglob("*.parquet")}):
        merge(family, METRICS)


def forget_records(run_dir: Path, forgotten: Callable[[pd.DataFrame], pd.Series]) -> None:
    """Take records out of the run; `forgotten` marks them in a frame of all."""

    def keep(rows: pa.Table) -> np.ndarray:
        return ~forgotten(as_frame(rows, RECORD_TYPES)).to_numpy(bool)

    merge(RunFolder(run_dir).records, RECORDS, keep)


def forget_values(run_dir: Path, family: str, keys: Collection[str]) -> None:
    """Take the values of a metric family out of the run whose pictures are not among these."""
    known = pa.array(sorted(keys), pa.string())
    merge(RunFolder(run_dir).metrics_folder(family), METRICS, lambda rows: pc.is_in(rows["key"], known))


def has_records(run_dir: Path) -> bool:
    """Say whether the run has any record, failed ones included."""
    return any(RunFolder(run_dir).records.glob("*.parquet"))


def load_records(run_dir: Path) -> pd.DataFrame:
    """Return all records, one row per image, by group; FileNotFoundError where there are none.

    Groups that overlap (a source made again for new edits, a failure made good) may record an image twice: a
    successful row comes before a failed one, and the last one written before those before it.
    """
    run_dir = Path(run_dir)
    if not run_dir.is_dir():
        raise FileNotFoundError(f"{run_dir}: no such run folder")
    if not has_records(run_dir):
        raise FileNotFoundError(f"{run_dir}: the run has no records yet")
    rows = each_once(read_newest(RunFolder(run_dir).records, RECORD_TYPES), RECORDS)
    return as_frame(rows.take(pc.sort_indices(rows, [("group", "ascending")])), RECORD_TYPES)


def load_metrics(run_dir: Path) -> pd.DataFrame:
    """Return all metric values as long rows `key, metric, value, reason`; empty where none was computed."""
    return as_frame(_values(run_dir).cast(METRICS.schema), METRIC_TYPES)


def scored_keys(run_dir: Path, columns: Sequence[Sequence[str]]) -> list[tuple[set[str], bool]]:
    """Return for each list of metrics which keys have a value, or the reason for none, of each of them.

    Beside it whether there is any value of these metrics.
    """
    rows = _values(run_dir)  # once, as others may write meanwhile
    (key, keys), (metric, metrics) = (_coded(rows, name) for name in METRIC_IDENTITY)
    found = []
    for names in columns:
        of_family = np.isin(metric, np.flatnonzero(np.isin(metrics, list(names))))
        counts = np.bincount(key[of_family], minlength=len(keys))
        found.append((set(keys[counts == len(names)]), bool(of_family.any())))
    return found


def load(run_dir: Path) -> pd.DataFrame:
    """Return the records with a column per metric and, beside it, `reason:<metric>` ("" at a value).

    A record without a value is NaN with a reason: that of the metric, else "generation failed" or "not
    evaluated".
    """
    records, rows = load_records(run_dir), _values(run_dir)
    failed = records["status"].ne("ok").to_numpy(bool)
    image, images = pd.factorize(records["key"])
    (key, keys), (metric, metrics), (reason, reasons) = (_coded(rows, n) for n in ("key", "metric", "reason"))
    known = pc.index_in(pa.array(keys, pa.string()), pa.array(images, pa.string()))
    place = known.fill_null(-1).to_numpy()[key]  # of each value among the images; -1: it has no record
    value = rows["value"].to_numpy()
    told = np.array([*reasons, "not evaluated", "generation failed"], dtype=object)
    parts = []
    for number in np.argsort(metrics):
        own = np.flatnonzero((metric == number) & (place >= 0))
        values, why = np.full(len(images), np.nan), np.full(len(images), len(reasons))
        values[place[own]], why[place[own]] = value[own], reason[own]
        name = str(metrics[number])
        text = pa.DictionaryArray.from_arrays(np.where(failed, len(told) - 1, why[image]), pa.array(told))
        parts.append(pd.Series(np.where(failed, np.nan, values[image]), name=name))
        parts.append(pd.Series(text.dictionary_decode(), dtype="string", name=reason_column(name)))
    return pd.concat([records, *parts], axis=1)


def _values(run_dir: Path) -> pa.Table:
    """Return all metric values, each once; texts are dictionaries, as there are many rows and few texts."""
    rows = read_newest(RunFolder(run_dir).metrics, METRIC_TYPES, "**/*.parquet", coded=True)
    return each_once(rows.unify_dictionaries(), METRICS)


def _coded(rows: pa.Table, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Return a column of `_values` as numbers, and the text that each number stands for."""
    column = rows[name].combine_chunks()
    return column.indices.to_numpy(), np.asarray(column.dictionary.to_pylist(), dtype=object)


def reason_column(metric: str) -> str:
    """Name the column of `load` that says why values of `metric` are missing."""
    return f"reason:{metric}"


def metric_columns(frame: pd.DataFrame) -> list[str]:
    """List the metric columns of a frame made by `load`."""
    return [name for name in frame.columns if reason_column(name) in frame.columns]


def _check_record_rows(table: pa.Table) -> None:
    columns = table.select(["key", "status", *PATH_COLUMNS, *JSON_COLUMNS]).to_pydict()
    for key, status, image in zip(columns["key"], columns["status"], columns["image"], strict=True):
        if status not in ("ok", "failed"):
            raise ValueError(f"records, key {key}: status is {status!r}, not 'ok' or 'failed'")
        if (status == "ok") != bool(image):
            raise ValueError(f"records, key {key}: a row has an image exactly if its status is 'ok'")
    for name in {name for column in PATH_COLUMNS for name in columns[column]}:
        if name.startswith("/") or ".." in name.split("/"):
            raise ValueError(f"records: {name!r} is not a path inside the run folder")
    for column in JSON_COLUMNS:
        for text in set(columns[column]):
            if not _is_json_object(text):
                raise ValueError(f"records: {column} is not a JSON object: {text!r}")


def _is_json_object(text: str) -> bool:
    try:
        return isinstance(json.loads(text), dict)
    except ValueError:
        return False


def _safe(name: str) -> str:
    if not _SAFE_NAME.fullmatch(name):
        raise ValueError(
            f"{name!r} is not usable as a file name: letters, digits, and _ . @ + - after the first"
        )
    return name
