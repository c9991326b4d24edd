"""Plots and strips: any run can be drawn, equal runs give equal files, pictures are the right ones."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from PIL import Image

from results.plots import plot_style, strips, sweep_plots
from results.store.records import load, metric_columns
from results.tables.cells import with_cells
from results.tables.tables import main_table
from tests.results.synthetic import (
    DIRECTIONS,
    PAIRS,
    make_frame,
    make_metrics,
    make_row,
    p2p,
    windows,
    write_run,
)

METRIC = "lpips_embedded@1"
CLIP = "clip_target_embedded@1"


@pytest.fixture(scope="module")
def finished_table(finished_run: Path) -> pd.DataFrame:
    frame = load(finished_run)
    return main_table(with_cells(frame), metric_columns(frame))


def lines(axes) -> dict[str, np.ndarray]:
    return {line.get_label(): line.get_xydata() for line in axes.get_lines() if line.get_label()[0] != "_"}


def test_the_trade_off_shows_the_tables_numbers(finished_table: pd.DataFrame, tmp_path: Path) -> None:
    figure = sweep_plots.trade_off(finished_table, METRIC, CLIP, DIRECTIONS)
    axes = figure.axes[0]
    cells = finished_table.query("method == 'sdedit' and edit_type == 'all' and weighting == ''")
    cells = cells.set_index("metric")
    drawn = {bars.get_label(): bars.lines[0].get_xydata() for bars in axes.containers}
    assert set(drawn) == {"Prompt-to-Prompt, by τ", "SDEdit, by strength", "fixed seed"}
    expected = np.stack([cells.loc[METRIC, "mean"], cells.loc[CLIP, "mean"]], axis=1)
    np.testing.assert_array_equal(drawn["SDEdit, by strength"], expected)
    assert axes.get_xlabel().endswith("← better")
    assert axes.get_ylabel().endswith("better →")
    assert all(path.stat().st_size > 5000 for path in plot_style.save(figure, tmp_path / "trade_off"))


@pytest.mark.parametrize("method", ["p2p", "a_method_of_ones_own_with_a_name_as_long_as_a_name_can_be"])
def test_the_legend_stays_inside_the_picture(method: str) -> None:
    """Two variants of a method make its labels long."""
    rows = [
        {**make_row("cat-dog", 0, "p2p", **p2p(tau)), "method": name, "params": json.dumps(params)}
        for name in ("p2p", method)
        for tau in (0.2, 0.4)
        for params in ({"tau": tau, "local_blend": False}, {"tau": tau, "local_blend": True})
    ]
    frame = pd.DataFrame([make_row("cat-dog", 0, "fixed_seed"), *rows]).assign(**{METRIC: 0.3, CLIP: 0.2})
    frame = frame.assign(**{f"reason:{name}": "" for name in (METRIC, CLIP)})
    figure = sweep_plots.trade_off(main_table(with_cells(frame), [METRIC, CLIP]), METRIC, CLIP, DIRECTIONS)
    FigureCanvasAgg(figure).draw()
    [drawn] = figure.legends
    assert len(drawn.get_texts()) >= 3
    assert drawn.get_window_extent().x1 <= figure.bbox.x1


def test_over_tau_has_a_panel_per_metric(finished_table: pd.DataFrame) -> None:
    metrics = list(finished_table["metric"].unique())
    figure = sweep_plots.over_tau(finished_table, metrics, DIRECTIONS)
    assert len(figure.axes) == len(metrics)
    assert all(set(lines(axes)) == {"Prompt-to-Prompt", "fixed seed"} for axes in figure.axes)


def test_equal_tables_give_equal_files(finished_table: pd.DataFrame, tmp_path: Path) -> None:
    pairs = [
        plot_style.save(sweep_plots.trade_off(finished_table, METRIC, CLIP, DIRECTIONS), tmp_path / name)
        for name in "ab"
    ]
    assert [path.read_bytes() for path in pairs[0]] == [path.read_bytes() for path in pairs[1]]


@pytest.mark.parametrize("missing", [False, True])
def test_one_condition_and_one_pair_can_be_drawn(missing: bool, tmp_path: Path) -> None:
    frame = pd.DataFrame([make_row("cat-dog", 0, "p2p", **p2p(0.2), model="$_a$b^ & {")])
    values = {METRIC: np.nan if missing else 0.3, CLIP: 0.2}
    frame = frame.assign(**values, **{f"reason:{name}": "none" for name in values})
    table = main_table(with_cells(frame), list(values))
    for index, figure in enumerate(
        [
            sweep_plots.trade_off(table, METRIC, CLIP, {}),
            sweep_plots.over_tau(table, [METRIC], {}),
            sweep_plots.ablation(table, [METRIC], {}),
        ]
    ):
        plot_style.save(figure, tmp_path / f"{index}")


def test_the_ablation_has_a_bar_per_window() -> None:
    shown = [((0, 0), (0, 0)), ((0, 40), (0, 0)), ((0, 0), (0, 20)), ((0, 40), (0, 20)), ((10, 50), (10, 30))]
    frame = pd.DataFrame([make_row("cat-dog", 0, "p2p", **windows(*window)) for window in shown])
    frame = frame.assign(**{METRIC: [0.5, 0.4, 0.3, 0.2, 0.1], f"reason:{METRIC}": ""})
    axes = sweep_plots.ablation(main_table(with_cells(frame), [METRIC]), [METRIC], DIRECTIONS).axes[0]
    labels = [label.get_text() for label in axes.get_yticklabels()]
    assert labels == ["none", "self 0–20", "cross 0–40", "cross 0–40, self 0–20", "cross 10–50, self 10–30"]
    assert [bar.get_width() for bar in axes.patches] == [0.5, 0.3, 0.4, 0.2, 0.1]


def test_one_pair_per_edit_type_is_chosen_the_same_way_every_time(finished_run: Path) -> None:
    frame = with_cells(load(finished_run))
    chosen = strips.choose_pairs(frame, limit=3)
    assert chosen == ["house-2", "cat-dog", "house-10"]  # no re-weighting
    assert strips.choose_pairs(frame.sample(frac=1, random_state=0), limit=3) == chosen
    assert set(strips.choose_pairs(frame, limit=8)) == set(PAIRS) - {"snow"}


def test_a_strip_shows_the_runs_pictures_enlarged_by_a_whole_factor(finished_run: Path) -> None:
    picture = np.asarray(strips.strip(finished_run, with_cells(load(finished_run)), ["cat-dog"]))
    row = load(finished_run).query("pair_id == 'cat-dog' and seed == 0 and method == 'source'").iloc[0]
    source = Image.open(finished_run / row["image"]).resize((128, 128), Image.Resampling.BICUBIC)
    # The source is the first picture; its left margin and the bottom margin are both 16 pixels.
    np.testing.assert_array_equal(picture[-16 - 128 : -16, 16 : 16 + 128], np.asarray(source))
    again = np.asarray(strips.strip(finished_run, with_cells(load(finished_run)), ["cat-dog"]))
    np.testing.assert_array_equal(picture, again)


def test_the_caption_tells_the_target_prompt(finished_run: Path) -> None:
    frame = with_cells(load(finished_run)).query("pair_id == 'cat-dog'")
    edited = frame["method"].ne("source")
    other = frame.assign(target_prompt=frame["target_prompt"].mask(edited, "a horse"))
    shown = [np.asarray(strips.strip(finished_run, rows, ["cat-dog"])) for rows in (frame, other)]
    assert (shown[0] != shown[1]).any()


def test_strips_survive_failures_missing_files_large_pictures_and_any_prompt(tmp_path: Path) -> None:
    frame = make_frame(["cat-dog"], seeds=range(1)).assign(target_prompt="猫 \x00\n‮" + "un chien très " * 40)
    frame.loc[3, ["status", "error", "image"]] = ["failed", "out of memory", ""]
    write_run(tmp_path, frame, make_metrics(frame), side=300)
    (tmp_path / frame.loc[4, "image"]).unlink()
    picture = strips.strip(tmp_path, with_cells(load(tmp_path)), ["cat-dog"], side=64)
    assert picture.width < 1200
    with pytest.raises(ValueError, match="none of the pairs"):
        strips.strip(tmp_path, with_cells(load(tmp_path)), ["absent"])
