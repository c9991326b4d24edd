"""Runs beside runs: the same pairs of the same data set, setting by setting, as paired differences.

A setting stands beside the one that agrees with it in every parameter; where none does, in all but windows
and inversion; where each run has one setting of a method, or one at all, beside that one.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from results.labels import arrow, escape_markdown, method_label
from results.store.metric_columns import family_columns, load_columns
from results.store.records import RECORD_IDENTITY, WINDOWS, metric_columns
from results.store.run_folder import RunFolder
from results.summary import run_rows
from results.tables.auto_tau import chosen_rows, load_candidates
from results.tables.cells import CELL, GIVEN, with_cells
from results.tables.significance import holm, sign_flip_p
from results.tables.statistics import FEWEST_PAIRS, WITH_INTERVAL, paired_difference

COLUMNS = (
    *("run", "method", "setting", "of_run", "of_method", "of_setting", "metric", "of_mean", "mean"),
    *("difference", "low", "high", "p", "p_holm", "n", "n_images", "n_alone"),
)
"""`of_...` is the first run's; `n` counts pairs, `n_images` images with a partner, `n_alone` without."""
_RUN = "_run"
_PARAMETERS = ["tau", "strength", "weighting", "variant"]
_LEVELS = (
    ["dataset", "method", "inversion", *WINDOWS, *_PARAMETERS],
    ["dataset", "method", *_PARAMETERS],
    ["dataset", "method"],
    ["dataset"],
)
_VERSIONED = re.compile(r"(.+)@(\d+)")


@dataclass(frozen=True)
class Comparison:
    """Differences to the first run, COLUMNS, and in words what stands beside nothing."""

    table: pd.DataFrame
    alone: tuple[str, ...]
    directions: dict[str, bool]

    def to_markdown(self) -> str:
        """Write a table per setting; the p of all are corrected together."""
        parts = []
        for names, rows in self.table.groupby(
            ["of_run", "of_method", "of_setting", "run", "method", "setting"], sort=False
        ):
            of, own = (
                f"{run}: {', '.join(filter(None, (method_label(method), setting)))}"
                for run, method, setting in (names[:3], names[3:])
            )
            parts.append(f"**{escape_markdown(own)}** against {escape_markdown(of)}")
            lines = [
                "| metric | first | this | difference [95 %] | p | p, Holm | pairs |",
                "|---|---:|---:|---:|---:|---:|---:|",
                *(self._line(row) for row in rows.to_dict("records")),
            ]
            parts.append("\n".join(lines))
        tested = int(self.table["p"].notna().sum())
        parts.append(
            "Over the pairs and seeds that both runs have values for; intervals by bootstrap over pairs, "
            f"{WITH_INTERVAL}; p by flipping the signs of pairs; Holm over all {tested} tests."
        )
        return "\n\n".join([*parts, *(escape_markdown(line) for line in self.alone)]) + "\n"

    def _line(self, row: dict[str, object]) -> str:
        interval = "" if pd.isna(row["low"]) else f" [{row['low']:+.3g}, {row['high']:+.3g}]"
        p, corrected = ("—" if pd.isna(row[name]) else f"{row[name]:.2g}" for name in ("p", "p_holm"))
        metric = f"{escape_markdown(str(row['metric']))} {arrow(str(row['metric']), self.directions)}".strip()
        means = f"{row['of_mean']:.4g} | {row['mean']:.4g} | {row['difference']:+.3g}{interval}"
        return f"| {metric} | {means} | {p} | {corrected} | {row['n']} |"


def compare_runs(run_dirs: Sequence[Path], metrics: Sequence[str] = ()) -> Comparison:
    """Compare each run with the first one, by the metrics that all have, or those named (`ssim@3`, `ssim`).

    ValueError where runs are of other data sets, a pair of one name has other prompts, values of a metric are
    of other versions or weights, and where nothing stands beside anything.
    """
    if len(run_dirs) < 2 or len({Path(one).resolve() for one in run_dirs}) < len(run_dirs):
        raise ValueError("compare: needs two run folders or more, each once")
    names = _names(run_dirs)
    frames = [_rows(run_dir) for run_dir in run_dirs]
    for name, frame in zip(names[1:], frames[1:], strict=True):
        _check_pairs(names[0], frames[0], name, frame)
    chosen = _common_metrics(names, frames, metrics)
    _check_weights(run_dirs, chosen)
    every = pd.concat([frame.assign(**{_RUN: n}) for n, frame in enumerate(frames)], ignore_index=True)
    edits = with_cells(every)
    edits = edits[~edits["method"].isin(GIVEN)]
    cells = edits.drop_duplicates([_RUN, *CELL]).reset_index(drop=True)
    number = edits.merge(cells[[_RUN, *CELL]].assign(_cell=cells.index), on=[_RUN, *CELL])
    rows, alone = [], []
    for other in range(1, len(names)):
        matched = _matched(cells, other)
        alone += _alone(cells, names, other, matched)
        for first, second in matched:
            rows += _differences(number, cells, first, second, names, chosen)
    if not rows:
        told = "; ".join(alone) or "no setting with a pair and a seed that both have values for"
        raise ValueError(f"compare: nothing stands beside anything: {told}")
    table = pd.DataFrame(rows)
    table["p_holm"] = holm(list(table["p"]))
    directions = {name: up for one in run_dirs for name, up in load_columns(one).items() if up is not None}
    return Comparison(table[list(COLUMNS)], tuple(alone), directions)


def _names(run_dirs: Sequence[Path]) -> list[str]:
    """Return what runs are called: their folders' names, or their paths where two have one name."""
    names = [Path(one).resolve().name for one in run_dirs]
    return names if len(set(names)) == len(names) else [str(one) for one in run_dirs]


def _rows(run_dir: Path) -> pd.DataFrame:
    frame, _ = run_rows(run_dir)
    chosen = chosen_rows(frame.drop_duplicates(RECORD_IDENTITY), load_candidates(run_dir))
    return pd.concat([frame, chosen], ignore_index=True) if len(chosen) else frame


def _check_pairs(first: str, of: pd.DataFrame, name: str, frame: pd.DataFrame) -> None:
    """Raise ValueError where two runs are not of the same pairs of the same data sets."""
    here, there = (sorted(set(one["dataset"])) for one in (frame, of))
    if here != there:
        raise ValueError(
            f"{name}: is of data set {', '.join(here)}, {first} of {', '.join(there)}; allowed is the same"
        )
    by, prompts = ["dataset", "pair_id"], ["source_prompt", "target_prompt"]
    edits = [one.loc[~one["method"].isin(GIVEN), by + prompts].drop_duplicates(by) for one in (of, frame)]
    both = edits[0].merge(edits[1], on=by, suffixes=("", "_own"))
    if both.empty:
        raise ValueError(f"{name}: has no pair that {first} has")
    other = both[
        (both[prompts].to_numpy() != both[[f"{name}_own" for name in prompts]].to_numpy()).any(axis=1)
    ]
    if len(other):
        one = other.iloc[0]
        raise ValueError(
            f"{name}: {len(other)} pairs have other prompts than in {first}, as {one['pair_id']!r}: "
            f"{one['target_prompt_own']!r}, not {one['target_prompt']!r}; allowed are runs of the same pairs"
        )


def _common_metrics(names: Sequence[str], frames: Sequence[pd.DataFrame], asked: Sequence[str]) -> list[str]:
    """Return the metrics to compare by: of each the newest version that all runs have."""
    versions = [_versions(frame) for frame in frames]
    there = list(dict.fromkeys(base for one in versions for base in one))
    asked_bases = [_base(name) for name in asked]
    if unknown := [name for name, base in zip(asked, asked_bases, strict=True) if base not in there]:
        raise ValueError(f"--metrics: no run has {unknown[0]}, allowed are {', '.join(there)}")
    chosen = []
    for base in asked_bases or there:
        having = [(name, one[base]) for name, one in zip(names, versions, strict=True) if base in one]
        common = set.intersection(*(found for _, found in having))
        wanted = {_version(name) for name in asked if _base(name) == base} - {""}
        if wanted:
            common &= wanted
        if not common and len(having) > 1:
            told = ", ".join(f"{name} {'@'.join(['', *sorted(found)])}" for name, found in having)
            raise ValueError(
                f"{base}: {told} have no version in common; score them with one version, or leave it out "
                "with --metrics"
            )
        if len(having) == len(frames):
            newest = max(common, key=lambda version: (int(version or 0), version))
            chosen.append(f"{base}@{newest}" if newest else base)
    if not chosen:
        raise ValueError(f"compare: {', '.join(names)} have no metric in common")
    return chosen


def _versions(frame: pd.DataFrame) -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    for name in metric_columns(frame):
        found.setdefault(_base(name), set()).add(_version(name))
    return found


def _base(metric: str) -> str:
    match = _VERSIONED.fullmatch(metric)
    return match[1] if match else metric


def _version(metric: str) -> str:
    match = _VERSIONED.fullmatch(metric)
    return match[2] if match else ""


def _check_weights(run_dirs: Sequence[Path], metrics: Sequence[str]) -> None:
    """Raise ValueError where other weights gave two runs' values of one of the metrics."""
    before: dict[str, tuple[Path, str]] = {}
    for run_dir in run_dirs:
        folder = RunFolder(run_dir)
        end = folder.weights_file("").name
        for file in sorted(folder.metrics.rglob(end)):
            family = file.parent.relative_to(folder.metrics).as_posix()
            digest = file.read_text(encoding="utf-8")
            first = before.setdefault(family, (run_dir, digest))
            if first[1] != digest and family_columns(run_dir, family) & set(metrics):
                raise ValueError(
                    f"{family}: other weights gave the values of {run_dir} than of {first[0]}; score them by "
                    "the same ones, or leave it out with --metrics"
                )


def _matched(cells: pd.DataFrame, other: int) -> list[tuple[int, int]]:
    """Return which cell of the first run stands beside which of another, in the order of the first's."""
    pairs: dict[int, int] = {}
    for level in _LEVELS:
        for _, rows in cells.groupby(level, dropna=False, sort=False):
            mine, theirs = (list(rows.index[rows[_RUN].eq(run)]) for run in (0, other))
            free = len(mine) == len(theirs) == 1 and mine[0] not in pairs
            if free and theirs[0] not in pairs.values():
                pairs[mine[0]] = theirs[0]
    return sorted(pairs.items())


def _alone(
    cells: pd.DataFrame, names: Sequence[str], other: int, matched: Sequence[tuple[int, int]]
) -> list[str]:
    """Say of which settings of two runs none of the other stands beside."""
    lines = []
    taken = {number for pair in matched for number in pair}
    for run, elsewhere in ((0, other), (other, 0)):
        left = cells[cells[_RUN].eq(run) & ~cells.index.isin(taken)]
        told = [", ".join(filter(None, (method_label(row.method), row.setting))) for row in left.itertuples()]
        if told:
            lines.append(f"{names[run]} alone, not {names[elsewhere]}: {'; '.join(dict.fromkeys(told))}")
    return lines


def _differences(
    edits: pd.DataFrame,
    cells: pd.DataFrame,
    first: int,
    second: int,
    names: Sequence[str],
    metrics: Sequence[str],
) -> list[dict[str, object]]:
    rows = []
    of, own = (_by_image(edits[edits["_cell"].eq(number)], metrics) for number in (first, second))
    for metric in metrics:
        difference = own[metric] - of[metric]
        shared = difference.index[np.isfinite(difference)]
        if not len(shared):
            continue
        result = paired_difference(own[metric], of[metric])
        rows.append(
            {
                **_told(cells.loc[second], names, ""),
                **_told(cells.loc[first], names, "of_"),
                "metric": metric,
                "of_mean": of.loc[shared, metric].groupby(level=0).mean().mean(),
                "mean": own.loc[shared, metric].groupby(level=0).mean().mean(),
                "difference": result.mean,
                "low": result.low,
                "high": result.high,
                "p": sign_flip_p(difference) if result.n >= FEWEST_PAIRS else float("nan"),
                "n": result.n,
                "n_images": result.n_images,
                "n_alone": result.n_missing,
            }
        )
    return rows


def _told(cell: pd.Series, names: Sequence[str], prefix: str) -> dict[str, object]:
    told = {"run": names[cell[_RUN]], "method": cell["method"], "setting": cell["setting"]}
    return {f"{prefix}{name}": value for name, value in told.items()}


def _by_image(rows: pd.DataFrame, metrics: Sequence[str]) -> pd.DataFrame:
    """Return a cell's values by (pair_id, seed); a picture that several settings come to counts once."""
    once = rows.drop_duplicates(RECORD_IDENTITY)
    return once.groupby(["pair_id", "seed"])[list(metrics)].mean()
