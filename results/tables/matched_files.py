"""Curves at equal preservation (`results.tables.matched`) written out: CSV, Markdown, LaTeX, a sentence."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from results.labels import arrow, csv_text, escape_latex, escape_markdown
from results.store.whole_files import write_whole
from results.tables.cells import ALL
from results.tables.statistics import FEWEST_PAIRS, WITH_INTERVAL
from results.tables.table_files import SIGNIFICANT, decimals_of

_METRICS, _ENDS = ("alignment", "preservation"), ("difference", "low", "high")
_HOW = f"Area between the curves by its width, mean over pairs [95 % interval, {WITH_INTERVAL}]."


def told(row: Mapping[str, Any], directions: Mapping[str, bool]) -> str:
    """Say one comparison in a sentence of Markdown."""
    first, second, alignment, preservation = (
        escape_markdown(str(row[name])) for name in ("first", "second", "alignment", "preservation")
    )
    over = f"{row['n']} of {row['n_pairs']} pairs"
    if not row["n"]:
        return f"{first} and {second} are not compared: {over} have curves that share some {preservation}."
    unclear = row["low"] <= 0 <= row["high"] or row["difference"] == 0
    side = "is not told apart from" if unclear else "is above" if row["difference"] > 0 else "is below"
    if not unclear and row["p_holm"] >= SIGNIFICANT:
        second += " before correction for several comparisons"
    why = "alike in all" if row["n"] >= FEWEST_PAIRS else "too few for an interval"
    few = f", {why}" if pd.isna(row["low"]) else ""
    p = "" if pd.isna(row["p_holm"]) else f", p {row['p_holm']:.2g} (Holm)"
    much = f"{_difference(row, _places([row]))} of {alignment} {arrow(str(row['alignment']), directions)}"
    return f"At equal {preservation}, {first} {side} {second}: {much.rstrip()}, over {over}{few}{p}."


def write_matched(table: pd.DataFrame, directions: Mapping[str, bool], stem: Path) -> list[Path]:
    """Write `<stem>.csv`, `.md` and `.tex`; returns their paths."""
    reasons = table["reasons"].map(_reasons)
    texts = {
        ".csv": csv_text(table.assign(reasons=reasons)),
        ".md": to_markdown(table, directions),
        ".tex": to_latex(table, directions),
    }
    paths = [stem.with_name(stem.name + suffix) for suffix in texts]
    for path, text in zip(paths, texts.values(), strict=True):
        write_whole(path, text)
    return paths


def to_markdown(table: pd.DataFrame, directions: Mapping[str, bool]) -> str:
    """Write a row per comparison and edit type, and below it what the numbers are and what is missing."""
    left = ["data set", "curve", "against", "edit type"]
    right = ["difference", "p", "p, Holm", "pairs", "preservation", "pairs to tell"]
    lines = [[*left, *right], ["---"] * 4 + ["---:"] * 6]
    places = _places(table.to_dict("records"))
    for row in table.to_dict("records"):
        texts = [escape_markdown(str(row[name])) for name in ("dataset", "first", "second", "edit_type")]
        p = ["—" if pd.isna(row[name]) else f"{row[name]:.2g}" for name in ("p", "p_holm")]
        levels = f"{row['level_low']:.3g}–{row['level_high']:.3g}" if row["n"] else "—"
        to_tell = "—" if pd.isna(row["pairs_to_tell"]) else f"{row['pairs_to_tell']}"
        pairs = f"{row['n']} of {row['n_pairs']}"
        lines.append([*texts, _difference(row, places) or "—", *p, pairs, levels, to_tell])
    body = "\n".join("| " + " | ".join(line) + " |" for line in lines)
    overall = table[table["edit_type"].eq(ALL)].to_dict("records")
    missing = [
        f"- {escape_markdown(str(row['first']))} against {escape_markdown(str(row['second']))}: "
        f"{row['n_missing']} of {row['n_images'] + row['n_missing']} images have no difference "
        f"({escape_markdown(_reasons(row['reasons']))})"
        for row in overall
        if row["n_missing"]
    ]
    parts = [*(told(row, directions) for row in overall), body, _note(table, directions), "\n".join(missing)]
    return "\n\n".join(part for part in parts if part) + "\n"


def to_latex(table: pd.DataFrame, directions: Mapping[str, bool]) -> str:
    """Write the comparisons over all edit types, as wide as a column of 3.25 inches."""
    rows = table[table["edit_type"].eq(ALL)].to_dict("records")
    places = _places(rows)
    lines = [
        r"% needs \usepackage{booktabs}",
        r"{\footnotesize\setlength{\tabcolsep}{2.5pt}\noindent",
        r"\begin{tabular}{@{}p{72pt}rrr@{}}",
        r"\toprule",
        r"& difference & $p$ & pairs \\",
        r"\midrule",
    ]
    for row in rows:
        label = rf"\raggedright {escape_latex(str(row['first']))} $-$ {escape_latex(str(row['second']))}"
        p = "---" if pd.isna(row["p_holm"]) else f"{row['p_holm']:.2g}"
        difference = _difference(row, places).replace("-", "$-$").replace("+", "$+$") or "---"
        lines.append(rf"{label} & {difference} & {p} & {row['n']}/{row['n_pairs']} \\")
    note = escape_latex(f"{_named(rows[0], directions, str)} {_HOW} p by Holm.")
    note = note.replace("↑", r"$\uparrow$").replace("↓", r"$\downarrow$")
    lines += [
        r"\bottomrule",
        r"\end{tabular}\par\smallskip",
        rf"\noindent\parbox{{234pt}}{{\scriptsize\raggedright {note}}}\par}}",
    ]
    return "\n".join(lines) + "\n"


def _named(row: Mapping[str, Any], directions: Mapping[str, bool], escape: Callable[[str], str]) -> str:
    names = [f"{escape(str(row[name]))} {arrow(str(row[name]), directions)}".rstrip() for name in _METRICS]
    return f"Difference in {names[0]} at equal {names[1]}."


def _note(table: pd.DataFrame, directions: Mapping[str, bool]) -> str:
    named = _named(table.iloc[0].to_dict(), directions, escape_markdown)
    return (
        f"{named} {_HOW} `preservation` is the stretch that both curves reach, on average; a pair whose "
        "curves share none does not count. p by flipping the signs of pairs, Holm over all "
        f"{int(table['p'].notna().sum())} tests. `pairs to tell`: so many pairs have an interval "
        "whose half-width is the difference, if pairs spread as these; half of it takes four times as many."
    )


def _reasons(reasons: Mapping[str, int]) -> str:
    return "; ".join(f"{count} x {text}" for text, count in reasons.items())


def _places(rows: Sequence[Mapping[str, Any]]) -> int:
    return decimals_of(pd.Series([row[name] for row in rows for name in _ENDS], dtype=float))


def _difference(row: Mapping[str, Any], places: int) -> str:
    """Return a signed difference and its interval; "" where there is none."""
    if pd.isna(row["difference"]):
        return ""
    texts = [f"{row[name]:+.{places}f}" for name in _ENDS if not pd.isna(row[name])]
    return texts[0] if len(texts) == 1 else f"{texts[0]} [{texts[1]}, {texts[2]}]"
