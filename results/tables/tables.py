"""Tables as tidy frames, one row per cell and metric: main table, re-weighting effects, paired differences.

All take `results.tables.cells.with_cells`' rows. `results.tables.table_files` turns them into CSV, Markdown
and LaTeX.
"""

from collections.abc import Iterable
from dataclasses import asdict

import pandas as pd

from results.labels import published_name, published_order, published_scale
from results.store.records import RECORD_IDENTITY, WINDOWS, reason_column
from results.tables.cells import ALL, CELL, CONTEXT, GIVEN, is_plain, ordered
from results.tables.statistics import Estimate, estimate, paired_difference

_ESTIMATED = ["mean", "low", "high", "n", "n_images", "n_missing", "reasons"]
COLUMNS = [*CELL, "start_noise", "edit_type", "metric", *_ESTIMATED]
_NO_PARTNER = "no row with weight 1 to compare with"


def main_table(cells: pd.DataFrame, metrics: Iterable[str]) -> pd.DataFrame:
    """Estimate every metric in every cell: method x tau (or strength, or windows) x edit type, and "all".

    Returns one row per cell and metric, columns `COLUMNS`.
    """
    return _table(cells, list(metrics))


def published_table(cells: pd.DataFrame, metrics: Iterable[str]) -> pd.DataFrame:
    """Lay PIE-Bench's columns out as published: their order, their scaling, which the metric's name states.

    Rows are as `main_table` gives them: a mean is over the images that have a value, from `n` pairs. Empty
    where a run has none of PIE-Bench's metrics.
    """
    places = {name: place for name in metrics if (place := published_order(name)) is not None}
    table = main_table(cells, sorted(places, key=lambda name: (places[name], name)))
    factors = table["metric"].map(lambda name: published_scale(name)[0]).astype(float)
    return table.assign(
        metric=table["metric"].map(published_name),
        **{name: table[name].astype(float) * factors for name in ("mean", "low", "high")},
    )


def reweight_table(cells: pd.DataFrame, metrics: Iterable[str]) -> pd.DataFrame:
    """Estimate the effect of re-weighting: an edit's value minus the value of its partner with weight 1.

    A partner has equal pair, seed, method, tau or windows, operator and target prompt. Where the prompts are
    equal and there is no partner, the generated source is the edit with weight 1; a real picture is not, as
    its inversion changes it. A row without a partner is missing, with a reason.
    """
    metrics = list(metrics)
    plain = is_plain(cells) | cells["weighting"].eq("×1")
    weighted = cells[~plain]
    match = [*CONTEXT, "pair_id", "seed", "method", "operator", "tau", *WINDOWS, "variant", "target_prompt"]
    same_edit = _partner(weighted, cells[plain & cells["method"].ne("source")], match)
    generated = cells[cells["method"].eq("source") & cells["inversion"].eq("")]
    source = _partner(weighted, generated, [*CONTEXT, "pair_id", "seed"])
    source = source.where(weighted["source_prompt"].eq(weighted["target_prompt"]).to_numpy())
    partner = same_edit.where(same_edit.notna(), source)
    effects = weighted.copy()
    for metric in metrics:
        reference = partner.map(cells[metric])
        reason = partner.map(cells[reason_column(metric)]).astype("string")
        reason = ("of the image with weight 1: " + reason).where(partner.notna(), _NO_PARTNER)
        own = weighted[reason_column(metric)]
        effects[metric] = weighted[metric] - reference
        effects[reason_column(metric)] = own.where(own.ne("") | effects[metric].notna(), reason)
    return _table(effects, metrics)


def difference_table(
    cells: pd.DataFrame, metrics: Iterable[str], reference: str = "fixed_seed"
) -> pd.DataFrame:
    """Estimate each cell's difference to the method `reference`, paired by pair and seed.

    `reference` must have one setting per context; where it has none or several, the table is empty.
    """
    plain = cells[is_plain(cells)]
    typed = _has_types(plain)
    rows = []
    for _, part in plain.groupby(CONTEXT, dropna=False):
        base = part[part["method"].eq(reference)]
        if len(base.drop_duplicates(CELL)) != 1:
            continue
        rows += [
            _row(
                cell,
                members,
                edit_type,
                metric,
                paired_difference(_by_image(rows_of, metric), _by_image(base_of, metric)),
            )
            for cell, members in part[~part["method"].isin([reference, *GIVEN])].groupby(CELL, dropna=False)
            for edit_type, rows_of in _edit_types(members, typed)
            for base_of in [base[base["pair_id"].isin(rows_of["pair_id"])]]
            for metric in metrics
        ]
    return _tidy(rows)


def _table(cells: pd.DataFrame, metrics: list[str]) -> pd.DataFrame:
    typed = _has_types(cells)
    return _tidy(
        [
            _row(
                cell,
                members,
                edit_type,
                metric,
                estimate(rows[metric], rows["pair_id"], rows[reason_column(metric)]),
            )
            for cell, members in cells.groupby(CELL, dropna=False)
            # Two settings may be called the same: a picture counts once.
            for edit_type, rows in _edit_types(members.drop_duplicates(RECORD_IDENTITY), typed)
            for metric in metrics
        ]
    )


def _has_types(cells: pd.DataFrame) -> bool:
    """Say whether any pair has an edit type: where none has, the row over all of them is the only one."""
    return bool(cells["edit_type"].ne("").any())


def _edit_types(members: pd.DataFrame, typed: bool) -> list[tuple[str, pd.DataFrame]]:
    types = [(str(name), rows) for name, rows in members.groupby("edit_type")] if typed else []
    return [(ALL, members), *types]


def _row(
    cell: tuple, members: pd.DataFrame, edit_type: str, metric: str, result: Estimate
) -> dict[str, object]:
    noise = members["start_noise"].max()  # one and the same, but for records from before there was the column
    told = {"start_noise": noise, "edit_type": edit_type, "metric": metric}
    return {**dict(zip(CELL, cell)), **told, **asdict(result)}


def _tidy(rows: list[dict[str, object]]) -> pd.DataFrame:
    table = pd.DataFrame(rows, columns=COLUMNS)
    return ordered(
        table.astype(
            dict.fromkeys(WINDOWS, "Int64") | dict.fromkeys(("tau", "strength", "start_noise"), float)
        )
    )


def _by_image(rows: pd.DataFrame, metric: str) -> pd.Series:
    return rows.groupby(["pair_id", "seed"])[metric].mean()


def _partner(rows: pd.DataFrame, candidates: pd.DataFrame, on: list[str]) -> pd.Series:
    """For each row, the index of the candidate that agrees in the columns `on`; NaN where there is none."""
    candidates = candidates.sort_values("key").drop_duplicates(on)
    found = rows[on].merge(candidates[on].assign(_partner=candidates.index), on=on, how="left")
    return found["_partner"].set_axis(rows.index)
