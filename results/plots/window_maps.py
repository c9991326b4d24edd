"""Heat-maps over injection windows: cross-attention across, self-attention up, an interval in each field."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from results.labels import escape_mathtext, metric_label
from results.plots.plot_style import INK, SIZE, Directions
from results.store.records import WINDOWS
from results.tables.statistics import FEWEST_PAIRS
from results.tables.table_files import decimals_of

FEWEST_FIELDS = 6
_PLACE = ["cross_end", "self_end"]
_NOT_RUN = "#EBEBEB"


def mapped(rows: pd.DataFrame) -> pd.DataFrame:
    """Return the rows that a map can show: windows from the first step on, of the variant with most of them.

    `rows` are of one method. Empty where their windows are too few, or fill less than half of the map, as
    those of a sweep over tau do.
    """
    known = rows[rows[WINDOWS].notna().all(axis=1)]
    first = known[known[["cross_start", "self_start"]].astype(int).eq(0).all(axis=1)]
    if not len(first):
        return first
    fields = first.drop_duplicates(["variant", *_PLACE])
    most = fields["variant"].value_counts(sort=False).idxmax()
    fields = fields[fields["variant"].eq(most)]
    whole = fields["cross_end"].nunique() * fields["self_end"].nunique()
    enough = len(fields) >= FEWEST_FIELDS and 2 * len(fields) >= whole
    square = min(fields[name].nunique() for name in _PLACE) > 1
    return first[first["variant"].eq(most)] if enough and square else first.iloc[:0]


def window_map(rows: pd.DataFrame, metrics: Sequence[str], directions: Directions) -> Figure:
    """Draw a map per metric of `mapped` rows: brighter is better, and the best field has a frame.

    Below the steps of cross-attention stands tau, where one tau describes the column.
    """
    across, up = (sorted(rows[name].astype(int).unique()) for name in _PLACE)
    width, height = max(0.72 * len(across), 2.4) + 1.1, 0.46 * len(up) + 1.3
    figure = Figure(figsize=(width * len(metrics), height), layout="constrained")
    panels = figure.subplots(1, len(metrics), squeeze=False, sharey=True)[0]
    for axes, metric in zip(panels, metrics):
        own = rows[rows["metric"].eq(metric)].drop_duplicates(_PLACE).set_index(_PLACE)
        table = {
            name: own[name].astype(float).unstack("cross_end").reindex(index=up, columns=across)
            for name in ("mean", "low", "high")
        }
        higher = directions.get(metric)
        colours = "cividis_r" if higher is False else "cividis"
        image = axes.imshow(table["mean"], cmap=colours, aspect="auto", origin="lower")
        axes.set_facecolor(_NOT_RUN)
        _write_fields(axes, table, decimals_of(own["mean"].astype(float)), dark=higher is False)
        if higher is not None and table["mean"].notna().any(axis=None):
            _frame_best(axes, table["mean"], higher)
        better = {True: ", higher is better", False: ", lower is better", None: ""}[higher]
        title = escape_mathtext(metric_label(metric)).replace(" (", "\n(", 1)
        axes.set_title(f"{title}{better}", fontsize=SIZE, color=INK)
        axes.set_xticks(range(len(across)), [_step_label(rows, end) for end in across])
        axes.set_yticks(range(len(up)), [f"{end}" for end in up])
        axes.tick_params(labelsize=SIZE - 1, length=0, labelcolor=INK)
        axes.spines[:].set_visible(False)
        axes.set_xlabel("first steps with the source's cross-attention", fontsize=SIZE, color=INK)
        bar = figure.colorbar(image, ax=axes, shrink=0.85, pad=0.02, aspect=30)
        bar.ax.tick_params(labelsize=SIZE - 2, labelcolor=INK, length=0)
        bar.outline.set_visible(False)
        if higher is False:
            bar.ax.invert_yaxis()
    panels[0].set_ylabel("first steps with the source's self-attention", fontsize=SIZE, color=INK)
    figure.supxlabel(_counted(rows), fontsize=SIZE - 2, color="#777777", x=0.99, ha="right")
    return figure


def _write_fields(axes: Axes, table: dict[str, pd.DataFrame], decimals: int, dark: bool) -> None:
    """Write each field's mean, and its interval below it."""
    mean = table["mean"].to_numpy()
    least, most = (np.nanmin(mean), np.nanmax(mean)) if np.isfinite(mean).any() else (0.0, 0.0)
    for row, column in np.ndindex(mean.shape):
        value = mean[row, column]
        if not np.isfinite(value):
            axes.text(column, row, "·", ha="center", va="center", color=INK)
            continue
        part = (value - least) / (most - least) if most > least else 0.5
        color = "white" if (1 - part if dark else part) < 0.55 else "black"
        low, high = table["low"].iat[row, column], table["high"].iat[row, column]
        told = np.isfinite(low)
        axes.text(
            column, row + (0.14 if told else 0), f"{value:.{decimals}f}", ha="center", va="center",
            fontsize=SIZE - 1, color=color,
        )  # fmt: skip
        if told:
            axes.text(
                column, row - 0.23, f"[{low:.{decimals}f}, {high:.{decimals}f}]", ha="center", va="center",
                fontsize=SIZE - 4, color=color,
            )  # fmt: skip


def _frame_best(axes: Axes, mean: pd.DataFrame, higher: bool) -> None:
    values = mean.to_numpy()
    best = np.nanmax(values) if higher else np.nanmin(values)
    for row, column in np.argwhere(values == best):
        corner = (column - 0.5, row - 0.5)
        axes.add_patch(Rectangle(corner, 1, 1, fill=False, edgecolor="#D55E00", linewidth=2, clip_on=False))


def _step_label(rows: pd.DataFrame, end: int) -> str:
    taus = rows.loc[rows["cross_end"].eq(end), "tau"].dropna().unique()
    return f"{end}\nτ {taus[0]:g}" if len(taus) == 1 else f"{end}"


def _counted(rows: pd.DataFrame) -> str:
    counts = rows.loc[rows["n"].gt(0), "n"]
    if not len(counts):
        return ""
    pairs = f"{counts.max()}" if counts.min() == counts.max() else f"{counts.min()}–{counts.max()}"
    named = "1 pair" if pairs == "1" else f"{pairs} pairs"
    return f"{named}, {'no interval' if counts.max() < FEWEST_PAIRS else '95 % intervals in brackets'}"
