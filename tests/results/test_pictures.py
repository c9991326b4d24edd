"""Plots and strips: any run can be drawn, equal runs give equal files, pictures are the right ones."""

import itertools
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure
from matplotlib.transforms import Bbox
from PIL import Image

from results.plots import plot_style, strips, sweep_plots
from results.plots.run_plots import ablation, over_noise, over_weight, window_map
from results.store.records import load, metric_columns
from results.tables.cells import with_cells
from results.tables.tables import main_table
from tests.results.synthetic import (
    DIRECTIONS,
    PAIRS,
    TAUS,
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


def boxes(axes) -> dict[str, Bbox]:
    axes.figure.draw_without_rendering()
    return {text.get_text(): text.get_window_extent() for text in axes.texts}


def test_labels_of_the_trade_off_cover_neither_each_other_nor_a_marker(finished_table: pd.DataFrame) -> None:
    axes = sweep_plots.trade_off(finished_table, METRIC, CLIP, DIRECTIONS).axes[0]
    shown = boxes(axes)
    named = {"Prompt-to-Prompt, by τ", "SDEdit, by strength", "fixed seed"}
    assert named < set(shown), "each curve is named beside it"
    assert {f"{tau:g}" for tau in (0, 0.2, 0.4, 0.6, 0.8, 1)} < set(shown)
    for (text, box), (other, beside) in itertools.combinations(shown.items(), 2):
        assert not box.overlaps(beside), f"{text} and {other}"
    points = np.concatenate([bars.lines[0].get_xydata() for bars in axes.containers])
    covered = [box.contains(*at) for box in shown.values() for at in axes.transData.transform(points)]
    assert not any(covered)
    assert not axes.figure.legends


def test_equal_values_along_a_curve_lie_in_their_order_and_the_fixed_seed_is_a_ring() -> None:
    frame = pd.DataFrame(
        [
            make_row("cat-dog", 0, "p2p", **p2p(0.0)) | {METRIC: 0.1, CLIP: 0.7},
            make_row("cat-dog", 0, "p2p", **p2p(1.0)) | {METRIC: 0.3, CLIP: 0.9},
            make_row("cat-dog", 0, "p2p", **p2p(0.4)) | {METRIC: 0.2, CLIP: 0.8},
            # Windows that no tau describes: the table is then in the order of windows, which fall with tau.
            make_row("cat-dog", 0, "p2p", **windows((0, 50), (0, 0))) | {METRIC: 0.15, CLIP: 0.7},
            make_row("cat-dog", 0, "fixed_seed") | {METRIC: 0.3, CLIP: 0.9},
        ]
    ).assign(**{f"reason:{name}": "" for name in (METRIC, CLIP)})
    table = main_table(with_cells(frame), [METRIC, CLIP])
    figure = sweep_plots.trade_off(table, METRIC, CLIP, DIRECTIONS)
    [axes] = figure.axes
    drawn = {bars.get_label(): bars.lines[0] for bars in axes.containers}
    assert drawn["Prompt-to-Prompt, by τ"].get_xdata().tolist() == [0.1, 0.2, 0.3]
    ring, curve = drawn["fixed seed"], drawn["Prompt-to-Prompt, by τ"]
    assert ring.get_markerfacecolor() == "none"
    assert ring.get_markersize() > 1.5 * curve.get_markersize()
    assert ring.get_zorder() > curve.get_zorder()


def test_what_finds_no_place_goes_into_a_legend() -> None:
    rows = [
        make_row("cat-dog", 0, f"a method of which the name is long, number {number}")
        | {METRIC: 0.2, CLIP: 0.8, f"reason:{METRIC}": "", f"reason:{CLIP}": ""}
        for number in range(30)
    ]
    table = main_table(with_cells(pd.DataFrame(rows)), [METRIC, CLIP])
    figure = sweep_plots.trade_off(table, METRIC, CLIP, DIRECTIONS)
    [legend] = figure.legends
    beside = set(boxes(figure.axes[0]))
    assert beside
    assert len(beside) + len(legend.get_texts()) == 30
    assert not beside & {text.get_text() for text in legend.get_texts()}


def test_fonts_of_a_pdf_are_embedded_as_outlines(finished_table: pd.DataFrame, tmp_path: Path) -> None:
    figure = sweep_plots.trade_off(finished_table, METRIC, CLIP, DIRECTIONS)
    _, pdf = plot_style.save(figure, tmp_path / "trade_off")
    content = pdf.read_bytes()
    assert b"/FontFile2" in content, "TrueType (42), which journals ask for"
    assert b"/Type3" not in content


def test_letters_of_any_alphabet_are_in_one_font_of_a_pdf(tmp_path: Path) -> None:
    figure = Figure()
    figure.text(0.5, 0.5, "τ 0.2 →")
    _, pdf = plot_style.save(figure, tmp_path / "text")
    assert pdf.read_bytes().count(b"/FontFile2") == 1


def test_both_files_of_a_figure_have_one_layout_and_are_drawn_once(
    finished_table: pd.DataFrame, tmp_path: Path
) -> None:
    figure = sweep_plots.over_tau(finished_table, [METRIC, CLIP], DIRECTIONS)
    places = []
    figure.canvas.mpl_connect(
        "draw_event", lambda _: places.append([axes.get_position().bounds for axes in figure.axes])
    )
    plot_style.save(figure, tmp_path / "over_tau")
    png, pdf = places
    assert png == pdf


def crossed(count: int = 7, late: bool = False) -> pd.DataFrame:
    """Return the main table of nine windows crossed; a value grows with what is left free."""
    rows = [
        make_row(f"pair-{pair}", 0, "p2p", **windows((10 * late, cross), (0, own)), tau=tau)
        | {METRIC: 1 - (cross + own) / 100 + 0.001 * pair, CLIP: 0.5 + cross / 100}
        for pair in range(count)
        for cross, own, tau in [
            *((cross, own, np.nan) for cross in (20, 35) for own in (10, 20, 30)),
            *((50, own, 0.0 if own == 20 else np.nan) for own in (10, 20, 30)),
        ]
    ]
    frame = pd.DataFrame(rows).assign(**{f"reason:{name}": "" for name in (METRIC, CLIP)})
    return main_table(with_cells(frame), [CLIP, METRIC])


def test_windows_that_are_crossed_are_a_map_with_intervals_and_no_bars() -> None:
    table = crossed()
    [(name, figure)] = window_map(table, DIRECTIONS)
    assert name == "window_map"
    up, down = figure.axes[:2]
    assert "CLIP" in up.get_title()
    assert "lower is better" in down.get_title()
    np.testing.assert_allclose(up.images[0].get_array(), [[0.7, 0.85, 1.0]] * 3)
    assert [label.get_text() for label in up.get_xticklabels()] == ["20", "35", "50\nτ 0"]
    assert [label.get_text() for label in up.get_yticklabels()] == ["10", "20", "30"]
    texts = [text.get_text() for text in down.texts]
    assert len(texts) == 2 * 9
    row = table.query("metric == @METRIC and cross_end == 20 and self_end == 10").iloc[0]
    assert texts[:2] == [f"{row['mean']:.3f}", f"[{row['low']:.3f}, {row['high']:.3f}]"]
    best = [patch.get_xy() for patch in down.patches]
    assert best == [(1.5, 1.5)], "most injected: least changed"
    assert [patch.get_xy()[0] for patch in up.patches] == [1.5] * 3
    assert not list(ablation(table, DIRECTIONS))
    plain = [text.get_text() for text in next(window_map(crossed(3), DIRECTIONS))[1].axes[0].texts]
    assert len(plain) == 9, "three pairs give no interval"


def test_windows_that_fill_no_map_are_bars(finished_table: pd.DataFrame) -> None:
    late = crossed(late=True)
    assert not list(window_map(late, DIRECTIONS))
    assert [name for name, _ in ablation(late, DIRECTIONS)] == ["ablation"]
    assert not list(window_map(finished_table, DIRECTIONS)), "a sweep over tau is a line through the map"


def test_a_legend_of_many_series_stays_in_the_figure() -> None:
    for number in (1, 3, 7):
        figure, [axes] = plot_style.new_figure(1)
        for series in range(number):
            axes.plot([0, 1], [series, 1], label=f"Prompt-to-Prompt, by τ, series {series}")
        plot_style.legend(figure, axes)
        figure.draw_without_rendering()
        [legend] = figure.legends
        box = legend.get_window_extent()
        assert len(legend.get_texts()) == number
        assert box.x0 >= 0
        assert box.x1 <= figure.bbox.x1
        assert box.y1 <= figure.bbox.y1


def test_over_tau_has_a_panel_per_metric(finished_table: pd.DataFrame) -> None:
    metrics = list(finished_table["metric"].unique())
    figure = sweep_plots.over_tau(finished_table, metrics, DIRECTIONS)
    assert len(figure.axes) == len(metrics)
    assert all(set(lines(axes)) == {"Prompt-to-Prompt", "fixed seed"} for axes in figure.axes)


def test_methods_that_start_in_the_middle_are_drawn_over_the_noise_there(
    finished_table: pd.DataFrame,
) -> None:
    assert not list(over_noise(finished_table, DIRECTIONS))
    noise = (finished_table["strength"] ** 2).where(finished_table["method"].eq("sdedit"))
    noise = noise.mask(finished_table["method"].eq("p2p"), 0.4)  # an inversion's start is one for all taus
    table = finished_table.assign(start_noise=noise)
    [(name, figure)] = over_noise(table, DIRECTIONS)
    assert name == "over_noise"
    drawn = lines(figure.axes[0])
    assert list(drawn) == ["SDEdit"]
    assert drawn["SDEdit"][:, 0].tolist() == pytest.approx([0.09, 0.25, 0.49, 0.81])
    assert "share of noise" in figure.axes[0].get_xlabel()


def test_reweighted_words_are_drawn_over_their_weight(finished_table: pd.DataFrame) -> None:
    assert not list(over_weight(finished_table, DIRECTIONS))
    rows = [
        make_row(word, 0, "p2p", **p2p(0), edit_type=f"reweight {word}", weights=json.dumps({word: w}))
        for word, w in itertools.product(("big", "red"), (-1, 0, 1, 4))
    ]
    rows += [make_row("big", 0, "fixed_seed", edit_type="reweight big")]
    values = [0.1, 0.15, 0.2, 0.6, 0.3, 0.4, 0.4, 0.5, 0.7]
    frame = pd.DataFrame(rows).assign(**{METRIC: values, f"reason:{METRIC}": ""})
    [(name, figure)] = over_weight(main_table(with_cells(frame), [METRIC]), DIRECTIONS)
    assert name == "over_weight"
    drawn = lines(figure.axes[0])
    assert set(drawn) == {"reweight big", "reweight red", "reweight big, fixed seed"}
    np.testing.assert_allclose(drawn["reweight big"], [[-1, 0.1], [0, 0.15], [1, 0.2], [4, 0.6]])
    assert drawn["reweight big, fixed seed"][0, 1] == 0.7
    assert figure.axes[0].get_xlabel() == "weight of the word"


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


def test_weights_stand_side_by_side_where_all_edits_re_weight(finished_run: Path) -> None:
    frame = with_cells(load(finished_run))
    snow = frame[frame["pair_id"].eq("snow") & (frame["tau"].eq(0.2) | frame["method"].eq("source"))]
    assert strips.choose_pairs(snow) == ["snow"]
    p2p = [setting for method, setting in strips._columns(snow) if method == "p2p"]
    assert p2p == [f"τ 0.2, weights ×{factor}" for factor in ("0.5", "1", "2")]
    assert strips.strip(finished_run, snow, ["snow"]).width > 4 * 128


def strip_of(variants: Mapping[str, Sequence[float]]) -> pd.DataFrame:
    """Return cells of P2P at these taus, by the value of `local_blend`."""
    rows = [
        make_row(
            "cat-dog", 0, "p2p", **{**p2p(tau), "params": json.dumps({"tau": tau, "local_blend": blend})}
        )
        for blend, taus in variants.items()
        for tau in taus
    ]
    return with_cells(pd.DataFrame(rows))


@pytest.mark.parametrize(
    ("variants", "shown"),
    [
        ({"on": TAUS, "off": TAUS}, {"on": [1, 0.6, 0.4, 0], "off": [1, 0.6, 0.4, 0]}),
        ({"on": TAUS, "off": TAUS[1:5]}, {"on": [0.8, 0.6, 0.4, 0.2], "off": [0.8, 0.6, 0.4, 0.2]}),
        ({"on": TAUS, "off": [*TAUS, 0.1, 0.9]}, {"on": [1, 0.6, 0.4, 0], "off": [1, 0.6, 0.4, 0]}),
        ({"on": [*TAUS, 0.1, 0.9], "off": [0.5]}, {"on": [1, 0.8, 0.2, 0], "off": [0.5]}),
        ({"on": TAUS, "off": [0.4]}, {"on": TAUS[::-1], "off": [0.4]}),  # there is room for all
        ({"on": [number / 10 for number in range(11)]}, {"on": TAUS[::-1]}),
        ({f"{number}": [0.4] for number in range(15)}, {f"{number}": [0.4] for number in range(0, 15, 2)}),
        ({f"{number}": TAUS for number in range(7)}, {f"{number}": [1, 0] for number in range(0, 7, 2)}),
    ],
)
def test_variants_stand_in_a_strip_at_the_same_values(
    variants: Mapping[str, Sequence[float]], shown: Mapping[str, Sequence[float]]
) -> None:
    cells = strip_of(variants)
    columns = [setting for _, setting in strips._columns(cells)]
    of = cells.drop_duplicates("setting").set_index("setting").loc[columns]
    blends = of["params"].map(lambda text: json.loads(text)["local_blend"])
    assert {blend: list(taus) for blend, taus in of["tau"].groupby(blends)} == {
        blend: list(taus) for blend, taus in shown.items()
    }


def test_a_strip_tells_how_many_settings_it_shows(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    written: list[str] = []
    monkeypatch.setattr(strips.ImageDraw.ImageDraw, "text", lambda _, at, text, **__: written.append(text))
    strips.strip(tmp_path, strip_of({"on": TAUS, "off": TAUS}).assign(status="failed"), ["cat-dog"])
    assert "Prompt-to-Prompt, 8 of 12 settings" in written
    written.clear()
    strips.strip(tmp_path, strip_of({"on": TAUS}).assign(status="failed"), ["cat-dog"])
    assert "Prompt-to-Prompt" in written


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


def test_long_settings_over_a_strip_s_columns_are_told_from_each_other() -> None:
    folders = [f"path=checkpoints/embedded/instruct_{kind}, τ 0.2" for kind in ("filtered", "unfiltered")]
    first, second = (strips._setting_lines(setting, 128) for setting in folders)
    assert first[0].startswith("path=…")
    assert first[0].endswith("t_filtered")
    assert second[0].endswith("_unfiltered")
    assert first[1] == "τ 0.2"
    assert strips._setting_lines("strength 0.5, local_blend=true", 128) == [
        "strength 0.5",
        "local_blend=true",
    ]
