"""Auto tau: the choice by target and objective, what is missed or unknown, and its way into tables."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from results.plots import sweep_plots
from results.store.records import load, metric_columns
from results.summary import summarise
from results.tables.auto_tau import (
    NO_VALUE,
    AutoTau,
    Target,
    chosen_rows,
    describe,
    labelled,
    load_candidates,
    write_candidates,
)
from results.tables.cells import with_cells
from results.tables.tables import main_table
from tests.results.synthetic import TAUS, make_frame, make_metrics, make_row, p2p, write_run

LPIPS, CLIP = "lpips_embedded@1", "clip_target_embedded@1"
AT_MOST = Target(LPIPS, at_most=0.25)
NAMES = [LPIPS, CLIP, "clip_source_embedded@1"]
DIRECTIONS = {LPIPS: False, CLIP: True}


def rows(lpips: list[float], clip: list[float] | None = None) -> pd.DataFrame:
    """Candidates at tau 0, 0.5 and 1, in an order that must not matter."""
    frame = pd.DataFrame({"tau": [0.0, 0.5, 1.0], LPIPS: lpips, CLIP: clip or [0.1, 0.2, 0.3]})
    return frame.sample(frac=1, random_state=1)


@pytest.mark.parametrize(
    ("rule", "lpips", "clip", "tau", "missed"),
    [
        (AutoTau([0], AT_MOST), [0.1, 0.2, 0.3], None, 0.5, False),
        (AutoTau([0], AT_MOST), [0.1, 0.25, 0.3], None, 0.5, False),  # the bound itself is kept
        (AutoTau([0], AT_MOST), [0.1, 0.3, 0.2], None, 1.0, False),  # the largest, not the last in a row
        (AutoTau([0], AT_MOST), [0.26, 0.3, 0.4], None, 0.0, True),
        (AutoTau([0], AT_MOST), [0.4, 0.3, 0.5], None, 0.5, True),  # the nearest, wherever it is
        (AutoTau([0], AT_MOST), [0.1, np.nan, 0.3], None, 0.0, False),
        (AutoTau([0], Target(CLIP, at_least=0.25)), [0.1, 0.2, 0.3], [0.3, 0.25, 0.2], 0.5, False),
        (AutoTau([0], Target(CLIP, at_least=0.9)), [0.1, 0.2, 0.3], [0.2, 0.1, 0.15], 0.0, True),
        (AutoTau([0], None, CLIP), [0.1, 0.2, 0.3], [0.1, 0.3, 0.2], 0.5, False),
        (AutoTau([0], None, CLIP), [0.1, 0.2, 0.3], [0.3, 0.3, 0.3], 0.0, False),  # of equals the closest
        (AutoTau([0], AT_MOST, CLIP), [0.1, 0.2, 0.3], [0.2, 0.1, 0.9], 0.0, False),
        (AutoTau([0], AT_MOST, CLIP), [0.3, 0.4, 0.5], [0.2, 0.1, 0.9], 0.0, True),
    ],
)
def test_the_choice(
    rule: AutoTau, lpips: list[float], clip: list[float] | None, tau: float, missed: bool
) -> None:
    frame = rows(lpips, clip)
    index, is_missed = rule.choose(frame)
    assert (frame.loc[index, "tau"], is_missed) == (tau, missed)
    assert AutoTau.from_json(rule.to_json()) == rule


def test_without_any_value_nothing_is_chosen() -> None:
    assert AutoTau([0], AT_MOST).choose(rows([np.nan] * 3)) == (None, False)
    assert AutoTau([0], AT_MOST, CLIP).choose(rows([0.1] * 3, [np.nan] * 3)) == (None, False)


def test_the_label_tells_the_rule() -> None:
    assert AutoTau([0], AT_MOST).label == f"{LPIPS} ≤ 0.25"
    assert AutoTau([0], Target(CLIP, at_least=0.2), CLIP).label == f"max {CLIP} where {CLIP} ≥ 0.2"
    assert AutoTau([0], None, CLIP).label == f"max {CLIP}"


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: AutoTau([0, 1]), "target and maximise: neither is given"),
        (lambda: AutoTau([], AT_MOST), "taus: none given"),
        (lambda: AutoTau([0, 1.5], AT_MOST), r"taus: 1.5 is not a number in \[0, 1\]"),
        (lambda: AutoTau(["auto"], AT_MOST), "taus: 'auto' is not a number"),  # type: ignore[list-item]
        (lambda: Target(LPIPS), "target of 'lpips_embedded@1'.*allowed is one of them"),
        (lambda: Target(LPIPS, 0.2, 0.3), "allowed is one of them"),
        (lambda: Target(LPIPS, "low"), "at_most 'low' is not a finite number"),  # type: ignore[arg-type]
        (
            lambda: AutoTau([0], Target("ssim@3", at_least=1)).check(NAMES, DIRECTIONS),
            f"auto_tau.target.at_least: 'ssim@3' is no metric of this run, allowed are {LPIPS}, ",
        ),
        (
            lambda: AutoTau([0], None, "clip_source_embedded@1").check(NAMES, DIRECTIONS),
            "auto_tau.maximise: 'clip_source_embedded@1' has no better direction",
        ),
        (
            lambda: AutoTau([0], None, LPIPS).check(NAMES, DIRECTIONS),
            f"auto_tau.maximise: '{LPIPS}' is better where it is lower, allowed are {CLIP}",
        ),
        (
            lambda: AutoTau([0], Target(CLIP, at_most=0.2)).check(NAMES, DIRECTIONS),
            f"auto_tau.target.at_most: '{CLIP}' is better where it is higher, allowed are {LPIPS}",
        ),
    ],
)
def test_rules_that_cannot_be(make, message: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(ValueError, match=message):
        make()


def sweep(run_dir: Path, rule: AutoTau, pairs: list[str]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Write the synthetic sweep; return it loaded, and the candidates of `tau: auto` over its taus."""
    frame = make_frame(pairs)
    write_run(run_dir, frame, make_metrics(frame))
    made = frame[(frame["method"] == "p2p") & (frame["weights"] == "{}")]
    identity = made[["key", "pair_id", "method", "tau"]]
    return load(run_dir), identity.assign(params="{}", rule=rule.to_json())


def test_chosen_rows_are_records_of_their_own(tmp_path: Path) -> None:
    rule = AutoTau(TAUS, Target(LPIPS, at_most=0.25))
    frame, candidates = sweep(tmp_path, rule, ["cat-dog", "house-2"])
    chosen = chosen_rows(frame, candidates)
    assert len(chosen) == 4  # two pairs, two seeds
    assert set(chosen["method"]) == {"p2p_auto_tau"}
    assert chosen["tau"].isna().all()
    for row in chosen.itertuples():
        own = frame[
            (frame["method"] == "p2p") & (frame["pair_id"] == row.pair_id) & (frame["seed"] == row.seed)
        ]
        allowed = own[own[LPIPS] <= 0.25]
        expected = allowed.loc[allowed["tau"].idxmax()]
        assert (row.chosen_tau, row.key, row.image) == (expected["tau"], expected["key"], expected["image"])
        assert (row.target_missed, row.warning) == (0, "")
    np.testing.assert_array_less(chosen[LPIPS], 0.25 + 1e-12)
    pd.testing.assert_frame_equal(frame, load(tmp_path))  # the records are what they were


def test_two_rules_and_two_settings_are_chosen_apart(tmp_path: Path) -> None:
    frame, candidates = sweep(tmp_path, AutoTau(TAUS, AT_MOST), ["cat-dog"])
    other = candidates.assign(rule=AutoTau(TAUS, None, CLIP).to_json())
    free = candidates.assign(params=json.dumps({"self_replace_steps": 0}))
    chosen = labelled(with_cells(chosen_rows(frame, pd.concat([candidates, other, free]))))
    assert len(chosen) == 6
    assert chosen["label"].nunique() == 3
    assert {f"Prompt-to-Prompt, auto τ: {LPIPS} ≤ 0.25, self_replace_steps=0"} < set(chosen["label"])
    assert len(sweep_plots.chosen_taus(chosen).axes) == 3


def test_what_is_missed_and_unknown_is_told_never_silent(tmp_path: Path) -> None:
    frame, candidates = sweep(tmp_path, AutoTau(TAUS, Target(LPIPS, at_most=0.01)), ["cat-dog", "house-2"])
    unknown = frame["pair_id"].eq("house-2") & frame["seed"].eq(1)
    frame.loc[unknown, LPIPS], frame.loc[unknown, f"reason:{LPIPS}"] = np.nan, "not evaluated"
    frame.loc[frame["pair_id"].eq("cat-dog") & frame["tau"].eq(0.4), LPIPS] = np.nan
    chosen = chosen_rows(frame, candidates).set_index(["pair_id", "seed"])
    nothing = chosen.loc["house-2", 1]
    assert (nothing["status"], nothing["error"], nothing["warning"]) == ("failed", NO_VALUE, NO_VALUE)
    assert pd.isna(nothing["chosen_tau"])
    assert pd.isna(nothing[CLIP])
    rest = chosen.drop(index=("house-2", 1))
    assert rest["target_missed"].eq(1).all()
    assert rest["warning"].str.startswith(f"target missed: {LPIPS} is 0.").all()
    assert rest.loc["cat-dog", "warning"].str.endswith("; 1 of 6 taus have no value to choose by").all()
    text = describe(labelled(with_cells(chosen.reset_index())))
    assert f"{LPIPS} ≤ 0.01: chosen 0 (" in text
    assert "3 of 4 images miss the target at every τ.\n" in text
    assert f"- house-2, seed 1: {NO_VALUE}\n" in text


@pytest.mark.usefixtures("one_plot")
def test_the_summary_shows_the_choice_and_can_make_it_again(tmp_path: Path) -> None:
    rule = AutoTau(TAUS, Target(LPIPS, at_most=0.25))
    frame, candidates = sweep(tmp_path, rule, ["cat-dog"])
    write_candidates(tmp_path, candidates)
    write_candidates(tmp_path, candidates)
    assert len(load_candidates(tmp_path)) == len(candidates)
    summary = summarise(tmp_path)  # from the folder alone
    main = summary.tables["main"].query("method == 'p2p_auto_tau' and edit_type == 'all'").set_index("metric")
    chosen = pd.read_parquet(tmp_path / "auto_tau" / "chosen.parquet")
    assert set(main["setting"]) == {f"{LPIPS} ≤ 0.25"}
    assert main["n"].max() == 1
    own = summary.tables["auto_tau"].query("edit_type == 'all'").set_index("metric")
    assert own.loc["chosen_tau", "mean"] == pytest.approx(chosen["chosen_tau"].mean())
    assert own.loc["target_missed", "mean"] == 0
    assert own.loc[LPIPS, "mean"] == main.loc[LPIPS, "mean"] <= 0.25
    others = summary.tables["main"].query("method != 'p2p_auto_tau'").reset_index(drop=True)
    pd.testing.assert_frame_equal(others, main_table(with_cells(frame), metric_columns(frame)))
    assert f"Prompt-to-Prompt, auto τ: {LPIPS} ≤ 0.25: chosen " in summary.markdown
    assert summary.n_images == len(frame)  # a chosen row is no image of its own
    assert (tmp_path / "plots" / "auto_tau.png").stat().st_size > 5000
    assert "Prompt-to-Prompt, auto τ" in (tmp_path / "tables" / "auto_tau.md").read_text()


def test_candidates_of_one_image_are_told_apart_by_tau(tmp_path: Path) -> None:
    """At few steps two taus are one image: the larger one is the freest that meets the target."""
    frame = pd.DataFrame([make_row("cat-dog", 0, "p2p", **p2p(0.0))])
    write_run(tmp_path, frame, make_metrics(frame))
    candidates = pd.concat([frame[["key", "pair_id", "method"]].assign(tau=tau) for tau in (0.0, 0.1)])
    rule = AutoTau([0.0, 0.1], Target(LPIPS, at_most=1)).to_json()
    chosen = chosen_rows(load(tmp_path), candidates.assign(params="{}", rule=rule))
    assert chosen["chosen_tau"].tolist() == [0.1]
