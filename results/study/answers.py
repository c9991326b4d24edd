"""Answers of raters: a sheet of JSON each, from a file or through the server; none of it is trusted.

A sheet counts once, however often it was handed in. A rater who failed an attention check, or did not finish,
is listed and left out.
"""

import json
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import pandas as pd

from results.study.items import QUESTIONS, VERSION, Item, Study

SIDES = ("left", "right")
MOST_BYTES = 1 << 20  # of a sheet: 1,000 answers have 0.25 MB
_RATER = re.compile(r"[0-9a-f]{32}")


@dataclass(frozen=True)
class Answer:
    """What a rater chose of an item, by question "left" or "right"; `left` is the picture on that side."""

    item: str
    left: str
    seconds: float
    choices: Mapping[str, str]


@dataclass(frozen=True)
class Sheet:
    """One rater's answers. Times are texts in ISO 8601, `finished` "" where some are missing."""

    rater: str
    started: str
    finished: str
    answers: tuple[Answer, ...]


def parse_sheet(content: bytes, study: Study, where: str) -> Sheet:
    """Return the sheet that JSON holds. ValueError in one line, beginning with `where`, for all else."""
    try:
        if len(content) > MOST_BYTES:
            raise ValueError(f"has {len(content):,} bytes, allowed are {MOST_BYTES:,}")
        try:
            told = json.loads(content)
        except (ValueError, RecursionError) as error:
            raise ValueError("is no JSON") from error
        return _sheet(told, study)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from error


def load_sheets(path: Path, study: Study) -> tuple[list[Sheet], int]:
    """Return the sheets of a folder's JSON files, or of one file, by rater, and how many came twice.

    FileNotFoundError where there is none, ValueError where one is not of this study.
    """
    files = [path] if path.is_file() else sorted(path.glob("*.json"))
    if not files:
        raise FileNotFoundError(f"{path}: holds no answers, which are files *.json")
    sheets = [parse_sheet(file.read_bytes(), study, str(file)) for file in files]
    kept: dict[str, Sheet] = {}
    for sheet in sheets:
        before = kept.get(sheet.rater)
        kept[sheet.rater] = sheet if before is None else fuller(before, sheet)
    return [kept[rater] for rater in sorted(kept)], len(sheets) - len(kept)


def fuller(before: Sheet, after: Sheet) -> Sheet:
    """Return which of two sheets of one rater counts: the first that is finished, else the longer one."""
    if before.finished or (not after.finished and len(after.answers) < len(before.answers)):
        return before
    return after


def rater_rows(sheets: Iterable[Sheet], study: Study) -> pd.DataFrame:
    """Return a row per rater: answers, checks passed, seconds an item, share of left, why left out ("")."""
    checks = {item.id: item for item in study.items if item.right}
    rows = []
    for sheet in sheets:
        met = [(answer, checks[answer.item]) for answer in sheet.answers if answer.item in checks]
        failed = sum(_picture(answer, "preservation", item) != item.right for answer, item in met)
        chosen = [answer.choices[name] for answer in sheet.answers for name in QUESTIONS]
        rows.append(
            {
                "rater": sheet.rater,
                "started": sheet.started,
                "finished": sheet.finished,
                "answers": len(sheet.answers),
                "items": len(study.items),
                "checks_passed": len(met) - failed,
                "checks": len(checks),
                "median_seconds": pd.Series([answer.seconds for answer in sheet.answers]).median(),
                "left": chosen.count("left") / len(chosen) if chosen else math.nan,
                "left_out": f"failed {failed} of {len(met)} attention checks"
                if failed
                else ("" if sheet.finished else "did not finish"),
            }
        )
    return pd.DataFrame(rows)


def answer_rows(sheets: Iterable[Sheet], study: Study) -> pd.DataFrame:
    """Return a row per answer and question, checks apart: rater, item, pair, question, rows compared, choice.

    `first` and `second` are numbers of rows, `first` the smaller one; `chose_first` is 1 or 0.
    """
    items = {item.id: item for item in study.items if not item.right}
    rows = []
    for sheet in sheets:
        for answer in sheet.answers:
            if (item := items.get(answer.item)) is None:
                continue
            for question in QUESTIONS:
                chosen = item.rows[item.pictures.index(_picture(answer, question, item))]
                rows.append(
                    {
                        "rater": sheet.rater,
                        "item": item.id,
                        "pair": item.pair,
                        "question": question,
                        "first": min(item.rows),
                        "second": max(item.rows),
                        "chose_first": int(chosen == min(item.rows)),
                    }
                )
    names = ["rater", "item", "pair", "question", "first", "second", "chose_first"]
    return pd.DataFrame(rows, columns=names)


def _picture(answer: Answer, question: str, item: Item) -> str:
    """Return the picture that an answer to an item chose."""
    other = item.pictures[1] if answer.left == item.pictures[0] else item.pictures[0]
    return answer.left if answer.choices[question] == "left" else other


def _sheet(told: Any, study: Study) -> Sheet:
    if not isinstance(told, dict) or not {"version", "study", "rater", "answers"} <= told.keys():
        raise ValueError("is no sheet of answers, an object with version, study, rater and answers")
    if told["version"] != VERSION:
        raise ValueError(f"version: {_short(told['version'])} is of another program, allowed is {VERSION}")
    if told["study"] != study.digest:
        raise ValueError(f"answers another study, {_short(told['study'])}; this one is {study.digest}")
    if not isinstance(told["rater"], str) or not _RATER.fullmatch(told["rater"]):
        raise ValueError(f"rater: {_short(told['rater'])} is not 32 hexadecimal digits")
    if not isinstance(told["answers"], list):
        raise ValueError("answers: is not a list")
    items = {item.id: item.pictures for item in study.items}
    answers = tuple(_answer(one, items) for one in told["answers"])
    ids = [answer.item for answer in answers]
    if len(set(ids)) < len(ids):
        twice = next(one for one in ids if ids.count(one) > 1)
        raise ValueError(f"answers: item {twice} is answered twice")
    finished = _time(told, "finished")
    if finished and len(ids) < len(items):
        raise ValueError(f"finished: has a time, and {len(ids)} of {len(items)} items are answered")
    return Sheet(told["rater"], _time(told, "started"), finished, answers)


def _answer(told: Any, items: Mapping[str, tuple[str, str]]) -> Answer:
    if not isinstance(told, dict) or not {"item", "left", "seconds", "choices"} <= told.keys():
        raise ValueError("answers: one is no object with item, left, seconds and choices")
    item, left, seconds, choices = (told[name] for name in ("item", "left", "seconds", "choices"))
    if not isinstance(item, str) or item not in items:
        raise ValueError(f"answers: {_short(item)} is no item of the study")
    if left not in items[item]:
        raise ValueError(f"answers: item {item}: left: {_short(left)} is none of its pictures")
    if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not 0 <= seconds < 1e9:
        raise ValueError(f"answers: item {item}: seconds: {_short(seconds)} is no number from 0")
    if not isinstance(choices, dict) or choices.keys() != QUESTIONS.keys():
        raise ValueError(f"answers: item {item}: choices: must have {', '.join(QUESTIONS)} and no more")
    if wrong := [choice for choice in choices.values() if choice not in SIDES]:
        raise ValueError(f"answers: item {item}: choices: {_short(wrong[0])} is not left or right")
    return Answer(item, left, float(seconds), dict(choices))


def _time(told: Mapping[str, Any], name: str) -> str:
    value = told.get(name)
    if value is None:
        return ""
    try:
        return datetime.fromisoformat(value).isoformat()
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name}: {_short(value)} is no time in ISO 8601") from error


def _short(value: Any) -> str:
    told = ascii(value)
    return told if len(told) <= 60 else f"{told[:57]}..."
