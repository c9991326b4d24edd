"""The Pareto front: which settings no other beats, over which pairs, and what is said of the rest."""

import shutil
from collections.abc import Mapping
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from results.plots.pareto_plots import pareto
from results.report.comparisons import front_rows
from results.store.records import reason_column
from results.summary import summarise
from results.tables.cells import with_cells
from results.tables.pareto import (
    APART,
    BY_MEANS,
    DOMINATED,
    FRONT,
    LEVEL,
    Front,
    chosen_metrics,
    fronts,
    standings_of,
    to_markdown,
)
from tests.results.synthetic import DIRECTIONS, make_frame, make_metrics, make_row, p2p, write_run

UP, DOWN = "clip_directional_embedded@1", "lpips_embedded@1"
BOTH = {UP: True, DOWN: False}


def edits(values: Mapping[float, tuple[float, float]], pairs: int = 8) -> pd.DataFrame:
    """Return cells of P2P at each tau, with these values for all pairs, but for noise that pairs share."""
    noise = np.random.default_rng(0).normal(0, 0.05, pairs)
    rows = [
        make_row(f"pair-{pair}", 0, "p2p", **p2p(tau))
        | {UP: up + noise[pair], DOWN: down + noise[pair], reason_column(UP): "", reason_column(DOWN): ""}
        for tau, (up, down) in values.items()
        for pair in range(pairs)
    ]
    return with_cells(pd.DataFrame(rows))


def found(cells: pd.DataFrame, directions: Mapping[str, bool] = BOTH) -> Front:
    [front] = fronts(cells, (UP, DOWN), directions)
    return front


def standings(front: Front) -> dict[float, str]:
    return dict(zip(front.table["tau"], front.table["standing"], strict=True))


def test_the_front_is_what_no_setting_beats() -> None:
    values = {0.0: (0.2, 0.1), 0.2: (0.4, 0.2), 0.4: (0.3, 0.3), 0.6: (0.6, 0.4), 0.8: (0.6, 0.5)}
    front = found(edits(values))
    told = {0.0: FRONT, 0.2: FRONT, 0.4: DOMINATED, 0.6: FRONT, 0.8: DOMINATED}
    assert standings(front) == told
    places = dict(zip(front.table["tau"], front.table["place"], strict=True))
    assert places == {0.0: 1, 0.2: 2, 0.6: 3, 0.4: 2, 0.8: 3}  # of a beaten one the place of what beats it
    turned = found(edits(values), {UP: False, DOWN: True})
    assert {tau for tau, standing in standings(turned).items() if standing == FRONT} == {0.0, 0.4, 0.8}


def test_a_front_of_random_settings_is_that_of_the_definition() -> None:
    generator = np.random.default_rng(1)
    for _ in range(50):
        first, second = generator.integers(0, 5, (2, 9, 3)).astype(float)
        told, beaten_by = standings_of(first, second)
        means = list(zip(first.mean(1), second.mean(1), strict=True))
        for index, (x, y) in enumerate(means):
            beats = [a >= x and b >= y and (a > x or b > y) for a, b in means]
            assert (told[index] == FRONT) == (not any(beats))
            assert (beaten_by[index] == -1) == (not any(beats))
            if any(beats):
                assert beats[beaten_by[index]]
                assert told[beaten_by[index]] == FRONT


def test_equal_settings_do_not_beat_each_other() -> None:
    assert set(standings(found(edits({0.0: (0.3, 0.2), 0.2: (0.3, 0.2)}))).values()) == {FRONT}
    in_last_digit = np.array([[0.1, 0.2], [0.3, 0.0]])
    assert in_last_digit[0].mean() != in_last_digit[1].mean()
    assert standings_of(in_last_digit, np.ones((2, 2)))[0] == [FRONT, FRONT]


def test_what_chance_may_have_put_behind_is_told_apart() -> None:
    generator = np.random.default_rng(2)
    first = generator.normal(0, 1, (1, 20))
    clear, chance = first - 0.5, first - 0.01 + generator.normal(0, 0.5, (1, 20))
    chance -= chance.mean() - first.mean() + 0.01
    side = np.concatenate([first, clear, chance])
    assert standings_of(side, side)[0] == [FRONT, DOMINATED, LEVEL]
    # In one of the two they do not differ at all: the other decides.
    assert standings_of(side, np.repeat(first, 3, axis=0))[0] == [FRONT, DOMINATED, LEVEL]


def test_of_few_pairs_the_verdict_is_by_the_means_alone_wherever_it_is_told() -> None:
    values = {0.0: (0.4, 0.2), 0.2: (0.3, 0.3)}
    assert standings(found(edits(values, pairs=6))) == {0.0: FRONT, 0.2: DOMINATED}
    few = found(edits(values, pairs=5))
    assert standings(few) == {0.0: FRONT, 0.2: BY_MEANS}
    assert few.notes == ("Fewer than 6 pairs have no interval: what is beaten may be so by chance.",)
    told = "Of 2 settings over 5 pairs: 1 on the front, 1 beaten by the means alone (no interval)."
    text = to_markdown([few], BOTH)
    assert told in text
    assert "| behind 1, by the means alone |" in text
    assert "dominated" not in text
    assert [row["standing"] for row in front_rows(few.table, few.metrics)] == [
        "on the front",
        "behind 1, by the means alone",
    ]
    axes = pareto(few, BOTH).axes[0]
    assert axes.get_title(loc="right") == told
    assert "beaten by the means alone" in axes.get_legend_handles_labels()[1]


def test_a_setting_that_lacks_a_pair_is_not_compared_and_said_to_be_so() -> None:
    cells = edits({0.0: (0.2, 0.1), 0.2: (0.4, 0.2), 0.4: (0.9, 0.0)})
    lost = cells["tau"].eq(0.4) & cells["pair_id"].isin(["pair-1", "pair-2"])
    cells.loc[lost, UP] = np.inf
    cells.loc[lost, reason_column(UP)] = "images are | equal"
    cells = cells[~(cells["tau"].eq(0.4) & cells["pair_id"].eq("pair-3"))]
    front = found(cells)
    assert standings(front) == {0.0: FRONT, 0.2: FRONT, 0.4: APART}
    assert front.n == 8
    last = front.table.iloc[-1]
    assert last["why"] == "3 pairs without both values (2 x images are | equal; 1 pairs not made)"
    assert last[[UP, DOWN]].isna().all()
    text = to_markdown([front], BOTH)
    assert "Of 3 settings over 8 pairs: 2 on the front, 1 not compared." in text
    assert "not compared: 3 pairs without both values (2 x images are \\| equal; 1 pairs not made)" in text


def test_a_pair_without_values_anywhere_does_not_count_and_is_told() -> None:
    cells = edits({0.0: (0.2, 0.1), 0.2: (0.4, 0.2)})
    lost = cells["pair_id"].eq("pair-5")
    cells.loc[lost, DOWN], cells.loc[lost, reason_column(DOWN)] = np.nan, "generation failed"
    front = found(cells)
    assert front.n == 7
    assert front.notes == ("1 pairs do not count, as most settings have no value (2 x generation failed).",)
    assert front.table[UP].iloc[0] == pytest.approx(cells[~lost & cells["tau"].eq(0)][UP].mean())


def test_a_pair_that_few_settings_have_does_not_keep_the_others_out() -> None:
    cells = edits({0.0: (0.2, 0.1), 0.2: (0.4, 0.2), 0.4: (0.6, 0.3)})
    front = found(cells[~(cells["tau"].lt(0.4) & cells["pair_id"].eq("pair-7"))])
    assert front.n == 7
    assert set(front.table["standing"]) == {FRONT}
    assert front.notes == (
        "1 pairs do not count, as most settings have no value (fewer settings than half have them).",
    )


def test_one_setting_or_none_has_no_front() -> None:
    assert fronts(edits({0.0: (0.2, 0.1)}), (UP, DOWN), BOTH) == []
    cells = edits({0.0: (0.2, 0.1), 0.2: (0.4, 0.2)})
    assert fronts(cells.assign(**{UP: np.nan}), (UP, DOWN), BOTH) == []


def test_data_sets_have_fronts_of_their_own() -> None:
    cells = edits({0.0: (0.2, 0.1), 0.2: (0.4, 0.2)})
    both = pd.concat([cells, cells.assign(dataset="other")], ignore_index=True)
    assert [front.dataset for front in fronts(both, (UP, DOWN), BOTH)] == ["other", "toy"]


def test_the_metrics_are_the_objectives_else_alignment_and_preservation() -> None:
    assert chosen_metrics(list(DIRECTIONS), DIRECTIONS) == (UP, DOWN)
    assert chosen_metrics(list(DIRECTIONS), DIRECTIONS, ["ms_ssim@2", UP]) == ("ms_ssim@2", UP)
    assert chosen_metrics(list(DIRECTIONS), DIRECTIONS, [UP]) == (UP, DOWN)
    assert chosen_metrics(["ms_ssim@2", "clip_target_x@1"], {"ms_ssim@2": True}) is None


@pytest.mark.usefixtures("one_plot")
def test_a_summary_has_the_front_as_table_and_plot(finished_run: Path, tmp_path: Path) -> None:
    run_dir = shutil.copytree(finished_run, tmp_path / "run")
    summary = summarise(run_dir)
    names = {str(path.relative_to(run_dir)) for path in summary.paths}
    assert {"tables/pareto.csv", "tables/pareto.md", "plots/pareto.png", "plots/pareto.pdf"} <= names
    assert f"Pareto front of {UP} and {DOWN}: see tables/pareto.md." in summary.markdown
    table = pd.read_csv(run_dir / "tables" / "pareto.csv")
    assert set(table["method"]) == {"p2p", "sdedit", "fixed_seed"}
    main = summary.tables["main"].query("edit_type == 'all' and metric == @UP and method == 'p2p'")
    plain = main[main["weighting"].eq("")].set_index("tau")["mean"]
    assert dict(table[table["method"].eq("p2p")].set_index("tau")[UP]) == pytest.approx(dict(plain))
    by_ssim = summarise(run_dir, objective=[UP, "ms_ssim@2"], draw=False)
    assert f"Pareto front of {UP} and ms_ssim@2: see tables/pareto.md." in by_ssim.markdown
    assert "ms_ssim@2" in pd.read_csv(run_dir / "tables" / "pareto.csv").columns


@pytest.mark.usefixtures("one_plot")
def test_a_run_without_the_metrics_has_no_front(tmp_path: Path) -> None:
    frame = make_frame(["cat-dog"])
    write_run(tmp_path, frame, make_metrics(frame).query("metric == 'ms_ssim@2'"))
    assert "Pareto" not in summarise(tmp_path).markdown
    assert not (tmp_path / "tables" / "pareto.md").exists()


@pytest.mark.parametrize("down", [False, True])
def test_the_line_of_the_plot_bounds_what_the_front_is_as_good_as(down: bool) -> None:
    values = {0.0: (0.2, 0.1), 0.2: (0.4, 0.2), 0.4: (0.3, 0.3), 0.6: (0.6, 0.4)}
    directions = {UP: True, DOWN: not down}
    front = found(edits(values), directions)
    figure = pareto(front, directions)
    [line] = figure.axes[0].get_lines()
    points = np.asarray(line.get_xydata())
    best = front.table[front.table["standing"].eq(FRONT)]
    corners = best[[DOWN, UP]].to_numpy(float)
    assert np.allclose(points[::2], corners)
    sign = -1 if down else 1
    for (x, y), (next_x, next_y) in pairwise(points):
        assert x == next_x or y == next_y
        # Every point of the line is one that a setting of the front is at least as good as.
        assert ((sign * corners[:, 0] >= sign * next_x - 1e-12) & (corners[:, 1] >= next_y - 1e-12)).any()


def test_names_beside_the_plot_stay_in_it_and_apart_however_long() -> None:
    values = {tau: (0.2 + tau / 2, 0.1 + tau / 2) for tau in (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)}
    short = found(edits(values), DIRECTIONS)
    text = ", ".join(f"{name}_threshold=0.123456789" for name in ("blend", "substruct", "another", "last"))
    setting = "τ " + short.table["tau"].map("{:g}".format) + f", {text}"
    one = replace(short, table=short.table.assign(setting=setting, variant=text))
    each = replace(one, table=one.table.assign(variant=text + one.table["tau"].astype(str)))
    for front, lines in ((short, 7), (one, None), (each, None)):
        figure = pareto(front, DIRECTIONS)
        figure.draw_without_rendering()
        [axes] = figure.axes
        names = [text for text in axes.texts if text.get_position()[0] > 10]
        boxes = [text.get_window_extent() for text in names]
        assert lines is None or len(names) == lines
        for box in boxes:
            assert axes.bbox.x1 < box.x0 < box.x1 <= figure.bbox.x1
            assert figure.bbox.y0 <= box.y0 < box.y1 <= figure.bbox.y1
        assert not any(box.overlaps(below) for box, below in pairwise(boxes))
