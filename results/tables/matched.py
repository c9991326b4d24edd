"""Alignment at equal preservation: how far one method's curve lies above another's, with an interval.

Any setting that changes less is better in preservation and worse in alignment, so that two methods can be
told apart only where they keep equally much of the source.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import pandas as pd

from results.store.records import RECORD_IDENTITY
from results.tables.cells import ALL, CELL, GIVEN, SHARED, is_plain, ordered
from results.tables.paper import series_label
from results.tables.significance import holm, sign_flip_p
from results.tables.statistics import FEWEST_PAIRS, estimate, pairs_needed
from results.tables.table_files import varying_context

COLUMNS = [
    *("dataset", "first", "second", "edit_type", "alignment", "preservation"),
    *("difference", "low", "high", "p", "p_holm", "spread", "pairs_to_tell"),
    *("n", "n_pairs", "n_images", "n_missing", "reasons", "level_low", "level_high"),
]
"""`difference` is first minus second; `n` of `n_pairs` pairs have one. `spread` is its standard deviation
over pairs, `pairs_to_tell` how many pairs would have an interval whose half-width is the difference, both
from FEWEST_PAIRS pairs on. Levels are the ends of the preservation that both curves reach, means over images.
"""
APART = "the curves share no preservation"
_SERIES = ["inversion", "method", "uses_mask", "variant"]
_SCENE = ["pair_id", "seed"]
_COLUMNS = list(dict.fromkeys([*CELL, *RECORD_IDENTITY, *_SCENE, "edit_type"]))


@dataclass(frozen=True)
class _Curves:
    """One series' curve in each scene: (points, 2), preservation and alignment, in the order of its sweep."""

    label: str
    points: Mapping[tuple[str, int], np.ndarray]
    edit_types: pd.Series


def matched_table(cells: pd.DataFrame, metrics: tuple[str, str]) -> pd.DataFrame:
    """Compare every two curves of a data set at equal preservation; columns COLUMNS, a row per edit type.

    `cells` are `results.tables.cells.with_cells`' rows, `metrics` alignment and preservation
    (`results.tables.pareto.chosen_metrics`). A curve is the settings of a method, variant and inversion that
    differ in tau, or in strength, alone. For each pair and seed, whose edits share one source picture, the
    curves' `mean_gap` is taken; then the seeds of a pair are averaged and pairs are resampled. p flips the
    signs of pairs, from FEWEST_PAIRS pairs on, and Holm's correction is over all rows.
    """
    edits = cells.loc[is_plain(cells) & ~cells["method"].isin(GIVEN), [*_COLUMNS, *metrics]]
    edits = edits.drop_duplicates([*CELL, *RECORD_IDENTITY])
    varying = varying_context(edits)
    rows = []
    for _, part in edits.groupby(SHARED, dropna=False):
        dataset = part["dataset"].iloc[0]
        for first, second in combinations(_curves(part, metrics, varying), 2):
            told = {"dataset": dataset, "first": first.label, "second": second.label}
            told |= dict(zip(("alignment", "preservation"), metrics))
            gaps = _gaps(first, second)
            types = sorted(gaps["edit_type"].unique())
            parts = {ALL: gaps} | {name: gaps[gaps["edit_type"].eq(name)] for name in types if types[1:]}
            rows += [{**told, "edit_type": name, **_estimated(own)} for name, own in parts.items()]
    table = pd.DataFrame(rows, columns=COLUMNS)
    whole = ["pairs_to_tell", "n", "n_pairs", "n_images", "n_missing"]
    return table.assign(p_holm=holm(list(table["p"]))).astype(dict.fromkeys(whole, "Int64"))


def mean_gap(first: np.ndarray, second: np.ndarray) -> tuple[float, float, float] | None:
    """Return by how much `first` is above `second` on average, and the ends of the levels that both reach.

    Curves are (points, 2), level and height, in the order of the sweep, at least two points. The mean is the
    area between the curves divided by its width, exactly: between two neighbouring levels of points it is the
    gap half way. None where the curves share no stretch of levels; nothing is extrapolated.
    """
    low = max(curve[:, 0].min() for curve in (first, second))
    high = min(curve[:, 0].max() for curve in (first, second))
    levels = np.unique(np.concatenate([first[:, 0], second[:, 0]]))
    levels = levels[(low <= levels) & (levels <= high)]
    middles = (levels[1:] + levels[:-1]) / 2
    apart = (levels[:-1] < middles) & (middles < levels[1:])  # neighbouring floats have no middle
    if not apart.any():
        return None
    gaps = heights(first, middles[apart]) - heights(second, middles[apart])
    return float(np.average(gaps, weights=np.diff(levels)[apart])), float(low), float(high)


def heights(curve: np.ndarray, levels: np.ndarray) -> np.ndarray:
    """Return a curve's height at levels that it reaches and at which it has no point.

    The curve runs straight from each setting to the next one of the sweep. Where the level does not rise
    along the whole sweep a level is crossed several times, and the mean of the crossings counts: sorting by
    level would join settings that are no neighbours, and taking the best crossing would favour noisy curves
    and those of many settings.
    """
    (from_level, from_height), (to_level, to_height) = curve[:-1].T, curve[1:].T
    at = levels[:, None]
    crossed = (np.minimum(from_level, to_level) < at) & (at < np.maximum(from_level, to_level))
    rise = np.where(to_level == from_level, 1.0, to_level - from_level)
    height = from_height + (at - from_level) / rise * (to_height - from_height)
    return np.where(crossed, height, 0.0).sum(1) / crossed.sum(1)


def _curves(part: pd.DataFrame, metrics: tuple[str, str], varying: Sequence[str]) -> list[_Curves]:
    """Return the curves of rows that agree in SHARED, in the order of all tables."""
    alignment, preservation = metrics
    found = []
    for _, rows in ordered(part).groupby(_SERIES, sort=False, dropna=False):
        along = _along(rows)
        if not along:
            continue
        values = rows.groupby([*_SCENE, along])[[preservation, alignment]].mean()
        values = values.replace([np.inf, -np.inf], np.nan).dropna()
        scenes = values.index.droplevel(along)
        first = np.flatnonzero(~scenes.duplicated())  # they are in order
        points = dict(zip(scenes[first], np.split(values.to_numpy(float), first[1:])))
        edit_types = rows.drop_duplicates(_SCENE).set_index(_SCENE)["edit_type"]
        found.append(_Curves(series_label(rows.iloc[0].to_dict(), varying), points, edit_types))
    return found


def _along(rows: pd.DataFrame) -> str:
    """Return in what alone the settings of a series differ, tau or strength; "" where they are no curve."""
    settings = rows.drop_duplicates(CELL)
    swept = (name for name in ("tau", "strength") if settings[name].nunique() == len(settings) > 1)
    return next(swept, "")


def _gaps(first: _Curves, second: _Curves) -> pd.DataFrame:
    """Compare two curves in every scene of either (pair and seed); `reason` tells why there is no gap."""
    edit_types = first.edit_types.combine_first(second.edit_types)
    rows = []
    for scene in edit_types.index:
        own = [curve.points.get(scene, np.empty((0, 2))) for curve in (first, second)]
        short = [curve.label for curve, points in zip((first, second), own) if len(points) < 2]
        gap = None if short else mean_gap(*own)
        reason = f"fewer than two settings with both values: {', '.join(short)}" if short else APART
        rows.append((*(gap or (np.nan,) * 3), "" if gap else reason))
    gaps = pd.DataFrame(rows, edit_types.index, ["difference", "level_low", "level_high", "reason"])
    return gaps.assign(edit_type=edit_types)


def _estimated(gaps: pd.DataFrame) -> dict[str, object]:
    difference, pairs = gaps["difference"], gaps.index.get_level_values(0).to_series()
    result = estimate(difference, pairs, gaps["reason"])
    enough = result.n >= FEWEST_PAIRS
    spread = result.spread if enough else np.nan
    return {
        "difference": result.mean,
        "low": result.low,
        "high": result.high,
        "p": sign_flip_p(difference) if enough else np.nan,
        "spread": spread,
        "pairs_to_tell": pairs_needed(spread, abs(result.mean)) if enough and result.mean else pd.NA,
        "n": result.n,
        "n_pairs": pairs.nunique(),
        "n_images": result.n_images,
        "n_missing": result.n_missing,
        "reasons": result.reasons,
        "level_low": gaps["level_low"].mean(),
        "level_high": gaps["level_high"].mean(),
    }
