"""What single blocks do, drawn: each block injected alone and left out, a panel a metric."""

from __future__ import annotations

import re
from collections.abc import Sequence

import pandas as pd
from matplotlib.figure import Figure

from results.labels import escape_mathtext, method_label, natural_order
from results.plots.plot_style import INK, SIZE, STYLE, Directions, bars, label_axis, legend, new_figure

_BLOCKS = re.compile(r"^blocks=(?:\")?(no-)?([a-z0-9.-]+)(?:\")?$")
_ALONE, _LEFT_OUT = ("#0072B2", "o", "alone"), ("#D55E00", "s", "all but it")
_LINES = (
    ("null", "#333333", "all blocks"),
    ("fixed_seed", STYLE["fixed_seed"][0], method_label("fixed_seed")),
)


def single_blocks(rows: pd.DataFrame) -> pd.DataFrame:
    """Return rows of single blocks with their name (`block`) and whether it is left out, in their order.

    A row whose variant names anything but one block is left aside.
    """
    found = rows["variant"].str.extract(_BLOCKS)
    single = found[1].notna() & found[1].ne("null")
    return rows.assign(block=found[1], left_out=found[0].notna())[single]


def by_block(
    table: pd.DataFrame, rows: pd.DataFrame, metrics: Sequence[str], directions: Directions
) -> Figure:
    """Plot each metric of a method's edits by block: injected alone, and everywhere but there.

    `rows` are those of `single_blocks`. Lines are the same edit in all blocks, and the fixed seed.
    """
    names = sorted(set(rows["block"]), key=natural_order)
    places = {name: len(names) - 1 - place for place, name in enumerate(names)}
    height = max(2.0, 0.22 * len(names) + 1.1)
    figure, panels = new_figure(len(metrics), width=3.6, height=height, share_y=True)
    everywhere = {
        "null": table[table["method"].isin(rows["method"]) & table["variant"].eq("blocks=null")],
        "fixed_seed": table[table["method"].eq("fixed_seed")],
    }
    for axes, metric in zip(panels, metrics):
        for key, color, label in _LINES:
            lines = everywhere[key]
            for value in lines.loc[lines["metric"].eq(metric), "mean"].dropna():
                axes.axvline(value, color=color, linewidth=1.1, linestyle=(0, (4, 2)), label=label, zorder=1)
        for left_out, (color, marker, label) in ((False, _ALONE), (True, _LEFT_OUT)):
            own = rows[rows["metric"].eq(metric) & rows["left_out"].eq(left_out)]
            if not len(own):
                continue
            axes.errorbar(
                own["mean"].astype(float), own["block"].map(places) + (-0.12 if left_out else 0.12),
                xerr=bars(own.astype(dict.fromkeys(("mean", "low", "high"), float))),
                fmt=marker, color=color, markersize=5, elinewidth=0.7, label=label, zorder=3,
            )  # fmt: skip
        axes.set_yticks(list(places.values()), [escape_mathtext(name) for name in places])
        axes.tick_params(axis="y", labelsize=SIZE - 1, labelcolor=INK)
        label_axis(axes, "x", metric, directions)
    legend(figure, panels[0])
    return figure
