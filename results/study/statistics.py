"""What choices between two say: a share with its interval, strengths of all rows, agreement of raters."""

from dataclasses import dataclass

import numpy as np

from results.tables.significance import wilson
from results.tables.statistics import FEWEST_PAIRS, resampled_counts

RESAMPLES = 1000
HALF_WIN = 0.5  # that each of two compared rows is given against the other
_ROUNDS = 10_000  # at most; a hundred are usual


@dataclass(frozen=True)
class Share:
    """A share with its 95 % interval, and the number of independent answers that it is worth."""

    rate: float
    low: float
    high: float
    worth: float


def share(of_pair: np.ndarray, answers: int) -> Share:
    """Return the mean of the pairs' shares, (pairs,), with Wilson's interval, for pairs drawn at random.

    Answers to one pair are not independent. They are worth as many independent ones as make the variance of
    the mean that of the pairs' shares (Kish 1965, design effect; Dean and Pagano 2015): at least one a pair,
    as nothing in [0, 1] varies more than yes and no do. For that variance there is one pair more at 0 and
    one at 1, as a few pairs may be alike by chance; by simulation the interval then holds the truth in 93 %
    or more. Unlike a bootstrap's it has a width where all agree. That raters might be others is not in it.
    """
    n, rate = len(of_pair), float(of_pair.mean())
    with_both = np.concatenate([of_pair, [0.0, 1.0]])
    alike = with_both.var() / (with_both.mean() * (1 - with_both.mean()))  # 1: one answer a pair tells all
    worth = min(max(n / float(alike), n), answers)
    return Share(rate, *wilson(rate, worth), worth)


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
