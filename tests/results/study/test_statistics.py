"""Intervals, strengths and agreement: what a formula, a simulation or a publication says of them."""

import numpy as np
import pytest
from scipy.stats import binomtest

from results.study.statistics import bradley_terry, krippendorff_alpha, share
from results.tables.statistics import FEWEST_PAIRS

# Krippendorff 2011, "Computing Krippendorff's alpha-reliability", example C: four observers, twelve units.
EXAMPLE_C = """
1 2 3 3 2 1 4 1 2 . . .
1 2 3 3 2 2 4 1 2 5 . 3
. 3 3 3 2 3 4 2 2 5 1 .
1 2 3 3 2 4 4 1 2 5 1 .
"""
# Example A of it: two observers, ten units, two values.
EXAMPLE_A = """
0 1 0 0 0 0 0 0 1 0
1 1 1 0 0 1 0 0 0 0
"""


def counted(ratings: str) -> np.ndarray:
    rows = [line.split() for line in ratings.strip().splitlines()]
    units = list(zip(*rows))
    values = sorted({value for row in rows for value in row} - {"."})
    return np.array([[unit.count(value) for value in values] for unit in units])


@pytest.mark.parametrize(("ratings", "alpha"), [(EXAMPLE_C, 0.743), (EXAMPLE_A, 0.095)])
def test_alpha_is_what_krippendorff_publishes(ratings: str, alpha: float) -> None:
    found, reason = krippendorff_alpha(counted(ratings))
    assert found == pytest.approx(alpha, abs=0.0005)
    assert reason == ""


@pytest.mark.parametrize(
    ("counts", "reason"),
    [
        ([[1, 0], [0, 1]], "nothing was judged by two raters"),
        ([[2, 0], [3, 0]], "all answers are one and the same"),
    ],
)
def test_alpha_says_where_it_is_undefined(counts: list[list[int]], reason: str) -> None:
    found, told = krippendorff_alpha(np.array(counts))
    assert np.isnan(found)
    assert told == reason
    assert krippendorff_alpha(np.array([[2, 0], [0, 2]])) == (1.0, "")


@pytest.mark.parametrize("yes", [0, 3, 10, 20])
def test_the_interval_of_one_rater_is_wilson_s(yes: int) -> None:
    found = share(np.repeat([1.0, 0.0], [yes, 20 - yes]), answers=20)
    expected = binomtest(yes, 20).proportion_ci(method="wilson")
    assert (found.rate, found.worth) == (yes / 20, pytest.approx(20))
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high))


def test_answers_to_one_pair_are_worth_no_more_than_they_tell() -> None:
    alike = np.repeat([1.0, 0.0], [12, 8])  # all raters of a pair agree: as if there were one
    assert share(alike, answers=200).worth == pytest.approx(20)
    assert share(np.full(20, 0.5), answers=200).worth == 200  # all pairs are alike: every answer counts
    assert 20 < share(np.linspace(0.1, 0.9, 20), answers=200).worth < 200
    one = share(np.array([0.75]), answers=8)
    assert one.worth < 2
    assert one.high - one.low > 0.6
    expected = binomtest(12, 12).proportion_ci(method="wilson")
    assert share(np.ones(12), answers=120).low == pytest.approx(expected.low)


@pytest.mark.parametrize("truth", [0.5, 0.9])
@pytest.mark.parametrize("alike", [0.0, 0.6, 1.0])
def test_the_interval_holds_the_truth_as_often_as_it_says(alike: float, truth: float) -> None:
    """12 pairs, 6 raters; `alike` is the share of pairs on which all agree, whoever they are."""
    generator, inside = np.random.default_rng(0), 0
    for _ in range(400):
        chance = np.where(generator.random(12) < alike, generator.random(12) < truth, truth)
        found = share(generator.binomial(6, chance) / 6, answers=72)
        inside += found.low <= truth <= found.high
    assert inside / 400 >= 0.925


def wins(*of_pair: list[list[int]]) -> np.ndarray:
    return np.array(of_pair, dtype=float)


def test_two_rows_have_the_log_odds_of_their_wins() -> None:
    score, low, high = bradley_terry(wins([[0, 5], [2, 0]], [[0, 4], [0, 0]]))
    assert score == pytest.approx(np.array([0.5, -0.5]) * np.log(9.5 / 2.5))
    assert np.isnan([low, high]).all()  # two pairs are too few


def test_strengths_explain_the_wins_of_each_row() -> None:
    """At the maximum of the likelihood each row is expected to win as often as it did."""
    counts = np.array([[0, 30, 45], [20, 0, 28], [5, 22, 0]], dtype=float)
    score, _, _ = bradley_terry(counts[None])
    given = counts + 0.5 * (1 - np.eye(3))
    chance = 1 / (1 + np.exp(score[None, :] - score[:, None]))
    assert ((given + given.T) * chance).sum(1) == pytest.approx(given.sum(1))
    assert score.sum() == pytest.approx(0)
    assert list(np.argsort(-score)) == [0, 1, 2]


def test_a_row_that_never_won_has_a_finite_score_and_the_interval_holds_it() -> None:
    of_pair = np.tile(wins([[0, 3, 3], [0, 0, 2], [0, 1, 0]]), (FEWEST_PAIRS, 1, 1))
    of_pair[0, 1, 0], of_pair[0, 0, 1] = 1, 2
    score, low, high = bradley_terry(of_pair)
    assert np.isfinite([score, low, high]).all()
    assert (low <= score).all()
    assert (score <= high).all()
    assert (low < high).all()
