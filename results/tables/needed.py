"""How many pairs give each of a table's means an interval of a wanted half-width, if they spread alike."""

from collections.abc import Mapping

import pandas as pd

from results.labels import escape_markdown, method_label
from results.tables.cells import ALL, CONTEXT, GIVEN, is_plain
from results.tables.paper import named
from results.tables.statistics import FEWEST_PAIRS, pairs_needed
from results.tables.table_files import context_text, decimals_of, interval_text, parted_by, varying_context

COLUMNS = [
    *CONTEXT,
    "method",
    "setting",
    "metric",
    "mean",
    "low",
    "high",
    "n",
    "spread",
    "half_width",
    "pairs",
]


def needed_table(table: pd.DataFrame, half_widths: Mapping[str, float]) -> pd.DataFrame:
    """Return a row per edit and metric of a tidy table, over all its pairs; columns COLUMNS.

    `half_widths` is by metric, or by how names of metrics begin. `pairs` is `pairs_needed`, missing where
    fewer than FEWEST_PAIRS pairs tell the spread. ValueError for a metric that the table lacks, and for a
    half-width that is not above 0.
    """
    edits = table[table[parted_by(table)].eq(ALL) & is_plain(table) & ~table["method"].isin(GIVEN)]
    metrics = list(dict.fromkeys(edits["metric"]))
    wanted: dict[str, float] = {}
    for asked, half_width in half_widths.items():
        found = named(asked, metrics)
        if not found:
            raise ValueError(f"half width: {asked!r} is no metric here, allowed are {', '.join(metrics)}")
        wanted |= dict.fromkeys(found, half_width)
    rows = edits[edits["metric"].isin(wanted)]
    rows = rows.assign(half_width=rows["metric"].map(wanted))
    pairs = [
        pairs_needed(row.spread, row.half_width) if row.n >= FEWEST_PAIRS else pd.NA
        for row in rows.itertuples()
    ]
    return rows.assign(pairs=pd.array(pairs, dtype="Int64"))[COLUMNS].reset_index(drop=True)


def to_markdown(needed: pd.DataFrame, what: str) -> str:
    """Write a row per edit and metric, and below it what is counted; `what` says of what the means are."""
    context = varying_context(needed)
    lines = [
        [*context, "method", "setting", "metric", "mean", "pairs", "spread", "± wanted", "pairs needed"],
        ["---"] * (len(context) + 3) + ["---:"] * 5,
    ]
    places = {name: decimals_of(rows["mean"]) for name, rows in needed.groupby("metric")}
    for row in needed.itertuples():
        of = row._asdict()
        lines.append(
            [
                *(escape_markdown(context_text(of, name)) for name in context),
                escape_markdown(method_label(row.method)),
                escape_markdown(row.setting) or "—",
                escape_markdown(row.metric),
                interval_text(row, places[row.metric]) or "—",
                f"{row.n}",
                "—" if pd.isna(row.pairs) else f"{row.spread:.3g}",
                f"{row.half_width:g}",
                "—" if pd.isna(row.pairs) else f"{row.pairs}",
            ]
        )
    note = (
        f"{what} `spread` is the standard deviation over pairs, each the mean of its seeds. So many pairs "
        "have an interval of the wanted half-width if they spread as these; half takes four times as many."
    )
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + f"\n\n{note}\n"
