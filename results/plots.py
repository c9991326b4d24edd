"""Plots of a tidy table: the CLIP-LPIPS trade-off, metrics over tau, the ablation of injection windows.

Every function returns a matplotlib Figure and touches no global state; `save` writes it as PNG and PDF.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from matplotlib.ticker import MaxNLocator

from results.cells import ALL, CELL, SOURCES, WINDOWS, is_plain, window_label
from results.naming import escape_mathtext, higher_is_better, method_label, metric_label

Directions = Mapping[str, bool] | None

# Okabe and Ito's palette, safe for the colour-blind; every method also has its own marker.
_STYLE: dict[str, tuple[str, str]] = {
    "p2p": ("#0072B2", "o"),
    "p2p_auto_tau": ("#000000", "X"),
    "sdedit": ("#D55E00", "s"),
    "fixed_seed": ("#009E73", "D"),
    "source": ("#555555", "*"),
}
_OTHERS = (("#CC79A7", "^"), ("#E69F00", "v"), ("#56B4E9", "P"), ("#882255", "<"))
_INK, _GRID = "#333333", "#E4E4E4"
_SIZE = 9


@dataclass(frozen=True)
class _Curve:
    """Cells of one method (and variant) with their look; `along` is what varies, "" where they are points."""

    name: str
    cells: pd.DataFrame
    color: str
    marker: str
    along: str


def trade_off(table: pd.DataFrame, preserved: str, edited: str, directions: Directions = None) -> Figure:
    """Plot how well images follow the prompt (`edited`) against how much changes (`preserved`).

    All edit types. P2P is a curve over tau, SDEdit over strength, others are points; with their intervals.
    """
    rows = _plain(table)
    figure, (axes,) = _figure(1, width=6.4, height=4.4)
    for curve in _curves(rows[~rows["method"].isin(SOURCES)]):
        x, y = _values(curve.cells, preserved), _values(curve.cells, edited)
        color = curve.color
        axes.errorbar(
            x["mean"], y["mean"], xerr=_bars(x), yerr=_bars(y), color=color, marker=curve.marker,
            label=escape_mathtext(f"{curve.name}, by {curve.along}" if curve.along else curve.name),
            linestyle="-" if curve.along else "none", linewidth=1.6, markersize=5.5, markeredgecolor="white",
            markeredgewidth=0.8, elinewidth=0.8, capsize=0, ecolor=(*to_rgb(color), 0.45),
        )  # fmt: skip
        _point_labels(axes, curve, x["mean"], y["mean"])
    _label_axis(axes, "x", preserved, directions)
    _label_axis(axes, "y", edited, directions)
    _legend(figure, axes)
    pairs = rows.loc[rows["metric"].isin([preserved, edited]) & rows["n"].gt(0), "n"]
    if len(pairs):
        count = f"{pairs.max()}" if pairs.min() == pairs.max() else f"{pairs.min()}–{pairs.max()}"
        note = "1 pair, no interval" if count == "1" else f"{count} pairs, 95 % intervals"
        axes.set_title(note, loc="right", fontsize=_SIZE - 2, color="#777777")
    return figure


def over_tau(table: pd.DataFrame, metrics: Sequence[str], directions: Directions = None) -> Figure:
    """Plot each metric over tau in its own panel, its interval as a band; the fixed seed is a line."""
    rows = _plain(table)
    p2p = rows[rows["tau"].notna() & rows["method"].ne("fixed_seed")]
    fixed_seed = _cells(rows[rows["method"].eq("fixed_seed")])
    figure, panels = _figure(len(metrics))
    for axes, metric in zip(panels, metrics):
        for curve in _curves(p2p):
            values, color = _values(curve.cells, metric), curve.color
            axes.plot(
                values["tau"], values["mean"], color=color, marker=curve.marker, markersize=4.5,
                linewidth=1.6, markeredgecolor="white", markeredgewidth=0.7,
                label=escape_mathtext(curve.name),
            )  # fmt: skip
            axes.fill_between(values["tau"], values["low"], values["high"], color=color, alpha=0.18, lw=0)
        for value in _values(fixed_seed, metric)["mean"].dropna():
            color, label = _STYLE["fixed_seed"][0], method_label("fixed_seed")
            axes.axhline(value, color=color, linewidth=1.2, linestyle=(0, (4, 2)), label=label, zorder=1)
        axes.set_xlabel("τ  (freer edit →)", fontsize=_SIZE, color=_INK)
        _label_axis(axes, "y", metric, directions)
    _legend(figure, panels[0])
    return figure


def ablation(table: pd.DataFrame, metrics: Sequence[str], directions: Directions = None) -> Figure:
    """Plot a bar per injection window and a panel per metric, with 95 % intervals."""
    rows = _plain(table)
    rows = rows[rows[WINDOWS].notna().all(axis=1) & ~rows["method"].isin(["source", "fixed_seed"])]
    cells = _cells(rows)
    labels = (", ".join(filter(None, (window_label(row), row.variant))) for _, row in cells.iterrows())
    names = [escape_mathtext(label) for label in labels]
    figure, panels = _figure(len(metrics), width=3.6, height=1.2 + 0.36 * len(cells), share_y=True)
    places = np.arange(len(cells))
    for axes, metric in zip(panels, metrics):
        values = _values(cells, metric)
        axes.barh(places, values["mean"].fillna(0), color=_STYLE["p2p"][0], height=0.62, alpha=0.85)
        axes.errorbar(
            values["mean"], places, xerr=_bars(values), fmt="none", ecolor=_INK, elinewidth=1.1, capsize=2.5
        )
        for place in places[values["mean"].isna()]:
            axes.text(0, place, " no value", va="center", fontsize=_SIZE - 1, color=_INK)
        axes.grid(False, axis="y")
        axes.xaxis.set_major_locator(MaxNLocator(4))
        axes.set_yticks(places, names)
        axes.set_ylim(len(cells) - 0.5, -0.5)
        _label_axis(axes, "x", metric, directions)
    panels[0].set_ylabel("injected steps", fontsize=_SIZE, color=_INK)
    return figure


def chosen_taus(chosen: pd.DataFrame) -> Figure:
    """Plot how often each tau was chosen, a panel per rule; lighter where the target is missed.

    `chosen` is `results.auto_tau.chosen_rows`' result.
    """
    rules = list(chosen.groupby("label", sort=False))
    figure, panels = _figure(len(rules), width=3.8)
    color = _STYLE["p2p_auto_tau"][0]
    for axes, (label, rows) in zip(panels, rules):
        missed = rows["target_missed"].eq(1)
        kept, lost = (rows.loc[which, "chosen_tau"].value_counts() for which in (~missed, missed))
        axes.bar(kept.index, kept, 0.06, color=color, alpha=0.85, label="chosen")
        if len(lost):
            axes.bar(
                lost.index, lost, 0.06, bottom=kept.reindex(lost.index, fill_value=0), color=color,
                alpha=0.35, label="nearest, target missed",
            )  # fmt: skip
            axes.legend(fontsize=_SIZE - 2, frameon=False)
        axes.set_xlim(-0.06, 1.06)
        axes.yaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set_xlabel("chosen τ  (freer edit →)", fontsize=_SIZE, color=_INK)
        axes.set_ylabel("images", fontsize=_SIZE, color=_INK)
        axes.set_title(escape_mathtext(label), fontsize=_SIZE - 2, color=_INK)
    return figure


def save(figure: Figure, stem: Path) -> list[Path]:
    """Write `<stem>.png` (200 dpi) and `<stem>.pdf` without a date, so that equal tables give equal files."""
    stem.parent.mkdir(parents=True, exist_ok=True)
    paths = [stem.with_name(f"{stem.name}.{kind}") for kind in ("png", "pdf")]
    with matplotlib.rc_context({"pdf.fonttype": 42}):
        figure.savefig(paths[0], dpi=200)
        figure.savefig(paths[1], metadata={"CreationDate": None})
    return paths


def _plain(table: pd.DataFrame) -> pd.DataFrame:
    return table[table["edit_type"].eq(ALL) & is_plain(table)]


def _cells(rows: pd.DataFrame) -> pd.DataFrame:
    """Turn tidy rows into one row per cell with `mean`, `low`, `high` per metric."""
    index = rows.drop_duplicates(CELL)[CELL]
    for metric, part in rows.groupby("metric", sort=False):
        part = part[[*CELL, "mean", "low", "high"]]
        renamed = part.rename(columns={name: (metric, name) for name in ("mean", "low", "high")})
        index = index.merge(renamed, on=CELL, how="left")
    return index.reset_index(drop=True)


def _values(cells: pd.DataFrame, metric: str) -> pd.DataFrame:
    names = {(metric, name): name for name in ("mean", "low", "high")}
    return cells.reindex(columns=["tau", *names]).rename(columns=names).astype(float)


def _curves(rows: pd.DataFrame) -> list[_Curve]:
    """Split rows into curves with a look of their own: a method, or its variants where there are several."""
    curves, others = [], iter(_OTHERS * 8)
    for (method, variant), part in rows.groupby(["method", "variant"], sort=False):
        name = ", ".join(filter(None, (method_label(method), variant)))
        first = variant == rows.loc[rows["method"].eq(method), "variant"].iloc[0]
        look = _STYLE[method] if first and method in _STYLE else next(others)
        cells = _cells(part)
        if method == "fixed_seed":
            curves.append(_Curve(name, cells, *look, along=""))
        elif cells["strength"].notna().all():
            curves.append(_Curve(name, cells, *look, along="strength"))
        elif cells["tau"].notna().all():
            curves.append(_Curve(name, cells, *look, along="τ"))
        elif cells["tau"].notna().sum() > 2:
            # Windows that no tau describes stand beside a curve over tau; one or two taus make no curve.
            curves.append(_Curve(name, cells[cells["tau"].notna()], *look, along="τ"))
            curves.append(_Curve(f"{name}, other windows", cells[cells["tau"].isna()], *look, along=""))
        else:
            curves.append(_Curve(name, cells, *look, along=""))
    return curves


def _bars(values: pd.DataFrame) -> np.ndarray:
    """Lengths of the error bars, (2, cells); a missing interval has no bar."""
    bars = np.stack([values["mean"] - values["low"], values["high"] - values["mean"]])
    return np.nan_to_num(bars)


def _point_labels(axes: Axes, curve: _Curve, x: pd.Series, y: pd.Series) -> None:
    column = {"τ": "tau", "strength": "strength"}.get(curve.along)
    for (_, cell), at_x, at_y in zip(curve.cells.iterrows(), x, y):
        if np.isfinite(at_x + at_y):
            text = f"{cell[column]:g}" if column else cell["setting"].replace(", ", ",\n")
            axes.annotate(
                escape_mathtext(text), (at_x, at_y), xytext=(6, -4), textcoords="offset points", va="top",
                fontsize=_SIZE - 2, color=curve.color,
                path_effects=[withStroke(linewidth=2.5, foreground="white")],
            )  # fmt: skip


def _figure(
    panels: int, width: float = 3.3, height: float = 2.7, share_y: bool = False
) -> tuple[Figure, list[Axes]]:
    columns = 2 if panels == 4 else min(panels, 3)
    rows = -(-panels // columns)
    figure = Figure(figsize=(width * columns, height * rows), layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False, sharey=share_y).ravel()
    for axes in grid[panels:]:
        axes.remove()
    for axes in grid[:panels]:
        axes.spines[["top", "right"]].set_visible(False)
        axes.spines[["left", "bottom"]].set_color("#999999")
        axes.grid(True, color=_GRID, linewidth=0.7)
        axes.set_axisbelow(True)
        axes.tick_params(labelsize=_SIZE - 1, color="#999999", labelcolor=_INK)
    return figure, list(grid[:panels])


def _label_axis(axes: Axes, axis: str, metric: str, directions: Directions) -> None:
    better = {True: "better →", False: "← better", None: ""}[higher_is_better(metric, directions)]
    # The second line holds the backbone and the direction.
    text = escape_mathtext(metric_label(metric)).replace(" (", "\n(", 1)
    axes.set(**{f"{axis}label": f"{text}   {better}".rstrip()})
    getattr(axes, f"{axis}axis").label.set(fontsize=_SIZE, color=_INK)


def _legend(figure: Figure, axes: Axes) -> None:
    # Above the panels: looking for a free place within them costs seconds on a busy machine, and warns.
    handles, labels = axes.get_legend_handles_labels()
    if handles:
        figure.legend(
            handles, labels, loc="outside upper left", ncols=len(handles), fontsize=_SIZE - 1, frameon=False,
            labelcolor=_INK, handletextpad=0.5, columnspacing=1.6,
        )  # fmt: skip
