"""Statistics: pairs are what is resampled, missing is missing, and the intervals cover what they say."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from results.tables.significance import sign_flip_p, sign_flip_ps, win_rate
from results.tables.statistics import (
    _quantile,
    estimate,
    mean_interval,
    mean_intervals,
    paired_difference,
    resampled_counts,
)


def cell(pairs: int, seeds: int, generator: np.random.Generator) -> pd.DataFrame:
    """Values with a common part per pair, as images of one pair have."""
    common = np.repeat(generator.normal(0, 1, pairs), seeds)
    names = np.repeat([f"pair-{index}" for index in range(pairs)], seeds)
    return pd.DataFrame({"value": common + generator.normal(0, 0.1, pairs * seeds), "pair": names})


@pytest.mark.parametrize("values", [[0.1] * 18, [0.0] * 18, [0.3, 0.1 + 0.2] * 9])
def test_a_constant_cell_has_its_own_mean_and_no_interval(values: list[float]) -> None:
    """Rounding apart: 0.1 + 0.2 is not 0.3."""
    result = estimate(pd.Series(values), pd.Series([f"{index % 6}" for index in range(18)]))
    assert result.mean == pytest.approx(values[0], abs=1e-15)
    assert np.isnan([result.low, result.high]).all()
    assert (result.n, result.n_images, result.n_missing) == (6, 18, 0)


def test_the_mean_weighs_pairs_not_images() -> None:
    assert estimate(pd.Series([0.0, 0.0, 0.0, 1.0]), pd.Series(list("aaab"))).mean == 0.5


def test_missing_values_are_counted_with_their_reasons_and_never_zero() -> None:
    values = pd.Series([1.0, np.nan, 3.0, np.nan, np.inf])
    reasons = pd.Series(["", "equal prompts", "", "equal images", ""])
    result = estimate(values, pd.Series(list("aabcd")), reasons)
    assert result.mean == 2.0
    assert (result.n, result.n_images, result.n_missing) == (2, 2, 3)
    assert result.reasons == {"equal images": 1, "equal prompts": 1, "not a finite number": 1}


@pytest.mark.parametrize(
    ("values", "mean", "n"), [([1.0, 2.0], 1.5, 1), ([np.nan, np.nan], np.nan, 0), ([], np.nan, 0)]
)
def test_less_than_two_pairs_have_no_interval(values: list[float], mean: float, n: int) -> None:
    result = estimate(pd.Series(values, dtype=float), pd.Series(["a"] * len(values)))
    assert result.mean == pytest.approx(mean, nan_ok=True)
    assert np.isnan([result.low, result.high]).all()
    assert result.n == n


@pytest.mark.parametrize(("pairs", "has"), [(2, False), (3, False), (5, False), (6, True), (7, True)])
def test_few_pairs_have_no_interval(pairs: int, has: bool) -> None:
    """[least, greatest] of n values holds the median with probability 1 - 2 ** (1 - n)."""
    assert has == (1 - 2.0 ** (1 - pairs) >= 0.95)
    result = estimate(pd.Series(range(pairs), dtype=float), pd.Series(range(pairs)))
    assert np.isfinite([result.low, result.high]).tolist() == [has, has]
    assert result.mean == pytest.approx((pairs - 1) / 2)


def test_intervals_contain_the_mean_and_do_not_depend_on_the_order_of_rows() -> None:
    generator = np.random.default_rng(0)
    for _ in range(20):
        frame = cell(int(generator.integers(6, 30)), 3, generator)
        frame["value"] = np.exp(3 * frame["value"])
        result = estimate(frame["value"], frame["pair"])
        assert result.low <= result.mean <= result.high
        shuffled = frame.sample(frac=1, random_state=1)
        assert estimate(shuffled["value"], shuffled["pair"]) == result


def test_an_interval_does_not_depend_on_what_is_computed_beside_it() -> None:
    """To the last bit, as tables are compared byte for byte; 300 pairs have more counts than fit together."""
    generator = np.random.default_rng(0)
    cells = [generator.exponential(1.0, n) for n in (3, 14, 300, 14, 301) for _ in range(30)]
    cells[40] = np.full(14, 0.5)
    together = np.array(mean_intervals(cells))
    np.testing.assert_array_equal(together, [mean_interval(values) for values in cells])
    assert np.isnan(together).all(axis=1).tolist() == [len(set(values)) <= 3 for values in cells]


@pytest.mark.parametrize("level", [0.0, 0.024999, 0.3, 0.5, 0.97777, 1.0])
def test_the_quantile_of_sorted_values_is_numpy_s(level: float) -> None:
    for n in (1, 2, 4000):
        values = np.random.default_rng(n).normal(0, 1, n)
        assert _quantile(np.sort(values), level) == np.quantile(values, level)


@pytest.mark.parametrize("n", [6, 14, 40])
@pytest.mark.parametrize("kind", ["skewed", "mostly ties", "one other"])
def test_the_interval_is_scipy_s_bca_at_a_level_widened_for_few_pairs(kind: str, n: int) -> None:
    generator = np.random.default_rng(n)
    skewed = generator.exponential(1.0, n)
    values = {
        "skewed": skewed,
        "mostly ties": np.where(np.arange(n) % 2, 0.0, skewed),
        "one other": np.eye(n)[0],
    }[kind]
    ours = mean_interval(values, resamples=20_000)
    level = 1 - 2 * stats.norm.cdf(stats.t.ppf(0.025, n - 1) * np.sqrt(n / (n - 1)))
    assert level > 0.95
    theirs = stats.bootstrap(
        (values,), np.mean, n_resamples=20_000, method="BCa", confidence_level=level, rng=0
    ).confidence_interval
    # Two independent draws of 20,000: of six pairs 50 draws lie beyond an end, whose standard error is 5 % to
    # 10 % of the mean's. Of ones and zeros, means are whole pairs apart.
    error = max(0.3 * values.std() / np.sqrt(n), 1.01 / n if kind == "one other" else 0)
    assert ours == pytest.approx((theirs.low, theirs.high), abs=error)


def test_intervals_of_few_skewed_pairs_cover_more_than_percentiles_of_resampled_means_do() -> None:
    generator = np.random.default_rng(5)
    counts = resampled_counts(10, 1000, 1) / 10
    ours, percentiles = [], []
    for values in generator.lognormal(0, 0.5, (400, 10)):
        truth = np.exp(0.125)
        low, high = mean_interval(values, resamples=1000)
        ours.append((truth < low, truth > high))
        low, high = np.quantile(counts @ values, [0.025, 0.975])
        percentiles.append((truth < low, truth > high))
    beside, plain = np.mean(ours, axis=0), np.mean(percentiles, axis=0)
    # 0.02 and 0.06 of 4,000 draws against 0.02 and 0.105; over 400 an error of 0.01 to 0.015.
    assert beside.sum() < 0.11 < plain.sum()
    assert beside[1] < plain[1] - 0.02


def test_intervals_over_pairs_cover_the_truth_where_intervals_over_images_would_not() -> None:
    generator = np.random.default_rng(2)
    over_pairs, over_images = [], []
    for _ in range(300):
        frame = cell(25, 5, generator)
        right = estimate(frame["value"], frame["pair"], resamples=600)
        wrong = estimate(frame["value"], pd.Series(range(len(frame))), resamples=600)
        over_pairs.append(right.low <= 0 <= right.high)
        over_images.append(wrong.low <= 0 <= wrong.high)
    # Standard error of a coverage of 0.95 over 300 draws is 0.013; of 25 pairs it is hardly short.
    assert 0.88 <= np.mean(over_pairs) <= 0.99
    assert np.mean(over_images) < 0.75


def test_a_paired_difference_sees_what_two_intervals_cannot() -> None:
    frame = (
        cell(20, 2, np.random.default_rng(3)).assign(seed=[0, 1] * 20).set_index(["pair", "seed"])["value"]
    )
    result = paired_difference(frame + np.linspace(0.04, 0.06, len(frame)), frame)
    assert (result.low, result.high) == pytest.approx((0.05, 0.05), abs=0.005)
    assert np.isnan(paired_difference(frame + 0.05, frame).low)  # all alike, rounding apart
    single = estimate(frame, frame.index.get_level_values(0).to_series())
    assert single.high - single.low > 0.5


def test_a_difference_without_a_partner_is_missing() -> None:
    index = pd.MultiIndex.from_product([["a", "b", "c"], [0]], names=["pair_id", "seed"])
    first, second = pd.Series([1.0, 2.0, 3.0], index), pd.Series([0.0, np.nan], index[:2])
    result = paired_difference(first, second)
    assert (result.mean, result.n, result.n_missing) == (1.0, 1, 2)
    with pytest.raises(ValueError, match="more than one value"):
        paired_difference(pd.concat([first, first]), second)


@pytest.mark.parametrize(("wins", "pairs"), [(0, 7), (3, 8), (50, 60), (7, 7)])
def test_win_rates_have_wilson_s_interval(wins: int, pairs: int) -> None:
    differences = np.array([1.0] * wins + [-1.0] * (pairs - wins))
    share, low, high = win_rate(differences, higher_is_better=True)
    known = stats.binomtest(wins, pairs).proportion_ci(method="wilson")
    assert (share, low, high) == pytest.approx((wins / pairs, known.low, known.high))
    assert win_rate(-differences, higher_is_better=False) == (share, low, high)


def test_ties_are_half_a_win() -> None:
    assert win_rate(np.array([0.0, 1e-15, 1.0, -1.0]), higher_is_better=True)[0] == 0.5
    assert np.isnan(win_rate(np.array([]), higher_is_better=True)).all()


def test_many_tests_at_once_are_each_the_test_alone() -> None:
    generator = np.random.default_rng(0)
    differences = [generator.normal(0.3, 1, pairs) for pairs in (7, 20, 0) for _ in range(70)]
    alone = [
        sign_flip_p(pd.Series(values, pd.MultiIndex.from_product([range(len(values)), [0]])))
        for values in differences
    ]
    np.testing.assert_array_equal(sign_flip_ps(differences), alone)
    assert np.isnan(alone[-1])
    # Exactly, of 2 ** 7 signs: no sum is as far from 0 but that of all, and of none.
    assert sign_flip_ps([np.ones(7), np.arange(1.0, 8)]) == [2 / 128] * 2
