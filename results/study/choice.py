"""What people are to compare: rows of a run's tables, and how many pairs."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import count

import pandas as pd

from results.labels import method_label
from results.report.columns import numbered
from results.tables.cells import CONTEXT, GIVEN, is_plain, made_elsewhere

MOST_PAIRS, MOST_CHECKS = 1000, 100
_LISTED = 40  # names in an error


@dataclass(frozen=True)
class StudyChoice:
    """Which rows a study compares, on how many pairs, and by which draw.

    `compare` names two rows or more, as in `p2p:tau=0.4`; none: of each method the one in the middle.
    `checks` is the number of questions whose answer is known. `seed` draws pairs, seeds, order and sides.
    ValueError where a value cannot be.
    """

    compare: Sequence[str] = ()
    pairs: int = 20
    checks: int = 3
    seed: int = 0

    def __post_init__(self) -> None:
        if isinstance(self.compare, str) or len(self.compare) == 1:
            raise ValueError(f"compare: {self.compare!r} is one row, allowed are two or more, or none")
        for name, value, least, most in (
            ("pairs", self.pairs, 1, MOST_PAIRS),
            ("checks", self.checks, 0, MOST_CHECKS),
            ("seed", self.seed, 0, 2**32 - 1),
        ):
            if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
                raise ValueError(f"{name}: {value!r} is not a whole number from {least} to {most}")


def comparable(cells: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of pictures of edits, in the tables' order, with the name and the label of their cell.

    `cells` are those of `results.summary.run_cells`. ValueError where there are no two rows to compare.
    """
    rows = numbered(cells)
    rows = rows[rows["status"].eq("ok") & ~rows["method"].isin(GIVEN)]
    first = rows.drop_duplicates("cell").set_index("cell")
    if len(first) < 2:
        there = "no edit" if first.empty else "one row of edits"
        raise ValueError(f"study: the run has {there}, and people compare two rows or more")
    names, labels = _names(first)
    return rows.assign(row=rows["cell"].map(names), label=rows["cell"].map(labels))


def chosen_rows(rows: pd.DataFrame, compare: Sequence[str]) -> list[str]:
    """Return the names of the rows to compare, in the tables' order. ValueError for what names none, or two.

    `compare` has a method's name alone, or with a part of the row's name that tells it apart.
    """
    names = list(dict.fromkeys(rows["row"]))
    if not compare:
        return _middle(rows)
    found = [_named(one, names) for one in compare]
    if len(set(found)) < len(found):
        twice = next(name for name in found if found.count(name) > 1)
        raise ValueError(f"compare: {twice} stands twice, allowed are different rows")
    return sorted(found, key=names.index)


def _middle(rows: pd.DataFrame) -> list[str]:
    """Return the row in the middle of each method's first variant, without the fixed seed where there are two
    other methods.
    """
    plain = rows[is_plain(rows)] if is_plain(rows).any() else rows
    of_method = {
        method: list(dict.fromkeys(part.loc[part["variant"].eq(part["variant"].iloc[0]), "row"]))
        for method, part in plain.groupby("method", sort=False)
    }
    if len(of_method) == 1:  # of one method the two ends
        [only] = of_method.values()
        names = list(dict.fromkeys(rows["row"])) if len(only) < 2 else only
        return [names[0], names[-1]]
    if len(of_method) > 2:
        of_method.pop("fixed_seed", None)
    return [names[(len(names) - 1) // 2] for names in of_method.values()]


def _named(told: str, names: Sequence[str]) -> str:
    method, _, rest = told.partition(":")
    asked = {_typed(part) for part in rest.split(",") if part.strip()}
    parts = {name: {*filter(None, name.partition(":")[2].split(","))} for name in names}
    fitting = [name for name in names if name.partition(":")[0] == method and asked <= parts[name]]
    fitting = [name for name in fitting if asked == parts[name]] or fitting
    if len(fitting) == 1:
        return fitting[0]
    listed = fitting or names
    more = f" and {len(listed) - _LISTED} more" if len(listed) > _LISTED else ""
    what = f"is {len(fitting)} rows of the run" if fitting else "is no row of the run"
    raise ValueError(f"compare: {told!r} {what}, allowed are {' '.join(listed[:_LISTED])}{more}")


def _names(cells: pd.DataFrame) -> tuple[dict[int, str], dict[int, str]]:
    """Return names to type and labels to read of cells, which are one row each, by their index.

    A name is the method's, and after a colon what sets the row apart: `p2p:tau=0.4,local_blend=true`.
    """
    own = cells if made_elsewhere(cells).all() else cells[~made_elsewhere(cells)]
    varying = [name for name in CONTEXT if name != "setup" and own[name].nunique(dropna=False) > 1]
    names: dict[int, str] = {}
    labels: dict[int, str] = {}
    for cell, row in cells.iterrows():
        context = [f"{row[name]}" for name in varying if row["setup"] != "" and row[name] != ""]
        settings = re.sub(r" \(τ ([^)]*)\)$", r", τ \1", row["setting"]).split(", ")
        parts = [_typed(part) for part in (*settings, *context) if part]
        name = row["method"] + (":" if parts else "") + ",".join(parts)
        label = ", ".join(part for part in (method_label(row["method"]), row["setting"], *context) if part)
        # Two cells may differ in what no label says.
        number = next(n for n in count(1) if (f"{name}#{n}" if n > 1 else name) not in names.values())
        names[cell] = f"{name}#{number}" if number > 1 else name
        labels[cell] = f"{label} ({number})" if number > 1 else label
    return names, labels


def _typed(part: str) -> str:
    """Spell a part of a label in signs that every keyboard has: `τ 0.4` is `tau=0.4`."""
    signs = str.maketrans({"τ": "tau", "–": "-", "×": "x", ",": ";"})
    return re.sub(r"\s+", "=", part.strip().translate(signs))
