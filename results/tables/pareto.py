"""The Pareto front of a run by two metrics: the settings that no other setting beats in one without losing in
the other.

A search for two objectives (Deb 2001, Sec. 2.4) ends in such a front, and any sweep has one. Means are
compared over the same pairs; what has no value for one of them is not compared, and said to be so.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from results.labels import arrow, csv_text, escape_markdown, method_label
from results.store.records import WINDOWS, reason_column
from results.store.whole_files import write_whole
from results.tables.cells import CELL, GIVEN, is_plain, ordered
from results.tables.statistics import FEWEST_PAIRS, WITH_INTERVAL, mean_interval
from results.tables.table_files import context_text, decimals_of, interval_text, varying_context

ALIGNMENT = ("clip_directional", "clip_target", "pie/clip_similarity_target_image")
PRESERVATION = ("lpips", "pie/lpips", "ms_ssim", "ssim")
FRONT, LEVEL, DOMINATED, APART = "front", "within the interval", "dominated", "not compared"
BY_MEANS = "by the means alone"
STANDINGS = (FRONT, LEVEL, DOMINATED, BY_MEANS, APART)


@dataclass(frozen=True)
class Front:
    """A front of one data set, by two metrics, over `n` pairs that every compared setting has values for.

    `table` has a row per setting: a cell's columns, `standing` (one of STANDINGS), `place` (on the front,
    from 1; of a beaten setting the place of one that beats it; missing where it is not compared), `why` it is
    not compared, and `mean`, `low` and `high` of each metric as `<metric>`, `<metric> low`, `<metric> high`.
    `notes` say in words which pairs and pictures do not count.
    """

    dataset: str
    metrics: tuple[str, str]
    n: int
    table: pd.DataFrame
    notes: tuple[str, ...]


def chosen_metrics(
    measured: Sequence[str], directions: Mapping[str, bool], objective: Sequence[str] = ()
) -> tuple[str, str] | None:
    """Return the two metrics of the front: the two objectives of a search, else alignment and preservation.

    Of several metrics of a kind the first counts. None where one of the kinds has no metric whose better
    direction is known.
    """
    known = [name for name in measured if name in directions]
    if len(set(objective)) == 2 and set(objective) <= set(known):
        return objective[0], objective[1]
    first, second = (
        next((name for prefix in kind for name in known if name.startswith(prefix)), None)
        for kind in (ALIGNMENT, PRESERVATION)
    )
    return (first, second) if first and second else None


def fronts(cells: pd.DataFrame, metrics: tuple[str, str], directions: Mapping[str, bool]) -> list[Front]:
    """Return the front of each data set that has at least two settings with values of both metrics.

    `cells` are `results.tables.cells.with_cells`' rows. Settings are those of all methods, models and
    inversions; rows of re-weighted words are left out, as in the main table of a run's summary.
    """
    columns = [*CELL, "pair_id", *metrics, *map(reason_column, metrics)]
    edits = cells.loc[is_plain(cells) & ~cells["method"].isin(GIVEN), columns]
    found = (
        _front(str(dataset), part, metrics, directions)
        for dataset, part in edits.groupby("dataset", dropna=False)
    )
    return [front for front in found if front is not None]


def _front(
    dataset: str, edits: pd.DataFrame, metrics: tuple[str, str], directions: Mapping[str, bool]
) -> Front | None:
    finite = edits.assign(**{name: edits[name].where(np.isfinite(edits[name])) for name in metrics})
    lacks = finite[list(metrics)].isna().any(axis=1)
    settings = [
        (dict(zip(CELL, cell)), members) for cell, members in finite.groupby(CELL, dropna=False, sort=False)
    ]
    # A pair's seeds are averaged; of a picture that lacks one of the values neither counts.
    values = [
        members[~lacks[members.index]].groupby("pair_id")[list(metrics)].mean() for _, members in settings
    ]
    told = Counter(pair for own in values for pair in own.index)
    with_values = sum(len(own) > 0 for own in values)
    pairs = sorted(pair for pair, count in told.items() if 2 * count > with_values)
    complete = [set(pairs) <= set(own.index) for own in values]
    if sum(complete) < 2 or not pairs:
        return None
    rows = []
    for (cell, members), own, whole in zip(settings, values, complete, strict=True):
        row: dict[str, object] = {**cell, "standing": "", "why": ""}
        for metric in metrics:
            per_pair = own[metric].reindex(pairs).to_numpy(float)
            ends = (float(per_pair.mean()), *mean_interval(per_pair)) if whole else (np.nan,) * 3
            row |= dict(zip(_columns(metric), ends))
        if not whole:
            row |= {"standing": APART, "why": _why(members, set(pairs) - set(own.index), metrics)}
        rows.append(row)
    turned = [
        np.stack([own.loc[pairs, name].to_numpy(float) for own, whole in zip(values, complete) if whole])
        * (1 if directions[name] else -1)
        for name in metrics
    ]
    table = pd.DataFrame(rows).astype(dict.fromkeys(WINDOWS, "Int64") | {"tau": float, "strength": float})
    compared = np.flatnonzero(complete)
    standings, beaten_by = standings_of(turned[0], turned[1])
    table.loc[compared, "standing"] = standings
    table["place"] = _places(table, compared, beaten_by, metrics[1], directions[metrics[1]])
    return Front(dataset, metrics, len(pairs), _sorted(table), _notes(finite, lacks, pairs, metrics))


def standings_of(first: np.ndarray, second: np.ndarray) -> tuple[list[str], np.ndarray]:
    """Return each setting's standing, and which setting of the front beats it (-1: none does).

    Both arrays are (settings, pairs), larger is better. A setting beats another whose means are no better in
    either and worse in one; of several the one that beats it by more than the interval is told. A beaten
    setting is LEVEL where no setting of the front is better by more than the paired 95 % interval in each
    metric in which they differ, else DOMINATED; of fewer than FEWEST_PAIRS pairs there is no interval, and it
    is BY_MEANS.
    """
    # Rounded: means that differ in their last digit only are ties.
    means = [side.mean(axis=1).round(12) for side in (first, second)]
    beats = _beats(means[0], means[1])
    on_front = np.logical_not(beats.any(axis=0))
    standings, beaten_by = [], np.full(len(first), -1)
    for index in range(len(first)):
        if on_front[index]:
            standings.append(FRONT)
            continue
        better = np.flatnonzero(beats[:, index] & on_front).tolist()
        clear = [one for one in better if _clearly(one, index, (first, second))]
        beaten_by[index] = clear[0] if clear else better[0]
        beaten = DOMINATED if clear else LEVEL
        standings.append(beaten if first.shape[1] >= FEWEST_PAIRS else BY_MEANS)
    return standings, beaten_by


def _beats(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Return a matrix (settings, settings): whether the row's setting beats the column's."""
    no_worse = np.greater_equal.outer(first, first) & np.greater_equal.outer(second, second)
    better = np.greater.outer(first, first) | np.greater.outer(second, second)
    return np.logical_and(no_worse, better)


def _clearly(one: int, other: int, sides: Sequence[np.ndarray]) -> bool:
    """Say whether a setting is better by more than the paired interval in each metric in which two differ.

    Where a difference has no interval, of few pairs or as it is one and the same in all, its mean decides.
    """
    differences = [side[one] - side[other] for side in sides if not np.array_equal(side[one], side[other])]
    return all(not mean_interval(difference)[0] <= 0 for difference in differences)


def _places(
    table: pd.DataFrame, compared: np.ndarray, beaten_by: np.ndarray, along: str, up: bool
) -> pd.Series:
    """Number the front from what is best in the second metric on; a beaten setting has its beater's."""
    front = table.index[table["standing"].eq(FRONT)]
    by = table.loc[front, along].sort_values(ascending=not up, kind="stable")
    number = {index: place for place, index in enumerate(by.index, start=1)}
    places = pd.Series(pd.NA, index=table.index, dtype="Int64")
    for index, better in zip(compared, beaten_by, strict=True):
        places[index] = number[index if better < 0 else compared[better]]
    return places


def _sorted(table: pd.DataFrame) -> pd.DataFrame:
    """Put the front first, by place, and what is not compared last; the rest in the order of all tables."""
    table = ordered(table.assign(edit_type=""))
    rank = table["standing"].map(STANDINGS.index)
    place = table["place"].where(table["standing"].eq(FRONT))
    by = pd.DataFrame({"rank": rank, "place": place}).sort_values(["rank", "place"], kind="stable")
    return table.drop(columns="edit_type").loc[by.index].reset_index(drop=True)


def _why(members: pd.DataFrame, missing: set[str], metrics: Sequence[str]) -> str:
    """Say for how many pairs a setting has no value of both metrics, and the causes."""
    rows = members[members["pair_id"].isin(missing)]
    causes = _causes(rows, metrics)
    not_made = len(missing - set(rows["pair_id"]))
    causes += [f"{not_made} pairs not made"] if not_made else []
    return f"{len(missing)} pairs without both values ({'; '.join(causes)})"


def _causes(rows: pd.DataFrame, metrics: Sequence[str]) -> list[str]:
    """Count the causes for which pictures lack a value, one for each picture."""
    counts: Counter[str] = Counter()
    for _, row in rows.iterrows():
        names = [name for name in metrics if pd.isna(row[name])]
        if names:
            reasons = {str(row[reason_column(name)]) or "not a finite number" for name in names}
            counts[", ".join(sorted(reasons))] += 1
    return [f"{count} x {cause}" for cause, count in sorted(counts.items())]


def _notes(
    edits: pd.DataFrame, lacks: pd.Series, pairs: Sequence[str], metrics: Sequence[str]
) -> tuple[str, ...]:
    """Say in words which pairs do not count, and how many pictures of those that do."""
    notes = []
    others = edits[~edits["pair_id"].isin(pairs)]
    if left := others["pair_id"].nunique():
        causes = _causes(others, metrics) or ["fewer settings than half have them"]
        notes.append(f"{left} pairs do not count, as most settings have no value ({'; '.join(causes)}).")
    counted = edits[edits["pair_id"].isin(pairs) & lacks]
    if len(counted):
        causes = _causes(counted, metrics)
        notes.append(f"{len(counted)} pictures of the pairs that count lack a value ({'; '.join(causes)}).")
    if len(pairs) < FEWEST_PAIRS:
        notes.append(f"Fewer than {FEWEST_PAIRS} pairs have no interval: what is beaten may be so by chance.")
    return tuple(notes)


def _columns(metric: str) -> tuple[str, str, str]:
    return metric, f"{metric} low", f"{metric} high"


def values_of(table: pd.DataFrame, metric: str) -> pd.DataFrame:
    """Return `mean`, `low` and `high` of a metric of a front's table."""
    return table[list(_columns(metric))].set_axis(["mean", "low", "high"], axis=1).astype(float)


def one_table(found: Sequence[Front]) -> pd.DataFrame:
    """Return the tables of fronts below each other, with the number of pairs, `n`."""
    return pd.concat([front.table.assign(n=front.n) for front in found], ignore_index=True)


def write_fronts(found: Sequence[Front], directions: Mapping[str, bool], stem: Path) -> list[Path]:
    """Write `<stem>.csv` and `.md`, all data sets in one file; returns their paths."""
    texts = {".csv": csv_text(one_table(found)), ".md": to_markdown(found, directions)}
    paths = [stem.with_name(stem.name + suffix) for suffix in texts]
    for path, text in zip(paths, texts.values(), strict=True):
        write_whole(path, text)
    return paths


def to_markdown(found: Sequence[Front], directions: Mapping[str, bool]) -> str:
    """Write a table per data set, the front first, with what its standings mean."""
    parts = []
    for front in found:
        parts += [f"**{escape_markdown(front.dataset)}**: {told(front)}"] if len(found) > 1 else [told(front)]
        names = [f"{escape_markdown(name)} {arrow(name, directions)}" for name in front.metrics]
        context = varying_context(front.table)
        header = ["place", *context, "method", "setting", *names, "standing"]
        align = ["---:", *["---"] * (2 + len(context)), "---:", "---:", "---"]
        lines = [header, align, *_body(front, context)]
        parts.append("\n".join("| " + " | ".join(line) + " |" for line in lines))
        parts += [escape_markdown(note) for note in front.notes]
    parts.append(
        f"Means [95 % interval over pairs, {WITH_INTERVAL}]. A setting is beaten by one that is "
        "no worse in either mean and better in one. Within the interval: no setting of the front is better "
        "by more than the paired interval in each metric in which they differ, so that chance may have put "
        "it behind."
    )
    return "\n\n".join(parts) + "\n"


def told(front: Front) -> str:
    """Say in a sentence how many settings stand where."""
    counts = front.table["standing"].value_counts()
    parts = [f"{counts[FRONT]} on the front"]
    parts += [f"{counts[name]} {text}" for name, text in (
        (LEVEL, "beaten within the interval"), (DOMINATED, "dominated"),
        (BY_MEANS, "beaten by the means alone (no interval)"), (APART, "not compared"),
    ) if name in counts]  # fmt: skip
    pairs = "1 pair" if front.n == 1 else f"{front.n} pairs"
    return f"Of {len(front.table)} settings over {pairs}: {', '.join(parts)}."


def standing_text(row: Mapping[str, Any]) -> str:
    """Say where a row of a front's table stands, and behind which place of the front."""
    return {
        FRONT: "on the front",
        LEVEL: f"behind {row['place']}, within the interval",
        DOMINATED: f"dominated by {row['place']}",
        BY_MEANS: f"behind {row['place']}, by the means alone",
        APART: f"not compared: {row['why']}",
    }[row["standing"]]


def _body(front: Front, context: Sequence[str]) -> list[list[str]]:
    texts = []
    for name in front.metrics:
        values = values_of(front.table, name)
        decimals = decimals_of(values["mean"])
        texts.append([interval_text(row, decimals) or "—" for row in values.itertuples()])
    lines = []
    for (_, row), *means in zip(front.table.iterrows(), *texts, strict=True):
        lines.append(
            [
                f"{row['place']}" if row["standing"] == FRONT else "",
                *(escape_markdown(context_text(row, name)) for name in context),
                escape_markdown(method_label(row["method"])),
                escape_markdown(row["setting"]) or "—",
                *means,
                escape_markdown(standing_text(row)),
            ]
        )
    return lines
