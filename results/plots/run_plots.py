"""Which plots a run gets: one entry of PLOTS for each kind, drawn where the main table has rows for it."""

import re
from collections.abc import Callable, Iterator

import pandas as pd
from matplotlib.figure import Figure

from results.plots import block_plots, sweep_plots, window_maps
from results.plots.plot_style import Directions
from results.tables.cells import ALL, free_windows, is_plain
from results.tables.pareto import chosen_metrics

Plot = Callable[[pd.DataFrame, Directions], Iterator[tuple[str, Figure]]]
"""From rows of the main table (`results.tables.tables.main_table`; one model, data set and inversion) and the
better direction of each metric to file names, without an ending, and figures. Yields nothing where the rows
lack what the plot shows."""


def trade_offs(table: pd.DataFrame, directions: Directions) -> Iterator[tuple[str, Figure]]:
    """Draw CLIP to the target prompt against LPIPS to the source image, for every backbone of either."""
    metrics = measured(table)
    edited = [name for name in metrics if name.startswith("clip_target")]
    preserved = [name for name in metrics if name.startswith("lpips")]
    several = len(edited) * len(preserved) > 1
    for x, y in ((x, y) for x in preserved for y in edited):
        name = re.sub(r"[^A-Za-z0-9]+", "_", f"-{y}-{x}") if several else ""
        yield f"trade_off{name}", sweep_plots.trade_off(table, x, y, directions)


def over_tau(table: pd.DataFrame, directions: Directions) -> Iterator[tuple[str, Figure]]:
    """Draw every metric over tau, where Prompt-to-Prompt has enough taus for a curve."""
    metrics, p2p = measured(table), _prompt_to_prompt(table)
    if metrics and p2p["tau"].nunique() > (2 if free_windows(p2p).any() else 1):
        yield "over_tau", sweep_plots.over_tau(table, metrics, directions)


def window_map(table: pd.DataFrame, directions: Directions) -> Iterator[tuple[str, Figure]]:
    """Draw maps of an alignment and a preservation metric, where windows of both attentions are crossed."""
    metrics, rows = measured(table), window_maps.mapped(_prompt_to_prompt(table))
    if metrics and len(rows):
        shown = chosen_metrics(metrics, directions) or metrics[:2]
        yield "window_map", window_maps.window_map(rows, shown, directions)


def ablation(table: pd.DataFrame, directions: Directions) -> Iterator[tuple[str, Figure]]:
    """Draw every metric for each pair of injection windows, where some do not follow from a tau.

    Where a map shows all of them, there would be more bars than can be read.
    """
    metrics, rows = measured(table), _prompt_to_prompt(table)
    if metrics and free_windows(rows).any() and len(window_maps.mapped(rows)) < len(rows):
        yield "ablation", sweep_plots.ablation(table, metrics, directions)


def over_noise(table: pd.DataFrame, directions: Directions) -> Iterator[tuple[str, Figure]]:
    """Draw every metric over the share of noise at the start, of methods that start at several."""
    metrics = measured(table)
    plain = table[table["edit_type"].eq(ALL) & is_plain(table)]
    starts = plain.groupby("method")["start_noise"].nunique()
    rows = table[table["method"].isin(starts.index[starts.gt(1)])]
    if metrics and len(rows):
        yield "over_noise", sweep_plots.over_noise(rows, metrics, directions)


def over_weight(table: pd.DataFrame, directions: Directions) -> Iterator[tuple[str, Figure]]:
    """Draw every metric over the factor of the re-weighted words, where Prompt-to-Prompt has four or more.

    Fewer may be the pairs' own, each of which has one: a curve would join different pairs.
    """
    metrics, p2p = measured(table), table[table["method"].eq("p2p")]
    if metrics and sweep_plots.factors(p2p).nunique() > 3:
        rows = table[table["method"].isin(["p2p", "fixed_seed"])]
        yield "over_weight", sweep_plots.over_weight(rows, metrics, directions)


def by_block(table: pd.DataFrame, directions: Directions) -> Iterator[tuple[str, Figure]]:
    """Draw every metric by block, of each method whose edits were made in several single blocks."""
    metrics = measured(table)
    plain = table[table["edit_type"].eq(ALL) & is_plain(table)]
    rows = block_plots.single_blocks(plain)
    several = rows.groupby("method")["block"].nunique()
    methods = list(several.index[several.gt(1)])
    for method in methods if metrics else []:
        own = rows[rows["method"].eq(method)]
        name = f"by_block_{method}" if len(methods) > 1 else "by_block"
        yield name, block_plots.by_block(plain, own, metrics, directions)


PLOTS: tuple[Plot, ...] = (trade_offs, over_tau, over_noise, over_weight, window_map, ablation, by_block)


def measured(table: pd.DataFrame) -> list[str]:
    """Return the metrics that have a value in any row, in the table's order."""
    return list(table.loc[table["mean"].notna(), "metric"].unique())


def _prompt_to_prompt(table: pd.DataFrame) -> pd.DataFrame:
    return table[table["edit_type"].eq(ALL) & is_plain(table) & table["method"].eq("p2p")]
