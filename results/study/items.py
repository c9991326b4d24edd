"""A study: what people are asked, in pictures with opaque names, and the key that tells which is which.

An item is one picture beside another: edits of one pair, of one seed and source, by two rows of a run's
tables. An attention check has the pair's own source on one side, and another pair's on the other.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from itertools import combinations
from pathlib import Path

import numpy as np
import pandas as pd

from results.study.choice import StudyChoice, chosen_rows, comparable

VERSION = 1
QUESTIONS = {
    "preservation": "Which picture keeps more of the original?",
    "alignment": "Which picture fits the new description better?",
    "overall": "Which picture is the better edit, all in all?",
}
_PAIR = ["dataset", "pair_id", "source_prompt", "target_prompt"]


@dataclass(frozen=True)
class Item:
    """Two pictures to choose between. Pictures are opaque names, `rows` the row of each; () of a check.

    `right` is the picture that an attentive person must choose in `preservation`, "" but for a check.
    """

    id: str
    pair: str
    edit_type: str
    source_prompt: str
    target_prompt: str
    source: str
    pictures: tuple[str, str]
    rows: tuple[int, ...]
    right: str = ""


@dataclass(frozen=True)
class Study:
    """All that is known of a study; `rows` are labels, `files` where each picture lies in the run folder."""

    seed: int
    rows: tuple[str, ...]
    items: tuple[Item, ...]
    files: Mapping[str, str]

    @cached_property
    def digest(self) -> str:
        """What tells the study from any other: its questions, items and pictures."""
        told = [VERSION, QUESTIONS, self.seed, self.rows, [asdict(item) for item in self.items]]
        return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()[:16]

    def to_json(self) -> str:
        told = {"version": VERSION, "digest": self.digest, **asdict(self)}
        return json.dumps(told, indent=1, ensure_ascii=True) + "\n"


def read_study(file: Path) -> Study:
    """Return the study of a file. FileNotFoundError where there is none, ValueError where it is damaged."""
    if not file.exists():
        raise FileNotFoundError(f"{file}: there is none; `p2p-bench study RUN` makes the study")
    try:
        told = json.loads(file.read_text(encoding="utf-8"))
        items = [
            Item(**{**item, "pictures": tuple(item["pictures"]), "rows": tuple(item["rows"])})
            for item in told["items"]
        ]
        study = Study(told["seed"], tuple(told["rows"]), tuple(items), dict(told["files"]))
        sound = study.digest == told["digest"]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{file}: is no study; move its folder away and make it again") from error
    if not sound:
        raise ValueError(f"{file}: was changed by hand or is of another version; make the study again")
    return study


def make_study(cells: pd.DataFrame, sources: Mapping[str, str], choice: StudyChoice) -> Study:
    """Draw a study of a run's rows (`results.summary.run_cells`). ValueError where it cannot be made.

    `sources` has the digest of each source picture by its path. Only pairs and seeds count that every row
    has, so that all comparisons are of the same edits. Where both pictures are equal nobody is asked.
    """
    rows = comparable(cells)
    names = chosen_rows(rows, choice.compare)
    rows = rows[rows["row"].isin(names) & rows["source_image"].ne("")]
    labels = rows.drop_duplicates("row").set_index("row")["label"]
    rows = rows.assign(source=[sources.get(path) or path for path in rows["source_image"]])
    generator = np.random.default_rng(choice.seed)
    units = _units(rows, names, generator)
    if not units:
        raise ValueError(f"study: no pair, seed and source has pictures of each of {' '.join(names)}")
    drawn = _drawn(units, choice.pairs)
    made = _Maker(choice.seed)
    items = [
        made.item(unit, unit[first], unit[second], (names.index(first), names.index(second)))
        for unit in drawn
        for first, second in combinations(names, 2)
        if _content(unit[first]) != _content(unit[second])
    ]
    if not items:
        raise ValueError(
            f"study: all pictures of {' and '.join(names)} are equal, and nothing can be compared"
        )
    items += [made.check(unit, units) for unit in _checked(drawn, choice.checks, generator)]
    order, sides = generator.permutation(len(items)), generator.integers(0, 2, len(items))
    shuffled = [_turned(items[place]) if side else items[place] for place, side in zip(order, sides)]
    return Study(choice.seed, tuple(labels[name] for name in names), tuple(shuffled), made.files)


def _units(
    rows: pd.DataFrame, names: Sequence[str], generator: np.random.Generator
) -> list[dict[str, pd.Series]]:
    """Return for each pair the rows of one seed, by their names, in an order that is drawn."""
    complete = []
    of_unit = rows.drop_duplicates([*_PAIR, "seed", "source", "row"]).groupby(
        [*_PAIR, "seed", "source"], sort=True
    )
    for _, part in of_unit:
        if len(part) == len(names):
            complete.append({row["row"]: row for _, row in part.iterrows()})
    drawn: dict[tuple[str, ...], dict[str, pd.Series]] = {}
    for place in generator.permutation(len(complete)):
        unit = complete[place]
        drawn.setdefault(tuple(unit[names[0]][_PAIR]), unit)
    return list(drawn.values())


def _drawn(units: Sequence[dict[str, pd.Series]], most: int) -> list[dict[str, pd.Series]]:
    """Return at most so many units, of each edit type in turn."""
    seen: dict[str, int] = {}
    turns = []
    for unit in units:
        edit_type = _any(unit)["edit_type"]
        turns.append(seen.get(edit_type, 0))
        seen[edit_type] = turns[-1] + 1
    return [units[place] for place in np.argsort(turns, kind="stable")[:most]]


def _checked(
    drawn: Sequence[dict[str, pd.Series]], checks: int, generator: np.random.Generator
) -> list[dict[str, pd.Series]]:
    """Return the units that checks are made of; one serves again where there are more checks than units."""
    order = generator.permutation(len(drawn))
    return [drawn[order[number % len(drawn)]] for number in range(checks)]


class _Maker:
    """Makes items, and notes which file each opaque name stands for."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.files: dict[str, str] = {}
        self.checks = 0

    def item(
        self, unit: Mapping[str, pd.Series], first: pd.Series, second: pd.Series, rows: tuple[int, int]
    ) -> Item:
        pictures = tuple(self._picture(_content(row), row["image"]) for row in (first, second))
        return self._asked(_any(unit), (pictures[0], pictures[1]), rows)

    def check(self, unit: Mapping[str, pd.Series], units: Sequence[Mapping[str, pd.Series]]) -> Item:
        """Return a check: the pair's source beside the one with which its prompts share the fewest words."""
        row = _any(unit)
        own = {*row["source_prompt"].split(), *row["target_prompt"].split()}
        others = [_any(other) for other in units]
        others = [
            other
            for other in others
            if other["source"] != row["source"] and other["source_prompt"] != row["source_prompt"]
        ]
        if not others:
            raise ValueError(
                "checks: shows another pair's source, and the rows have one source; allowed is checks 0"
            )
        shared = [len(own & {*other["source_prompt"].split()}) for other in others]
        nearest = [other for other, count in zip(others, shared) if count == min(shared)]
        other = nearest[self.checks % len(nearest)]
        self.checks += 1
        pictures = tuple(self._picture(one["source"], one["source_image"]) for one in (row, other))
        return self._asked(row, (pictures[0], pictures[1]), (), right=pictures[0])

    def _asked(
        self, row: pd.Series, pictures: tuple[str, str], rows: tuple[int, ...], right: str = ""
    ) -> Item:
        pair = " ".join(self._opaque(str(row[name])) for name in _PAIR)
        return Item(
            id=self._opaque(f"{pair} {row['seed']} {pictures} {rows or self.checks}"),
            pair=self._opaque(pair),
            edit_type=str(row["edit_type"]),
            source_prompt=str(row["source_prompt"]),
            target_prompt=str(row["target_prompt"]),
            source=self._picture(row["source"], row["source_image"]),
            pictures=pictures,
            rows=rows,
            right=right,
        )

    def _picture(self, content: str, path: str) -> str:
        name = self._opaque(content)
        self.files[name] = path
        return name

    def _opaque(self, text: str) -> str:
        told = f"{self.seed} {text}".encode("utf-8", "surrogatepass")
        return hashlib.sha256(told).hexdigest()[:16]


def _any(unit: Mapping[str, pd.Series]) -> pd.Series:
    return next(iter(unit.values()))


def _content(row: pd.Series) -> str:
    """Return what tells a picture from others: the digest of its file, its path where none was recorded."""
    return str(row["image_sha256"] or row["image"])


def _turned(item: Item) -> Item:
    return replace(item, pictures=item.pictures[::-1], rows=item.rows[::-1])
