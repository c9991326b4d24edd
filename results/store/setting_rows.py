"""Which settings a picture stands for: rows of plans, in `settings/` beside the records of the run folder.

A picture is made and recorded once, by the setting that came first. Where others give the same image (an
operator that resolves to the same one, LocalBlend for a pair without blend words), or where a pair has got
another edit type since, tables still need a row for each setting as it was last asked for.
"""

from pathlib import Path

import numpy as np
import pandas as pd

from results.store.records import EFFECT_TYPES, RECORD_IDENTITY, RECORD_TYPES
from results.store.row_files import read_rows, write_plan_rows
from results.store.run_folder import RunFolder

# In this order: the names of the files hash the rows as CSV.
LABELS = ["dataset", "model", "edit_type", "difficulty", "instruction", "params", *EFFECT_TYPES]
SETTING_TYPES = {name: RECORD_TYPES[name] for name in (*RECORD_IDENTITY, *LABELS)}


def write_settings(run_dir: Path, settings: pd.DataFrame) -> Path:
    """Keep a plan's rows, columns SETTING_TYPES, in a file named after their content; return its path."""
    return write_plan_rows(RunFolder(run_dir).settings, settings, SETTING_TYPES)


def load_settings(run_dir: Path) -> pd.DataFrame:
    """Return the rows of every plan that was run in this folder.

    Where plans have a row for one picture and one set of parameters, the row of the latest plan is kept.
    """
    files = sorted(RunFolder(run_dir).settings.glob("*.parquet"), key=lambda file: file.stat().st_mtime_ns)
    rows = pd.concat([read_rows([file], SETTING_TYPES) for file in files] or [read_rows([], SETTING_TYPES)])
    return rows.drop_duplicates([*RECORD_IDENTITY, "params"], keep="last", ignore_index=True)


def settings_and_others(frame: pd.DataFrame, settings: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return a row per setting, with its labels, for every record that `settings` knows, and all others.

    `frame` is `results.store.records.load`'s.
    """
    numbered = frame.drop(columns=LABELS).assign(_place=np.arange(len(frame)))
    known = numbered.merge(settings.astype(SETTING_TYPES), on=RECORD_IDENTITY)
    others = frame[~np.isin(numbered["_place"], known["_place"])]
    return known[list(frame.columns)].astype(frame.dtypes), others
