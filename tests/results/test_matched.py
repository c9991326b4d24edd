"""Curves at equal preservation: gaps with answers on paper, which pairs count, and what is said of them."""

import itertools
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from results.store.records import reason_column
from results.summary import summarise
from results.tables.cells import with_cells
from results.tables.matched import APART, COLUMNS, heights, matched_table, mean_gap
from results.tables.matched_files import to_latex, to_markdown, told
from results.tables.statistics import pairs_needed
from tests.results.synthetic import make_row, p2p

UP, DOWN = "clip_directional_embedded@1", "lpips_embedded@1"
BOTH = {UP: True, DOWN: False}
TAUS, STRENGTHS = (0.0, 0.5, 1.0), (0.2, 0.6, 0.8)
Values = Callable[[int, int, float], tuple[float, float]]  # pair, seed, tau or strength: LPIPS, CLIP


def sweep(p2p_values: Values, sdedit_values: Values, pairs: int = 8, seeds: int = 1) -> pd.DataFrame:
    """Return cells of P2P over TAUS and SDEdit over STRENGTHS with these values."""
    rows = []
    for pair, seed in itertools.product(range(pairs), range(seeds)):
        swept = [("p2p", tau, p2p(tau), p2p_values) for tau in TAUS]
        swept += [
            ("sdedit", at, {"strength": at, "params": f'{{"strength": {at}}}'}, sdedit_values)
            for at in STRENGTHS
        ]
        for method, at, named, values in swept:
            level, height = values(pair, seed, at)
            empty = {reason_column(UP): "", reason_column(DOWN): ""}
            rows.append(make_row(f"pair-{pair}", seed, method, **named) | {DOWN: level, UP: height} | empty)
    return with_cells(pd.DataFrame(rows))


def one(table: pd.DataFrame, edit_type: str = "all") -> dict:
    [row] = table[table["edit_type"].eq(edit_type)].to_dict("records")
    return row


def curve(*points: tuple[float, float]) -> np.ndarray:
    return np.array(points)


@pytest.mark.parametrize(
    ("first", "second", "answer"),
    [
        # A constant apart, whatever points the two lines have.
        ([(0, 1), (1, 3)], [(-1, -1.5), (0.3, 1.1), (2, 4.5)], (0.5, 0, 1)),
        # Crossing in the middle: what is above on one side is below on the other.
        ([(0, 0), (1, 1)], [(0, 1), (1, 0)], (0.0, 0, 1)),
        # Over [0.5, 1] alone the same lines are 0.5 apart on average.
        ([(0, 0), (1, 1)], [(0.5, 0.5), (1, 0)], (0.5, 0.5, 1)),
        # A tent of height 1 above zero has half the area of its rectangle.
        ([(0, 0), (1, 1), (2, 0)], [(0, 0), (2, 0)], (0.5, 0, 2)),
        # Wide stretches count more: half of 1 and all of 3, by 4.
        ([(0, 0), (1, 1), (4, 1)], [(0, 0), (4, 0)], (0.875, 0, 4)),
        # Levels may fall along the sweep.
        ([(1, 3), (0, 1)], [(0, 0.5), (1, 2.5)], (0.5, 0, 1)),
    ],
)
def test_gaps_are_what_stands_on_paper(first: list, second: list, answer: tuple[float, ...]) -> None:
    assert mean_gap(curve(*first), curve(*second)) == pytest.approx(answer)
    assert mean_gap(curve(*second), curve(*first)) == pytest.approx((-answer[0], *answer[1:]))


@pytest.mark.parametrize(
    "second", [[(2, 0), (3, 0)], [(1, 0), (2, 0)], [(0.5, 0), (0.5, 1)], [(1, 0), (np.nextafter(1, 0), 0)]]
)
def test_nothing_is_extrapolated(second: list) -> None:
    assert mean_gap(curve((0, 0), (1, 1)), curve(*second)) is None


def test_of_several_crossings_the_mean_counts() -> None:
    zigzag = curve((0, 0), (2, 2), (1, 4), (3, 6))
    # At 1.5: 1.5 on the way up, 3 on the way back, 4.5 on the way up again.
    assert heights(zigzag, np.array([0.5, 1.5, 2.5])) == pytest.approx([0.5, 3.0, 5.5])
    upright = curve((0, 0), (1, 1), (1, 5), (2, 6))
    assert heights(upright, np.array([0.5, 1.5])) == pytest.approx([0.5, 5.5])


def test_lines_a_constant_apart_give_the_constant_for_every_pair() -> None:
    cells = sweep(
        lambda pair, seed, tau: (0.1 + 0.4 * tau, 0.05 + tau + 0.1 * pair),
        lambda pair, seed, at: (0.1 + 0.4 * at, at + 0.1 * pair),
    )
    row = one(matched_table(cells, (UP, DOWN)))
    assert (row["first"], row["second"]) == ("Prompt-to-Prompt", "SDEdit")
    assert row["difference"] == pytest.approx(0.05)
    assert np.isnan([row["low"], row["high"]]).all(), "of pairs that are all alike nothing is known of others"
    assert (row["level_low"], row["level_high"]) == pytest.approx((0.18, 0.42))
    assert (row["n"], row["n_pairs"], row["n_images"], row["n_missing"]) == (8, 8, 8, 0)
    assert row["p"] == pytest.approx(2 / 2**8)  # all pairs on one side


def test_pairs_that_share_no_preservation_are_counted_and_said() -> None:
    cells = sweep(
        lambda pair, seed, tau: (0.4 * tau, tau + pair),
        lambda pair, seed, at: (0.4 * at + (pair < 2), at),
    )
    table = matched_table(cells, (UP, DOWN))
    row = one(table)
    assert (row["n"], row["n_pairs"], row["n_missing"]) == (6, 8, 2)
    assert row["difference"] == pytest.approx(np.mean(range(2, 8)))
    assert row["reasons"] == {APART: 2}
    assert "over 6 of 8 pairs" in told(row, BOTH)
    assert f"2 of 8 images have no difference (2 x {APART})" in to_markdown(table, BOTH)
    none = one(matched_table(sweep(lambda *_: (0.0, 0.0), lambda *_: (1.0, 0.0)), (UP, DOWN)))
    assert (none["n"], none["n_pairs"]) == (0, 8)
    assert np.isnan(none["difference"])
    assert told(none, BOTH).startswith("Prompt-to-Prompt and SDEdit are not compared: 0 of 8 pairs")


def test_a_curve_of_one_point_is_none() -> None:
    cells = sweep(lambda pair, seed, tau: (tau, tau if pair or not tau else np.nan), lambda *of: (of[2], 0.0))
    row = one(matched_table(cells, (UP, DOWN)))
    assert (row["n"], row["reasons"]) == (
        7,
        {"fewer than two settings with both values: Prompt-to-Prompt": 1},
    )
    one_tau = cells[cells["method"].ne("p2p") | cells["tau"].eq(0.5)]
    assert matched_table(one_tau, (UP, DOWN)).empty, "one setting is no curve"


def test_seeds_have_curves_of_their_own_and_their_pair_counts_once() -> None:
    # Averaged before, the seeds' curves would be 0..0.6 and 0.3..0.9 wide: no constant.
    cells = sweep(
        lambda pair, seed, tau: (0.5 * seed + 0.4 * tau, 2.0 * seed + tau + pair),
        lambda pair, seed, at: (0.5 * seed + 0.4 * at, at),
        seeds=2,
    )
    single = cells["pair_id"].eq("pair-7") & cells["seed"].eq(1)
    row = one(matched_table(cells[~single], (UP, DOWN)))
    per_pair = [*(pair + 1.0 for pair in range(7)), 7.0]
    assert (row["n"], row["n_images"]) == (8, 15)
    assert row["difference"] == pytest.approx(np.mean(per_pair))
    assert row["spread"] == pytest.approx(np.std(per_pair, ddof=1))


def test_holm_is_over_every_row_and_edit_types_have_rows_of_their_own() -> None:
    noise = np.random.default_rng(1).normal(0.02, 0.05, 8)
    cells = sweep(lambda pair, seed, tau: (tau, tau + noise[pair]), lambda pair, seed, at: (at, at))
    cells["edit_type"] = np.where(cells["pair_id"].isin(["pair-0", "pair-1"]), "add", "swap")
    table = matched_table(cells, (UP, DOWN))
    assert list(table["edit_type"]) == ["all", "add", "swap"]
    assert list(table.columns) == COLUMNS
    add, swap, whole = one(table, "add"), one(table, "swap"), one(table)
    assert (add["n"], swap["n"], whole["n"]) == (2, 6, 8)
    assert np.isnan([add["p"], add["low"], add["spread"]]).all(), "two pairs are too few"
    assert swap["difference"] == pytest.approx(noise[2:].mean())
    low, high = sorted([whole["p"], swap["p"]])
    assert sorted([whole["p_holm"], swap["p_holm"]]) == pytest.approx(
        sorted([min(1, 2 * low), max(2 * low, high)])
    )


def test_variants_are_curves_of_their_own_and_other_contexts_are_not_compared() -> None:
    made = sweep(lambda pair, seed, tau: (tau, tau), lambda pair, seed, at: (at, at))
    frame = made.drop(columns=["variant", "setting", "weighting"])
    blended = frame[frame["method"].eq("p2p")].assign(
        params=lambda rows: [f'{{"local_blend": true, "tau": {tau}}}' for tau in rows["tau"]],
        key=lambda rows: rows["key"] + "b",
    )
    table = matched_table(with_cells(pd.concat([frame, blended], ignore_index=True)), (UP, DOWN))
    assert {(row.first, row.second) for row in table.query("edit_type == 'all'").itertuples()} == {
        ("Prompt-to-Prompt", "SDEdit"),
        ("Prompt-to-Prompt", "Prompt-to-Prompt, LocalBlend"),
        ("Prompt-to-Prompt, LocalBlend", "SDEdit"),
    }
    steps = frame.assign(num_inference_steps=frame["method"].map({"p2p": 50, "sdedit": 30}))
    assert matched_table(with_cells(steps), (UP, DOWN)).empty


def test_what_is_not_told_apart_is_said_so() -> None:
    sides = [-1, 1] * 4
    cells = sweep(lambda pair, seed, tau: (tau, tau + sides[pair]), lambda pair, seed, at: (at, at - 0.01))
    assert told(one(matched_table(cells, (UP, DOWN))), BOTH).startswith(
        f"At equal {DOWN}, Prompt-to-Prompt is not told apart from SDEdit: +0.010 ["
    )
    apart = sweep(lambda pair, seed, tau: (tau, tau - 0.5), lambda pair, seed, at: (at, at))
    assert told(one(matched_table(apart, (UP, DOWN))), BOTH) == (
        f"At equal {DOWN}, Prompt-to-Prompt is below SDEdit: -0.500 of {UP} ↑, over 8 of 8 pairs, alike in "
        "all, p 0.0078 (Holm)."
    )
    row = one(matched_table(apart, (UP, DOWN))) | {"p": 0.03, "p_holm": 0.06}
    assert told(row, BOTH).startswith(
        f"At equal {DOWN}, Prompt-to-Prompt is below SDEdit before correction for several comparisons: -0.500"
    )
    few = sweep(lambda pair, seed, tau: (tau, tau + 0.5), lambda pair, seed, at: (at, at), pairs=2)
    assert told(one(matched_table(few, (UP, DOWN))), BOTH).endswith(
        "over 2 of 2 pairs, too few for an interval."
    )


def test_pairs_needed_is_what_stands_on_paper() -> None:
    # (1.96 * 0.1 / 0.0196) ** 2 is 100, and Student's quantile of 102 pairs 1.9837: 0.19837 / 102 ** 0.5.
    assert pairs_needed(0.1, 0.0196) == 103
    assert pairs_needed(0.1, 0.0098) == 403
    assert pairs_needed(1.0, 2.571 / 6**0.5) == 6
    assert pairs_needed(1.0, 2.57 / 6**0.5) == 7
    assert pairs_needed(0.1, 10) == 6  # fewer have no interval
    with pytest.raises(ValueError, match="half_width: 0 is not a number above 0"):
        pairs_needed(0.1, 0)


def test_a_finished_run_has_the_table_and_a_line_in_words(finished_run: Path, tmp_path: Path) -> None:
    run_dir = shutil.copytree(finished_run, tmp_path / "run")
    summary = summarise(run_dir, draw=False)
    names = {path.name for path in summary.paths}
    assert {"matched.csv", "matched.md", "matched.tex"} <= names
    assert "\nAt equal lpips_embedded@1, Prompt-to-Prompt is" in summary.markdown
    table = pd.read_csv(run_dir / "tables/matched.csv")
    assert list(table.columns) == COLUMNS
    assert table["difference"].notna().any()


@pytest.mark.skipif(not shutil.which("pdflatex"), reason="no pdflatex here")
def test_it_compiles_in_a_column(tmp_path: Path) -> None:
    cells = sweep(lambda pair, seed, tau: (tau, tau + 0.01 * pair), lambda pair, seed, at: (at, at))
    text = to_latex(matched_table(cells, (UP, DOWN)), BOTH)
    (tmp_path / "doc.tex").write_text(
        r"\documentclass{article}\usepackage{booktabs}\begin{document}\setlength\hsize{3.25in}"
        rf"\setbox0\vbox{{{text}}}\typeout{{MEASURED \the\wd0}}\box0\end{{document}}",
        encoding="utf-8",
    )
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "-no-shell-escape", "doc.tex"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout[-2000:]
    assert "Overfull" not in done.stdout, done.stdout
    [width] = re.findall(r"MEASURED ([\d.]+)pt", done.stdout)
    assert float(width) <= 3.25 * 72.27 + 0.1


@pytest.mark.parametrize("half_width", [1e-200, 1e-12, float("inf"), float("nan"), -1.0])
def test_a_half_width_that_no_study_reaches_is_refused(half_width: float) -> None:
    with pytest.raises(ValueError, match="half_width: .* (asks for more than|is not a number above 0)"):
        pairs_needed(0.1, half_width)
