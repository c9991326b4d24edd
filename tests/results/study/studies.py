"""What the tests of studies share: a run whose pictures differ, raters with a rule, the answers they give."""

import itertools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd

from results.store.records import load_records
from results.study.choice import StudyChoice
from results.study.items import QUESTIONS, Item, Study
from results.study.write_study import write_study
from tests.results.report.conftest import HOSTILE
from tests.results.synthetic import make_row, p2p, write_run

COMPARED = ("fixed_seed", "p2p:tau=0.4", "sdedit:strength=0.5")
LABELS = ("fixed seed", "Prompt-to-Prompt, τ 0.4", "SDEdit, strength 0.5")
Rule = Callable[[Item, str], int]
"""Which of an item's pictures a rater chooses for a question, 0 or 1."""


TEXTS = {
    "cat-dog": ("a cat on the grass", "a dog on the grass", "swap"),
    "house-2": ("a tower at night", "a snowy tower at night", "add"),
    "house-10": ("a house at night", "a red house at night", "add"),
    "<b>evil": (HOSTILE, f"{HOSTILE} dog", "<b>x</b>"),
    "fox": ("a fox by a lake", "a wolf by a lake", "swap"),
    "cars": ("two red cars", "two blue cars", "<b>x</b>"),
    "re-weighted": ("a snowy field", "a snowy field", "reweight"),
}


def make_run(run_dir: Path) -> pd.DataFrame:
    """Write a run of seven pairs, the first with two seeds, one of hostile texts; return its records."""
    rows = []
    for number, (pair, (source, target, edit_type)) in enumerate(TEXTS.items()):
        for seed in range(1 if number else 2):
            own = {"source_prompt": source, "target_prompt": target, "edit_type": edit_type}
            own["source_image"] = f"images/{number}/{seed}/source.png"
            made = [("fixed_seed", {}), *(("p2p", p2p(tau)) for tau in (0.0, 0.4, 1.0))]
            made += [("sdedit", {"strength": s, "params": json.dumps({"strength": s})}) for s in (0.5, 0.9)]
            if edit_type == "reweight":
                made.append(("p2p", {**p2p(0.4), "weights": json.dumps({"snowy": 2.0})}))
            rows.append(make_row(pair, seed, "source", **{**own, "target_prompt": source}))
            for place, (method, settings) in enumerate(made):
                image = f"images/{number}/{seed}/{method}-{place}.png"
                rows.append(make_row(pair, seed, method, **{**own, **settings, "image": image}))
    frame = pd.DataFrame(rows)
    write_run(run_dir, frame.assign(group="all"), None)
    return frame


def make_study(run_dir: Path, **choice: Any) -> Study:
    """Write a study of the run, of all its plain pairs unless told otherwise."""
    study, _ = write_study(run_dir, StudyChoice(**{"compare": COMPARED, "pairs": 7, "checks": 2, **choice}))
    return study


def method_of(study: Study, run_dir: Path, picture: str) -> str:
    """Return which method made a picture, by the records."""
    records = load_records(run_dir).drop_duplicates("image").set_index("image")
    return str(records.loc[study.files[picture], "method"])


def attentive(prefers: tuple[int, ...]) -> Rule:
    """Return a rater who prefers rows in this order, and sees what an attention check asks."""

    def choose(item: Item, question: str) -> int:
        if item.right:
            return item.pictures.index(item.right)
        return min((0, 1), key=lambda place: prefers.index(item.rows[place]))

    return choose


def careless(item: Item, question: str) -> int:
    """Choose the wrong side of every check, and the first picture of all else."""
    return 1 - item.pictures.index(item.right) if item.right else 0


def sheet(study: Study, rater: int, rule: Rule, answers: int | None = None) -> dict[str, Any]:
    """Return the sheet of a rater, with as many answers as told, all by default."""
    given = []
    for item in itertools.islice(study.items, answers):
        left = (rater + len(given)) % 2
        choices = {name: "left" if rule(item, name) == left else "right" for name in QUESTIONS}
        given.append({"item": item.id, "left": item.pictures[left], "seconds": 2.5, "choices": choices})
    finished = "2026-01-02T03:14:05.000Z" if len(given) == len(study.items) else None
    return {
        "version": 1,
        "study": study.digest,
        "rater": f"{rater:032x}",
        "started": "2026-01-02T03:04:05.000Z",
        "finished": finished,
        "answers": given,
    }


def write_sheet(folder: Path, name: str, told: Any) -> Path:
    """Write a sheet as a rater's browser does."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(json.dumps(told), encoding="utf-8")
    return folder / name
