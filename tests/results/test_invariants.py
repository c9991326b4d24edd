"""What holds of every mean: a bound of MSE by PSNR, and how many images PIE-Bench has."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from results.summary import summarise
from results.tables.invariants import OUTSIDE, WHOLE, broken, impossible_errors, most_images
from results.tables.published import load_reference
from results.tables.tables import COLUMNS
from tests.results.synthetic import make_row, write_run

MSE, PSNR, STRUCTURE = "pie/mse_unedit@1", "pie/psnr_unedit@1", "pie/structure_distance@1"


@pytest.mark.parametrize("metrics", [(MSE, PSNR), ("mse@1", "psnr@1"), ("published/mse", "published/psnr")])
def test_the_mean_error_of_any_images_is_above_its_bound_and_one_below_is_found(
    metrics: tuple[str, str],
) -> None:
    errors = np.random.default_rng(0).uniform(1e-4, 0.2, 50)
    psnrs = -10 * np.log10(errors)
    rows = pd.DataFrame({"cell": "a", "metric": metrics, "mean": [errors.mean(), psnrs.mean()]})
    assert impossible_errors(rows, ["cell"], 1e-6).empty
    below = rows.assign(mean=[0.99 * 10 ** (-psnrs.mean() / 10), psnrs.mean()])
    assert impossible_errors(below, ["cell"], 1e-6)["metric"].tolist() == [metrics[0]]
    other = pd.concat([below.iloc[:1], below.iloc[1:].assign(cell="b")])
    assert impossible_errors(other, ["cell"], 1e-6).empty, "of other images"


def test_pie_bench_has_700_images_and_556_with_a_background() -> None:
    rows = load_reference(["pie_bench"])
    counts = rows.groupby("column")["n"].max()
    assert counts.filter(like="unedit").eq(OUTSIDE).all()
    assert counts.drop(counts.filter(like="unedit").index).eq(WHOLE).all()
    assert most_images("mse@1") == float("inf")
    layerverse = rows[rows["source"].str.contains("LayerVerse")]
    assert set(layerverse["n"].dropna()) == {620}


def cell(counts: dict[str, int], **reasons: dict[str, int]) -> pd.DataFrame:
    """A main table's rows of one cell of PIE-Bench; what is missing is due to whole masks."""
    rows = [
        {
            "dataset": "pie_bench", "method": "p2p", "inversion": "direct", "setting": "", "edit_type": "all",
            "metric": metric, "mean": 30.0, "n": n, "n_images": n, "n_missing": WHOLE - n,
            "reasons": reasons.get(metric, {"mask covers the whole image": WHOLE - n}),
        }
        for metric, n in counts.items()
    ]  # fmt: skip
    return pd.DataFrame(rows).reindex(columns=COLUMNS)


def test_a_run_of_all_pairs_is_told_which_column_has_other_images() -> None:
    assert broken(cell({STRUCTURE: 700, PSNR: 556})) == []
    assert broken(cell({STRUCTURE: 700, PSNR: 555})) == [f"p2p, direct: {PSNR} is of 555 images, "
                                                         "of PIE-Bench's it is 556"]  # fmt: skip
    assert "is of 699 images, of PIE-Bench's it is 700" in broken(cell({STRUCTURE: 699}))[0]
    assert broken(cell({PSNR: 554}, **{PSNR: {"identical outside the mask": 2, "mask": 144}})) == []
    part = cell({STRUCTURE: 100}).assign(n_missing=0)
    assert broken(part) == [], "a part of the data set"
    assert broken(cell({STRUCTURE: 699}).assign(dataset="mine")) == []


def test_a_summary_tells_of_means_that_cannot_be(tmp_path: Path) -> None:
    frame = pd.DataFrame([make_row("cat-dog", seed, "fixed_seed") for seed in range(2)])
    values = [
        {"key": key, "metric": metric, "value": value, "reason": ""}
        for key in frame["key"]
        for metric, value in (("mse@1", 0.0099), ("psnr@1", 20.0))
    ]
    write_run(tmp_path, frame, pd.DataFrame(values))
    assert "This cannot be: fixed\\_seed: mse@1" in (text := summarise(tmp_path, draw=False).markdown) or (
        "This cannot be: fixed_seed: mse@1" in text
    )
    honest = pd.DataFrame(values)
    honest.loc[honest["metric"].eq("mse@1"), "value"] = 0.01
    write_run(tmp_path / "honest", frame, honest)
    assert "This cannot be" not in summarise(tmp_path / "honest", draw=False).markdown
