"""Tables as tidy frames, one row per cell and metric: main table, re-weighting effects, paired differences.

All take `results.tables.cells.with_cells`' rows. `results.tables.table_files` turns them into CSV and
Markdown, `results.tables.paper_files` into LaTeX.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np
import pandas as pd

from results.labels import method_label, published_name, published_order, published_scale
from results.store.records import RECORD_IDENTITY, WINDOWS, reason_column
from results.tables.cells import ALL, CELL, CONTEXT, GIVEN, SHARED, is_plain, ordered
from results.tables.paper import FIXED_SEED, of_setting
from results.tables.significance import holm, sign_flip_ps, win_rate
from results.tables.statistics import FEWEST_PAIRS, Estimate, Sample, estimates, sample

_ESTIMATED = ["mean", "low", "high", "n", "n_images", "n_missing", "reasons", "spread"]
COLUMNS = [*CELL, "start_noise", "edit_type", "metric", *_ESTIMATED]
DIFFERENCE_COLUMNS = [*COLUMNS, "p", "p_holm", "wins", "wins_low", "wins_high", "baseline"]
_WEIGHT_ONE = "the same edit with weight 1"
_NO_PARTNER = "no row with weight 1 to compare with"


def main_table(cells: pd.DataFrame, metrics: Iterable[str]) -> pd.DataFrame:
    """Estimate every metric in every cell: method x tau (or strength, or windows) x edit type, and "all".

    Returns one row per cell and metric, columns `COLUMNS`.
    """
    return _table(cells, list(metrics))


def by_difficulty(cells: pd.DataFrame) -> pd.DataFrame:
    """Return rows whose edit type is the difficulty of their pair; none where pairs have not at least two.

    `main_table` and `difference_table` part them as they part edit types, `as_difficulty` names the column.
    """
    given = cells["difficulty"].where(cells["difficulty"].ne(ALL), f"'{ALL}'")
    return cells.assign(edit_type=given) if given.nunique() > 1 else cells.iloc[:0]


def as_difficulty(table: pd.DataFrame) -> pd.DataFrame:
    """Name the column that parts a table of `by_difficulty`'s rows."""
    return table.rename(columns={"edit_type": "difficulty"})


def published_table(cells: pd.DataFrame, metrics: Iterable[str]) -> pd.DataFrame:
    """Lay PIE-Bench's columns out as published: their order, their scaling, which the metric's name states.

    Rows are as `main_table` gives them: a mean is over the images that have a value, from `n` pairs. Empty
    where a run has none of PIE-Bench's metrics.
    """
    places = {name: place for name in metrics if (place := published_order(name)) is not None}
    if not places:
        return _tidy([])
    table = main_table(cells, sorted(places, key=lambda name: (places[name], name)))
    factors = table["metric"].map(lambda name: published_scale(name)[0]).astype(float)
    return table.assign(
        metric=table["metric"].map(published_name),
        **{name: table[name].astype(float) * factors for name in ("mean", "low", "high", "spread")},
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
    if weighted.empty:
        return _tidy([])
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
    return _table(effects, metrics).assign(baseline=_WEIGHT_ONE)


def difference_table(
    cells: pd.DataFrame,
    metrics: Iterable[str],
    baseline: str = FIXED_SEED,
    directions: Mapping[str, bool] | None = None,
) -> pd.DataFrame:
    """Estimate each cell's difference to a baseline, paired by pair and seed; DIFFERENCE_COLUMNS.

    `baseline` names a setting as `results.tables.paper.Layout.settings` does. What is of an inversion that
    the baseline lacks is compared with the baseline's only one, as the edits of a real picture have the same
    source. Where there is none, or several, the table has no rows. `p` flips the signs of pairs, from
    FEWEST_PAIRS pairs on, and `p_holm` is corrected over all rows. `wins` is the share of pairs in which the
    cell is better, of metrics whose better direction is in `directions`.
    """
    metrics = list(metrics)
    columns = [*CELL, "cell", "pair_id", "seed", "edit_type", "start_noise", *metrics]
    plain = cells.loc[is_plain(cells), columns].reset_index(drop=True)
    typed = _has_types(plain)
    values = [plain[name].to_numpy(float) for name in metrics]
    pair_of, image = _pairs(plain), plain.groupby(["pair_id", "seed"]).ngroup().to_numpy()
    _, first = np.unique(image, return_index=True)
    pairs = pair_of[first]  # of each image
    given = plain["method"].isin(GIVEN)
    of_baseline = (of_setting(plain, baseline) & ~given).to_numpy()
    shared = plain.groupby(SHARED, dropna=False).ngroup().to_numpy()
    rows: list[dict[str, object]] = []
    samples: list[Sample] = []
    for context in plain.groupby(CONTEXT, dropna=False).indices.values():
        part = np.zeros(len(plain), bool)
        part[context] = True
        is_base = of_baseline & (part if (part & of_baseline).any() else shared == shared[context[0]])
        base = np.flatnonzero(is_base)
        if plain.loc[base, "cell"].nunique() != 1:
            continue
        base_means, base_there = _by_image(values, base, image)
        told = plain.loc[base[0], ["method", "setting"]]
        named = ", ".join(filter(None, (method_label(told["method"]), told["setting"])))
        others = np.flatnonzero(part & ~is_base & ~given.to_numpy())
        for cell, members in _cells(plain, others):
            noise = _noise(plain, members)
            for edit_type, own in _edit_types(plain, members, typed):
                means, there = _by_image(values, own, image)
                compared = there | (base_there & np.isin(pairs, pair_of[own]))
                for number, metric in enumerate(metrics):
                    difference = (means[number] - base_means[number])[compared]
                    samples.append(sample(difference, pairs[compared], _unpaired))
                    wins = _wins(samples[-1].per_pair, (directions or {}).get(metric))
                    rows.append(_row(cell, noise, edit_type, metric) | wins | {"baseline": named})
    per_pair = [one.per_pair for one in samples]
    tested = [values if len(values) >= FEWEST_PAIRS else values[:0] for values in per_pair]
    for row, result, p in zip(rows, estimates(samples), sign_flip_ps(tested), strict=True):
        row |= _estimated(result) | {"p": p}
    table = _tidy(rows, DIFFERENCE_COLUMNS)
    return table.assign(p_holm=holm(list(table["p"])))


def _wins(per_pair: np.ndarray, up: bool | None) -> dict[str, float]:
    """Return a difference's win rate; missing where it is not known which direction is better."""
    rate = (np.nan,) * 3 if up is None else win_rate(per_pair, up)
    return dict(zip(("wins", "wins_low", "wins_high"), rate))


def _table(cells: pd.DataFrame, metrics: list[str]) -> pd.DataFrame:
    cells = cells.reset_index(drop=True)
    typed, pairs = _has_types(cells), _pairs(cells)
    image = cells.groupby(RECORD_IDENTITY, sort=False).ngroup().to_numpy()
    columns = {name: (cells[name].to_numpy(float), cells[reason_column(name)]) for name in metrics}
    rows: list[dict[str, object]] = []
    samples: list[Sample] = []
    for cell, members in _cells(cells, np.arange(len(cells))):
        noise = _noise(cells, members)
        # Two settings may be called the same: a picture counts once.
        once = members[np.sort(np.unique(image[members], return_index=True)[1])]
        for edit_type, own in _edit_types(cells, once, typed):
            for metric, (values, texts) in columns.items():

                def reasons(missing: np.ndarray) -> Iterable[str]:
                    return texts.iloc[own[missing]]  # noqa: B023

                samples.append(sample(values[own], pairs[own], reasons))
                rows.append(_row(cell, noise, edit_type, metric))
    for row, result in zip(rows, estimates(samples), strict=True):
        row |= _estimated(result)
    return _tidy(rows)


def _pairs(cells: pd.DataFrame) -> np.ndarray:
    """Return for each row the number of its pair, in the order of the pairs' names."""
    codes, names = pd.factorize(cells["pair_id"])
    order = np.argsort(np.asarray(names, dtype=object).astype(str))
    rank = np.empty(len(order), np.int64)
    rank[order] = np.arange(len(order))
    return rank[codes]


def _cells(cells: pd.DataFrame, rows: np.ndarray) -> Iterator[tuple[tuple, np.ndarray]]:
    """Yield each cell of some rows, given by their places: its columns, and its rows."""
    columns, number = cells[CELL], cells["cell"].to_numpy()[rows]
    order = np.argsort(number, kind="stable")
    for own in np.split(rows[order], np.flatnonzero(np.diff(number[order])) + 1):
        if len(own):
            yield tuple(columns.iloc[own[0]]), own


def _has_types(cells: pd.DataFrame) -> bool:
    """Say whether any pair has an edit type: where none has, the row over all of them is the only one."""
    return bool(cells["edit_type"].ne("").any())


def _edit_types(cells: pd.DataFrame, rows: np.ndarray, typed: bool) -> list[tuple[str, np.ndarray]]:
    """Part a cell's rows, given by their places, by edit type; all of them come first."""
    if not typed:
        return [(ALL, rows)]
    types = cells["edit_type"].iloc[rows].reset_index(drop=True)
    return [
        (ALL, rows),
        *((str(name), rows[own]) for name, own in sorted(types.groupby(types).indices.items())),
    ]


def _unpaired(missing: np.ndarray) -> Iterable[str]:
    return ["no partner with a value"] * int(missing.sum())


def _noise(cells: pd.DataFrame, rows: np.ndarray) -> float:
    """Return a cell's share of noise: one and the same, but for records from before there was the column."""
    return float(cells["start_noise"].iloc[rows].max())


def _row(cell: tuple, noise: float, edit_type: str, metric: str) -> dict[str, object]:
    return {**dict(zip(CELL, cell)), "start_noise": noise, "edit_type": edit_type, "metric": metric}


def _estimated(result: Estimate) -> dict[str, object]:
    return {name: getattr(result, name) for name in _ESTIMATED}


def _tidy(rows: list[dict[str, object]], columns: list[str] = COLUMNS) -> pd.DataFrame:
    table = pd.DataFrame(rows, columns=columns)
    typed = table.astype(
        dict.fromkeys(WINDOWS, "Int64") | dict.fromkeys(("tau", "strength", "start_noise"), float)
    )
    return ordered(typed) if rows else typed


def _by_image(
    values: Sequence[np.ndarray], rows: np.ndarray, image: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return each metric's mean by numbered image (metrics, images), and of which images there are rows."""
    count, own = image.max() + 1 if len(image) else 0, image[rows]
    means = np.full((len(values), count), np.nan)
    for mean, column in zip(means, values, strict=True):
        known = ~np.isnan(column[rows])
        number = np.bincount(own[known], minlength=count)
        total = np.bincount(own[known], column[rows][known], minlength=count)
        np.divide(total, number, out=mean, where=number > 0)
    return means, np.bincount(own, minlength=count) > 0


def _partner(rows: pd.DataFrame, candidates: pd.DataFrame, on: list[str]) -> pd.Series:
    """For each row, the index of the candidate that agrees in the columns `on`; NaN where there is none."""
    candidates = candidates.sort_values("key").drop_duplicates(on)
    found = rows[on].merge(candidates[on].assign(_partner=candidates.index), on=on, how="left")
    return found["_partner"].set_axis(rows.index)
