"""The Pareto front of a run as a picture: every setting by two metrics, the front drawn through and named."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from textwrap import wrap

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke

from results.labels import escape_mathtext, variant_label
from results.plots.plot_style import INK, SIZE, Directions, bars, label_axis, legend, new_figure, save
from results.tables.paper import own_setting, series_label
from results.tables.pareto import APART, BY_MEANS, DOMINATED, FRONT, LEVEL, Front, told, values_of
from results.tables.table_files import varying_context

_LOOK = {
    DOMINATED: ("#BBBBBB", "o", 14),
    BY_MEANS: ("#56B4E9", "D", 16),
    LEVEL: ("#56B4E9", "s", 20),
    FRONT: ("#0072B2", "o", 34),
}
_LABEL = {
    DOMINATED: "dominated",
    BY_MEANS: "beaten by the means alone",
    LEVEL: "beaten within the interval",
    FRONT: "on the front",
}
CLOSE = 0.025  # of an axis: numbers of settings that lie closer together would cover each other
MOST_NAMES = 12
"""How many settings of the front the picture spells out; the table has all of them."""
_LINE, _LINE_HEIGHT, _HEAD = 44, 0.17, 1.0  # letters; inches a line, and of what is above and below the axes


def draw(found: Sequence[Front], directions: Mapping[str, bool], stem: Path) -> list[Path]:
    """Write a figure per data set, as PNG and PDF; of several the data set is part of the name."""
    paths: list[Path] = []
    for front in found:
        name = re.sub(r"[^A-Za-z0-9.]+", "_", f"-{front.dataset}") if len(found) > 1 else ""
        paths += save(pareto(front, directions), stem.with_name(stem.name + name))
    return paths


def pareto(front: Front, directions: Directions) -> Figure:
    """Plot the first metric against the second, a point a setting; the front has intervals and numbers.

    The line bounds what some setting of the front is at least as good as. Settings that are not compared are
    not drawn; the title counts them.
    """
    table = front.table[front.table["standing"].ne(APART)]
    figure, (axes,) = new_figure(1, width=8.4, height=5.0)
    upward, along = front.metrics
    x, y = values_of(table, along), values_of(table, upward)
    for standing, (color, marker, size) in _LOOK.items():
        of = table["standing"].eq(standing)
        if not of.any():
            continue
        axes.scatter(
            x.loc[of, "mean"], y.loc[of, "mean"], s=size, color=color, marker=marker, edgecolor="white",
            linewidth=0.6, label=_LABEL[standing], zorder=3,
        )  # fmt: skip
    of = table["standing"].eq(FRONT)
    best = table[of].sort_values("place")
    color = _LOOK[FRONT][0]
    axes.errorbar(
        x.loc[of, "mean"], y.loc[of, "mean"], xerr=bars(x[of]), yerr=bars(y[of]), fmt="none", ecolor=color,
        alpha=0.3, elinewidth=0.8, zorder=2,
    )  # fmt: skip
    axes.plot(
        *_steps(x.loc[best.index, "mean"], y.loc[best.index, "mean"]), color=color, linewidth=1.1, zorder=2.5
    )
    _numbers(axes, best, x["mean"], y["mean"], color)
    label_axis(axes, "x", along, directions)
    label_axis(axes, "y", upward, directions)
    legend(figure, axes)
    axes.set_title(told(front), loc="right", fontsize=SIZE - 2, color="#777777")
    names = _names(best)
    # As high as its names are, where they are many lines.
    figure.set_figheight(max(figure.get_figheight(), _HEAD + len(names) * _LINE_HEIGHT))
    for number, (line, weight) in enumerate(names):
        axes.annotate(
            escape_mathtext(line), (1, 1), xycoords="axes fraction", textcoords="offset points",
            xytext=(14, -72 * _LINE_HEIGHT * number), fontsize=SIZE - 2, color=INK, weight=weight, va="top",
        )  # fmt: skip
    return figure


def _steps(x: pd.Series, y: pd.Series) -> tuple[np.ndarray, np.ndarray]:
    """Return the staircase through a front that begins at the best x: to the next x, then to its better y."""
    return np.repeat(x.to_numpy(), 2)[1:], np.repeat(y.to_numpy(), 2)[:-1]


def _numbers(axes: Axes, best: pd.DataFrame, x: pd.Series, y: pd.Series, color: str) -> None:
    """Write its place beside each setting of the front, one text for several that lie close together."""
    width, height = np.ptp(axes.get_xlim()) * CLOSE, np.ptp(axes.get_ylim()) * CLOSE
    near: list[list[int]] = []
    for index in best.index:
        last = near[-1][-1] if near else None
        if last is not None and abs(x[last] - x[index]) < width and abs(y[last] - y[index]) < height:
            near[-1].append(index)
        else:
            near.append([index])
    for together in near:
        places = [f"{best.at[index, 'place']}" for index in together]
        axes.annotate(
            "–".join(dict.fromkeys([places[0], places[-1]])), (x[together[0]], y[together[-1]]),
            xytext=(-4, 4), textcoords="offset points", ha="right", va="bottom", fontsize=SIZE - 1,
            color=color, zorder=4, path_effects=[withStroke(linewidth=2.5, foreground="white")],
        )  # fmt: skip


def _names(best: pd.DataFrame) -> list[tuple[str, str]]:
    """Return the lines that name the front's settings, each with its weight: a series, then its settings.

    What settings share is told once, above them, so that few are longer than a line.
    """
    lines: list[tuple[str, str]] = []
    varying = varying_context(best)
    rows = best.head(MOST_NAMES).to_dict("records")
    for series, own in _by_series(rows, varying).items():
        lines += [(line, "bold") for line in wrap(series, _LINE)]
        for place, setting in own:
            text = f"{place}  {setting or '—'}"
            lines += [(line, "normal") for line in wrap(text, _LINE, subsequent_indent="      ")]
    more = len(best) - MOST_NAMES
    return [*lines, *([(f"and {more} more, in tables/pareto.md", "normal")] if more > 0 else [])]


def _by_series(
    rows: Sequence[Mapping[str, object]], varying: Sequence[str]
) -> dict[str, list[tuple[object, str]]]:
    """Return places and settings by what is told above them: the variant too, where several share one."""
    labels = [series_label(row, varying) for row in rows]
    methods = [series_label({**row, "variant": ""}, varying) for row in rows]
    several = {method for method, label in zip(methods, labels) if labels.count(label) > 1}
    grouped: dict[str, list[tuple[object, str]]] = {}
    for row, method, label in zip(rows, methods, labels):
        with_variant = method in several
        setting = own_setting(row) if with_variant else variant_label(str(row["setting"]))
        grouped.setdefault(label if with_variant else method, []).append((row["place"], setting))
    return grouped
