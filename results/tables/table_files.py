"""Tidy tables written out: CSV (every number) and Markdown (mean [low, high], arrows, n, missing).

Text in tables is untrusted and escaped. A row without an interval, e.g. a published value, shows its mean.
`results.tables.paper_files` has LaTeX.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from results.labels import arrow, csv_text, escape_markdown, method_label
from results.tables.cells import ALL, CONTEXT, made_elsewhere, rows_by_cell
from results.tables.statistics import WITH_INTERVAL

Directions = Mapping[str, bool]

SIGNIFICANT = 0.05
_LEFT = {"method", "setting", "uses mask", *CONTEXT}


def to_csv(table: pd.DataFrame) -> str:
    """Write the tidy table: a line per cell and metric, numbers in full, reasons as `count x reason`."""
    reasons = table["reasons"].map(lambda counts: "; ".join(f"{n} x {text}" for text, n in counts.items()))
    return csv_text(table.assign(reasons=reasons))


def to_markdown(table: pd.DataFrame, directions: Directions, *, by_edit_type: bool = True) -> str:
    """Write one table over all edit types, then one per edit type, and below why values are missing."""
    parts = _section_parts(table, directions, by_edit_type)
    missing = "\n".join(f"- {escape_markdown(line)}" for line in missing_lines(table))
    counted = "`missing` counts values, of a picture one for each metric"
    note = f"Mean [95 % interval over pairs, {WITH_INTERVAL}]; {counted}."
    if "baseline" in table:
        note = f"Difference to {escape_markdown('; '.join(dict.fromkeys(table['baseline'])))}. {note}"
    if "p_holm" in table:
        over = f"Holm's correction over all {table['p'].notna().sum()} tests"
        note += f" \\* p < {SIGNIFICANT:g} by flipping the signs of pairs, after {over}."
    parts += [note, missing] if parts else ["No rows."]
    if "wins" in table and table["wins"].notna().any():
        told = "Share of pairs in which a setting is better (a tie counts half) [95 % interval, Wilson]:"
        parts += [told, *_section_parts(win_rates(table), {}, by_edit_type=False)]
    return "\n\n".join(part for part in parts if part) + "\n"


def win_rates(table: pd.DataFrame) -> pd.DataFrame:
    """Return a table of differences with the shares of pairs that are better in place of means."""
    ends = {"mean": "wins", "low": "wins_low", "high": "wins_high"}
    rates = table.assign(**{name: table[wins] for name, wins in ends.items()}, p_holm=np.nan)
    return rates[rates["metric"].isin(table.loc[table["wins"].notna(), "metric"])]


def _section_parts(table: pd.DataFrame, directions: Directions, by_edit_type: bool) -> list[str]:
    context, masks = varying_context(table), bool(table["uses_mask"].ne("").any())
    decimals = {name: decimals_of(means) for name, means in table.groupby("metric", sort=False)["mean"]}
    names = [f"{escape_markdown(metric)} {arrow(metric, directions)}".strip() for metric in decimals]
    told = [*context, "method", "setting", *(["uses mask"] if masks else [])]
    header = [*told, *names, "pairs", "missing"]
    align = ["---" if name in _LEFT else "---:" for name in header]
    parts: list[str] = []
    for title, rows in _sections(table)[: None if by_edit_type else 1]:
        body = _body(rows, context, masks, decimals)
        lines = ["| " + " | ".join(cells) + " |" for cells in (header, align, *body)]
        parts += [f"**{escape_markdown(title)}**", "\n".join(lines)]
    return parts


def missing_lines(table: pd.DataFrame) -> list[str]:
    """Say per metric how many values are missing, and why; a picture has one for each of its settings."""
    lines = []
    for metric, rows in table[table[parted_by(table)].eq(ALL)].groupby("metric", sort=False):
        counts: Counter[str] = Counter()
        for reasons in rows["reasons"]:
            counts.update(reasons)
        values = int(rows["n_images"].sum() + rows["n_missing"].sum())
        why = "; ".join(f"{count} {reason}" for reason, count in sorted(counts.items()))
        lines += [f"{metric}: {counts.total()} of {values} values are missing ({why})"] if counts else []
    return lines


def _sections(table: pd.DataFrame) -> list[tuple[str, pd.DataFrame]]:
    by = parted_by(table)
    parts = [(ALL, table[table[by].eq(ALL)])]
    parts += [(str(name), rows) for name, rows in table.groupby(by) if name != ALL]
    return [(section_title(name, by), rows) for name, rows in parts if len(rows)]


def parted_by(table: pd.DataFrame) -> str:
    """Return the column by which a table's rows stand in parts, one for all pairs and one for each kind."""
    return "difficulty" if "difficulty" in table else "edit_type"


def section_title(name: str, by: str) -> str:
    """Return the heading of a part of a table, by the column that parts it."""
    one, several = {"difficulty": ("difficulty", "difficulties"), "edit_type": ("edit type", "edit types")}[
        by
    ]
    return {ALL: f"All {several}", "": f"No {one}"}.get(name, f"{one.capitalize()}: {name}")


def _body(
    rows: pd.DataFrame, context: Sequence[str], masks: bool, decimals: Mapping[str, int]
) -> list[list[str]]:
    """Lay a section out: context that varies, method, setting, a column per metric, pairs, missing values.

    `decimals` is by metric. Where the columns of a row are means over different pairs, each says over how
    many.
    """
    body = []
    none = escape_markdown("—")
    for members in rows_by_cell(rows):
        of, counts = members[0]._asdict(), [row.n for row in members]
        least, most = min(counts), max(counts)
        several = len({*counts} - {0}) > 1
        texts = {
            row.metric: interval_text(row, decimals[row.metric])
            + (r" \*" if getattr(row, "p_holm", np.nan) < SIGNIFICANT else "")
            + (f" (n {row.n})" if several and row.n else "")
            for row in members
        }
        body.append(
            [
                *(escape_markdown(context_text(of, name)) for name in context),
                escape_markdown(method_label(of["method"])),
                escape_markdown(of["setting"]) or none,
                *([of["uses_mask"]] if masks else []),
                *(texts.get(metric) or none for metric in decimals),
                f"{most}" if least == most else escape_markdown(f"{least}–{most}"),
                f"{sum(row.n_missing for row in members)}",
            ]
        )
    return body


def varying_context(table: pd.DataFrame) -> list[str]:
    """List what tells models and runs apart; what other tools made has no model, and its method tells it."""
    elsewhere = made_elsewhere(table)
    denoised = table if elsewhere.all() else table[~elsewhere]
    return [
        name for name in CONTEXT if (table if name == "dataset" else denoised)[name].nunique(dropna=False) > 1
    ]


def context_text(cell: Mapping[str, Any], name: str) -> str:
    return "—" if cell["setup"] == "" and name not in ("model", "dataset") else f"{cell[name]}"


def decimals_of(means: pd.Series) -> int:
    """Choose one number of decimals for a column of means, by the largest of them."""
    largest = means.abs().max()
    return next((decimals for decimals, limit in ((2, 10.0), (3, 0.1), (4, 0.01)) if largest >= limit), 5)


def interval_text(row: Any, decimals: int) -> str:
    if np.isnan(row.mean):
        return ""
    if np.isnan(row.low):
        return f"{row.mean:.{decimals}f}"
    return f"{row.mean:.{decimals}f} [{row.low:.{decimals}f}, {row.high:.{decimals}f}]"
