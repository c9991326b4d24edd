"""Which metric ranks settings as the truth does: Spearman's rank correlation over cells, per edit type.

The truth is an error to a known ideal edit or a judge's verdict. A cell is a method with all its settings
(inversion, tau, strength, ...), its value the mean over pairs; intervals are bootstrapped over pairs.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd

from results.labels import csv_text, escape_markdown, metric_label
from results.store.whole_files import write_whole
from results.tables.cells import ALL, GIVEN, is_plain
from results.tables.statistics import FEWEST_PAIRS, RESAMPLES, resampled_counts

PREFIXES = ("ideal/", "judge/")
COLUMNS = ["edit_type", "truth", "metric", "rho", "low", "high", "n_cells", "n"]


def truth_columns(metrics: Iterable[str]) -> list[str]:
    """Return the metrics that are a truth."""
    return [name for name in metrics if name.startswith(PREFIXES)]


def rank_correlations(
    cells: pd.DataFrame,
    truths: Collection[str],
    metrics: Collection[str],
    directions: Mapping[str, bool],
    *,
    confidence: float = 0.95,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> pd.DataFrame:
    """Correlate every metric with every truth, over all edit types and for each; columns COLUMNS.

    `cells` are `results.tables.cells.with_cells`' rows. Both sides are turned so that larger is better: 1
    means that the metric ranks the settings as the truth does, -1 upside down. Only pairs with both values in
    every cell count (`n`). Rows of fewer than 3 cells or 2 pairs are left out, as are metrics that have no
    better direction. `rho` is NaN where one side is the same in all cells; a resample in which it is counts
    for nothing.
    """
    edits = cells[is_plain(cells) & ~cells["method"].isin(GIVEN) & cells["status"].eq("ok")]
    parts = [(ALL, edits)]
    if edits["edit_type"].ne("").any():
        parts += [(str(name), rows) for name, rows in edits.groupby("edit_type")]
    rows = []
    for edit_type, part in parts:
        values = {name: _by_cell(part, name, directions) for name in (*truths, *metrics)}
        for truth, metric in product(truths, metrics):
            if (both := _complete(values[truth], values[metric])) is None:
                continue
            rho, low, high = spearman(*both, confidence=confidence, resamples=resamples, seed=seed)
            rows.append((edit_type, truth, metric, rho, low, high, *both[0].shape))
    return pd.DataFrame(rows, columns=COLUMNS)


def spearman(
    first: np.ndarray, second: np.ndarray, *, confidence: float, resamples: int, seed: int
) -> tuple[float, float, float]:
    """Return rho of the cells' means and its percentile interval; both arrays are (cells, pairs).

    The interval is NaN with fewer than FEWEST_PAIRS pairs. Ties share their mean rank (Spearman's rho is
    Pearson's r of ranks).
    """
    from scipy.stats import rankdata  # takes longer to import than most tables to make

    pairs = first.shape[1]
    whole = np.full((1, pairs), 1.0)
    counts = np.concatenate([whole, resampled_counts(pairs, resamples, seed)])
    # Rounded: means that differ in their last digit only are ties.
    ranks = [rankdata((counts @ side.T / pairs).round(12), axis=1) for side in (first, second)]
    centred = [rank - rank.mean(1, keepdims=True) for rank in ranks]
    spread = np.sqrt(np.prod([np.square(side).sum(1) for side in centred], axis=0))
    with np.errstate(invalid="ignore"):
        rho = (centred[0] * centred[1]).sum(1) / spread
    drawn = rho[1:][np.isfinite(rho[1:])]
    if not np.isfinite(rho[0]) or not len(drawn):
        return np.nan, np.nan, np.nan
    if pairs < FEWEST_PAIRS:
        return float(rho[0]), np.nan, np.nan
    tail = (1 - confidence) / 2
    low, high = np.quantile(drawn, [tail, 1 - tail])
    return float(rho[0]), float(low), float(high)


def write_correlations(table: pd.DataFrame, stem: Path) -> list[Path]:
    """Write `<stem>.csv` and `.md`; returns their paths."""
    texts = {".csv": csv_text(table), ".md": to_markdown(table)}
    paths = [stem.with_name(stem.name + suffix) for suffix in texts]
    for path, text in zip(paths, texts.values(), strict=True):
        write_whole(path, text)
    return paths


def to_markdown(table: pd.DataFrame) -> str:
    """Write one table per truth: a row per metric, a column per edit type."""
    parts = []
    for truth, rows in table.groupby("truth", sort=False):
        types = list(rows["edit_type"].unique())
        counts = rows.drop_duplicates("edit_type").set_index("edit_type")
        header = ["metric", *(f"{escape_markdown(t)} ({counts.at[t, 'n']} pairs)" for t in types)]
        lines = [header, ["---", *["---:"] * len(types)]]
        for metric, own in rows.groupby("metric", sort=False):
            by_type = own.set_index("edit_type")
            lines.append([escape_markdown(metric), *(_entry(by_type, t) for t in types)])
        body = "\n".join("| " + " | ".join(line) + " |" for line in lines)
        parts += [f"**Ranks as {escape_markdown(metric_label(str(truth)))}**", body]
    note = (
        "Spearman's rho over settings, both sides turned so that larger is better [95 % interval over pairs, "
        f"where there are at least {FEWEST_PAIRS}]."
    )
    return "\n\n".join([*parts, note] if parts else ["No rows."]) + "\n"


def _entry(by_type: pd.DataFrame, edit_type: str) -> str:
    if edit_type not in by_type.index or pd.isna(by_type.at[edit_type, "rho"]):
        return "—"
    row = by_type.loc[edit_type]
    interval = "" if pd.isna(row["low"]) else f" [{row['low']:.2f}, {row['high']:.2f}]"
    return f"{row['rho']:.2f}{interval}"


def _by_cell(part: pd.DataFrame, metric: str, directions: Mapping[str, bool]) -> pd.DataFrame | None:
    """Return (cells, pairs) of a metric, larger is better; None where it has no direction."""
    up = directions.get(metric)
    if up is None:
        return None
    values = part[metric].groupby([part["cell"], part["pair_id"]]).mean().unstack()
    return values if up else -values


def _complete(
    first: pd.DataFrame | None, second: pd.DataFrame | None
) -> tuple[np.ndarray, np.ndarray] | None:
    """Return the values of the pairs that lack none on either side; None where too little is left."""
    if first is None or second is None:
        return None
    there = first.notna().all() & second.notna().all()
    if len(first) < 3 or there.sum() < 2:
        return None
    return first.loc[:, there].to_numpy(float), second.loc[:, there].to_numpy(float)
