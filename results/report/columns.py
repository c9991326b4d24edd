"""What the page's scripts read: a run's rows as columns of plain values, ready for JSON.

`cells` are table rows (a method with its setting), `edits` pictures, `pairs` prompts, `scenes` what one card
of the gallery holds: a pair's source and all its edits with one seed. Numbers of tables are those of
`results.tables`; nothing is averaged here.
"""

import math
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any

import pandas as pd

from results.labels import escape_latex, method_label, metric_label
from results.report.scenes import PAIR, distinct_pairs, scene_columns
from results.report.thumbnails import ONLY_THUMBNAIL, thumbnail_path
from results.store.records import RECORD_IDENTITY, WINDOWS, reason_column
from results.tables.cells import CELL, CONTEXT, GIVEN, is_plain, made_elsewhere, ordered
from results.tables.table_files import decimals_of, win_rates

_SERIES = [name for name in CELL if name not in ("tau", "strength", *WINDOWS, "setting")]
_NUMBERS = ["mean", "low", "high"]
TITLES = {
    "main": "All settings",
    "reweighted": "Re-weighted edits",
    "reweight": "Effect of re-weighting",
    "difference_to_fixed_seed": "Difference to the fixed seed",
    "difference_to_baseline": "Difference to the baseline",
    "wins": "Share of pairs that are better",
    "pie": "PIE-Bench's columns, as published",
}
"""The tables that the page shows, by name; each in the order of the choice."""
_DIFFERENCES = ("difference_to_fixed_seed", "difference_to_baseline")


def numbered(cells: pd.DataFrame) -> pd.DataFrame:
    """Return rows in the tables' order, with the number of their cell and of their series (`cell`, `series`).

    A series is what one curve or slider runs along: a method with all but its tau, strength or windows.
    """
    rows = ordered(cells).reset_index(drop=True)
    return rows.assign(
        cell=rows.groupby(CELL, sort=False, dropna=False).ngroup(),
        series=rows.groupby(_SERIES, sort=False, dropna=False).ngroup(),
    ).drop_duplicates(["cell", *RECORD_IDENTITY], ignore_index=True)


def cell_columns(rows: pd.DataFrame) -> dict[str, list[Any]]:
    """Return a cell per entry: its series, label, place on the series' slider, windows as shares of steps."""
    cells = rows.drop_duplicates("cell")
    series = list(cells["series"])
    along = {number: _along(part) for number, part in cells.groupby("series")}
    steps = cells["effective_steps"].clip(lower=1)
    windows = {name: (cells[name].astype("Float64") / steps).round(4) for name in WINDOWS}
    return {
        "series": series,
        "setting": list(cells["setting"]),
        "latex": [escape_latex(setting) for setting in cells["setting"]],
        "at": [_number(row[along[row["series"]]]) for _, row in _with_none(cells).iterrows()],
        **{name: [_number(share) for share in shares] for name, shares in windows.items()},
        "tau": [_number(tau) for tau in cells["tau"]],
    }


def series_columns(rows: pd.DataFrame) -> dict[str, list[Any]]:
    """Return a series per entry: method, label, what its slider runs along, whether it is plain or given."""
    cells = rows.drop_duplicates("cell")
    named = rows if made_elsewhere(rows).all() else rows[~made_elsewhere(rows)]
    varying = [name for name in CONTEXT if name != "dataset" and named[name].nunique(dropna=False) > 1]
    varying += ["dataset"] if rows["dataset"].nunique() > 1 else []
    first = cells.drop_duplicates("series")
    labels = [_series_label(row, varying) for _, row in first.iterrows()]
    along = {number: _along(part) for number, part in cells.groupby("series")}
    return {
        "method": list(first["method"]),
        "name": [method_label(method) for method in first["method"]],
        "label": labels,
        "latex": [escape_latex(label) for label in labels],
        "along": [{"": "", "tau": "τ", "strength": "strength"}[along[number]] for number in first["series"]],
        "plain": [bool(plain) for plain in is_plain(first)],
        "given": [method in GIVEN for method in first["method"]],
        "uses_mask": list(first["uses_mask"]),
        "inversion": list(first["inversion"]),
        "model": list(first["model"]),
        "dataset": list(first["dataset"]),
    }


def metric_columns(metrics: Sequence[str], directions: Mapping[str, bool]) -> list[dict[str, Any]]:
    """Return for each metric its name, its label, and whether higher is better (None where neither is)."""
    return [{"name": name, "label": metric_label(name), "up": directions.get(name)} for name in metrics]


def edit_columns(rows: pd.DataFrame, metrics: Sequence[str], broken: Mapping[str, str]) -> dict[str, Any]:
    """Return a picture per entry; `pairs` and `scenes` with them. `broken`: why a file cannot be shown.

    Metric values have six digits. A missing value is None, and `reasons` tells why: metric, reason, pictures.
    """
    rows = rows[rows["status"].eq("ok")].reset_index(drop=True)
    pairs, pair_of = distinct_pairs(rows)
    folders, names = ([str(path).rpartition("/")[part] for path in rows["image"]] for part in (0, 2))
    folder_list = list(dict.fromkeys(folders))
    warnings = list(dict.fromkeys(text for text in rows["warnings"] if text))
    thumbs = [
        _short(thumbnail_path(image, digest)) if broken.get(image) in (None, ONLY_THUMBNAIL) else None
        for image, digest in zip(rows["image"], rows["image_sha256"])
    ]
    edits = {
        "cell": list(rows["cell"]),
        "pair": pair_of,
        "seed": [int(seed) for seed in rows["seed"]],
        "key": [str(key)[:16] for key in rows["key"]],
        "folder": _indexes(folders, folder_list),
        "file": list(names),
        "thumb": thumbs,
        "seconds": [_number(seconds) for seconds in rows["seconds"]],
        "warning": [warnings.index(text) if text else None for text in rows["warnings"]],
        "mask": list(rows["mask"]) if rows["mask"].ne("").any() else None,
    }
    values = {name: [_number(value) for value in rows[name]] for name in metrics}
    reasons = [
        [name, str(reason), [int(place) for place in part.index]]
        for name in metrics
        for reason, part in rows[rows[name].isna()].groupby(reason_column(name))
    ]
    return {
        "pairs": {name: [str(value) for value in pairs[name]] for name in PAIR},
        "folders": folder_list,
        "warnings": warnings,
        "edits": edits,
        "values": values,
        "reasons": reasons,
        "scenes": scene_columns(rows, pair_of),
    }


def table_columns(
    made: Mapping[str, pd.DataFrame], rows: pd.DataFrame, directions: Mapping[str, bool]
) -> list[dict[str, Any]]:
    """Return each of `results.summary.run_tables`' tables: its metrics, decimals, and rows as columns."""
    parts = {"reweighted": made["main"][~is_plain(made["main"])], **made}
    parts["main"] = made["main"][is_plain(made["main"])]
    differences = next((made[name] for name in _DIFFERENCES if name in made), None)
    if differences is not None:
        parts["wins"] = win_rates(differences)
    cells = rows.drop_duplicates("cell")
    number_of = _cell_numbers(cells)
    return [
        _table(name, parts[name], number_of, directions)
        for name in TITLES
        if name in parts and len(parts[name])
    ]


def comparison_rows(comparison: pd.DataFrame) -> list[dict[str, Any]]:
    """Return `results.tables.published.compare`'s rows for a table of HTML."""
    texts = comparison.astype(object).where(comparison.notna(), None)
    return [
        {
            **{str(name): value for name, value in row.items()},
            "label": method_label(str(row["method"])),
            "of": ", ".join(
                str(row[name])
                for name in ("published_method", "published_inversion", "published_setting")
                if row[name]
            ),
        }
        for row in texts.to_dict("records")
    ]


def _table(
    name: str,
    table: pd.DataFrame,
    number_of: Callable[[pd.DataFrame], list[int]],
    directions: Mapping[str, bool],
) -> dict[str, Any]:
    metrics = list(dict.fromkeys(table["metric"]))
    baselines = list(dict.fromkeys(table["baseline"])) if "baseline" in table else []
    titled = ": " + "; ".join(baselines) if name == "difference_to_baseline" else ""
    place = {metric: number for number, metric in enumerate(metrics)}
    return {
        "name": name,
        "title": TITLES[name] + titled,
        "baseline": "; ".join(baselines),
        "metrics": [
            {
                "name": metric,
                "latex": escape_latex(metric),
                "label": metric_label(metric),
                "up": True if name == "wins" else directions.get(metric.split(" ×")[0]),
                "decimals": decimals_of(table.loc[table["metric"].eq(metric), "mean"]),
            }
            for metric in metrics
        ],
        "cell": number_of(table),
        "edit_type": [str(edit_type) for edit_type in table["edit_type"]],
        "metric": [place[metric] for metric in table["metric"]],
        **{column: [_exact(value) for value in table[column]] for column in _NUMBERS},
        **{column: [int(value) for value in table[column]] for column in ("n", "n_images", "n_missing")},
        "reasons": [dict(counts) for counts in table["reasons"]],
    }


def _cell_numbers(cells: pd.DataFrame) -> Callable[[pd.DataFrame], list[int]]:
    """Return what finds the numbers of a table's cells; NaN equals NaN."""
    numbers = {
        _identity(row): int(number) for row, number in zip(cells[CELL].to_numpy(object), cells["cell"])
    }
    return lambda table: [numbers[_identity(row)] for row in table[CELL].to_numpy(object)]


def _identity(row: Sequence[Any]) -> tuple[Hashable, ...]:
    return tuple(
        None if pd.isna(value) else value if isinstance(value, str) else float(value) for value in row
    )


def _along(cells: pd.DataFrame) -> str:
    """Name the column that a series' slider runs along, "" where its settings only stand in order."""
    for name in ("strength", "tau"):
        if cells[name].notna().all() and not cells["method"].isin([*GIVEN, "fixed_seed"]).any():
            return name
    return ""


def _series_label(row: pd.Series, varying: Sequence[str]) -> str:
    """Name a series: its method, what differs in it from other series, and where its pictures come from."""
    label = method_label(row["method"])
    parts = [row["variant"], f"weights {row['weighting']}" if row["weighting"] else ""]
    if row["setup"] != "":
        parts += [_context(name, row[name]) for name in varying]
    elif row["method"] == "source":
        parts += ["as given"]
    return ", ".join(part for part in (label, *parts) if part)


def _context(name: str, value: object) -> str:
    """Spell a part of a context; numbers say what they are."""
    if value == "" or pd.isna(value):
        return ""
    words = {
        "num_inference_steps": "{} steps",
        "guidance_scale": "guidance {}",
        "guidance_rescale": "rescale {}",
    }
    shown = f"{value:g}" if isinstance(value, float) else str(value)
    return words.get(name, "{}").replace("{}", shown)


def _with_none(cells: pd.DataFrame) -> pd.DataFrame:
    return cells.assign(**{"": None})


def _indexes(values: Sequence[str], distinct: Sequence[str]) -> list[int]:
    places = {value: place for place, value in enumerate(distinct)}
    return [places[value] for value in values]


def _short(thumbnail: str) -> str:
    """Return a thumbnail's name without its folder and suffix, which the page adds."""
    return thumbnail.removeprefix("thumbnails/").removesuffix(".webp")


def _number(value: Any) -> float | int | None:
    """Return a number in six digits, None for one that is missing or not finite, which JSON lacks."""
    exact = _exact(value)
    return None if exact is None else float(f"{exact:.6g}")


def _exact(value: Any) -> float | None:
    if value is None or pd.isna(value) or not math.isfinite(value):
        return None
    return float(value)
