"""Plots of a run with known ideal edits: what each setting changes and keeps, and which metric tells so."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure

from results.labels import escape_mathtext, method_label, metric_label
from results.plots.plot_style import INK, SIZE, Directions, bars, label_axis, legend, new_figure
from results.plots.sweep_plots import cells_of, values_of
from results.tables.cells import ALL, is_plain

EDITED, UNEDITED = "ideal/mse_edited@1", "ideal/mse_unedited@1"
# Okabe and Ito's palette by inversion; the marker is the method.
_COLOURS = ("#0072B2", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#882255")
_NO_RANK = "#ebebeb"
_MARKERS = {"p2p": "o", "sdedit": "s", "fixed_seed": "D", "source": "x", "ideal": "*"}
_ALONG = {"p2p": "tau", "sdedit": "strength"}


def trade_off(table: pd.DataFrame, directions: Directions) -> Figure:
    """Plot the error where the ideal changes the source against the error where it keeps it.

    Down and left is better. A line's ends tell its first and last tau or strength. The source image (no
    edit) and the ideal as the autoencoder gives it back (no method can do better) bound what there is to
    gain.
    """
    rows = table[table["edit_type"].eq(ALL) & is_plain(table) & table["method"].ne("reconstruction")]
    figure, (axes,) = new_figure(1, width=6.6, height=4.8)
    inversions = sorted(set(rows["inversion"]) - {""})
    colours = {"": "#D55E00", **dict(zip(inversions, _COLOURS * len(inversions)))}
    given = rows["method"].isin(["source", "ideal"])
    once = rows[given].drop_duplicates(["method", "metric"])
    for (inversion, method, variant), part in pd.concat([rows[~given], once]).groupby(
        ["inversion", "method", "variant"], sort=False
    ):
        along = _ALONG.get(method)
        cells = cells_of(part).sort_values(along) if along else cells_of(part)
        x, y = values_of(cells, UNEDITED), values_of(cells, EDITED)
        bound = method in ("source", "ideal")
        colour = INK if bound else colours[inversion]
        named = method_label(method) + (f", {inversion}" if inversion and not bound else "")
        over = method == "fixed_seed"  # lies where Prompt-to-Prompt at tau 1 does
        axes.errorbar(
            x["mean"], y["mean"], xerr=bars(x), yerr=bars(y), color=colour,
            marker=_MARKERS.get(method, "^"), linestyle="-" if along else "none", linewidth=1.5,
            markersize=10 if over or method == "ideal" else 6, elinewidth=0.7,
            markerfacecolor="none" if over else colour,
            markeredgecolor=colour if over or method == "source" else "white",
            markeredgewidth=2 if method == "source" else 1.2 if over else 0.8,
            ecolor=(*to_rgb(colour), 0.35), clip_on=method != "source", zorder=2.1 if over else 2,
            label=escape_mathtext(", ".join(filter(None, (named, variant)))),
        )  # fmt: skip
        if along:
            _name_ends(axes, cells[along], x["mean"], y["mean"], colour)
    label_axis(axes, "x", UNEDITED, directions)
    label_axis(axes, "y", EDITED, directions)
    axes.set_xlim(left=0)
    axes.set_ylim(bottom=0)
    legend(figure, axes, columns=3)
    return figure


def _name_ends(axes: Axes, values: pd.Series, x: pd.Series, y: pd.Series, colour: str) -> None:
    """Write the first and the last value beside a line's ends, away from each other."""
    ends = [(x.iat[0], y.iat[0], values.iat[0]), (x.iat[-1], y.iat[-1], values.iat[-1])]
    towards = -1 if ends[0][0] <= ends[1][0] else 1
    for at_x, at_y, value in ends if len(values) > 1 else ends[:1]:
        if np.isfinite(at_x + at_y):
            axes.annotate(
                f"{value:g}", (at_x, at_y), xytext=(7 * towards, 4), textcoords="offset points",
                fontsize=SIZE - 2, color=colour, ha="right" if towards < 0 else "left",
            )  # fmt: skip
        towards = -towards


def correlations(table: pd.DataFrame) -> Figure:
    """Plot rank correlations as coloured tables, two a row, one per truth: metrics down, edit types across.

    Blue: the metric ranks the settings as the truth does; red: upside down; grey: too few values, or the same
    one for all settings. Faint numbers have an interval that holds 0, or none.
    """
    truths = list(table["truth"].unique())
    metrics = list(table["metric"].unique())
    types = {truth: list(rows["edit_type"].unique()) for truth, rows in table.groupby("truth")}
    across = min(len(truths), 2)
    down = -(-len(truths) // across)
    width, height = 1.0 + 0.52 * max(map(len, types.values())), 1.4 + 0.3 * len(metrics)
    figure = Figure(figsize=(2.8 + width * across, height * down), layout="constrained")
    grid = figure.subplots(down, across, squeeze=False, sharey=True).ravel()
    for axes in grid[len(truths) :]:
        axes.remove()
    panels = grid[: len(truths)]
    for axes, truth in zip(panels, truths, strict=True):
        own = table[table["truth"].eq(truth)].set_index(["metric", "edit_type"])
        rho_of = own["rho"].unstack().reindex(index=metrics, columns=types[truth])
        axes.set_facecolor(_NO_RANK)
        image = axes.imshow(rho_of, cmap="RdBu", vmin=-1, vmax=1, aspect="auto")
        for row, metric in enumerate(metrics):
            for column, edit_type in enumerate(types[truth]):
                if (metric, edit_type) in own.index and np.isfinite(rho := rho_of.iat[row, column]):
                    cell = own.loc[(metric, edit_type)]
                    clear = cell["low"] > 0 or cell["high"] < 0
                    axes.text(
                        column, row, f"{rho:.2f}", ha="center", va="center", fontsize=SIZE - 2,
                        color="white" if abs(rho) > 0.65 else INK, alpha=1 if clear else 0.45,
                    )  # fmt: skip
        axes.set_title(escape_mathtext(metric_label(truth)).replace(", ", ",\n"), fontsize=SIZE, color=INK)
        names = [escape_mathtext(name) for name in types[truth]]
        axes.set_xticks(range(len(names)), names, rotation=45, ha="right")
        axes.set_yticks(range(len(metrics)), [escape_mathtext(metric_label(name)) for name in metrics])
        axes.tick_params(labelsize=SIZE - 1, length=0, labelcolor=INK)
        axes.spines[:].set_visible(False)
    bar = figure.colorbar(image, ax=list(panels), shrink=0.8, pad=0.01)
    bar.set_label("Spearman's ρ over settings", fontsize=SIZE - 1, color=INK)
    bar.ax.tick_params(labelsize=SIZE - 2)
    return figure
