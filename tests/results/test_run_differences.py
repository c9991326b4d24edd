"""Runs beside runs: known differences are found, pair by pair, and what may not be mixed is refused."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from results.run_differences import compare_runs
from results.store.metric_columns import write_columns
from results.store.records import load_metrics, write_metrics, write_records
from results.store.run_folder import RunFolder
from results.tables.significance import holm, sign_flip_p
from tests.results.synthetic import make_row, p2p

LPIPS = "lpips_embedded@1"
PAIRS = [f"pair-{number}" for number in range(8)]


def write(
    run_dir: Path,
    shift: float = 0.0,
    pairs: list[str] = PAIRS,
    metric: str = LPIPS,
    weights: str = "0" * 64,
    taus: tuple[float, ...] = (0.2, 0.6),
    **settings: object,
) -> Path:
    """Write a run whose values are those of its pair, seed and tau, and `shift`."""
    rows = [
        make_row(pair, seed, "p2p", **{**p2p(tau), **settings})
        for pair in pairs
        for seed in range(2)
        for tau in taus
    ]
    write_records(run_dir, rows)
    values = [
        {"key": row["key"], "metric": metric, "value": value(row) + shift, "reason": ""} for row in rows
    ]
    write_metrics(run_dir, "toy@1", pd.DataFrame(values))
    write_columns(run_dir, "toy@1", [metric], {metric: False})
    RunFolder(run_dir).weights_file("toy@1").write_text(weights)
    return run_dir


def value(row: dict[str, object]) -> float:
    """A value that differs much more between pairs than any shift does."""
    number = int(str(row["pair_id"]).rpartition("-")[2])
    return 0.1 * number + 0.01 * int(str(row["seed"])) + float(str(row["tau"]))


def test_a_known_shift_is_found_pair_by_pair_over_the_pairs_that_both_have(tmp_path: Path) -> None:
    first = write(tmp_path / "first")
    second = write(tmp_path / "second", 0.05, [*PAIRS[2:], "pair-9"], guidance_scale=5.0)
    found = compare_runs([first, second])
    table = found.table
    assert table["of_setting"].tolist() == table["setting"].tolist() == ["τ 0.2", "τ 0.6"]
    assert table["difference"].tolist() == pytest.approx([0.05, 0.05])
    assert table["low"].isna().all(), "the shift is one and the same for all pairs"
    assert table["n"].tolist() == [6, 6]
    assert table["n_images"].tolist() == [12, 12]
    assert table["n_alone"].tolist() == [6, 6]  # two pairs of the first, one of the second, of two seeds
    assert table["of_mean"].tolist() == pytest.approx([0.45 + 0.005 + tau for tau in (0.2, 0.6)])
    assert table["p"].tolist() == [2 / 64] * 2, "of six pairs all signs are tried"
    assert table["p_holm"].tolist() == [4 / 64] * 2
    assert "lpips\\_embedded@1 ↓" in (text := found.to_markdown()) or "lpips_embedded@1 ↓" in text
    assert "+0.05 | 0.031 | 0.062 | 6 |" in text


def test_a_third_run_stands_beside_the_first_and_all_tests_are_corrected_together(tmp_path: Path) -> None:
    runs = [write(tmp_path / name, shift) for name, shift in (("a", 0.0), ("b", 0.1), ("c", -0.2))]
    table = compare_runs(runs).table
    assert table.groupby("run")["difference"].mean().to_dict() == pytest.approx({"b": 0.1, "c": -0.2})
    assert table["p_holm"].tolist() == pytest.approx([4 * p for p in table["p"]])


def test_settings_that_differ_stand_together_only_where_nothing_else_could(tmp_path: Path) -> None:
    one = write(tmp_path / "one", taus=(0.2,))
    other = write(tmp_path / "other", 0.3, taus=(0.6,), guidance_scale=3.0)
    table = compare_runs([one, other]).table
    assert (table["of_setting"].tolist(), table["setting"].tolist()) == (["τ 0.2"], ["τ 0.6"])
    several = write(tmp_path / "several", taus=(0.6, 0.8))
    with pytest.raises(ValueError, match="nothing stands beside anything: one alone, not several: .*τ 0.2"):
        compare_runs([one, several])
    shared = compare_runs([other, several])
    assert shared.table["setting"].tolist() == ["τ 0.6"]
    assert shared.alone == ("several alone, not other: Prompt-to-Prompt, τ 0.8",)


def test_steps_and_inversion_may_differ(tmp_path: Path) -> None:
    one = write(tmp_path / "one", inversion="ddim")
    fewer = {"num_inference_steps": 20, "cross_end": 8, "self_end": 4, "inversion": "direct"}
    other = write(tmp_path / "other", 0.1, **fewer)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="nothing stands"):
        compare_runs([write(tmp_path / "mixed", taus=(0.4, 0.8)), other])
    table = compare_runs([one, other]).table
    assert table["difference"].tolist() == pytest.approx([0.1, 0.1])


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"dataset": "others"}, "second: is of data set others, first of toy"),
        (
            {"target_prompt": "a fox"},
            "second: 8 pairs have other prompts than in first, as 'pair-0'",
        ),
        ({"metric": "lpips_embedded@2"}, "lpips_embedded: first @1, second @2 have no version in common"),
        ({"weights": "1" * 64}, "toy@1: other weights gave the values of"),
        ({"pairs": ["x-1"]}, "second: has no pair that first has"),
        ({"metric": "ssim@3"}, "first, second have no metric in common"),
    ],
)
def test_what_may_not_be_mixed_is_refused(tmp_path: Path, settings: dict[str, object], told: str) -> None:
    first = write(tmp_path / "first")
    with pytest.raises(ValueError, match=told):
        compare_runs([first, write(tmp_path / "second", **settings)])  # type: ignore[arg-type]


def test_the_newest_common_version_is_taken_and_metrics_can_be_chosen(tmp_path: Path) -> None:
    runs = [write(tmp_path / name) for name in ("first", "second")]
    for run_dir in runs:
        again = load_metrics(run_dir).assign(metric="lpips_embedded@10")
        write_metrics(run_dir, "toy@10", again)
    assert set(compare_runs(runs).table["metric"]) == {"lpips_embedded@10"}
    assert set(compare_runs(runs, ["lpips_embedded@1"]).table["metric"]) == {LPIPS}
    with pytest.raises(ValueError, match="no run has ssim, allowed are lpips_embedded"):
        compare_runs(runs, ["ssim"])
    with pytest.raises(ValueError, match="two run folders or more"):
        compare_runs([runs[0], runs[0]])


@pytest.mark.parametrize("pairs", [8, 30])
def test_p_is_that_of_scipys_permutation_test(pairs: int) -> None:
    values = np.random.default_rng(4).normal(0.4, 1, pairs)
    index = pd.MultiIndex.from_product([range(pairs), range(2)])
    both = pd.Series(np.repeat(values, 2) + np.tile([0.3, -0.3], pairs), index)
    theirs = stats.permutation_test(
        (values, np.zeros(pairs)), lambda x, y: np.mean(x - y), permutation_type="samples",
        n_resamples=np.inf if pairs == 8 else 20_000, rng=0,
    ).pvalue  # fmt: skip
    # Drawn signs: a p of 0.1 has a standard error of 0.003 over 9,999 draws.
    assert sign_flip_p(both) == pytest.approx(theirs, abs=1e-12 if pairs == 8 else 0.012)


def test_p_under_no_difference_is_below_a_twentieth_in_a_twentieth_of_cases() -> None:
    generator = np.random.default_rng(5)
    index = pd.MultiIndex.from_product([range(10), range(1)])
    small = [sign_flip_p(pd.Series(generator.normal(0, 1, 10), index)) <= 0.05 for _ in range(1000)]
    assert 0.03 < np.mean(small) < 0.07  # a standard error of 0.007


def test_holm_is_what_stands_on_paper() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.9, 0.5]) == [1.0, 1.0]
    np.testing.assert_array_equal(holm([np.nan, 0.02, 0.03]), [np.nan, 0.04, 0.04])
    assert holm([]) == []
