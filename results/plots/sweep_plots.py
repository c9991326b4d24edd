"""Plots of a tidy table: the CLIP-LPIPS trade-off, metrics over tau, the ablation of injection windows.

Every function returns a matplotlib Figure, which `results.plots.plot_style.save` writes.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from results.labels import escape_mathtext, method_label, variant_label
from results.plots.direct_labels import Label, place_labels
from results.plots.plot_style import (
    INK,
    OTHERS,
    SIZE,
    STYLE,
    Directions,
    bars,
    label_axis,
    legend,
    new_figure,
)
from results.store.records import WINDOWS
from results.tables.cells import ALL, CELL, SOURCES, is_plain, window_label
from results.tables.paper import own_setting
from results.tables.statistics import FEWEST_PAIRS

_NAME_APART = (6.0, 12.0, 20.0, 30.0, 42.0)  # points between a curve and its name
_DOT, _RING = 3.0, 5.5  # points from a marker's middle to its edge
_MOST_SETTINGS = 8
"""Of how many points without a curve each is told its setting; more would be a text, not a figure."""


@dataclass(frozen=True)
class _Curve:
    """Cells of one method (and variant) with their look; `along` is what varies, "" where they are points."""

    name: str
    cells: pd.DataFrame
    color: str
    marker: str
    along: str


def trade_off(table: pd.DataFrame, preserved: str, edited: str, directions: Directions) -> Figure:
    """Plot how well images follow the prompt (`edited`) against how much changes (`preserved`).

    All edit types. P2P is a curve over tau, SDEdit over strength, others are points; with their intervals.
    Along a curve its values rise to the freer edit. The fixed seed is a ring, as it lies where P2P at tau 1
    does.
    """
    rows = _plain(table)
    rows = rows[~rows["method"].isin(SOURCES)]
    figure, (axes,) = new_figure(1, width=6.4, height=4.4)
    named, told, drawn = [], [], []
    for curve in _curves(rows):
        x, y = values_of(curve.cells, preserved), values_of(curve.cells, edited)
        color, over = curve.color, curve.cells["method"].eq("fixed_seed").all()
        name = f"{curve.name}, by {curve.along}" if curve.along else curve.name
        many = not curve.along and len(curve.cells) > _MOST_SETTINGS
        axes.errorbar(
            x["mean"], y["mean"], xerr=bars(x), yerr=bars(y), color=color, marker=curve.marker,
            label=escape_mathtext(name), linestyle="-" if curve.along else "none", linewidth=1.6,
            markersize=2 * (_RING if over else _DOT) - 1, markerfacecolor="none" if over else color,
            markeredgecolor=color if over else "white", markeredgewidth=1.3 if over else 0.8,
            zorder=3.1 if over else 2.5 if many else 3, elinewidth=0.6, capsize=0,
            ecolor=(*to_rgb(color), 0.12 if many else 0.3),
        )  # fmt: skip
        points = np.stack([x["mean"], y["mean"]], axis=1)
        known = np.isfinite(points).all(axis=1)
        reach = _RING if over else _DOT
        drawn += [(part, reach) for part in ([points[known]] if curve.along else points[known][:, None])]
        if known.any():
            anchors = [(float(at_x), float(at_y)) for at_x, at_y in points[known]]
            named.append(Label(name, anchors, color, _NAME_APART, SIZE - 1, "bold"))
            told += [
                Label(text, [anchor], color)
                for text, anchor in zip(_point_texts(curve)[known], anchors)
                if text
            ]
    label_axis(axes, "x", preserved, directions)
    label_axis(axes, "y", edited, directions)
    pairs = rows.loc[rows["metric"].isin([preserved, edited]) & rows["n"].gt(0), "n"]
    if len(pairs):
        count = f"{pairs.max()}" if pairs.min() == pairs.max() else f"{pairs.min()}–{pairs.max()}"
        few = pairs.max() < FEWEST_PAIRS
        pairs_told = "1 pair" if count == "1" else f"{count} pairs"
        note = f"{pairs_told}, no interval" if few else f"{pairs_told}, 95 % intervals"
        axes.set_title(note, loc="right", fontsize=SIZE - 2, color="#777777")
    # The ends of curves first: what lies between them can be told from them.
    ends = {anchor for curve, _ in drawn if len(curve) for anchor in (tuple(curve[0]), tuple(curve[-1]))}
    told.sort(key=lambda label: label.anchors[0] not in ends)
    placed, left = place_labels(figure, axes, [*told, *named], drawn)
    if unnamed := {escape_mathtext(label.text) for label in named if label in left}:
        for artist in placed:
            artist.remove()
        legend(figure, axes, only=unnamed)  # makes the axes smaller
        place_labels(figure, axes, [label for label in [*told, *named] if label not in left], drawn)
    figure.set_layout_engine("none")  # labels stand where this one has room for them
    return figure


def over_tau(table: pd.DataFrame, metrics: Sequence[str], directions: Directions) -> Figure:
    """Plot each metric over tau in its own panel, its interval as a band; the fixed seed is a line."""
    rows = _plain(table)
    p2p = rows[rows["tau"].notna() & rows["method"].ne("fixed_seed")]
    fixed_seed = cells_of(rows[rows["method"].eq("fixed_seed")])
    curves = _curves(p2p)
    figure, panels = new_figure(len(metrics))
    for axes, metric in zip(panels, metrics):
        for curve in curves:
            _band(axes, curve, curve.cells["tau"], metric)
        for value in values_of(fixed_seed, metric)["mean"].dropna():
            color, label = STYLE["fixed_seed"][0], method_label("fixed_seed")
            axes.axhline(value, color=color, linewidth=1.2, linestyle=(0, (4, 2)), label=label, zorder=1)
        axes.set_xlabel("τ  (freer edit →)", fontsize=SIZE, color=INK)
        label_axis(axes, "y", metric, directions)
    legend(figure, panels[0])
    return figure


def over_noise(table: pd.DataFrame, metrics: Sequence[str], directions: Directions) -> Figure:
    """Plot each metric over the share of noise that pictures start from, in its own panel, with a band.

    Unlike a strength, a share of steps, it means the same under every scheduler.
    """
    rows = _plain(table)
    curves = _curves(rows[rows["start_noise"].notna()])
    figure, panels = new_figure(len(metrics))
    for axes, metric in zip(panels, metrics):
        for curve in curves:
            _band(axes, curve, curve.cells["start_noise"], metric)
        axes.set_xlabel("share of noise at the start  (freer edit →)", fontsize=SIZE, color=INK)
        label_axis(axes, "y", metric, directions)
    legend(figure, panels[0])
    return figure


def over_weight(table: pd.DataFrame, metrics: Sequence[str], directions: Directions) -> Figure:
    """Plot each metric over the factor of a re-weighted word, in its own panel, a curve per edit type.

    The fixed seed, where it makes these edits without a factor, is a dashed line of the curve's colour.
    """
    weighted = table[~table["edit_type"].eq(ALL)].assign(factor=factors(table))
    looks = iter(OTHERS * 8)
    figure, panels = new_figure(len(metrics))
    for edit_type, rows in weighted[weighted["factor"].notna()].groupby("edit_type", sort=False):
        color, marker = next(looks)
        of_type = weighted[weighted["edit_type"].eq(edit_type) & is_plain(weighted)]
        fixed_seed = cells_of(of_type[of_type["method"].eq("fixed_seed")])
        cells = cells_of(rows[rows["method"].ne("fixed_seed")])
        curve = _Curve(str(edit_type), cells, color, marker, along="weight")
        for axes, metric in zip(panels, metrics):
            _band(axes, curve, factors(cells), metric)
            for value in values_of(fixed_seed, metric)["mean"].dropna():
                label = escape_mathtext(f"{edit_type}, {method_label('fixed_seed')}")
                axes.axhline(value, color=color, linewidth=1.2, linestyle=(0, (4, 2)), label=label, zorder=1)
    for axes, metric in zip(panels, metrics):
        axes.set_xlabel("weight of the word", fontsize=SIZE, color=INK)
        label_axis(axes, "y", metric, directions)
    legend(figure, panels[0])
    return figure


def factors(rows: pd.DataFrame) -> pd.Series:
    """Return the one factor that each row's words have, NaN where it has none or several."""
    one = rows["weighting"].str.fullmatch(r"×[^,×]+")
    return rows["weighting"].where(one).str.removeprefix("×").astype(float)


def _band(axes: Axes, curve: _Curve, over: pd.Series, metric: str) -> None:
    """Draw a curve's means over a column of its cells, and their intervals as a band."""
    values, color = values_of(curve.cells, metric), curve.color
    over = over.astype(float).sort_values()
    values = values.loc[over.index]
    axes.plot(
        over, values["mean"], color=color, marker=curve.marker, markersize=4.5, linewidth=1.6,
        markeredgecolor="white", markeredgewidth=0.7, label=escape_mathtext(curve.name),
    )  # fmt: skip
    axes.fill_between(over, values["low"], values["high"], color=color, alpha=0.18, lw=0)


def ablation(table: pd.DataFrame, metrics: Sequence[str], directions: Directions) -> Figure:
    """Plot a bar per injection window and a panel per metric, with 95 % intervals."""
    rows = _plain(table)
    rows = rows[rows[WINDOWS].notna().all(axis=1) & ~rows["method"].isin(["source", "fixed_seed"])]
    cells = cells_of(rows)
    labels = (", ".join(filter(None, (window_label(row), row.variant))) for _, row in cells.iterrows())
    names = [escape_mathtext(label) for label in labels]
    figure, panels = new_figure(len(metrics), width=3.6, height=1.2 + 0.36 * len(cells), share_y=True)
    places = np.arange(len(cells))
    for axes, metric in zip(panels, metrics):
        values = values_of(cells, metric)
        axes.barh(places, values["mean"].fillna(0), color=STYLE["p2p"][0], height=0.62, alpha=0.85)
        axes.errorbar(
            values["mean"], places, xerr=bars(values), fmt="none", ecolor=INK, elinewidth=1.1, capsize=2.5
        )
        for place in places[values["mean"].isna()]:
            axes.text(0, place, " no value", va="center", fontsize=SIZE - 1, color=INK)
        axes.grid(False, axis="y")
        axes.xaxis.set_major_locator(MaxNLocator(4))
        axes.set_yticks(places, names)
        axes.set_ylim(len(cells) - 0.5, -0.5)
        label_axis(axes, "x", metric, directions)
    panels[0].set_ylabel("injected steps", fontsize=SIZE, color=INK)
    return figure


def chosen_taus(chosen: pd.DataFrame) -> Figure:
    """Plot how often each tau was chosen, a panel per rule; lighter where the target is missed.

    `chosen` is `results.tables.auto_tau.labelled`'s.
    """
    rules = list(chosen.groupby("label", sort=False))
    figure, panels = new_figure(len(rules), width=3.8)
    color = STYLE["p2p_auto_tau"][0]
    for axes, (label, rows) in zip(panels, rules):
        missed = rows["target_missed"].eq(1)
        kept, lost = (rows.loc[which, "chosen_tau"].value_counts() for which in (~missed, missed))
        axes.bar(kept.index, kept, 0.06, color=color, alpha=0.85, label="chosen")
        if len(lost):
            axes.bar(
                lost.index, lost, 0.06, bottom=kept.reindex(lost.index, fill_value=0), color=color,
                alpha=0.35, label="nearest, target missed",
            )  # fmt: skip
            axes.legend(fontsize=SIZE - 2, frameon=False)
        axes.set_xlim(-0.06, 1.06)
        axes.yaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set_xlabel("chosen τ  (freer edit →)", fontsize=SIZE, color=INK)
        axes.set_ylabel("images", fontsize=SIZE, color=INK)
        axes.set_title(escape_mathtext(label), fontsize=SIZE - 2, color=INK)
    return figure


def _plain(table: pd.DataFrame) -> pd.DataFrame:
    return table[table["edit_type"].eq(ALL) & is_plain(table)]


def cells_of(rows: pd.DataFrame) -> pd.DataFrame:
    """Turn tidy rows into one row per cell with `mean`, `low`, `high` per metric."""
    cells = rows.drop_duplicates(CELL)[[*CELL, "start_noise"]].reset_index(drop=True)
    numbered = rows.assign(cell=rows.groupby(CELL, sort=False, dropna=False).ngroup())
    values = numbered.pivot(index="cell", columns="metric", values=["mean", "low", "high"])
    values.columns = pd.Index([(metric, name) for name, metric in values.columns], tupleize_cols=False)
    return cells.join(values)


def values_of(cells: pd.DataFrame, metric: str) -> pd.DataFrame:
    names = {(metric, name): name for name in ("mean", "low", "high")}
    return cells.reindex(columns=["tau", *names]).rename(columns=names).astype(float)


def _curves(rows: pd.DataFrame) -> list[_Curve]:
    """Split rows into curves with a look of their own: a method, or its variants where there are several."""
    curves, others = [], iter(OTHERS * 8)
    for (method, variant), part in rows.groupby(["method", "variant"], sort=False):
        name = ", ".join(filter(None, (method_label(method), variant_label(variant))))
        first = variant == rows.loc[rows["method"].eq(method), "variant"].iloc[0]
        look = STYLE[method] if first and method in STYLE else next(others)
        cells = cells_of(part)
        if method == "fixed_seed":
            curves.append(_Curve(name, cells, *look, along=""))
        elif cells["strength"].notna().all():
            curves.append(_Curve(name, cells.sort_values("strength"), *look, along="strength"))
        elif cells["tau"].notna().all():
            curves.append(_Curve(name, cells.sort_values("tau"), *look, along="τ"))
        elif cells["tau"].notna().sum() > 2:
            # Windows that no tau describes stand beside a curve over tau; one or two taus make no curve.
            by_tau = cells[cells["tau"].notna()].sort_values("tau")
            curves.append(_Curve(name, by_tau, *look, along="τ"))
            apart = next(others)
            curves.append(_Curve(f"{name}, other windows", cells[cells["tau"].isna()], *apart, along=""))
        else:
            curves.append(_Curve(name, cells, *look, along=""))
    return curves


def _point_texts(curve: _Curve) -> np.ndarray:
    """Return what is written beside each point of a curve: what varies, or the setting, or nothing."""
    column = {"τ": "tau", "strength": "strength"}.get(curve.along)
    if column:
        return np.array([f"{value:g}" for value in curve.cells[column]], dtype=object)
    settings = [own_setting(cell) for cell in curve.cells.to_dict("records")]
    if len(settings) > _MOST_SETTINGS:
        settings = [""] * len(settings)
    return np.array([setting.replace(", ", ",\n") for setting in settings], dtype=object)
