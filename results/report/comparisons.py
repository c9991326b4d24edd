"""What the page says of curves at equal preservation and of the Pareto front: rows of its tables."""

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from results.labels import arrow, method_label, metric_label
from results.tables.cells import ALL
from results.tables.pareto import FRONT, standing_text, values_of
from results.tables.table_files import context_text, decimals_of, varying_context

_ENDS = ("difference", "low", "high")


def matched_rows(gaps: pd.DataFrame) -> list[dict[str, str]]:
    """Return `results.tables.matched`' comparisons over all edit types; numbers are spelled out."""
    rows = gaps[gaps["edit_type"].eq(ALL)].to_dict("records")
    places = decimals_of(pd.Series([row[name] for row in rows for name in _ENDS], dtype=float))
    return [
        {
            "first": str(row["first"]),
            "second": str(row["second"]),
            "dataset": str(row["dataset"]),
            "difference": _signed(row["difference"], places),
            "interval": _interval(row["low"], row["high"], places, "+"),
            "p": _short(row["p_holm"], ".2g"),
            "pairs": f"{row['n']} of {row['n_pairs']}",
            "reach": f"{row['level_low']:.3g} to {row['level_high']:.3g}" if row["n"] else "–",
            "to_tell": "–" if pd.isna(row["pairs_to_tell"]) else f"{row['pairs_to_tell']}",
        }
        for row in rows
    ]


def front_rows(front: pd.DataFrame, metrics: Sequence[str]) -> list[dict[str, Any]]:
    """Return the settings of `results.tables.pareto`'s fronts, in their order; numbers are spelled out."""
    context = varying_context(front)
    values = [values_of(front, name) for name in metrics]
    places = [decimals_of(own["mean"]) for own in values]
    rows = []
    for index, (_, row) in enumerate(front.iterrows()):
        ends = [own.iloc[index] for own in values]
        named = [method_label(row["method"]), row["setting"], *(context_text(row, name) for name in context)]
        rows.append(
            {
                "place": f"{row['place']}" if row["standing"] == FRONT else "",
                "name": ", ".join(text for text in named if text and text != "nan"),
                "means": [_short(end["mean"], f".{place}f") for end, place in zip(ends, places)],
                "intervals": [_interval(end["low"], end["high"], place) for end, place in zip(ends, places)],
                "standing": standing_text(row),
            }
        )
    return rows


def named(metrics: Sequence[str], directions: Mapping[str, bool]) -> list[str]:
    """Return how the page names metrics, with the sign of what is better."""
    return [f"{metric_label(name)}\u00a0{arrow(name, directions)}".strip() for name in metrics]


def _signed(value: float, places: int) -> str:
    return _short(value, f"+.{places}f")


def _interval(low: float, high: float, places: int, sign: str = "") -> str:
    ends = (_short(end, f"{sign}.{places}f") for end in (low, high))
    return "" if pd.isna(low) else " to ".join(ends)


def _short(value: float, shape: str) -> str:
    return "–" if pd.isna(value) else f"{value:{shape}}".replace("-", "−")
