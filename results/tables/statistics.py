"""Means with bootstrap intervals over pairs, and paired differences between two conditions.

The seeds of a pair are averaged first, then pairs are resampled: images of one pair are not independent.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
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
_AT_ONCE = 64  # cells whose resampled means are in memory together
_CACHED = 2**17  # counts of resamples, of 8 bytes each: a cache of a processor's own core holds them


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
    cell = sample(numbers, numbered, lambda missing: texts[missing])
    return estimates([cell], confidence=confidence, resamples=resamples, seed=seed)[0]


@dataclass(frozen=True)
class Sample:
    """One cell's values before their interval is known: the means of its pairs (pairs,), and what is missing.

    `n_images`, `n_missing` and `reasons` are as in `Estimate`.
    """

    per_pair: np.ndarray
    n_images: int
    n_missing: int
    reasons: Mapping[str, int]


def sample(values: np.ndarray, pairs: np.ndarray, reasons: Callable[[np.ndarray], Iterable[str]]) -> Sample:
    """Average one cell's values, one per image, by pairs that are numbered in the order of their names.

    `reasons` gives the texts of the rows that a mask marks. A value that is not finite is missing.
    """
    finite = np.isfinite(values)
    missing = int((~finite).sum())
    told = reasons(~finite) if missing else ()
    counted = Counter(str(text) or "not a finite number" for text in told)
    per_pair = pair_means(values[finite], pairs[finite])
    return Sample(per_pair, len(values) - missing, missing, dict(sorted(counted.items())))


def estimates(
    samples: Sequence[Sample], *, confidence: float = 0.95, resamples: int = RESAMPLES, seed: int = 0
) -> list[Estimate]:
    """Estimate the mean of each sample; intervals are `mean_intervals`'."""
    intervals = mean_intervals([one.per_pair for one in samples], confidence, resamples, seed)
    made = []
    for one, (low, high) in zip(samples, intervals, strict=True):
        n = len(one.per_pair)
        mean = float(one.per_pair.mean()) if n else np.nan
        spread = float(one.per_pair.std(ddof=1)) if n > 1 else np.nan
        made.append(Estimate(mean, low, high, n, one.n_images, one.n_missing, one.reasons, spread))
    return made


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
    order = np.argsort(values)
    short = pairs.astype(np.min_scalar_type(pairs.max()))  # numpy sorts integers of up to 16 bits by radix
    order = order[np.argsort(short[order], kind="stable")]
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
    return mean_intervals([values], confidence, resamples, seed)[0]


def mean_intervals(
    per_pair: Sequence[np.ndarray], confidence: float = 0.95, resamples: int = RESAMPLES, seed: int = 0
) -> list[tuple[float, float]]:
    """Return `mean_interval` of several means, each an array of its pairs' values.

    Those of equally many pairs share their resamples, and are computed together.
    """
    ends = [(np.nan, np.nan)] * len(per_pair)
    for n in sorted({len(values) for values in per_pair}):
        own = [place for place, values in enumerate(per_pair) if len(values) == n and _has_interval(values)]
        for some in (own[begin : begin + _AT_ONCE] for begin in range(0, len(own), _AT_ONCE)):
            means = [float(per_pair[place].mean()) for place in some]
            deviations = [per_pair[place] - mean for place, mean in zip(some, means, strict=True)]
            drawn = _resampled_means(deviations, resamples, seed)
            for place, mean, own_deviations, own_drawn in zip(some, means, deviations, drawn, strict=True):
                low, high = _bca_ends(own_deviations, own_drawn, confidence)
                ends[place] = min(mean + low, mean), max(mean + high, mean)
    return ends


def _has_interval(values: np.ndarray) -> bool:
    if len(values) < FEWEST_PAIRS:
        return False
    return bool(np.abs(values - values.mean()).max() > _ALIKE * np.abs(values).max())


def _resampled_means(deviations: Sequence[np.ndarray], resamples: int, seed: int) -> np.ndarray:
    """Return the resampled means (cells, resamples) of cells of equally many pairs, each in ascending order.

    Each cell has a product of its own, of some resamples after others: their counts stay in the processor's
    cache from one cell to the next. One product of all cells would be faster still, but rounds by what stands
    beside a cell.
    """
    n = len(deviations[0])
    counts = resampled_counts(n, resamples, seed)
    drawn = np.empty((len(deviations), resamples))
    rows = max(_CACHED // n // 64, 1) * 64  # whole blocks of the products' inner loops
    for begin in range(0, resamples, rows):
        for cell, own in zip(drawn, deviations, strict=True):
            np.dot(counts[begin : begin + rows], own, out=cell[begin : begin + rows])
    drawn /= n
    drawn.sort(axis=1)
    return drawn


def _bca_ends(deviations: np.ndarray, drawn: np.ndarray, confidence: float) -> tuple[float, float]:
    """Return the ends of an interval of a mean of 0, given the resampled means in ascending order."""
    n, resamples = len(deviations), len(drawn)
    # Sums of equal terms differ by rounding with their order; a tie counts half.
    tie = _ALIKE * np.abs(deviations).max()
    less, at_most = np.searchsorted(drawn, -tie, "left"), np.searchsorted(drawn, tie, "right")
    below = (less / resamples + at_most / resamples) / 2
    bias = _NORMAL.inv_cdf(min(max(below, 0.5 / resamples), 1 - 0.5 / resamples))
    acceleration = float((deviations**3).sum() / (6 * (deviations**2).sum() ** 1.5))
    reach = _reach(n, confidence)
    levels = [_NORMAL.cdf(bias + (bias + z) / (1 - acceleration * (bias + z))) for z in (-reach, reach)]
    low, high = (_quantile(drawn, level) for level in levels)
    return low, high


def _quantile(ascending: np.ndarray, level: float) -> float:
    """Return `numpy.quantile`'s linear one of values in ascending order, which costs ten times as much."""
    place = (len(ascending) - 1) * level
    first = int(place)
    below, above = ascending[first], ascending[min(first + 1, len(ascending) - 1)]
    share, step = place - first, above - below
    return float(below + step * share if share < 0.5 else above - step * (1 - share))


@lru_cache(maxsize=4096)
def _reach(n: int, confidence: float) -> float:
    """Return how many standard deviations of resampled means an interval of `n` values reaches to."""
    from scipy.special import stdtrit  # takes longer to import than most tables to make

    return float(stdtrit(n - 1, (1 + confidence) / 2)) * (n / (n - 1)) ** 0.5


@lru_cache(maxsize=4)
def resampled_counts(n: int, resamples: int, seed: int) -> np.ndarray:
    """Draw how often each pair occurs in each resample; (resamples, n), shared by all cells with n pairs."""
    places = np.random.default_rng(seed).integers(0, n, size=(resamples, n))
    places += n * np.arange(resamples)[:, None]
    return np.bincount(places.ravel(), minlength=resamples * n).reshape(resamples, n).astype(np.float64)
