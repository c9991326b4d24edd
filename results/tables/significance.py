"""Whether paired differences could be chance: a permutation test, Holm's correction, and win rates."""

from collections.abc import Sequence
from functools import lru_cache
from statistics import NormalDist

import numpy as np
import pandas as pd

EXACT_UP_TO = 12  # pairs: 4,096 ways to set the signs
DRAWS = 9_999


def sign_flip_p(difference: pd.Series, seed: int = 0) -> float:
    """Return the two-sided p of a mean difference of 0, differences being indexed by (pair_id, seed).

    Under that hypothesis each pair's difference is as likely with either sign (Fisher 1935, Sec. 21). The
    seeds of a pair are averaged first. All signs are tried for up to EXACT_UP_TO pairs, else DRAWS of them
    (Phipson and Smyth 2010: the one observed counts). NaN without a pair.
    """
    finite = difference[np.isfinite(difference.astype(float))]
    return sign_flip_p_of(finite.astype(float).groupby(level=0).mean().to_numpy(), seed)


def sign_flip_p_of(per_pair: np.ndarray, seed: int = 0) -> float:
    """Return `sign_flip_p` of differences of which each is a pair's."""
    n = len(per_pair)
    if n == 0:
        return float("nan")
    signs = _signs(n, seed)
    observed = abs(per_pair.mean())
    # Sums of equal terms differ by rounding with their order.
    as_far = int((np.abs(signs @ per_pair) / n >= observed * (1 - 1e-9)).sum())
    return as_far / len(signs) if n <= EXACT_UP_TO else (as_far + 1) / (len(signs) + 1)


@lru_cache(maxsize=16)
def _signs(n: int, seed: int) -> np.ndarray:
    """Return (ways, n) signs, all ways of up to EXACT_UP_TO pairs, else DRAWS; small, as many tables ask."""
    if n <= EXACT_UP_TO:
        return (1 - 2 * (np.arange(2**n)[:, None] >> np.arange(n) & 1)).astype(np.int8)
    return np.random.default_rng(seed).choice([-1, 1], (DRAWS, n)).astype(np.int8)


def win_rate(
    per_pair: np.ndarray, higher_is_better: bool, confidence: float = 0.95
) -> tuple[float, float, float]:
    """Return in which share of pairs a difference is for the better, and the interval of that share.

    A pair without a difference counts half. The interval (Wilson 1927) stays within [0, 1], and has a width
    where all pairs agree. NaN without a pair.
    """
    n = len(per_pair)
    if n == 0:
        return (float("nan"),) * 3
    differences = per_pair.round(12)  # that differ in their last digit only: ties
    better = differences > 0 if higher_is_better else differences < 0
    share = float(better.mean() + np.equal(differences, 0).mean() / 2)
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    middle = (share + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z / (1 + z**2 / n) * (share * (1 - share) / n + z**2 / (4 * n**2)) ** 0.5
    return share, max(middle - half, 0.0), min(middle + half, 1.0)


def holm(p_values: Sequence[float]) -> list[float]:
    """Return p values corrected so that all are right at once with the probability that one is (Holm 1979).

    Those that are NaN were not tested: they stay, and do not count.
    """
    p = np.asarray(p_values, dtype=float)
    order = np.argsort(p, kind="stable")[: int(np.isfinite(p).sum())]
    corrected = np.full(len(p), np.nan)
    factors = len(order) - np.arange(len(order))
    corrected[order] = np.minimum(np.maximum.accumulate(p[order] * factors), 1)
    return corrected.tolist()
