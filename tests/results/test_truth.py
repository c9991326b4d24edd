"""Rank correlations: against scipy, their direction, their intervals, and what is left out."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy.stats import spearmanr

from results.plots.truth_plots import correlations
from results.store.records import load
from results.tables.cells import with_cells
from results.tables.metric_ranks import rank_correlations, spearman, truth_columns, write_correlations
from results.tables.statistics import FEWEST_PAIRS, resampled_counts
from tests.results.synthetic import DIRECTIONS, PAIRS, make_frame, make_metrics, write_run

TRUTH, ALIKE, OPPOSITE = "ideal/mse@1", "lpips_embedded@1", "clip_target_embedded@1"
KNOWN = {TRUTH: False, **DIRECTIONS}


def test_rho_equals_scipys() -> None:
    generator = np.random.default_rng(0)
    first, second = generator.normal(size=(2, 12, 7)).round(1)  # with ties among means of few values
    rho, low, high = spearman(first, second, confidence=0.95, resamples=200, seed=3)
    means = (side.mean(1).round(12) for side in (first, second))
    assert rho == pytest.approx(spearmanr(*means).statistic, abs=1e-12)
    drawn = []
    for counts in resampled_counts(7, 200, 3):
        means = ((side @ counts / 7).round(12) for side in (first, second))
        drawn.append(spearmanr(*means).statistic)
    assert (low, high) == pytest.approx(tuple(np.quantile(drawn, [0.025, 0.975])), abs=1e-9)


@pytest.mark.parametrize("pairs", [2, 5, 6])
def test_few_pairs_have_no_interval(pairs: int) -> None:
    first, second = np.random.default_rng(0).normal(size=(2, 8, pairs))
    rho, low, high = spearman(first, second, confidence=0.95, resamples=100, seed=0)
    assert np.isfinite(rho)
    assert np.isfinite([low, high]).all() == (pairs >= FEWEST_PAIRS == 6)


def test_constant_cells_have_no_rank() -> None:
    same = np.ones((4, 5))
    assert np.isnan(
        spearman(same, np.arange(20.0).reshape(4, 5), confidence=0.95, resamples=20, seed=0)
    ).all()


@pytest.fixture(scope="module")
def frame(tmp_path_factory: pytest.TempPathFactory) -> pd.DataFrame:
    """The synthetic run with a truth in it: an error that grows just as LPIPS does."""
    run_dir = tmp_path_factory.mktemp("truth")
    records = make_frame([name for name in PAIRS if name != "snow"])
    metrics = make_metrics(records)
    truth = metrics[metrics["metric"].eq(ALIKE)].assign(metric=TRUTH)
    write_run(run_dir, records, pd.concat([metrics, truth]))
    return with_cells(load(run_dir))


def test_a_metric_that_is_the_truth_ranks_as_it_does(frame: pd.DataFrame) -> None:
    assert truth_columns([ALIKE, TRUTH]) == [TRUTH]
    table = rank_correlations(frame, [TRUTH], [ALIKE, OPPOSITE], KNOWN)
    rows = table.set_index(["edit_type", "metric"])
    assert rows.loc[("all", ALIKE), "rho"] == 1
    assert rows.loc[("all", ALIKE), ["low", "high"]].isna().all()  # of three pairs
    # Over tau and strength a freer edit has a larger error and a higher CLIP similarity.
    assert rows.loc[("all", OPPOSITE), "rho"] < -0.7
    assert rows.loc[("all", ALIKE), ["n_cells", "n"]].tolist() == [11, 3]
    assert set(table["edit_type"]) == {"all", "add"}  # of "swap" there is one pair


def test_pairs_that_lack_a_value_do_not_count(frame: pd.DataFrame) -> None:
    lacking = frame.copy()
    row = lacking.index[lacking["method"].eq("p2p") & lacking["pair_id"].eq("cat-dog")]
    lacking.loc[row, ALIKE] = np.nan
    table = rank_correlations(lacking, [TRUTH], [ALIKE], KNOWN)
    assert table.set_index("edit_type").loc["all", "n"] == 2


def test_a_metric_without_a_direction_is_left_out(frame: pd.DataFrame) -> None:
    renamed = frame.rename(columns={ALIKE: "unknown@1", f"reason:{ALIKE}": "reason:unknown@1"})
    assert rank_correlations(renamed, [TRUTH], ["unknown@1"], KNOWN).empty
    assert len(rank_correlations(renamed, [TRUTH], ["unknown@1"], {**KNOWN, "unknown@1": False}))


def test_tables_and_figure_are_written(frame: pd.DataFrame, tmp_path: Path) -> None:
    table = rank_correlations(frame, [TRUTH], [ALIKE, OPPOSITE], KNOWN)
    table.loc[0, ["low", "high"]] = 1.0  # of six pairs or more
    csv, markdown = write_correlations(table, tmp_path / "correlations")
    pd.testing.assert_frame_equal(pd.read_csv(csv), table)
    assert "| 1.00 [1.00, 1.00] | 1.00 |" in markdown.read_text()
    figure = correlations(table)
    texts = [text.get_text() for text in figure.axes[0].texts]
    assert "1.00" in texts
    assert len(texts) == len(table)
