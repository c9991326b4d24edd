"""Answers are not trusted: what is no sheet of the study is one line; who counts, and what it comes to."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest

from results.study.answers import load_sheets, parse_sheet, rater_rows
from results.study.items import QUESTIONS, Study
from results.study.outcome import write_outcome
from tests.results.study.studies import LABELS, Rule, attentive, careless, sheet, write_sheet

P2P_FIRST, SDEDIT_FIRST = attentive((1, 2, 0)), attentive((2, 1, 0))


def changed(made_for: Study, /, **values: Any) -> dict[str, Any]:
    return {**sheet(made_for, 1, P2P_FIRST), **values}


def with_answer(study: Study, **values: Any) -> dict[str, Any]:
    told = sheet(study, 1, P2P_FIRST)
    return {**told, "answers": [{**told["answers"][0], **values}, *told["answers"][1:]]}


WRONG: list[tuple[Any, str]] = [
    (lambda study: [], "is no sheet of answers, an object with version, study, rater and answers"),
    (lambda study: changed(study, version=2), "version: 2 is of another program, allowed is 1"),
    (lambda study: changed(study, study="0" * 16), f"answers another study, '{'0' * 16}'; this one is "),
    (lambda study: changed(study, rater="../../evil"), "rater: '../../evil' is not 32 hexadecimal digits"),
    (lambda study: changed(study, rater=["a"] * 99), "rater: .* is not 32 hexadecimal digits"),
    (lambda study: changed(study, started="now\nor never"), r"started: 'now\\nor never' is no time"),
    (lambda study: changed(study, finished=5), "finished: 5 is no time in ISO 8601"),
    (lambda study: changed(study, answers={}), "answers: is not a list"),
    (lambda study: changed(study, answers=[1]), "answers: one is no object with item, left"),
    (lambda study: changed(study, answers=[]), "finished: has a time, and 0 of 20 items are answered"),
    (lambda study: with_answer(study, item="none"), "answers: 'none' is no item of the study"),
    (lambda study: with_answer(study, item={}), "answers: {} is no item of the study"),
    (lambda study: with_answer(study, item=study.items[1].id), "left: .* is none of its pictures"),
    (lambda study: with_answer(study, left=[]), r"left: \[\] is none of its pictures"),
    (lambda study: with_answer(study, seconds=float("nan")), "seconds: nan is no number from 0"),
    (lambda study: with_answer(study, seconds=-1), "seconds: -1 is no number"),
    (lambda study: with_answer(study, choices={"overall": "left"}), "choices: must have preservation, align"),
    (
        lambda study: with_answer(study, choices=dict.fromkeys(QUESTIONS, "both")),
        "choices: 'both' is not left or right",
    ),
    (
        lambda study: changed(study, answers=sheet(study, 1, P2P_FIRST)["answers"][:1] * 2),
        "is answered twice",
    ),
]


@pytest.mark.parametrize(("made", "message"), WRONG)
def test_what_is_no_sheet_of_the_study_is_one_line(studied: SimpleNamespace, made: Any, message: str) -> None:
    content = json.dumps(made(studied.study)).encode()
    with pytest.raises(ValueError, match=f"^a.json: .*{message}") as caught:
        parse_sheet(content, studied.study, "a.json")
    assert len(str(caught.value).splitlines()) == 1
    assert len(str(caught.value)) < 250


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b"[" * 100_000, b" " * (1 << 20) + b"{}"])
def test_bytes_that_are_no_json_are_one_line(studied: SimpleNamespace, content: bytes) -> None:
    with pytest.raises(ValueError, match=r"^a.json: (is no JSON|has 1,048,578 bytes)"):
        parse_sheet(content, studied.study, "a.json")


def test_a_rater_counts_once_however_often_the_sheet_came(studied: SimpleNamespace, tmp_path: Path) -> None:
    study = studied.study
    for name, told in {
        "a.json": sheet(study, 1, P2P_FIRST, answers=5),
        "b (1).json": sheet(study, 1, P2P_FIRST),
        "b.json": sheet(study, 1, P2P_FIRST),
        "c.json": sheet(study, 1, SDEDIT_FIRST, answers=7),
        "d.json": sheet(study, 2, SDEDIT_FIRST, answers=3),
        "e.json": sheet(study, 2, SDEDIT_FIRST, answers=9),
    }.items():
        write_sheet(tmp_path, name, told)
    sheets, doubles = load_sheets(tmp_path, study)
    assert [(int(one.rater, 16), len(one.answers)) for one in sheets] == [(1, 20), (2, 9)]
    assert doubles == 4
    assert load_sheets(tmp_path / "b.json", study)[0] == sheets[:1]


def test_who_is_counted_and_why_others_are_not(studied: SimpleNamespace) -> None:
    study = studied.study
    told = [sheet(study, 1, P2P_FIRST), sheet(study, 2, careless), sheet(study, 3, P2P_FIRST, answers=19)]
    sheets = [parse_sheet(json.dumps(one).encode(), study, "a") for one in told]
    rows = rater_rows(sheets, study)
    assert list(rows["left_out"]) == ["", "failed 2 of 2 attention checks", "did not finish"]
    assert list(rows["checks_passed"])[:2] == [2, 0]
    assert list(rows["answers"]) == [20, 20, 19]
    assert list(rows["median_seconds"]) == [2.5] * 3
    assert rows["left"].between(0.2, 0.8).all()


def outcome(study: Study, folder: Path, rules: list[Rule]) -> tuple[str, dict[str, pd.DataFrame]]:
    for number, rule in enumerate(rules):
        write_sheet(folder / "answers", f"{number}.json", sheet(study, number, rule))
    text = write_outcome(study, folder / "answers", folder / "results")
    names = ("raters", "preferences", "scores", "agreement")
    return text, {name: pd.read_csv(folder / "results" / f"{name}.csv") for name in names}


def test_answers_are_resolved_to_rows_whatever_the_side(studied: SimpleNamespace, tmp_path: Path) -> None:
    """Three of four counted raters prefer P2P to SDEdit, all of them either to the fixed seed."""
    rules = [P2P_FIRST, P2P_FIRST, careless, P2P_FIRST, SDEDIT_FIRST]
    text, tables = outcome(studied.study, tmp_path, rules)
    rates = tables["preferences"].query("question == 'overall'").set_index(["first", "second"])
    assert rates["rate"].to_dict() == {
        (LABELS[0], LABELS[1]): 0.0,
        (LABELS[0], LABELS[2]): 0.0,
        (LABELS[1], LABELS[2]): 0.75,
    }
    assert rates[["pairs", "raters", "answers"]].drop_duplicates().to_numpy().tolist() == [[6, 4, 24]]
    assert (rates["low"] <= rates["rate"]).all()
    assert (rates["rate"] <= rates["high"]).all()
    scores = tables["scores"].query("question == 'alignment'")
    assert list(scores["row"]) == [LABELS[1], LABELS[2], LABELS[0]]
    assert scores["score"].sum() == pytest.approx(0)
    # Of 4 raters and 18 comparisons, 6 are split 3 to 1: by hand from the formula.
    disagreement = 6 * (3 * 1 + 1 * 3) / 3
    first, all_answers = 6 * 3, 18 * 4
    expected = 2 * first * (all_answers - first) / (all_answers - 1)
    assert tables["agreement"]["alpha"].tolist() == pytest.approx([1 - disagreement / expected] * 3)
    assert "5 raters, 4 of them counted; 18 comparisons and 2 attention checks each." in text
    assert "75 % [" in text
    assert "| 00000000 | 20 of 20 | 0 of 2 | 2.5 | no, failed 2 of 2 attention checks |" in text
    assert (tmp_path / "results" / "summary.md").read_text(encoding="utf-8") == text
    assert {file.suffix for file in (tmp_path / "results").glob("preferences.*")} == {".csv", ".pdf", ".png"}


def test_nobody_counted_is_said_and_draws_nothing(studied: SimpleNamespace, tmp_path: Path) -> None:
    text, tables = outcome(studied.study, tmp_path, [careless])
    assert "1 rater, 0 of them counted" in text
    assert "No answers count." in text
    assert [len(tables[name]) for name in ("raters", "preferences", "scores", "agreement")] == [1, 0, 0, 0]
    assert not list((tmp_path / "results").glob("*.png"))


def test_one_rater_has_no_agreement(studied: SimpleNamespace, tmp_path: Path) -> None:
    text, tables = outcome(studied.study, tmp_path, [SDEDIT_FIRST])
    assert tables["agreement"]["alpha"].isna().all()
    assert "nothing was judged by two raters" in text


def test_no_answers_is_one_line_and_nothing_is_written(studied: SimpleNamespace, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"none: holds no answers, which are files \*\.json"):
        write_outcome(studied.study, tmp_path / "none", tmp_path / "results")
    write_sheet(tmp_path, "a.json", changed(studied.study, study="f" * 16))
    with pytest.raises(ValueError, match="a.json: answers another study"):
        write_outcome(studied.study, tmp_path, tmp_path / "results")
    assert not (tmp_path / "results").exists()
