"""Tables for papers written out: LaTeX with booktabs in a given width, Markdown, CSV.

Best values are bold, the second best underlined (Markdown: in italics). Texts are untrusted and escaped.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from results.labels import arrow, escape_latex, escape_markdown, short_label
from results.store.whole_files import write_whole
from results.tables.cells import rows_by_cell
from results.tables.paper import BEST, SECOND, Layout, arranged, own_setting, series_label
from results.tables.statistics import FEWEST_PAIRS
from results.tables.table_files import parted_by, section_title, to_csv, to_markdown, varying_context

Directions = Mapping[str, bool]
SIZES = {"small": 9.0, "footnotesize": 8.0, "scriptsize": 7.0}  # points, in a class of 10
_EM = {
    ".,:;'!|ijl": 0.31, " ": 0.34, "()[]-/tfrsIJ": 0.42, "0123456789": 0.535, "±": 1.15, "mwMW×↑↓": 1.03,
    "CEFLPST": 0.69, "ABDGHKNOQRUVXYZ%&@τ": 0.78,
}  # fmt: skip
_OTHER, _BOLD = 0.54, 1.16
"""Widths of letters in ems, rather more than Computer Modern's; by how much bold digits are wider."""
_GAP, _INSET = 2.5, 8.0  # points: on either side of a column; before a setting below its method
_ARROWS = {"↑": r"$\uparrow$", "↓": r"$\downarrow$", "": ""}
_POINTS = 72.27  # TeX's, an inch
_MOST_LABEL = 0.42  # of the width: a longer name of a row is broken
_LONG = 20  # letters
_SHORT = 0.8  # of the columns' width: a longer heading is broken
_MARK = {
    "latex": {BEST: r"\textbf{%s}", SECOND: r"\underline{%s}"},
    "markdown": {BEST: "**%s**", SECOND: "*%s*"},
}


@dataclass(frozen=True)
class _Line:
    """A heading above several rows (no `values`), or a row: by metric its mean, its interval and its rank."""

    label: str
    inset: bool = False
    section: bool = False
    values: Mapping[str, tuple[str, str, int]] | None = None
    pairs: str = ""


@dataclass(frozen=True)
class _Fit:
    """What has room: metrics, in a size of letters, beside names of rows; widths are about, in points."""

    metrics: list[str]
    left_out: list[str]
    size: str
    label: float
    width: float


def write_table(
    table: pd.DataFrame,
    stem: Path,
    directions: Directions,
    layout: Layout,
    first: Sequence[str] = (),
    ranked: bool = True,
) -> list[Path]:
    """Write `<stem>.csv` and `.md` with every number, `.tex` as for a paper; return their paths.

    `first` are the metrics that stand first where the layout names none. Without `ranked` nothing is marked.
    """
    latex = to_latex(arranged(table, directions if ranked else {}, layout, first), directions, layout)
    texts = {".csv": to_csv(table), ".md": to_markdown(table, directions), ".tex": latex}
    paths = [stem.with_name(stem.name + suffix) for suffix in texts]
    for path, text in zip(paths, texts.values()):
        write_whole(path, text)
    return paths


def to_latex(rows: pd.DataFrame, directions: Directions, layout: Layout) -> str:
    """Write a tabular and a note below it, both no wider than the layout's width.

    `rows` are `results.tables.paper.arranged`'s. Letters get smaller as long as a column is too wide; metrics
    for which there is no room then are left out, the last first, and named in a comment.
    """
    lines, points = _lines(rows, layout), layout.inches * _POINTS
    fit = _fitted(lines, rows, directions, layout)
    shown, left_out = fit.metrics, fit.left_out
    if left_out:
        rows = rows[rows["metric"].isin(shown)]
        lines = _lines(rows, layout)
    pairs = _pairs_differ(rows)
    count = len(shown) + pairs
    text = ["% needs \\usepackage{booktabs}"]
    if left_out:
        names = _commented(", ".join(left_out))
        text.append(f"% left out, as {layout.inches:g} inches have no room for them: {names}")
    titles = [short_label(metric) for metric in shown]
    signs = [arrow(metric, directions) for metric in shown]
    heads = [f"{escape_latex(name)} {_ARROWS[sign]}".strip() for (name, _), sign in zip(titles, signs)]
    below = [rf"{{\{_below(fit.size)} {escape_latex(told)}}}" if told else "" for _, told in titles]
    text += [
        rf"{{\{fit.size}\setlength{{\tabcolsep}}{{{_GAP:g}pt}}\noindent",
        rf"\begin{{tabular}}{{@{{}}p{{{fit.label:.1f}pt}}{'r' * count}@{{}}}}",
        r"\toprule",
        _latex_row(["", *heads, *["pairs"] * pairs]),
        *([_latex_row(["", *below, *[""] * pairs])] if any(below) else []),
    ]
    for number, line in enumerate(lines):
        if line.section or number == 0:
            text.append(r"\midrule")
        if line.values is None:
            # A heading that is wider than the columns would stretch the last of them.
            short = _width(line.label, SIZES[fit.size]) < fit.width * _SHORT
            kind, label = ("l", "") if short else (f"p{{{fit.width:.1f}pt}}", r"\raggedright ")
            label += rf"\emph{{{_broken(line.label)}}}" if line.section else _broken(line.label)
            text.append(_latex_row([rf"\multicolumn{{{count + 1}}}{{@{{}}{kind}@{{}}}}{{{label}}}"]))
            continue
        label = (rf"\leftskip{_INSET:g}pt " if line.inset else "") + _broken(line.label)
        cells = [_latex_value(line.values.get(metric)) for metric in shown]
        text.append(_latex_row([rf"\raggedright {label}", *cells, *[line.pairs.replace("–", "--")] * pairs]))
    note = escape_latex(_note(rows, layout, "underlined")).replace("±", r"$\pm$")
    text += [
        r"\bottomrule",
        r"\end{tabular}\par\smallskip",
        rf"\noindent\parbox{{{points:.1f}pt}}{{\{_below(fit.size)}\raggedright {note}}}\par}}",
    ]
    return "\n".join(text) + "\n"


def paper_markdown(rows: pd.DataFrame, directions: Directions, layout: Layout) -> str:
    """Write `arranged` rows as a table of Markdown, and the note below it."""
    metrics = _metrics(rows)
    pairs = _pairs_differ(rows)
    names = [f"{escape_markdown(name)} {arrow(name, directions)}".strip() for name in metrics]
    lines = ["| " + " | ".join(["", *names, *["pairs"] * pairs]) + " |"]
    lines.append("| --- |" + " ---: |" * (len(metrics) + pairs))
    for line in _lines(rows, layout):
        if line.values is None:
            cells = [f"**{escape_markdown(line.label)}**", *[""] * (len(metrics) + pairs)]
        else:
            values = [line.values.get(name) for name in metrics]
            texts = ["—" if value is None else _marked(value, "markdown") for value in values]
            indent = "&emsp;" if line.inset else ""
            cells = [indent + escape_markdown(line.label), *texts, *[line.pairs] * pairs]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join([*lines, "", escape_markdown(_note(rows, layout, "in italics"))]) + "\n"


def paper_csv(rows: pd.DataFrame) -> str:
    """Write `arranged` rows as CSV, numbers in full; `rank` is 1 for the best, 2 for the second best."""
    return to_csv(rows.drop(columns="decimals"))


def fitted(rows: pd.DataFrame, directions: Directions, layout: Layout) -> _Fit:
    """Return how the columns of `arranged` rows fit the layout's width; at least one of them is kept."""
    return _fitted(_lines(rows, layout), rows, directions, layout)


def _fitted(lines: Sequence[_Line], rows: pd.DataFrame, directions: Directions, layout: Layout) -> _Fit:
    metrics = _metrics(rows)
    points = layout.inches * _POINTS
    sizes = list(SIZES) if layout.columns is not None else list(SIZES)[:-1]
    for count in range(len(metrics), 0, -1):
        for size in sizes:
            label = _label_width(lines, size, points)
            columns = [_column_width(lines, name, directions, size) for name in metrics[:count]]
            columns += [_width("pairs", SIZES[size])] * _pairs_differ(rows)
            width = label + sum(columns) + 2 * _GAP * len(columns)
            if width <= points:
                return _Fit(metrics[:count], metrics[count:], size, label, width)
    return _Fit(metrics[:1], metrics[1:], sizes[-1], _label_width(lines, sizes[-1], points), points)


def _metrics(rows: pd.DataFrame) -> list[str]:
    return list(dict.fromkeys(rows["metric"]))


def _lines(rows: pd.DataFrame, layout: Layout) -> list[_Line]:
    """Lay rows out: those of one series follow each other below a heading, with their settings alone."""
    lines: list[_Line] = []
    varying = varying_context(rows)
    by = parted_by(rows)
    for name, section in rows.groupby(by, sort=False):
        if layout.edit_types:
            lines.append(_Line(section_title(str(name), by), section=True))
        cells = [(members[0]._asdict(), members) for members in rows_by_cell(section)]
        for series, part in groupby(cells, key=lambda each: series_label(each[0], varying)):
            settings = [(own_setting(cell), members) for cell, members in part]
            # A long name stands above its setting, so that the columns keep their room.
            several = len(settings) > 1 or (settings[0][0] != "" and len(series) > _LONG)
            lines += [_Line(series)] if several else []
            for setting, members in settings:
                label = (setting or "—") if several else ", ".join(filter(None, (series, setting)))
                counts = [row.n for row in members if row.n] or [0]
                least, most = min(counts), max(counts)
                pairs = f"{most}" if least == most else f"{least}–{most}"
                values = {
                    row.metric: value
                    for row in members
                    if (value := _value(row, layout.interval)) is not None
                }
                lines.append(_Line(label, several, values=values, pairs=pairs))
    return lines


def _value(row: Any, interval: str) -> tuple[str, str, int] | None:
    if np.isnan(row.mean):
        return None
    places = row.decimals
    told = ""
    if interval != "none" and not np.isnan(row.low):
        half = f"±{(row.high - row.low) / 2:.{places}f}"
        told = half if interval == "plus_minus" else f"[{row.low:.{places}f}, {row.high:.{places}f}]"
    return f"{row.mean:.{places}f}", told, 0 if pd.isna(row.rank) else int(row.rank)


def _marked(value: tuple[str, str, int], language: str) -> str:
    mean, interval, rank = value
    shown = _MARK[language].get(rank, "%s") % mean
    return f"{shown} {interval}".strip() if interval.startswith("[") else shown + interval


def _latex_value(value: tuple[str, str, int] | None) -> str:
    return "---" if value is None else _marked(value, "latex").replace("±", r"\,$\pm$\,")


def _pairs_differ(rows: pd.DataFrame) -> bool:
    return bool(rows.loc[rows["mean"].notna(), "n"].nunique() > 1)


def _note(rows: pd.DataFrame, layout: Layout, second: str) -> str:
    """Say what the numbers are, over how many pairs, what is marked and what is missing."""
    if not len(rows):
        return "No rows."
    told = rows[rows["mean"].notna()]
    most = int(told["n"].max()) if len(told) else 0
    kinds = {
        "plus_minus": "Mean ± half the width of its 95 % interval",
        "brackets": "Mean [95 % interval]",
        "none": "Mean",
    }
    kind = "Mean" if most < FEWEST_PAIRS else kinds[layout.interval]
    if "baseline" in told and len(told):
        kind = kind.replace("Mean", f"Mean difference to {'; '.join(dict.fromkeys(told['baseline']))}", 1)
    parts = [f"{kind} over {'pairs' if _pairs_differ(rows) else '1 pair' if most == 1 else f'{most} pairs'}"]
    if layout.interval != "none" and told["n"].lt(FEWEST_PAIRS).any():
        parts[0] += f"; fewer than {FEWEST_PAIRS} pairs give no interval"
    if layout.interval != "none" and (told["n"].ge(FEWEST_PAIRS) & told["low"].isna()).any():
        parts[0] += "; nor do pairs that are all alike" if ";" in parts[0] else "; none where all are alike"
    if rows["rank"].notna().any():
        parts.append(f"Bold: best; {second}: second best")
        fewer = told["n"].lt(
            told.groupby(["dataset", parted_by(told), "weighting", "metric"])["n"].transform("max")
        )
        parts += ["What is over fewer pairs is not compared"] if fewer.any() else []
    if missing := int(rows["n_missing"].sum()):
        parts.append(f"{missing} of {int(rows['n_images'].sum()) + missing} values are missing")
    return ". ".join(parts) + "."


def _latex_row(cells: Sequence[str]) -> str:
    return " & ".join(cells) + r" \\"


def _broken(text: str) -> str:
    """Escape a text that may be broken behind the signs within its words."""
    return re.sub(r"(=|\\_|/)", r"\1\\allowbreak{}", escape_latex(text))


def _commented(text: str) -> str:
    return " ".join(text.split())


def _below(size: str) -> str:
    """Return the next smaller size, of a heading's second line."""
    sizes = [*SIZES, "tiny"]
    return sizes[sizes.index(size) + 1]


def _label_width(lines: Sequence[_Line], size: str, points: float) -> float:
    widths = [
        _width(line.label, SIZES[size]) + _INSET * line.inset for line in lines if line.values is not None
    ]
    return min(1.03 * max(widths, default=0.0), _MOST_LABEL * points)


def _column_width(lines: Sequence[_Line], metric: str, directions: Directions, size: str) -> float:
    first, second = short_label(metric)
    heads = [
        _width(f"{first} {arrow(metric, directions)}", SIZES[size]),
        _width(second, {"small": 8.0, "footnotesize": 7.0}.get(size, 5.0)),
    ]
    values = [line.values[metric] for line in lines if line.values and metric in line.values]
    bold = [
        _width(mean, SIZES[size]) * _BOLD + _width(told if told[:1] == "±" else f" {told}", SIZES[size])
        for mean, told, _ in values
    ]
    return max([*heads, *bold, _width("—", SIZES[size])])


def _width(text: str, size: float) -> float:
    """Return about how wide a text is, in points; rather more than less."""
    ems = (next((em for letters, em in _EM.items() if letter in letters), _OTHER) for letter in text)
    wider = 1.0 if size >= 8 else 1.06 if size >= 7 else 1.25  # small letters are drawn wider
    return size * wider * sum(ems)
