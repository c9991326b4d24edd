"""Whether paired differences could be chance: a permutation test, Holm's correction, win rates."""

from collections.abc import Iterator, Sequence
from statistics import NormalDist

import numpy as np
import pandas as pd

EXACT_UP_TO = 12  # pairs: 4,096 ways to set the signs
DRAWS = 9_999
_AT_ONCE = 1024  # of the DRAWS that are in memory together


def sign_flip_p(difference: pd.Series, seed: int = 0) -> float:
    """Return the two-sided p of a mean difference of 0, differences being indexed by (pair_id, seed).

    Under that hypothesis each pair's difference is as likely with either sign (Fisher 1935, Sec. 21). The
    seeds of a pair are averaged first. All signs are tried for up to EXACT_UP_TO pairs, else DRAWS of them
    (Phipson and Smyth 2010: the one observed counts). NaN without a pair.
    """
    finite = difference[np.isfinite(difference.astype(float))]
    return sign_flip_ps([finite.astype(float).groupby(level=0).mean().to_numpy()], seed)[0]


def sign_flip_ps(per_pair: Sequence[np.ndarray], seed: int = 0) -> list[float]:
    """Return `sign_flip_p` of several differences, each an array of its pairs' values.

    Those of equally many pairs have the same signs flipped, which are drawn once for all.
    """
    p = [float("nan")] * len(per_pair)
    for n in sorted({len(values) for values in per_pair} - {0}):
        own = [place for place, values in enumerate(per_pair) if len(values) == n]
        values = np.stack([per_pair[place] for place in own], axis=1)
        # Sums of equal terms differ by rounding with their order.
        observed = np.abs(values.mean(axis=0)) * (1 - 1e-9)
        as_far = [(np.abs(signs @ values) / n >= observed).sum(axis=0) for signs in _signs(n, seed)]
        for place, count in zip(own, np.sum(as_far, axis=0).tolist(), strict=True):
            p[place] = count / 2**n if n <= EXACT_UP_TO else (count + 1) / (DRAWS + 1)
    return p


def _signs(n: int, seed: int) -> Iterator[np.ndarray]:
    """Yield the signs of `n` pairs, some rows (rows, n) after others: all there are, or DRAWS drawn ones."""
    if n <= EXACT_UP_TO:
        yield 1.0 - 2 * (np.arange(2**n)[:, None] >> np.arange(n) & 1)
        return
    generator = np.random.default_rng(seed)
    for begin in range(0, DRAWS, _AT_ONCE):
        yield generator.choice([-1.0, 1.0], (min(_AT_ONCE, DRAWS - begin), n))


def win_rate(
    per_pair: np.ndarray, higher_is_better: bool, confidence: float = 0.95
) -> tuple[float, float, float]:
    """Return in which share of pairs a difference is for the better, and the interval of that share.

    A pair without a difference counts half. The interval is `wilson`'s. NaN without a pair.
    """
    n = len(per_pair)
    if n == 0:
        return (float("nan"),) * 3
    differences = per_pair.round(12)  # that differ in their last digit only: ties
    better = differences > 0 if higher_is_better else differences < 0
    share = float(better.mean() + np.equal(differences, 0).mean() / 2)
    return share, *wilson(share, n, confidence)


def wilson(share: float, n: float, confidence: float = 0.95) -> tuple[float, float]:
    """Return the ends of the interval of a share of `n` independent answers (Wilson 1927).

    It holds the share, stays within [0, 1], and has a width where all answers agree.
    """
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    middle = (share + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z / (1 + z**2 / n) * (share * (1 - share) / n + z**2 / (4 * n**2)) ** 0.5
    # The end at an extreme share may miss it by one rounding error.
    return max(min(middle - half, share), 0.0), min(max(middle + half, share), 1.0)


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
