"""Whether paired differences could be chance: a permutation test, and Holm's correction for several."""

from collections.abc import Sequence

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
    per_pair = finite.astype(float).groupby(level=0).mean().to_numpy()
    n = len(per_pair)
    if n == 0:
        return float("nan")
    if exact := n <= EXACT_UP_TO:
        signs = 1 - 2 * (np.arange(2**n)[:, None] >> np.arange(n) & 1)
    else:
        signs = np.random.default_rng(seed).choice([-1, 1], (DRAWS, n))
    observed = abs(per_pair.mean())
    # Sums of equal terms differ by rounding with their order.
    as_far = int((np.abs(signs @ per_pair) / n >= observed * (1 - 1e-9)).sum())
    return as_far / len(signs) if exact else (as_far + 1) / (len(signs) + 1)


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
