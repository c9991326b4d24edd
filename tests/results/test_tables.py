"""Tables: one row per setting and edit type, nothing averaged that differs, re-weighting against weight 1."""

import json

import numpy as np
import pandas as pd
import pytest

from results.store.records import METRIC_TYPES, reason_column
from results.summary import run_tables
from results.tables.cells import ordered, with_cells
from results.tables.needed import needed_table
from results.tables.needed import to_markdown as needed_markdown
from results.tables.paper import Layout, arranged, check_baseline
from results.tables.paper_files import to_latex
from results.tables.statistics import pairs_needed
from results.tables.table_files import to_markdown
from results.tables.tables import COLUMNS, difference_table, main_table, published_table, reweight_table
from tests.results.synthetic import METRICS, PAIRS, TAUS, make_frame, make_metrics, make_row, p2p, windows

METRIC = "lpips_embedded@1"


def joined(frame: pd.DataFrame, value: object = 1.0, reason: object = "") -> pd.DataFrame:
    return with_cells(frame.assign(**{METRIC: value, reason_column(METRIC): reason}))


def with_metrics(frame: pd.DataFrame) -> pd.DataFrame:
    long = make_metrics(frame).astype(METRIC_TYPES)
    for metric, rows in long.groupby("metric"):
        by_key = rows.set_index("key")
        frame = frame.assign(**{metric: frame["key"].map(by_key["value"])})
        frame = frame.assign(**{reason_column(metric): frame["key"].map(by_key["reason"])})
    return frame


def test_without_edit_types_each_row_is_there_once() -> None:
    frame = with_metrics(make_frame(list(PAIRS)))
    assert set(main_table(with_cells(frame.assign(edit_type="")), METRICS)["edit_type"]) == {"all"}
    assert set(difference_table(with_cells(frame.assign(edit_type="")), METRICS)["edit_type"]) == {"all"}
    some = frame.assign(edit_type=frame["edit_type"].where(frame["pair_id"].eq("cat-dog"), ""))
    assert set(main_table(with_cells(some), METRICS)["edit_type"]) == {"all", "swap", ""}


def test_one_row_per_method_setting_edit_type_and_metric() -> None:
    table = main_table(with_cells(with_metrics(make_frame(list(PAIRS)))), METRICS)
    assert list(table.columns) == COLUMNS
    assert not table.duplicated(["method", "setting", "edit_type", "metric"]).any()
    p2p_rows = table.query("method == 'p2p' and weighting == '' and metric == @METRIC")
    assert p2p_rows.query("edit_type == 'all'")["setting"].tolist() == [f"τ {tau:g}" for tau in TAUS]
    assert set(p2p_rows["edit_type"]) == {"all", "swap", "add"}
    assert p2p_rows.query("edit_type == 'all'")["n"].tolist() == [3] * len(TAUS)
    assert p2p_rows.query("edit_type == 'add'")["n_images"].tolist() == [4] * len(TAUS)
    plain = table.query("method != 'source' and weighting == '' and edit_type == 'all' and metric == @METRIC")
    assert set(plain["n"]) == {
        3
    }  # every method over the same pairs: a re-weighting's unchanged image is no edit


def test_the_order_of_rows_does_not_matter() -> None:
    frame = with_metrics(make_frame(list(PAIRS)))
    shuffled = frame.sample(frac=1, random_state=0)
    tables = [main_table(with_cells(rows), METRICS) for rows in (frame, shuffled)]
    pd.testing.assert_frame_equal(*tables, check_exact=True)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"guidance_scale": 3.0}, {"guidance_scale": 7.5}),
        ({"guidance_rescale": 0.7}, {"guidance_rescale": 0.0}),
        ({"model": "sd14"}, {"model": "sd15"}),
        ({"params": '{"profile": "fixed"}'}, {"params": '{"profile": "null-text"}'}),
        ({"params": '{"operator": "auto"}'}, {"params": '{"operator": "refine"}'}),
        ({"weights": '{"dog": 2.0}'}, {"weights": '{"dog": 0.5}'}),
        (windows((0, 25), (0, 20)), windows((25, 50), (0, 20))),
        ({"cross_start": pd.NA, "params": '{"cross_replace_steps": {"dog": 1}}'}, {"cross_start": pd.NA}),
    ],
)
def test_rows_that_differ_in_a_setting_are_never_averaged(one: dict, other: dict) -> None:
    base = {**p2p(0.2), "tau": np.nan}
    frame = pd.DataFrame([make_row("cat-dog", 0, "p2p", **{**base, **settings}) for settings in (one, other)])
    table = main_table(joined(frame, [0.0, 1.0]), [METRIC]).query("edit_type == 'all'")
    assert sorted(table["mean"]) == [0.0, 1.0]
    context = ["model", "guidance_scale", "guidance_rescale", "setting"]
    assert len(table.drop_duplicates(context)) == 2, "the rows cannot be told apart"


@pytest.mark.parametrize("name", ["tau", "strength", "weights", "auto_tau", "cross_replace_steps", "profile"])
@pytest.mark.parametrize("recorded", [{}, {"strength": 0.5}, windows((0, 25), (0, 20))])
def test_two_values_of_a_parameter_are_two_rows_whatever_it_is_called(name: str, recorded: dict) -> None:
    frame = pd.DataFrame(
        [make_row("cat-dog", 0, "mine", params=json.dumps({name: value}), **recorded) for value in (0.3, 0.8)]
    )
    table = main_table(joined(frame, [0.0, 1.0]), [METRIC]).query("edit_type == 'all'")
    assert sorted(table["mean"]) == [0.0, 1.0]
    for value, setting in zip(("0.3", "0.8"), table["setting"]):
        assert f"{name}={value}" in setting


@pytest.mark.parametrize(
    ("one", "other", "told"),
    [
        (20240101, 20240102, ("x=20240101", "x=20240102")),
        (0.1, 0.10000001, ("x=0.1", "x=0.10000001")),
        (2, "2", ("x=2", 'x="2"')),
        (True, "true", ("x=true", 'x="true"')),
        (1e30, 2e30, ("x=1e+30", "x=2e+30")),
        (1.0, "one", ("x=1", "x=one")),
    ],
)
def test_values_that_are_nearly_spelled_alike_are_two_rows(
    one: object, other: object, told: tuple[str, str]
) -> None:
    rows = [make_row("cat-dog", 0, "mine", params=json.dumps({"x": value})) for value in (one, other)]
    table = main_table(joined(pd.DataFrame(rows), [0.0, 1.0]), [METRIC]).query("edit_type == 'all'")
    assert sorted(zip(table["mean"], table["setting"])) == [(0.0, told[0]), (1.0, told[1])]


def test_taus_that_differ_in_the_eighth_digit_have_labels_of_their_own() -> None:
    rows = [make_row("cat-dog", 0, "p2p", **p2p(tau)) for tau in (0.2, 0.20000001)]
    table = main_table(joined(pd.DataFrame(rows), [0.0, 1.0]), [METRIC]).query("edit_type == 'all'")
    assert table["setting"].nunique() == 2


def test_the_same_tau_with_two_self_windows_makes_two_labels() -> None:
    rows = [{**p2p(0.2), "self_end": end} for end in (10, 20)]
    frame = pd.DataFrame([make_row("cat-dog", 0, "p2p", **row) for row in rows])
    table = main_table(joined(frame), [METRIC]).query("edit_type == 'all'")
    assert table["setting"].tolist() == ["cross 0–40, self 0–10 (τ 0.2)", "cross 0–40, self 0–20 (τ 0.2)"]


def test_windows_that_no_tau_describes_are_told_by_their_steps() -> None:
    shown = [
        ((0, 0), (0, 0), 1.0),
        ((0, 40), (0, 0), np.nan),
        ((0, 0), (0, 20), np.nan),
        ((10, 50), (10, 30), np.nan),
    ]
    frame = pd.DataFrame(
        [make_row("cat-dog", 0, "p2p", **windows(cross, own), tau=tau) for cross, own, tau in shown]
    )
    labels = main_table(joined(frame), [METRIC]).query("edit_type == 'all'")["setting"].tolist()
    assert labels == ["none (τ 1)", "self 0–20", "cross 0–40", "cross 10–50, self 10–30"]


def test_a_failed_image_is_missing_not_zero() -> None:
    frame = pd.DataFrame([make_row("cat-dog", seed, "p2p", **p2p(0.2)) for seed in range(3)])
    table = main_table(joined(frame, [0.5, 0.5, np.nan], ["", "", "generation failed"]), [METRIC])
    assert table["mean"].tolist() == [0.5, 0.5]
    assert table["n_missing"].tolist() == [1, 1]
    assert table["reasons"].iloc[0] == {"generation failed": 1}


def test_a_users_edit_type_called_all_is_not_the_row_over_all() -> None:
    frame = pd.DataFrame(
        [make_row("x", 0, "p2p", edit_type="all"), make_row("y", 0, "p2p", edit_type="swap")]
    )
    table = main_table(joined(frame, [0.0, 1.0]), [METRIC])
    assert dict(zip(table["edit_type"], table["mean"])) == {"all": 0.5, "'all'": 0.0, "swap": 1.0}


def reweighted(weights: dict[str, float], **settings: object) -> dict[str, object]:
    return make_row("cat-dog", 0, "p2p", **{**p2p(0.2), "weights": json.dumps(weights), **settings})


def test_reweighting_is_the_effect_against_the_same_edit_with_weight_one() -> None:
    plain = make_row("cat-dog", 0, "p2p", **p2p(0.2))
    distractors = [make_row("cat-dog", 0, "p2p", **p2p(0.4)), make_row("cat-dog", 1, "p2p", **p2p(0.2))]
    frame = pd.DataFrame([reweighted({"dog": 2.0}), reweighted({"dog": 0.5}), plain, *distractors])
    table = reweight_table(joined(frame, [0.7, 0.1, 0.3, 9.0, 9.0]), [METRIC]).query("edit_type == 'all'")
    assert dict(zip(table["weighting"], table["mean"])) == pytest.approx({"×0.5": -0.2, "×2": 0.4})
    assert "Difference to the same edit with weight 1. Mean" in to_markdown(table, {})


def test_with_equal_prompts_the_source_image_is_weight_one() -> None:
    same = {"source_prompt": "a dog", "target_prompt": "a dog"}
    frame = pd.DataFrame([reweighted({"dog": 2.0}, **same), make_row("cat-dog", 0, "source", **same)])
    table = reweight_table(joined(frame, [0.7, 0.2]), [METRIC])
    assert table["mean"].tolist() == pytest.approx([0.5, 0.5])
    inverted = reweight_table(joined(frame.assign(inversion="direct"), [0.7, 0.2]), [METRIC])
    assert np.isnan(inverted["mean"]).all()  # a real picture is no edit: its inversion changes it


def test_an_effect_without_weight_one_is_missing_with_a_reason() -> None:
    source = make_row("cat-dog", 0, "source")
    table = reweight_table(joined(pd.DataFrame([reweighted({"dog": 2.0}), source])), [METRIC])
    assert np.isnan(table["mean"]).all()
    assert table["reasons"].iloc[0] == {"no row with weight 1 to compare with": 1}
    plain = make_row("cat-dog", 0, "p2p", **p2p(0.2))
    frame = joined(pd.DataFrame([reweighted({"dog": 2.0}), plain]), [1.0, np.nan], ["", "prompts are equal"])
    assert reweight_table(frame, [METRIC])["reasons"].iloc[0] == {
        "of the image with weight 1: prompts are equal": 1
    }


def test_differences_are_paired_with_the_fixed_seed() -> None:
    frame = make_frame(["cat-dog", "house-2", "house-10"])
    values = frame["seed"] + frame["pair_id"].str.len() + frame["method"].eq("p2p") * 0.5
    table = difference_table(joined(frame, values), [METRIC]).query("edit_type == 'all'")
    p2p_rows, sdedit = table.query("method == 'p2p'"), table.query("method == 'sdedit'")
    assert p2p_rows["mean"].to_numpy() == pytest.approx(0.5)
    assert sdedit["mean"].to_numpy() == pytest.approx(0.0)
    assert not set(table["method"]) & {"source", "fixed_seed"}
    assert set(table["baseline"]) == {"fixed seed"}
    assert difference_table(joined(frame, values), [METRIC], "absent").empty


def test_differences_are_to_any_setting_that_is_one() -> None:
    frame = make_frame(["cat-dog", "house-2", "house-10"])
    values = frame["seed"] + frame["pair_id"].str.len() + frame["tau"].fillna(5.0)
    cells = joined(frame, values)
    table = difference_table(cells, [METRIC], "p2p: tau 0.6").query("edit_type == 'all'")
    assert table.set_index("setting").loc["τ 0.2", "mean"] == pytest.approx(-0.4)
    assert table.set_index("method").loc["fixed_seed", "mean"] == pytest.approx(4.4)
    assert "τ 0.6" not in set(table["setting"])
    assert set(table["baseline"]) == {"Prompt-to-Prompt, τ 0.6"}
    assert to_markdown(table, {}).split("\n\n")[2].startswith("Difference to Prompt-to-Prompt, τ 0.6. Mean [")
    check_baseline(cells, "p2p: tau 0.6")
    assert difference_table(cells, [METRIC], "p2p").empty
    with pytest.raises(ValueError, match=r"baseline: 'p2p' is 6 settings, one is allowed: p2p: τ 0; p2p: τ"):
        check_baseline(cells, "p2p")
    with pytest.raises(ValueError, match=r"no row is 'p2p: tau 0.5', of 11 the nearest are p2p: τ "):
        check_baseline(cells, "p2p: tau 0.5")
    with pytest.raises(ValueError, match="no row is 'source'"):
        check_baseline(cells, "source")


def test_effects_stand_by_difficulty_where_there_are_several() -> None:
    rows = [
        make_row(f"pair-{number}", 0, method, difficulty="hard" if number < 7 else "all", **settings)
        for number in range(9)
        for method, settings in (("fixed_seed", {}), ("p2p", p2p(0.2)))
    ]
    cells = joined(pd.DataFrame(rows), [side * pair**2 for pair in range(9) for side in (0, 1)])
    made = run_tables(cells, [METRIC], {METRIC: True})
    # A difficulty may have the name of the row over all of them.
    assert list(made["by_difficulty"].query("method == 'p2p'")["difficulty"]) == ["all", "'all'", "hard"]
    table = made["difference_by_difficulty"].set_index("difficulty")
    assert table["n"].to_dict() == {"all": 9, "'all'": 2, "hard": 7}
    assert table["mean"].to_dict() == {"all": 204 / 9, "'all'": 113 / 2, "hard": 13.0}
    assert table["low"].notna().to_dict() == {"all": True, "'all'": False, "hard": True}
    text = to_markdown(made["difference_by_difficulty"], {METRIC: True})
    titles = [line for line in text.splitlines() if line.startswith("**")]
    assert titles[:3] == ["**All difficulties**", "**Difficulty: 'all'**", "**Difficulty: hard**"]
    layout = Layout(edit_types=True)
    shown = arranged(made["difference_by_difficulty"], {METRIC: True}, layout)
    assert r"\emph{Difficulty: hard}" in to_latex(shown, {METRIC: True}, layout)
    assert "by_difficulty" not in run_tables(cells.assign(difficulty="hard"), [METRIC])


def test_how_many_pairs_a_half_width_needs_stands_beside_each_mean() -> None:
    rows = [
        make_row(f"pair-{number}", 0, method, **settings)
        for number in range(8)
        for method, settings in (("source", {}), ("fixed_seed", {}), ("p2p", p2p(0.2)))
    ]
    cells = joined(pd.DataFrame(rows), [side * pair for pair in range(8) for side in (0, 1, 3)])
    needed = needed_table(main_table(cells, [METRIC]), {"lpips": 0.5})
    assert list(needed["method"]) == ["fixed_seed", "p2p"]
    spread = np.std(range(8), ddof=1)
    assert needed["spread"].tolist() == pytest.approx([spread, 3 * spread])
    assert needed["pairs"].tolist() == [pairs_needed(spread, 0.5), pairs_needed(3 * spread, 0.5)]
    differences = needed_table(difference_table(cells, [METRIC]), {METRIC: 0.5})
    assert differences["pairs"].tolist() == [pairs_needed(2 * spread, 0.5)]
    assert "| 8 | 2.45 | 0.5 | 95 |" in needed_markdown(needed, "Means.")
    few = needed_table(main_table(cells[cells["pair_id"].le("pair-4")], [METRIC]), {METRIC: 0.5})
    assert few["pairs"].isna().all(), "five pairs do not tell the spread"


def test_a_baseline_of_one_inversion_stands_for_all_of_a_picture() -> None:
    made = [
        make_row(pair, 0, method, inversion=inversion, **settings)
        for pair in ("a", "b")
        for method, inversion, settings in (
            ("p2p", "ddim", p2p(0.2)),
            ("p2p", "direct", p2p(0.2)),
            ("sdedit", "", {"strength": 0.5}),
        )
    ]
    cells = joined(pd.DataFrame(made), [1.0, 2.0, 4.0] * 2)
    by_inversion = (
        difference_table(cells, [METRIC], "sdedit").query("edit_type == 'all'").set_index("inversion")
    )
    assert by_inversion["mean"].to_dict() == {"ddim": -3.0, "direct": -2.0}
    # Each inversion has its own, and what has none cannot choose.
    own = difference_table(cells, [METRIC], "p2p")
    assert own.empty
    check_baseline(cells, "p2p")


def test_differences_have_p_by_holm_and_win_rates() -> None:
    pairs = [f"pair-{number}" for number in range(8)]
    rows = [
        make_row(pair, 0, method, **settings)
        for pair in pairs
        for method, settings in (("fixed_seed", {}), ("p2p", p2p(0.0)), ("p2p", p2p(0.2)), ("p2p", p2p(0.4)))
    ]
    # Of the fixed seed: at tau 0 all pairs are better, at 0.2 three of eight with one tie, at 0.4 a constant.
    by_pair = [[0, 1, value, 0] for value in (0.3, 0.2, 0.1, 0, -0.1, -0.1, -0.1, -0.1)]
    cells = joined(pd.DataFrame(rows), [value for row in by_pair for value in row])
    table = difference_table(cells, [METRIC], directions={METRIC: True}).query("edit_type == 'all'")
    best, some, level = table.sort_values("tau").to_dict("records")
    assert best["p"] == pytest.approx(2 / 2**8)
    assert level["p"] == 1.0
    tested = difference_table(cells, [METRIC], directions={METRIC: True})["p"].notna().sum()
    assert best["p_holm"] == pytest.approx(min(1, 2 / 2**8 * tested))
    assert [row["wins"] for row in (best, some, level)] == pytest.approx([1.0, 3.5 / 8, 0.5])
    assert best["wins_high"] == pytest.approx(1.0)
    assert best["wins_low"] == pytest.approx(8 / (8 + 1.959964**2))  # Wilson's, where all agree
    lower = difference_table(cells, [METRIC], directions={METRIC: False}).query("edit_type == 'all'")
    assert lower.sort_values("tau")["wins"].tolist() == pytest.approx([0.0, 4.5 / 8, 0.5])
    unknown = difference_table(cells, [METRIC])
    assert unknown["wins"].isna().all()
    assert "Share of pairs" not in to_markdown(unknown, {})
    text = to_markdown(table, {METRIC: True})
    assert r"1.000 \*" in text
    assert r"0.00 [0.00, 0.00] \*" not in text
    assert "| 0.438 [" in text.partition("Share of pairs in which a setting is better")[2]


def test_few_pairs_are_not_tested() -> None:
    frame = make_frame(["cat-dog", "house-2", "house-10"])
    table = difference_table(joined(frame, frame["seed"]), [METRIC])
    assert table[["p", "p_holm"]].isna().all(axis=None)


def test_the_published_table_has_the_published_order_and_scaling() -> None:
    names = {
        "pie/structure_distance@1": (0.01165, " ×10³", 11.65),
        "pie/psnr_unedit@1": (27.22, "", 27.22),
        "pie/lpips_squeeze_unedit@1": (0.05455, " ×10³", 54.55),
        "pie/mse_unedit@1": (0.003286, " ×10⁴", 32.86),
        "pie/ssim_unedit@3": (0.8476, " ×10²", 84.76),
        "pie/clip_similarity_target_image@1": (25.02, "", 25.02),
        "pie/clip_similarity_target_image_edit_part@1": (22.10, "", 22.10),
    }
    frame = pd.DataFrame([make_row(pair, 0, "p2p", **p2p(0.2), mask="m.png") for pair in ("a", "b", "c")])
    for name, (value, _, _) in names.items():
        gone = [False, False, "edit_part" in name]
        frame[name] = np.where(gone, np.nan, value)
        frame[reason_column(name)] = np.where(gone, "mask is empty", "")
    frame = with_cells(frame)
    table = published_table(frame, [METRIC, *sorted(names)]).query("edit_type == 'all'")
    assert table["metric"].tolist() == [name + text for name, (_, text, _) in names.items()]
    assert table["mean"].tolist() == pytest.approx([shown for _, _, shown in names.values()])
    assert table["n"].tolist() == [3, 3, 3, 3, 3, 3, 2]
    assert set(table["uses_mask"]) == {"no"}
    assert published_table(frame, [METRIC]).empty


def test_whether_a_mask_is_used_is_said_where_there_are_masks() -> None:
    rows = [make_row("a", 0, method, mask=mask) for method, mask in (("p2p", "m.png"), ("inpaint", "m.png"))]
    rows[1]["uses_mask"] = True
    rows.append(make_row("b", 0, "p2p", dataset="without"))
    table = main_table(joined(pd.DataFrame(rows)), [METRIC]).query("edit_type == 'all'")
    said = {(row.dataset, row.method): row.uses_mask for row in table.itertuples()}
    assert said == {("toy", "p2p"): "no", ("toy", "inpaint"): "yes", ("without", "p2p"): ""}


def test_weights_and_other_numbers_of_a_setting_are_sorted_as_numbers() -> None:
    weightings = ["×1.5", "×-1", "", "×10", "×-0.5", "×2", "×1, ×2"]
    rows = pd.concat([make_frame(list(PAIRS)).head(1)] * len(weightings), ignore_index=True)
    rows = with_cells(rows).assign(weighting=weightings)
    assert list(ordered(rows)["weighting"]) == ["", "×-1", "×-0.5", "×1.5", "×2", "×10", "×1, ×2"]
    rows = rows.assign(variant=["of sd-2", "of sd-10", "of sd-1", "", "", "", ""], weighting="")
    assert list(ordered(rows)["variant"])[4:] == ["of sd-1", "of sd-2", "of sd-10"]
    rows = rows.assign(weighting="", variant=["k=10", "k=2", "k=9", "k=1e-05", "", "k=0.5", "j=3"])
    assert list(ordered(rows)["variant"]) == ["", "j=3", "k=1e-05", "k=0.5", "k=2", "k=9", "k=10"]
