"""Auto tau: of the taus a sweep has made, the one that each pair and seed keeps, by a target or an objective.

A selection on rows, after the metrics: nothing is generated for it. Hertz et al. 2022, Sec. 3.2, leave tau to
the user; how much of the source an edit may change is easier to state than a number of steps.
"""

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import pandas as pd

from results.labels import escape_markdown, method_label
from results.spelling import spell_json
from results.store.records import RECORD_IDENTITY, WINDOWS, metric_columns, reason_column
from results.store.row_files import read_rows, write_plan_rows, write_rows
from results.store.run_folder import RunFolder
from results.tables.cells import CONTEXT

CHOSEN_TAU, TARGET_MISSED = "chosen_tau", "target_missed"
NO_VALUE = "auto tau: no value to choose by"
CANDIDATE_TYPES = dict.fromkeys((*RECORD_IDENTITY, "params", "rule"), "string") | {"tau": "float64"}
CHOSEN_TYPES = {
    **dict.fromkeys((*CONTEXT[:4], "pair_id", "method", "params", "rule", "key", "warning"), "string"),
    "seed": "int64",
    CHOSEN_TAU: "float64",
    TARGET_MISSED: "boolean",
}
_MOST = 5  # warnings that the summary spells out
_ADDED = ["warning", TARGET_MISSED, reason_column(TARGET_MISSED), reason_column(CHOSEN_TAU)]
_EACH = [*CONTEXT, "pair_id", "seed", "method", "params_but_tau", "rule"]  # of which one tau is chosen


@dataclass(frozen=True)
class Target:
    """A bound that the edit has to keep, e.g. LPIPS to the source at most 0.2."""

    metric: str
    at_most: float | None = None
    at_least: float | None = None

    def __post_init__(self) -> None:
        bounds = {"at_most": self.at_most, "at_least": self.at_least}
        given = {name: bound for name, bound in bounds.items() if bound is not None}
        if len(given) != 1:
            raise ValueError(f"target of {self.metric!r}: {bounds} given, allowed is one of them")
        for name, bound in given.items():
            number = isinstance(bound, int | float) and not isinstance(bound, bool)
            if not number or not abs(bound) <= sys.float_info.max:
                raise ValueError(f"target of {self.metric!r}: {name} {bound!r} is not a finite number")

    @property
    def label(self) -> str:
        """The target as tables show it."""
        sign, bound = ("≤", self.at_most) if self.at_least is None else ("≥", self.at_least)
        return f"{self.metric} {sign} {bound:g}"

    def excess(self, values: pd.Series) -> pd.Series:
        """Return by how much each value breaks the bound; 0 or less where it is kept."""
        return self.at_least - values if self.at_most is None else values - self.at_most


@dataclass(frozen=True)
class AutoTau:
    """What `tau: auto` means: the taus to make, and the rule by which a pair and seed keeps one of them.

    With a target alone, the largest tau (the freest edit) that meets the target is kept. With `maximise` it
    is the tau with the largest value of that metric, among the taus that meet the target if there is one; of
    equal values, the smaller tau.
    """

    taus: Sequence[float]
    target: Target | None = None
    maximise: str | None = None

    def __post_init__(self) -> None:
        for tau in self.taus:
            if isinstance(tau, bool) or not isinstance(tau, int | float) or not 0 <= tau <= 1:
                raise ValueError(f"taus: {tau!r} is not a number in [0, 1]")
        if not self.taus:
            raise ValueError("taus: none given, at least one is needed")
        if self.target is None and self.maximise is None:
            raise ValueError("target and maximise: neither is given, at least one is needed")

    @property
    def label(self) -> str:
        """The rule as tables show it."""
        bound = self.target.label if self.target else ""
        if self.maximise is None:
            return bound
        return f"max {self.maximise}" + (f" where {bound}" if bound else "")

    @property
    def metrics(self) -> list[str]:
        """The metrics whose values decide."""
        return [name for name in (self.target and self.target.metric, self.maximise) if name]

    def check(self, names: Sequence[str], directions: Mapping[str, bool]) -> None:
        """Raise ValueError where a metric is not of the run's `names`, or is not better that way round."""
        for key, metric, up in self._wanted():
            if metric not in names:
                there = ", ".join(names) or "none, as the run has no metrics"
                raise ValueError(f"{key}: {metric!r} is no metric of this run, allowed are {there}")
            if metric not in directions:
                raise ValueError(
                    f"{key}: {metric!r} has no better direction, allowed are {', '.join(directions)}"
                )
            if directions[metric] != up:
                better = [name for name, higher in directions.items() if higher == up]
                raise ValueError(
                    f"{key}: {metric!r} is better where it is {'higher' if directions[metric] else 'lower'}, "
                    f"allowed are {', '.join(better) or 'none of this run'}"
                )

    def _wanted(self) -> list[tuple[str, str, bool]]:
        wanted = []
        if self.target:
            bound = "at_most" if self.target.at_least is None else "at_least"
            wanted.append((f"auto_tau.target.{bound}", self.target.metric, self.target.at_most is None))
        if self.maximise:
            wanted.append(("auto_tau.maximise", self.maximise, True))
        return wanted

    def choose(self, rows: pd.DataFrame) -> tuple[object, bool]:
        """Return the index of one row's choice, and whether the target is missed; None without any value.

        `rows` are one pair and seed: a column `tau` and one per metric. Where no tau meets the target it is
        the one nearest to it.
        """
        rows = rows.dropna(subset=self.metrics).sort_values("tau", kind="stable")
        if not len(rows):
            return None, False
        if self.target:
            excess = self.target.excess(rows[self.target.metric])
            if not (excess <= 0).any():
                return excess.idxmin(), True
            rows = rows[excess <= 0]
        return (rows[self.maximise].idxmax() if self.maximise else rows.index[-1]), False

    def to_json(self) -> str:
        """Return the rule as text, as candidates keep it."""
        return json.dumps(asdict(self), sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> "AutoTau":
        """Return the rule of `to_json`."""
        fields = json.loads(text)
        target = Target(**fields["target"]) if fields["target"] else None
        return cls(fields["taus"], target, fields["maximise"])


def write_candidates(run_dir: Path, candidates: pd.DataFrame) -> Path:
    """Keep which images a choice is made from, so that it can be made again from the run folder alone.

    Returns the path of their file. Columns `CANDIDATE_TYPES`: the identity of a record, its tau, its other
    parameters and the rule (JSON).
    """
    return write_plan_rows(RunFolder(run_dir).candidates, candidates, CANDIDATE_TYPES)


def load_candidates(run_dir: Path) -> pd.DataFrame:
    """Return the candidates of every plan that was run in this folder; empty where none had `tau: auto`."""
    files = sorted(RunFolder(run_dir).candidates.glob("*.parquet"))
    return read_rows(files, CANDIDATE_TYPES).drop_duplicates(ignore_index=True)


def chosen_rows(frame: pd.DataFrame, candidates: pd.DataFrame) -> pd.DataFrame:
    """Return a row per pair, seed and rule: the chosen record, its method's name with "_auto_tau" behind it.

    `frame` is `results.store.records.load`'s. More columns: `chosen_tau`, `target_missed` (1.0 or 0.0), each
    with its reasons, `rule` (JSON) and `warning`. `tau` and the windows are empty, as they differ
    from row to row, and `params` tell the rule, so that it is one cell of a table. A candidate without a
    record is not there yet; where none of a pair and seed has a value, its row is a failed one.
    """
    renamed = candidates.rename(columns={"tau": CHOSEN_TAU, "params": "params_but_tau"})
    rows = frame.merge(renamed.astype(frame.dtypes[RECORD_IDENTITY]), on=RECORD_IDENTITY)
    rows = rows.assign(tau=rows[CHOSEN_TAU].astype(float))
    groups = rows.groupby(_EACH, sort=False, dropna=False)
    chosen = [_chosen_row(members, metric_columns(frame)) for _, members in groups]
    made = pd.DataFrame(chosen, columns=[*rows.columns, *_ADDED]).astype(frame.dtypes)
    made = made.assign(tau=float("nan"), **dict.fromkeys(WINDOWS, pd.NA)).astype(
        dict.fromkeys(WINDOWS, "Int64")
    )
    return made.assign(method=made["method"] + "_auto_tau").reset_index(drop=True)


def labelled(cells: pd.DataFrame) -> pd.DataFrame:
    """Add `label`, which tells rules apart, to chosen rows that have their cells (`with_cells`)."""
    context = [name for name in CONTEXT if cells[name].nunique() > 1]
    labels = [
        f"{', '.join([method_label(cell['method']), *map(str, cell[context])])}: {cell['setting']}"
        for _, cell in cells.iterrows()
    ]
    return cells.assign(label=pd.Series(labels, cells.index, "string"))


def _chosen_row(members: pd.DataFrame, metrics: Sequence[str]) -> pd.Series:
    """Choose among the candidates of one pair and seed."""
    rule = AutoTau.from_json(members["rule"].iloc[0])
    for name in set(rule.metrics) - set(metrics):  # nothing of it has been evaluated yet
        members = members.assign(**{name: float("nan")})
    index, missed = rule.choose(members)
    row = members.loc[members.index[0] if index is None else index].copy()
    unknown = int(members[rule.metrics].isna().any(axis=1).sum())
    row["warning"] = _warning(rule, row, missed, unknown, len(members))
    row[TARGET_MISSED] = float(missed) if rule.target else float("nan")
    row[reason_column(TARGET_MISSED)] = "" if rule.target else "no target is stated"
    row[reason_column(CHOSEN_TAU)] = ""
    params = {**json.loads(row["params_but_tau"]), "auto_tau": rule.label}
    row["params"] = spell_json(params)
    if index is None:
        row["status"], row["error"], row["image"] = "failed", NO_VALUE, ""
        for name in (*metrics, CHOSEN_TAU, TARGET_MISSED):
            row[name], row[reason_column(name)] = float("nan"), NO_VALUE
    return row


def describe(chosen: pd.DataFrame) -> str:
    """Say in Markdown, per rule, how often each tau was chosen, and which images have a warning.

    `chosen` is `labelled`'s.
    """
    lines = []
    for label, rows in chosen.groupby("label", sort=False):
        counts = rows[CHOSEN_TAU].value_counts().sort_index()
        taus = ", ".join(f"{tau:g} ({count})" for tau, count in counts.items()) or "none"
        lines.append(f"{escape_markdown(label)}: chosen {taus}.")
        missed = int(rows[TARGET_MISSED].eq(1).sum())
        lines += [f"{missed} of {len(rows)} images miss the target at every τ."] if missed else []
        warned = rows[rows["warning"].ne("")]
        lines += [
            f"- {escape_markdown(row.pair_id)}, seed {row.seed}: {escape_markdown(row.warning)}"
            for row in warned.head(_MOST).itertuples()
        ]
        lines += [f"- and {len(warned) - _MOST} more: auto_tau/chosen.parquet"] if len(warned) > _MOST else []
    return "".join(f"{line}\n" for line in lines)


def write_chosen(run_dir: Path, chosen: pd.DataFrame) -> Path:
    """Write what was chosen, one row per pair, seed and rule; return the file."""
    path = RunFolder(run_dir).chosen
    write_rows(path, chosen[list(CHOSEN_TYPES)].astype(CHOSEN_TYPES), CHOSEN_TYPES)
    return path


def _warning(rule: AutoTau, row: pd.Series, missed: bool, unknown: int, of: int) -> str:
    if unknown == of:
        return NO_VALUE
    texts = []
    if missed and rule.target:
        metric = rule.target.metric
        texts.append(f"target missed: {metric} is {row[metric]:.4g} at the nearest tau, {row[CHOSEN_TAU]:g}")
    if unknown:
        texts.append(f"{unknown} of {of} taus have no value to choose by")
    return "; ".join(texts)
