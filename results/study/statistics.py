"""What choices between two say: a share with its interval, strengths of all rows, agreement of raters."""

from dataclasses import dataclass

import numpy as np
from scipy.stats import norm

from results.tables.statistics import FEWEST_PAIRS, resampled_counts

RESAMPLES = 1000
HALF_WIN = 0.5  # that each of two compared rows is given against the other
_ROUNDS = 10_000  # at most; a hundred are usual
_Z = float(norm.ppf(0.975))


@dataclass(frozen=True)
class Share:
    """A share with its 95 % interval, and the number of independent answers that it is worth."""

    rate: float
    low: float
    high: float
    worth: float


def share(of_pair: np.ndarray, answers: int) -> Share:
    """Return the mean of the pairs' shares, (pairs,) -> Wilson's interval for pairs drawn at random.

    Answers to one pair are not independent: the interval is Wilson's of as many answers as would vary as much
    as the mean of the pairs' shares does (Kish 1965, design effect; Dean and Pagano 2015). These are at least
    as many as there are pairs, as no shares in [0, 1] vary more than yes and no do, and at most all answers.
    Unlike a bootstrap's it has a width where all agree. That raters might be others is not in it.
    """
    n = len(of_pair)
    rate = float(of_pair.mean())
    spread = float(of_pair.var(ddof=1)) / n if n > 1 else 0.0
    full = rate * (1 - rate)
    if n == 1 or full == 0:  # nothing tells how alike the answers to one pair are
        worth = float(n)
    else:
        worth = float(answers) if spread == 0 else min(max(full / spread, n), answers)
    denominator = 1 + _Z**2 / worth
    middle = (rate + _Z**2 / (2 * worth)) / denominator
    half = _Z * np.sqrt(full / worth + _Z**2 / (4 * worth**2)) / denominator
    # One rounding error may put the bound of an extreme share beyond it.
    return Share(rate, max(float(middle - half), 0.0), min(float(middle + half), 1.0), worth)


def bradley_terry(wins: np.ndarray, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the log-strength of each row, mean 0, and its 95 % interval; (pairs, rows, rows) -> 3 x (rows,).

    `wins[pair, i, j]` counts how often i was preferred to j. The strengths are such that i is preferred to j
    with probability s_i / (s_i + s_j) (Bradley and Terry 1952). Each of two compared rows is given HALF_WIN
    more against the other, so that one that never won has a strength too. Percentile bootstrap over pairs,
    each with all its answers; NaN with fewer than FEWEST_PAIRS pairs.
    """
    n, rows, _ = wins.shape
    compared = wins.sum(0) + wins.sum(0).T > 0
    score = _log_strengths(wins.sum(0) + HALF_WIN * compared)
    if n < FEWEST_PAIRS:
        return score, np.full(rows, np.nan), np.full(rows, np.nan)
    drawn = resampled_counts(n, RESAMPLES, seed) @ wins.reshape(n, -1)
    strengths = _log_strengths(drawn.reshape(RESAMPLES, rows, rows) + HALF_WIN * compared)
    low, high = np.quantile(strengths, [0.025, 0.975], axis=0)
    return score, low, high


def _log_strengths(wins: np.ndarray) -> np.ndarray:
    """Find log-strengths by Hunter's (2004) iteration; (..., rows, rows) -> (..., rows)."""
    total = wins + np.swapaxes(wins, -1, -2)
    won = wins.sum(-1)
    strength = np.ones_like(won)
    for _ in range(_ROUNDS):
        new = won / (total / (strength[..., :, None] + strength[..., None, :])).sum(-1)
        new /= np.exp(np.log(new).mean(-1, keepdims=True))
        change = np.abs(np.log(new / strength)).max()
        strength = new
        if change < 1e-9:
            break
    return np.asarray(np.log(strength))


def krippendorff_alpha(counts: np.ndarray) -> tuple[float, str]:
    """Return Krippendorff's alpha for nominal data, and why it is undefined where it is NaN.

    `counts`, (units, categories), says how many raters put a unit into a category (Krippendorff 2011,
    "Computing Krippendorff's alpha-reliability"). Units that fewer than two raters saw do not count.
    """
    seen = counts.sum(1)
    counts, seen = counts[seen > 1].astype(float), seen[seen > 1].astype(float)
    if not len(seen):
        return np.nan, "nothing was judged by two raters"
    of_category, n = counts.sum(0), seen.sum()
    expected = (of_category * (n - of_category)).sum() / (n - 1)
    if expected == 0:
        return np.nan, "all answers are one and the same"
    observed = ((counts * (seen[:, None] - counts)).sum(1) / (seen - 1)).sum()
    return float(1 - observed / expected), ""
