"""Plots of a run with known ideal edits: what each setting changes and keeps, and which metric tells so."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure

from results.cells import ALL, is_plain
from results.drawing import INK, SIZE, Directions, bars, label_axis, legend, new_figure
from results.naming import escape_mathtext, method_label, metric_label
from results.plots import cells_of, values_of

EDITED, UNEDITED = "ideal/mse_edited@1", "ideal/mse_unedited@1"
# Okabe and Ito's palette by inversion; the marker is the method.
_COLOURS = ("#0072B2", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#882255")
_MARKERS = {"p2p": "o", "sdedit": "s", "fixed_seed": "D", "source": "x", "ideal": "*"}
_ALONG = {"p2p": "tau", "sdedit": "strength"}


def trade_off(table: pd.DataFrame, directions: Directions = None) -> Figure:
    """Plot the error where the ideal changes the source against the error where it keeps it.

    Down and left is better. The source image (no edit) and the ideal as the autoencoder gives it back (no
    method can do better) bound what there is to gain.
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
        axes.errorbar(
            x["mean"], y["mean"], xerr=bars(x), yerr=bars(y), color=colour,
            marker=_MARKERS.get(method, "^"), linestyle="-" if along else "none", linewidth=1.5,
            markersize=10 if method == "ideal" else 6, elinewidth=0.7,
            markeredgecolor="white" if method != "source" else colour,
            markeredgewidth=0.8 if method != "source" else 2, ecolor=(*to_rgb(colour), 0.35),
            label=escape_mathtext(", ".join(filter(None, (named, variant)))),
        )  # fmt: skip
        for (_, cell), at_x, at_y in zip(cells.iterrows(), x["mean"], y["mean"], strict=True):
            if along and np.isfinite(at_x + at_y):
                axes.annotate(
                    f"{cell[along]:g}", (at_x, at_y), xytext=(5, 3), textcoords="offset points",
                    fontsize=SIZE - 2, color=colour,
                )  # fmt: skip
    label_axis(axes, "x", UNEDITED, directions)
    label_axis(axes, "y", EDITED, directions)
    axes.set_xlim(left=0)
    axes.set_ylim(bottom=0)
    legend(figure, axes, columns=3)
    return figure


def correlations(table: pd.DataFrame) -> Figure:
    """Plot rank correlations as coloured tables, a panel per truth: metrics down, edit types across.

    Blue: the metric ranks the settings as the truth does; red: upside down. Faint numbers have an interval
    that holds 0.
    """
    truths = list(table["truth"].unique())
    types = list(table["edit_type"].unique())
    metrics = list(table["metric"].unique())
    width, height = 1.0 + 0.52 * len(types), 1.5 + 0.3 * len(metrics)
    figure = Figure(figsize=(2.8 + width * len(truths), height), layout="constrained")
    panels = figure.subplots(1, len(truths), squeeze=False, sharey=True)[0]
    for axes, truth in zip(panels, truths, strict=True):
        own = table[table["truth"].eq(truth)].set_index(["metric", "edit_type"])
        grid = own["rho"].unstack().reindex(index=metrics, columns=types)
        image = axes.imshow(grid, cmap="RdBu", vmin=-1, vmax=1, aspect="auto")
        for row, metric in enumerate(metrics):
            for column, edit_type in enumerate(types):
                if (metric, edit_type) in own.index and np.isfinite(rho := grid.iat[row, column]):
                    cell = own.loc[(metric, edit_type)]
                    clear = cell["low"] > 0 or cell["high"] < 0
                    axes.text(
                        column, row, f"{rho:.2f}", ha="center", va="center", fontsize=SIZE - 2,
                        color="white" if abs(rho) > 0.65 else INK, alpha=1 if clear else 0.45,
                    )  # fmt: skip
        axes.set_title(escape_mathtext(metric_label(truth)).replace(", ", ",\n"), fontsize=SIZE, color=INK)
        axes.set_xticks(range(len(types)), [escape_mathtext(name) for name in types], rotation=45, ha="right")
        axes.set_yticks(range(len(metrics)), [escape_mathtext(metric_label(name)) for name in metrics])
        axes.tick_params(labelsize=SIZE - 1, length=0, labelcolor=INK)
        axes.spines[:].set_visible(False)
    bar = figure.colorbar(image, ax=list(panels), shrink=0.8, pad=0.01)
    bar.set_label("Spearman's ρ over settings", fontsize=SIZE - 1, color=INK)
    bar.ax.tick_params(labelsize=SIZE - 2)
    return figure
