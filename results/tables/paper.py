"""What a table in a paper shows: chosen metrics and settings, and which of them are best and second best."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from results.labels import method_label, variant_label
from results.tables.cells import ALL, CELL, CONTEXT, GIVEN, is_plain
from results.tables.table_files import decimals_of, parted_by

WIDTHS = {"column": 3.25, "text": 5.5}
"""Inches: one of two columns, as at conferences of computer vision; the page of ICLR and NeurIPS."""
INTERVALS = ("plus_minus", "brackets", "none")
BEST, SECOND = 1, 2
FIXED_SEED = "fixed_seed"
_MOST = 5  # rows that an error names
_RANKED_AMONG = ["dataset", "weighting", "metric"]


@dataclass(frozen=True)
class Layout:
    """How tables for papers are laid out.

    `columns` are metrics, each by its name or by how names begin (`lpips`); without them one of alignment and
    one of preservation come first, and others whose better direction is known as far as there is room.
    `settings` are rows: `p2p`, or `p2p: tau 0.4, local_blend=true`, which may leave parts of a setting out;
    without them all but source images and re-weighted edits. `digits` are decimals, a number or one for each
    metric by how its name begins; else each column has as many as its values' size asks for. `interval` is
    one of INTERVALS; `plus_minus` shows half its width. `width` is one of WIDTHS, or inches. `edit_types`
    adds a part for each edit type, or difficulty. With `rank_given` source images, reconstructions and ideal
    edits are shown and marked as edits are. `baseline` is the setting, spelled as in `settings`, to which the
    table of differences has them. ValueError for values that are none of these.
    """

    columns: Sequence[str] | None = None
    settings: Sequence[str] | None = None
    digits: int | Mapping[str, int] | None = None
    interval: str = "plus_minus"
    width: str | float = "column"
    edit_types: bool = False
    rank_given: bool = False
    baseline: str = FIXED_SEED

    def __post_init__(self) -> None:
        if self.interval not in INTERVALS:
            raise ValueError(f"interval: {self.interval!r} is none of {', '.join(INTERVALS)}")
        if isinstance(self.width, str) and self.width not in WIDTHS:
            raise ValueError(f"width: {self.width!r} is none of {', '.join(WIDTHS)}, nor a number of inches")
        if not isinstance(self.width, str) and not 1 <= self.width <= 30:
            raise ValueError(f"width: {self.width!r} inches, allowed are 1 to 30")
        decimals = self.digits.values() if isinstance(self.digits, Mapping) else [self.digits]
        for number in decimals:
            if number is not None and (isinstance(number, bool) or number not in range(10)):
                raise ValueError(f"digits: {number!r} is no number of decimals, allowed are 0 to 9")
        for name in ("columns", "settings"):
            if isinstance(getattr(self, name), str) or getattr(self, name) == []:
                raise ValueError(
                    f"{name}: {getattr(self, name)!r} is no list of names, nor null for the usual"
                )

        if not isinstance(self.baseline, str) or not self.baseline.strip():
            raise ValueError(f"baseline: {self.baseline!r} names no setting, as 'p2p: tau 0.4' does")

    @property
    def inches(self) -> float:
        """The width in inches."""
        return WIDTHS[self.width] if isinstance(self.width, str) else float(self.width)

    def check(self, metrics: Sequence[str], methods: Sequence[str] | None = None) -> None:
        """Raise ValueError for a column that is no metric of a run, and a row that is none of its methods.

        Without `methods` rows are not looked at.
        """
        for asked in self.columns or ():
            if not named(asked, metrics):
                raise ValueError(_unknown(f"tables.columns: {asked!r} is no metric here", asked, metrics))
        if isinstance(self.digits, Mapping):
            for asked in self.digits:
                if not named(asked, metrics):
                    raise ValueError(_unknown(f"tables.digits: {asked!r} is no metric here", asked, metrics))
        named_settings = [("settings", asked) for asked in self.settings or ()]
        named_settings += [("baseline", self.baseline)] if self.baseline != FIXED_SEED else []
        for key, asked in named_settings:
            method = asked.partition(":")[0].strip()
            if methods is not None and method not in methods:
                raise ValueError(_unknown(f"tables.{key}: {method!r} is no method here", method, methods))


USUAL = Layout()


def named(asked: str, metrics: Sequence[str]) -> list[str]:
    """Return the metric of a name, a published name's scaling left aside, else all that begin with it."""
    exact = [name for name in metrics if name.partition(" ×")[0] == asked]
    return exact or [name for name in metrics if name.startswith(asked)]


def arranged(
    table: pd.DataFrame,
    directions: Mapping[str, bool],
    layout: Layout,
    first: Sequence[str] = (),
) -> pd.DataFrame:
    """Return the rows of a tidy table that a layout shows, columns in its order, with `decimals` and `rank`.

    `rank` is 1 for the best of a column, 2 for the second best, missing for others, by each metric's own
    better direction. Values that are printed alike are alike: both are marked. Compared are rows of one data
    set, edit type and weighting over equally many pairs, the most that any has: a mean over fewer may be
    better for what it leaves out. `first` are the metrics that stand first where the layout names none. Where
    the table has none of the settings, or of the columns, it is shown whole.
    """
    there = list(dict.fromkeys(table["metric"]))
    measured = set(table.loc[table["mean"].notna(), "metric"])
    usual = [name for name in (*first, *there) if name in measured and (name in directions or not directions)]
    asked = layout.columns if layout.columns is not None else usual
    metrics = list(dict.fromkeys(name for one in asked for name in named(one, there))) or there
    rows = table[table["metric"].isin(metrics)]
    by = parted_by(table)
    if not layout.edit_types:
        rows = rows[rows[by].eq(ALL)]
    chosen = [of_setting(rows, asked) for asked in layout.settings or ()]
    if any(own.any() for own in chosen):
        rows = rows[np.logical_or.reduce(chosen)]
    else:
        usual = is_plain(rows) & (rows["method"].ne("source") | layout.rank_given)
        rows = rows[usual] if usual.any() else rows
    order = {name: place for place, name in enumerate(metrics)}
    cell = rows.groupby([by, *CELL], sort=False, dropna=False).ngroup()
    keys = pd.DataFrame({"cell": cell, "metric": rows["metric"].map(order)})
    rows = rows.loc[keys.sort_values(["cell", "metric"], kind="stable").index].reset_index(drop=True)
    decimals = {name: _decimals(name, table, layout.digits) for name in metrics}
    rows = rows.assign(decimals=rows["metric"].map(decimals).astype("Int64"))
    return rows.assign(rank=_ranks(rows, directions, layout.rank_given))


def _ranks(rows: pd.DataFrame, directions: Mapping[str, bool], given_too: bool) -> pd.Series:
    ranks = pd.Series(pd.NA, index=rows.index, dtype="Int64")
    compared = rows[rows["mean"].notna() & rows["metric"].isin(directions)]
    if not given_too:
        compared = compared[~compared["method"].isin(GIVEN)]
    for _, part in compared.groupby([*_RANKED_AMONG, parted_by(rows)], dropna=False):
        part = part[part["n"].eq(part["n"].max())]
        sign = -1 if directions[part["metric"].iloc[0]] else 1
        printed = [round(mean, places) for mean, places in zip(part["mean"], part["decimals"])]
        best = sorted({sign * value for value in printed})
        if len(part) > 1:
            place = {value: rank for rank, value in enumerate(best[:SECOND], BEST)}
            ranks[part.index] = [place.get(sign * value, pd.NA) for value in printed]
    return ranks


def check_settings(table: pd.DataFrame, layout: Layout) -> None:
    """Raise ValueError for a setting of the layout that no row of a table has."""
    for asked in layout.settings or ():
        if not of_setting(table, asked).any():
            raise ValueError(_no_row("settings", asked, table))


def check_baseline(cells: pd.DataFrame, asked: str) -> None:
    """Raise ValueError where a baseline is no setting of a run's edits, or several of one context.

    `cells` are `results.tables.cells.with_cells`' rows.
    """
    edits = cells[is_plain(cells) & ~cells["method"].isin(GIVEN)]
    found = edits[of_setting(edits, asked)]
    if found.empty:
        raise ValueError(_no_row("baseline", asked, edits))
    settings = found.drop_duplicates(CELL)
    if settings.duplicated(CONTEXT).any():
        there = _spelled(settings)
        told = "; ".join(there[:_MOST]) + ("; ..." if len(there) > _MOST else "")
        raise ValueError(f"tables.baseline: {asked!r} is {len(there)} settings, one is allowed: {told}")


def _no_row(key: str, asked: str, rows: pd.DataFrame) -> str:
    there = _spelled(rows)
    near = difflib.get_close_matches(_with_letter(asked), there, _MOST, cutoff=0) or there[:_MOST]
    return f"tables.{key}: no row is {asked!r}, of {len(there)} the nearest are {'; '.join(near)}"


def _spelled(rows: pd.DataFrame) -> list[str]:
    """Return the settings of rows as `settings` names them."""
    labels = rows.drop_duplicates(["method", "setting"])
    return [f"{row.method}: {row.setting}".removesuffix(": ") for row in labels.itertuples()]


def of_setting(rows: pd.DataFrame, asked: str) -> pd.Series:
    """Mark the rows that an entry of `Layout.settings` names."""
    method, _, wanted = asked.partition(":")
    told = _parts(_with_letter(wanted))
    meant = [setting for setting in rows["setting"].unique() if told <= _parts(setting)]
    found = rows["method"].eq(method.strip()) & rows["setting"].isin(meant)
    # Effects of re-weighting are of other pairs: they are shown where asked for, or alone.
    plain = found & is_plain(rows)
    return plain if plain.any() and "weights" not in wanted else found


def _with_letter(text: str) -> str:
    """Return a text with τ, which is not on every keyboard, where it says tau."""
    return re.sub(r"\btau\b", "τ", text)


def _parts(setting: str) -> set[str]:
    """Part a setting: "cross 0–40, self 0–20 (τ 0.2)" has three parts."""
    parts = re.split(r", | \(|\)$|^", setting.replace("–", "-"))
    return {part.strip() for part in parts if part.strip()}


def _decimals(metric: str, table: pd.DataFrame, digits: int | Mapping[str, int] | None) -> int:
    if isinstance(digits, int):
        return digits
    own = [number for begin, number in (digits or {}).items() if metric.startswith(begin)]
    return own[0] if own else decimals_of(table.loc[table["metric"].eq(metric), "mean"])


def _unknown(problem: str, asked: str, allowed: Sequence[str]) -> str:
    near = difflib.get_close_matches(asked, list(allowed), 1)
    return f"{problem}{f', did you mean {near[0]}' if near else ''}; allowed are {', '.join(allowed)}"


def series_label(row: Mapping[str, object], varying: Sequence[str]) -> str:
    """Name what several rows of a table share: method, variant, and what tells models and runs apart."""
    masked = "given the mask" if row["uses_mask"] == "yes" else ""
    told = [str(row[name]) for name in varying if row["setup"] != "" or name in ("model", "dataset")]
    parts = [method_label(str(row["method"])), variant_label(str(row["variant"])), masked, *told]
    return ", ".join(part for part in parts if part and part != "nan")


def own_setting(row: Mapping[str, object]) -> str:
    """Return what of a row's setting `series_label` does not say."""
    return str(row["setting"]).removesuffix(str(row["variant"])).removesuffix(", ")
