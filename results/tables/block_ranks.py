"""What single blocks do: an edit's metric with one block injected alone, with all but one, and with sets that
grow.

Rows are those of runs whose method has an axis `blocks` (`experiment=block_search`).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass

import pandas as pd

NO = "no-"  # before the name of what is left out


@dataclass(frozen=True)
class BlockMeans:
    """One method's mean of a metric over pairs, by the blocks in which it acts."""

    metric: str
    higher_is_better: bool
    everywhere: float | None  # in all blocks; None: not made
    alone: Mapping[str, float]
    left_out: Mapping[str, float]
    sets: Mapping[frozenset[str], float]  # of several blocks
    pairs: int

    @property
    def names(self) -> list[str]:
        """The blocks that were tried by themselves, alone or left out, in the order of the axis."""
        return list(dict.fromkeys([*self.alone, *self.left_out]))

    def better(self, first: float, second: float) -> bool:
        """Say whether the first value is the better one."""
        return first > second if self.higher_is_better else first < second

    def to_markdown(self) -> str:
        """Return a table: each block alone, left out, and what its absence changes, the best alone first."""
        sign = 1 if self.higher_is_better else -1
        nan = float("nan")
        rows = [["block", "alone", "left out", "changes by leaving out"]]
        for name in sorted(self.names, key=lambda name: -sign * self.alone.get(name, -sign * float("inf"))):
            left = self.left_out.get(name, nan)
            change = left - self.everywhere if self.everywhere is not None else nan
            rows.append(
                [name, *(_number(value) for value in (self.alone.get(name, nan), left)), _signed(change)]
            )
        if self.everywhere is not None:
            rows.append(["all", _number(self.everywhere), "", ""])
        lines = ["| " + " | ".join(row) + " |" for row in rows]
        return "\n".join([lines[0], "|---|---:|---:|---:|", *lines[1:]]) + "\n"


@dataclass(frozen=True)
class Chain:
    """Greedy search as far as the runs go: sets that grow by the best block, and what has to be made next."""

    steps: tuple[tuple[str, float], ...]  # the block that was added, the metric of the set with it
    missing: tuple[tuple[str, ...], ...]  # sets that were not made yet; () where the search is over


def block_means(frame: pd.DataFrame, metric: str, higher_is_better: bool, method: str) -> BlockMeans:
    """Return the means of a run's records: over the seeds of a pair, then over pairs that all settings have.

    Raises ValueError where a run has no such method, metric or axis, or where another axis of the method
    varies, as sets of blocks then differ in more than blocks.
    """
    own = frame[frame["method"].eq(method) & frame["status"].eq("ok")]
    if not len(own):
        there = ", ".join(sorted(set(frame["method"])))
        raise ValueError(f"--method: the run has no edit by {method}, but by {there}")
    if metric not in own or own[metric].isna().all():
        told = ", ".join(name for name in own if "@" in name and not name.startswith("reason:"))
        raise ValueError(f"--metric: the run has no {metric}, but {told}")
    params = own["params"].map(json.loads)
    others = {json.dumps({k: v for k, v in one.items() if k != "blocks"}, sort_keys=True) for one in params}
    if len(others) > 1:
        raise ValueError(f"{method}: more than its blocks varies, allowed is one setting of all else")
    if all("blocks" not in one for one in params):
        raise ValueError(f"{method}: blocks is no axis of this run, see experiment=block_search")
    table = own.assign(blocks=[_spelled(one.get("blocks")) for one in params])
    by_pair = table.pivot_table(index="pair_id", columns="blocks", values=metric, aggfunc="mean")
    common = by_pair.dropna()
    if not len(common):
        raise ValueError(f"{metric}: no pair has it for every set of blocks")
    order = [name for name in dict.fromkeys(table["blocks"]) if name in common]
    means = {name: float(common[name].mean()) for name in order}
    parts = {name: tuple(name.split(" ")) if name else () for name in means}
    single = {name: own for name, own in parts.items() if len(own) == 1}
    return BlockMeans(
        metric,
        higher_is_better,
        means.get(""),
        {name: means[name] for name in single if not name.startswith(NO)},
        {name.removeprefix(NO): means[name] for name in single if name.startswith(NO)},
        {frozenset(own): means[name] for name, own in parts.items() if own and not name.startswith(NO)},
        len(common),
    )


def greedy(means: BlockMeans, most: int) -> Chain:
    """Return the greedy search over the blocks that were tried alone, up to sets of `most`.

    Each step adds the block with which the metric is best; equal values keep the order of the axis. It is
    over where no block makes the metric better.
    """
    chosen: list[str] = []
    steps: list[tuple[str, float]] = []
    names = list(means.alone)
    while len(chosen) < min(most, len(names)):
        trials = [(*chosen, name) for name in names if name not in chosen]
        missing = tuple(trial for trial in trials if frozenset(trial) not in means.sets)
        if missing:
            return Chain(tuple(steps), missing)
        best = trials[0]
        for trial in trials[1:]:
            if means.better(means.sets[frozenset(trial)], means.sets[frozenset(best)]):
                best = trial
        value = means.sets[frozenset(best)]
        if steps and not means.better(value, steps[-1][1]):
            break
        chosen.append(best[-1])
        steps.append((best[-1], value))
    return Chain(tuple(steps), ())


def _spelled(blocks: object) -> str:
    """Return blocks as names apart by a space, "" for all."""
    if blocks is None:
        return ""
    return str(blocks) if isinstance(blocks, str | int) else " ".join(map(str, blocks))  # type: ignore[call-overload]


def _number(value: float) -> str:
    return "" if value != value else f"{value:.4g}"


def _signed(value: float) -> str:
    return "" if value != value else f"{value:+.3g}"
