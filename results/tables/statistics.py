"""Means with bootstrap intervals over pairs, and paired differences between two conditions.

The seeds of a pair are averaged first, then pairs are resampled: images of one pair are not independent.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from math import ceil, inf
from statistics import NormalDist

import numpy as np
import pandas as pd

RESAMPLES = 4000
MOST_PAIRS = 10**9
"""That a question for how many pairs are needed may come to."""
FEWEST_PAIRS = 6
"""From how many pairs on a mean has an interval.

The widest interval that resampling can give is [least, greatest]. Whatever the distribution, that holds the
median with probability 1 - 2 ** (1 - n): 0.5 for two pairs, 0.94 for five, 0.97 for six. With fewer than six
nothing between the values may be called a 95 % interval.
"""
WITH_INTERVAL = f"from {FEWEST_PAIRS} pairs on, unless all are alike"
_NORMAL = NormalDist()
_ALIKE = 1e-12  # of the largest value: what differs by less differs by rounding


@dataclass(frozen=True)
class Estimate:
    """A mean over `n` pairs with its interval; NaN where it is undefined (no pair; `mean_interval`).

    `n_images` counts images with a value, `n_missing` images without one, `reasons` why they have none.
    `spread` is the standard deviation over pairs, NaN of fewer than two.
    """

    mean: float
    low: float
    high: float
    n: int
    n_images: int
    n_missing: int
    reasons: Mapping[str, int] = field(default_factory=dict)
    spread: float = np.nan


def estimate(
    values: pd.Series,
    pairs: pd.Series,
    reasons: pd.Series | None = None,
    *,
    confidence: float = 0.95,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Estimate:
    """Estimate the mean of one cell, one value per image; the three series stand in the same order.

    The interval is `mean_interval`'s. A value that is not finite is missing, never zero.
    """
    numbers = np.asarray(values, dtype=float)
    texts = np.full(len(numbers), "", dtype=object) if reasons is None else np.asarray(reasons, dtype=object)
    _, numbered = np.unique(np.asarray(pairs, dtype=object).astype(str), return_inverse=True)
    return estimate_numbered(
        numbers,
        numbered,
        lambda missing: texts[missing],
        confidence=confidence,
        resamples=resamples,
        seed=seed,
    )


def estimate_numbered(
    values: np.ndarray,
    pairs: np.ndarray,
    reasons: Callable[[np.ndarray], Iterable[str]],
    *,
    confidence: float = 0.95,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Estimate:
    """Return what `estimate` does of pairs that are numbered in the order of their names.

    `reasons` gives the texts of the rows that a mask marks.
    """
    finite = np.isfinite(values)
    per_pair = pair_means(values[finite], pairs[finite])
    mean = float(per_pair.mean()) if len(per_pair) else np.nan
    low, high = mean_interval(per_pair, confidence, resamples, seed)
    missing = int((~finite).sum())
    told = reasons(~finite) if missing else ()
    counted = Counter(str(text) or "not a finite number" for text in told)
    spread = float(per_pair.std(ddof=1)) if len(per_pair) > 1 else np.nan
    return Estimate(
        mean, low, high, len(per_pair), len(values) - missing, missing, dict(sorted(counted.items())), spread
    )


def paired_difference(
    first: pd.Series,
    second: pd.Series,
    *,
    confidence: float = 0.95,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Estimate:
    """Estimate the mean of `first - second`, both indexed by (pair_id, seed): same pair and seed only.

    An image that has no finite partner is missing. ValueError where an index entry occurs twice.
    """
    for name, series in (("first", first), ("second", second)):
        if series.index.has_duplicates:
            raise ValueError(f"paired_difference: {name} has more than one value for a (pair_id, seed)")
    aligned = pd.concat([first.rename("first"), second.rename("second")], axis=1, join="outer")
    difference = aligned["first"] - aligned["second"]
    reasons = pd.Series("no partner with a value", index=difference.index)
    pairs = difference.index.get_level_values(0).to_series()
    return estimate(difference, pairs, reasons, confidence=confidence, resamples=resamples, seed=seed)


def pairs_needed(spread: float, half_width: float, confidence: float = 0.95) -> int:
    """Return how many pairs give a mean's interval that half-width, at least FEWEST_PAIRS.

    `spread` is the standard deviation over pairs. The interval is taken to be `mean_interval`'s of pairs that
    are not skewed, Student's. ValueError where the half-width is not above 0, or asks for over a thousand
    million pairs.
    """
    if not 0 < half_width < inf:
        raise ValueError(f"half_width: {half_width!r} is not a number above 0")
    z = _NORMAL.inv_cdf((1 + confidence) / 2)
    deviations = z * spread / half_width
    if not deviations < MOST_PAIRS**0.5:
        raise ValueError(
            f"half_width: {half_width!r} asks for more than {MOST_PAIRS:,} pairs where pairs deviate by "
            f"{spread:.4g}, allowed are larger ones"
        )
    n = max(FEWEST_PAIRS, ceil(deviations**2))
    while _reach(n, confidence) * (n - 1) ** 0.5 * spread / n > half_width:
        n += 1
    return n


def pair_means(values: np.ndarray, pairs: np.ndarray) -> np.ndarray:
    """Average values per numbered pair; (images,) -> (pairs,), the same whatever the order of the rows."""
    if not len(values):
        return values
    order = np.lexsort((values, pairs))
    counts = np.bincount(pairs)
    there = counts > 0
    return np.bincount(pairs[order], weights=values[order])[there] / counts[there]


def mean_interval(
    values: np.ndarray, confidence: float = 0.95, resamples: int = RESAMPLES, seed: int = 0
) -> tuple[float, float]:
    """Return the ends of a mean's interval, of pairs' values (pairs,), by BCa bootstrap (Efron 1987, Sec. 4).

    The normal quantile of its levels is replaced by Student's, times sqrt(n / (n - 1)), as resampled means
    spread too little where there are few pairs (Hesterberg 2015, "expanded percentile interval"). NaN with
    fewer than FEWEST_PAIRS values, and where all are alike: resampling tells nothing then.
    """
    n = len(values)
    if n < FEWEST_PAIRS:
        return np.nan, np.nan
    mean = float(values.mean())
    deviations = values - mean
    largest = np.abs(deviations).max()
    if largest <= _ALIKE * np.abs(values).max():
        return np.nan, np.nan
    drawn = resampled_counts(n, resamples, seed) @ deviations / n
    # Sums of equal terms differ by rounding with their order; a tie counts half.
    tie = _ALIKE * largest
    below = float(np.mean(drawn < -tie) + np.mean(drawn <= tie)) / 2
    bias = _NORMAL.inv_cdf(np.clip(below, 0.5 / resamples, 1 - 0.5 / resamples))
    acceleration = float((deviations**3).sum() / (6 * (deviations**2).sum() ** 1.5))
    levels = [
        _NORMAL.cdf(bias + (bias + z) / (1 - acceleration * (bias + z)))
        for z in (-_reach(n, confidence), _reach(n, confidence))
    ]
    low, high = mean + np.quantile(drawn, levels)
    return min(float(low), mean), max(float(high), mean)


@lru_cache(maxsize=4096)
def _reach(n: int, confidence: float) -> float:
    """Return how many standard deviations of resampled means an interval of `n` values reaches to."""
    from scipy.special import stdtrit  # takes longer to import than most tables to make

    return float(stdtrit(n - 1, (1 + confidence) / 2)) * (n / (n - 1)) ** 0.5


@lru_cache(maxsize=4)
def resampled_counts(n: int, resamples: int, seed: int) -> np.ndarray:
    """Draw how often each pair occurs in each resample; (resamples, n), shared by all cells with n pairs."""
    draws = np.random.default_rng(seed).integers(0, n, size=(resamples, n))
    places = draws + n * np.arange(resamples)[:, None]
    return np.bincount(places.ravel(), minlength=resamples * n).reshape(resamples, n).astype(np.float64)
