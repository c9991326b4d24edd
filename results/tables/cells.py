"""Which rows belong to one cell of a table: what was varied, and how a reader is told.

A cell never averages over two settings: whatever differs within a method becomes part of its label.
"""

import json
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pandas as pd

from results.labels import METHODS, by_numbers
from results.spelling import spell, spell_number
from results.store.records import WINDOWS

CONTEXT = [
    "model",
    "setup",
    "dataset",
    "inversion",
    "num_inference_steps",
    "guidance_scale",
    "guidance_rescale",
]
SHARED = [name for name in CONTEXT if name != "inversion"]  # in which edits of one source picture agree
CELL = [*CONTEXT, "method", "uses_mask", "tau", "strength", *WINDOWS, "weighting", "variant", "setting"]
ALL = "all"
SOURCES = ["source", "reconstruction"]  # methods that make no edit
GIVEN = [*SOURCES, "ideal"]  # and the ideal edit as the autoencoder gives it back

_AUTO_TAU = "_auto_tau"  # how the names of methods end whose tau was chosen
_IN_STEPS = {"cross_replace_steps", "self_replace_steps"}  # shown by WINDOWS, where known


def with_cells(frame: pd.DataFrame) -> pd.DataFrame:
    """Add `weighting` (factors: "×2"), `variant` (other parameters that differ) and `setting` (a label).

    `cell` is the number of a row's cell, in the order of their columns. `uses_mask` becomes "yes" or "no"
    where any pair of the context has a mask, else "".
    """
    frame = frame.assign(
        uses_mask=_uses_mask(frame),
        tau=frame["tau"].round(9),  # 1 - 0.8 is 0.2
        weighting=_each_text(frame["weights"], _weighting).mask(_unchanged(frame), "×1"),
        # A user's edit type may have the name of the row over all of them.
        edit_type=frame["edit_type"].where(frame["edit_type"].ne(ALL), "'all'"),
    )
    frame = frame.assign(variant=_variants(frame))
    named = free_windows(frame) | ~_windows_follow_tau(frame)
    of_setting = ["tau", "strength", "method", "params", *WINDOWS, "weighting", "variant"]
    numbers, different = _different(frame[of_setting].assign(named=named))
    texts = [_setting(row, row["named"]) for _, row in different.iterrows()]
    settings = pd.Series(np.array(texts, dtype=object)[numbers], index=frame.index, dtype=object)
    # Other pictures than the run's own sources: two rows of one name would not tell which is which.
    source, elsewhere = frame["method"].eq("source"), made_elsewhere(frame)
    twice = frame["dataset"].isin(frame.loc[source & ~elsewhere, "dataset"].unique())
    frame = frame.assign(setting=settings.mask(source & elsewhere & twice, "as given"))
    return frame.assign(cell=frame.groupby(CELL, dropna=False).ngroup())


def _uses_mask(frame: pd.DataFrame) -> pd.Series:
    masks = frame["mask"].ne("").groupby([frame[name] for name in CONTEXT], dropna=False).transform("any")
    return frame["uses_mask"].map({True: "yes", False: "no"}).where(masks, "")


def free_windows(frame: pd.DataFrame) -> pd.Series:
    """Mark all rows of a method, within a context, if any of its rows has windows that no tau describes.

    Windows are then what the method's sweep varies, and labels name windows.
    """
    free = frame["tau"].isna() & frame[WINDOWS].notna().all(axis=1) & frame["strength"].isna()
    free &= ~frame["method"].isin([*GIVEN, "fixed_seed"])
    return free.groupby([frame[name] for name in [*CONTEXT, "method"]], dropna=False).transform("any")


def ordered(frame: pd.DataFrame) -> pd.DataFrame:
    """Sort rows for reading: context, method (source first), numbers of the setting, edit type.

    What other tools made comes last.
    """
    ranks = {name: rank for rank, name in enumerate(METHODS)}
    of_order = [*CONTEXT, "method", "variant", "weighting", "tau", "strength", *WINDOWS, "edit_type"]
    numbers, different = _different(frame[of_order])
    keys = different.assign(
        tau=different["tau"].mask(free_windows(different)),
        _elsewhere=made_elsewhere(different),
        method=_placed(different["method"], lambda name: (ranks.get(name, len(ranks)), name)),
        variant=_placed(different["variant"], by_numbers),
        weighting=_placed(different["weighting"], by_numbers),
        edit_type=_placed(different["edit_type"], lambda name: (name != ALL, name)),
    )
    places = keys.groupby(["_elsewhere", *of_order], dropna=False).ngroup().to_numpy()
    return frame.iloc[np.argsort(places[numbers], kind="stable")].reset_index(drop=True)


def _placed(column: pd.Series, key: Callable[[str], Any]) -> pd.Series:
    """Return for each text of a column its place among all of them, sorted by a key."""
    return column.map({text: place for place, text in enumerate(sorted(column.unique(), key=key))})


def window_label(row: pd.Series) -> str:
    """Say which attention is injected when, in steps: "cross 0–40, self 0–20", "none"; "" where unknown."""
    if row[WINDOWS].isna().any():
        return ""
    cross, own = (row.cross_start, row.cross_end), (row.self_start, row.self_end)
    parts = [f"{name} {a}–{b}" for name, (a, b) in (("cross", cross), ("self", own)) if b > a]
    return ", ".join(parts) or "none"


def rows_by_cell(frame: pd.DataFrame) -> list[list[Any]]:
    """Return the rows of each cell, as `itertuples` gives them; cells are in the order of their first rows.

    Of a table, which is small: what is asked of each cell's few rows takes pandas many times as long.
    """
    codes = [pd.factorize(frame[name], use_na_sentinel=True)[0].tolist() for name in CELL]
    parts: dict[tuple[int, ...], list[Any]] = {}
    for cell, row in zip(zip(*codes), frame.itertuples()):
        parts.setdefault(cell, []).append(row)
    return list(parts.values())


def made_elsewhere(frame: pd.DataFrame) -> pd.Series:
    """Mark rows of pictures that another tool made (`p2p-bench evaluate`), and no model of ours."""
    return frame["setup"].eq("")


def is_plain(frame: pd.DataFrame) -> pd.Series:
    """Mark rows without re-weighting."""
    return frame["weighting"].eq("")


def _setting(row: pd.Series, name_windows: bool) -> str:
    tau = f"τ {spell_number(row['tau'])}" if pd.notna(row["tau"]) else ""
    if pd.notna(row["strength"]):
        main = f"strength {spell_number(row['strength'])}"
    elif row["method"] in ("source", "fixed_seed"):
        main = ""
    elif row["method"].endswith(_AUTO_TAU):
        main = json.loads(row["params"]).get("auto_tau", "")
    elif name_windows or not tau:
        main = window_label(row) + (f" ({tau})" if tau else "")
    else:
        main = tau
    factors = f"weights {row['weighting']}" if row["weighting"] else ""
    return ", ".join(part for part in (main, factors, row["variant"]) if part)


def _windows_follow_tau(frame: pd.DataFrame) -> pd.Series:
    """Mark rows whose tau stands for one pair of windows in their context and method.

    Where one tau stands for several, labels have to name the windows.
    """
    windows = frame.groupby(WINDOWS, dropna=False).ngroup()
    return (
        windows.groupby([frame[name] for name in [*CONTEXT, "method", "tau"]], dropna=False)
        .transform("nunique")
        .eq(1)
    )


def _unchanged(frame: pd.DataFrame) -> pd.Series:
    """Mark rows of pairs with equal prompts by methods that take no word weights.

    The pair re-weights words alone, so the method made no edit. "×1" keeps such rows apart from its means.
    """
    same_prompt = frame["source_prompt"].eq(frame["target_prompt"])
    return same_prompt & frame["weights"].eq("{}") & ~frame["method"].isin(SOURCES)


def _weighting(weights: str) -> str:
    factors = sorted({float(factor) for factor in json.loads(weights).values()})
    return ", ".join(f"×{spell_number(factor)}" for factor in factors)


def _variants(frame: pd.DataFrame) -> pd.Series:
    """Spell out the parameters that differ between rows of a method and that no column of the cell shows."""
    columns = frame[["params", "method", "weights", "tau", "strength", *WINDOWS]]
    variants = _told(columns, pd.Series(True, index=frame.index))
    mixed = _mixed(frame.assign(variant=variants))
    return _told(columns, ~mixed) if mixed.any() else variants


def _told(columns: pd.DataFrame, in_steps: pd.Series) -> pd.Series:
    """Return the variants; `in_steps`: whether windows and weights of a row are taken to show parameters."""
    numbers, different = _different(columns.assign(in_steps=in_steps))
    params = pd.Series(
        [
            {
                name: spell(value)
                for name, value in json.loads(row["params"]).items()
                if not _shown(name, value, row, row["in_steps"])
            }
            for row in different.to_dict("records")
        ],
        index=different.index,
        dtype=object,
    )
    labels = pd.Series("", index=different.index, dtype=object)
    for _, rows in params.groupby(different["method"]):
        names = sorted({name for row in rows for name in row})
        varying = [name for name in names if len({row.get(name) for row in rows}) > 1]
        texts = [[f"{name}={row[name]}" for name in varying if name in row] for row in rows]
        labels.loc[rows.index] = [", ".join(text) for text in texts]
    return pd.Series(labels.to_numpy()[numbers], index=columns.index, dtype=object)


def _different(frame: pd.DataFrame) -> tuple[np.ndarray, pd.DataFrame]:
    """Return which of its different rows each row of a frame is, and these, the first first."""
    numbers = frame.groupby(list(frame), sort=False, dropna=False).ngroup().to_numpy()
    _, first = np.unique(numbers, return_index=True)
    return numbers, frame.iloc[first].reset_index(drop=True)


def _each_text(column: pd.Series, spell: Callable[[str], str]) -> pd.Series:
    """Return what a function makes of each text of a column, asked once for each different text."""
    return column.map({text: spell(text) for text in column.unique()})


def _shown(name: str, value: object, row: Mapping[str, Any], by_windows: bool) -> bool:
    """Say whether columns of a row's cell show a parameter's value.

    A method of somebody's own may call any parameter `tau`, and record nothing under that name.
    """
    if name in ("tau", "strength"):
        if not isinstance(value, int | float) or isinstance(value, bool):
            return value is None
        return round(float(value), 9) == round(float(row[name]), 9)
    if name == "auto_tau":
        return str(row["method"]).endswith(_AUTO_TAU)
    known = by_windows and not any(pd.isna(row[window]) for window in WINDOWS)
    if name == "weights":
        return known or (by_windows and row["weights"] != "{}")
    # A window per word is more than the columns say.
    return name in _IN_STEPS and known and not isinstance(value, dict)


def _mixed(frame: pd.DataFrame) -> pd.Series:
    """Mark all rows of a method with a cell that holds two images of one pair and seed.

    Two settings are then in one cell: its columns do not say all that they differ in.
    """
    cell = [name for name in CELL if name != "setting"]
    place = [frame[name] for name in (*cell, "pair_id", "seed", "source_prompt", "target_prompt")]
    keys = pd.Series(pd.factorize(frame["key"])[0], frame.index).groupby(place, dropna=False)
    several = keys.transform("min") < keys.transform("max")
    return several.groupby(frame["method"]).transform("any")
