"""The run folder's records and metric values: one parquet file per group, written whole or not at all.

Records hold one row per image; metric values are long rows, one per image and metric.
"""

import hashlib
import json
import re
from pathlib import Path, PurePosixPath
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.dataset
import pyarrow.parquet

from results.store.run_folder import RunFolder
from results.store.whole_files import write_whole

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

_ARROW = {
    "string": pa.string(),
    "Int64": pa.int64(),
    "int64": pa.int64(),
    "float64": pa.float64(),
    "bool": pa.bool_(),
    "boolean": pa.bool_(),
}
# Of records written when there was no such column.
_BEFORE = {"uses_mask": False, "guidance_rescale": 0.0, "image_bytes": 0}
_SAFE_NAME = re.compile(r"[A-Za-z0-9][\w.@+-]*", re.ASCII)


def write_records(run_dir: Path, group: str, frame: pd.DataFrame, *, replace: bool = False) -> None:
    """Add the rows of `group` to the run, atomically.

    Rows of the group that are there already stay, unless the new frame has the same image again: then a
    failed row gives way, and a successful one stays as it is unless `replace`. ValueError names what breaks
    the schema.
    """
    rows = _checked(frame, RECORD_TYPES, RECORD_IDENTITY, f"records of {group}")
    _check_record_rows(rows, group)
    path = RunFolder(run_dir).records_file(_safe(group))
    old = read_rows([path], RECORD_TYPES) if path.exists() else rows.iloc[:0]
    settled = old["status"].eq("ok")
    write_rows(path, _merged(old, rows, RECORD_IDENTITY, settled, replace), RECORD_TYPES)


def write_metrics(
    run_dir: Path, family: str, group: str, frame: pd.DataFrame, *, replace: bool = False
) -> None:
    """Add values of one metric family, e.g. `lpips_embedded@1`, atomically.

    A value that is there already stays unless `replace`; a missing one gives way. Missing values need a
    reason.
    """
    rows = _checked(frame, METRIC_TYPES, METRIC_IDENTITY, f"{family} of {group}")
    unexplained = rows["value"].isna() & rows["reason"].eq("")
    if unexplained.any():
        raise ValueError(f"{family} of {group}: {int(unexplained.sum())} missing values have no reason")
    safe = "/".join(_safe(part) for part in family.split("/"))
    path = RunFolder(run_dir).metrics_file(safe, _safe(group))
    old = read_rows([path], METRIC_TYPES) if path.exists() else rows.iloc[:0]
    settled = old["value"].notna()
    write_rows(path, _merged(old, rows, METRIC_IDENTITY, settled, replace), METRIC_TYPES)


def has_records(run_dir: Path) -> bool:
    """Say whether the run has any record, failed ones included."""
    return any(RunFolder(run_dir).records.glob("*.parquet"))


def load_records(run_dir: Path) -> pd.DataFrame:
    """Return all records, one row per image; FileNotFoundError where there are none.

    Groups that overlap (a source made again for new edits, a failure made good) may record an image twice: a
    successful row comes before a failed one, and the first stays.
    """
    run_dir = Path(run_dir)
    if not run_dir.is_dir():
        raise FileNotFoundError(f"{run_dir}: no such run folder")
    files = sorted(RunFolder(run_dir).records.glob("*.parquet"))
    if not files:
        raise FileNotFoundError(f"{run_dir}: the run has no records yet")
    records = read_rows(files, RECORD_TYPES)
    failures_last = records.sort_values("status", key=lambda status: status.ne("ok"), kind="stable")
    return failures_last.drop_duplicates(RECORD_IDENTITY).sort_index(ignore_index=True)


def load_metrics(run_dir: Path) -> pd.DataFrame:
    """Return all metric values as long rows `key, metric, value, reason`; empty where none was computed."""
    rows = read_rows(sorted(RunFolder(run_dir).metrics.rglob("*.parquet")), METRIC_TYPES)
    return rows.drop_duplicates(METRIC_IDENTITY, ignore_index=True)


def load(run_dir: Path) -> pd.DataFrame:
    """Return the records with a column per metric and, beside it, `reason:<metric>` ("" at a value).

    A record without a value is NaN with a reason: that of the metric, else "generation failed" or "not
    evaluated".
    """
    records, parts = load_records(run_dir), []
    failed = records["status"].ne("ok")
    for metric, rows in load_metrics(run_dir).groupby("metric"):
        by_key = rows.set_index("key")
        value = records["key"].map(by_key["value"]).mask(failed)
        reason = (
            records["key"].map(by_key["reason"]).fillna("not evaluated").mask(failed, "generation failed")
        )
        parts += [value.rename(metric), reason.rename(reason_column(metric))]
    return pd.concat([records, *parts], axis=1)


def reason_column(metric: str) -> str:
    """Name the column of `load` that says why values of `metric` are missing."""
    return f"reason:{metric}"


def metric_columns(frame: pd.DataFrame) -> list[str]:
    """List the metric columns of a frame made by `load`."""
    return [name for name in frame.columns if reason_column(name) in frame.columns]


def _checked(frame: pd.DataFrame, types: dict[str, str], identity: list[str], what: str) -> pd.DataFrame:
    missing, unknown = sorted(set(types) - set(frame.columns)), sorted(set(frame.columns) - set(types))
    if missing or unknown:
        raise ValueError(f"{what}: missing columns {missing}, unknown columns {unknown}")
    rows = frame.loc[:, list(types)].reset_index(drop=True)
    for name, kind in types.items():
        try:
            rows[name] = rows[name].astype(kind)
        except (TypeError, ValueError) as error:
            raise ValueError(f"{what}: column {name} is not {kind}: {str(error).splitlines()[0]}") from error
        if kind == "string" and rows[name].isna().any():
            raise ValueError(f"{what}: column {name} has missing values; empty text is ''")
    repeated = rows.loc[rows.duplicated(identity), identity]
    if len(repeated):
        raise ValueError(f"{what}: {len(repeated)} repeated rows, first {repeated.iloc[0].to_dict()}")
    return rows


def _check_record_rows(rows: pd.DataFrame, group: str) -> None:
    for row in rows.itertuples(index=False):
        where = f"records of {group}, key {row.key}"
        if row.group != group:
            raise ValueError(f"{where}: group is {row.group!r}")
        if row.status not in ("ok", "failed"):
            raise ValueError(f"{where}: status is {row.status!r}, not 'ok' or 'failed'")
        if (row.status == "ok") != bool(row.image):
            raise ValueError(f"{where}: a row has an image exactly if its status is 'ok'")
        for name in (getattr(row, column) for column in PATH_COLUMNS):
            if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts:
                raise ValueError(f"{where}: {name!r} is not a path inside the run folder")
        for name in JSON_COLUMNS:
            if not _is_json_object(text := getattr(row, name)):
                raise ValueError(f"{where}: {name} is not a JSON object: {text!r}")


def _is_json_object(text: str) -> bool:
    try:
        return isinstance(json.loads(text), dict)
    except ValueError:
        return False


def _merged(
    old: pd.DataFrame, new: pd.DataFrame, identity: list[str], settled: pd.Series, replace: bool
) -> pd.DataFrame:
    """Put old and new rows together; of two with one identity, a settled old one wins unless `replace`."""
    first, second = (new, old) if replace else (old[settled], new)
    both = pd.concat([first, second, old], ignore_index=True)
    return both.drop_duplicates(identity, ignore_index=True)


def _safe(name: str) -> str:
    if not _SAFE_NAME.fullmatch(name):
        raise ValueError(
            f"{name!r} is not usable as a file name: letters, digits, and _ . @ + - after the first"
        )
    return name


def read_rows(files: list[Path], types: dict[str, str]) -> pd.DataFrame:
    """Return the rows of parquet files of one schema; empty where there is no file."""
    if not files:
        return pd.DataFrame({name: pd.Series(dtype=kind) for name, kind in types.items()})
    schema = pa.schema([(name, _ARROW[kind]) for name, kind in types.items()])
    try:
        dataset = pyarrow.dataset.dataset([str(file) for file in files], schema=schema, format="parquet")
        table = dataset.to_table()
    except (pa.ArrowException, OSError) as error:
        if len(files) > 1:
            for file in files:
                read_rows([file], types)
        cause = str(error).splitlines()[0]
        raise ValueError(f"{files[0]}: cannot be read ({cause}); delete it and run again") from error
    # Without this the windows, which are nullable, would come back as floats.
    nullable = {pa.int64(): pd.Int64Dtype()}
    frame = table.to_pandas(types_mapper=nullable.get)
    # Files from before a column came have none of it; no text that is written is missing.
    texts = [name for name, kind in types.items() if kind == "string"]
    absent = {name: value for name, value in _BEFORE.items() if name in types}
    return frame.fillna({**dict.fromkeys(texts, ""), **absent}).astype(types)


def write_plan_rows(folder: Path, rows: pd.DataFrame, types: dict[str, str]) -> None:
    """Write what a plan tells of its records to a file named after its content: the same plan is one file."""
    typed = rows.astype(types)[list(types)]
    name = hashlib.sha256(typed.to_csv().encode()).hexdigest()[:16]
    write_rows(folder / f"{name}.parquet", typed, types)


def write_rows(path: Path, rows: pd.DataFrame, types: dict[str, str]) -> None:
    """Write rows of a schema to a parquet file, whole or not at all."""
    schema = pa.schema([(name, _ARROW[kind]) for name, kind in types.items()])
    table = pa.Table.from_pandas(rows, schema=schema, preserve_index=False)
    content = pa.BufferOutputStream()
    pyarrow.parquet.write_table(table, content)
    write_whole(path, content.getvalue().to_pybytes())
