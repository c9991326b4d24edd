"""Score the saved pictures of a run: every record without a value gets one, or a reason."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from tqdm import tqdm

from evaluation.edits import Edits
from evaluation.metric import Metric
from experiments.generate import read_png
from results.records import load_metrics, load_records, write_metrics


def check_metrics(metrics: Sequence[Metric]) -> None:
    """Raise in one line where a metric's weights cannot be had, or two metrics give the same column."""
    names = [name for metric in metrics for name in metric.names]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(f"metrics: {', '.join(twice)} would be computed twice, allowed is once")
    for metric in metrics:
        metric.check()


def evaluate_run(run_dir: Path, metrics: Sequence[Metric], batch_size: int = 64) -> int:
    """Compute what is missing, group by group, from the 8-bit pictures; return the number of images scored.

    Only successful records are scored. Values that are there stay.
    """
    records = load_records(run_dir)
    records = records[records["status"] == "ok"].drop_duplicates("key")
    known = load_metrics(run_dir)
    todo = []
    for metric in metrics:
        done = known[known["metric"].isin(metric.names)].groupby("key")["metric"].nunique()
        whole = set(done[done == len(metric.names)].index)
        todo += [(metric, rows[~rows["key"].isin(whole)]) for _, rows in records.groupby("group", sort=False)]
    todo = [(metric, rows) for metric, rows in todo if len(rows)]
    scored: set[str] = set()
    for metric, rows in tqdm(todo, desc="evaluating", unit="group", disable=not todo):
        for start in range(0, len(rows), batch_size):
            part = rows.iloc[start : start + batch_size]
            write_metrics(run_dir, metric.name, str(part["group"].iloc[0]), score(run_dir, metric, part))
            scored |= set(part["key"])
    return len(scored)


def score(run_dir: Path, metric: Metric, rows: pd.DataFrame) -> pd.DataFrame:
    """Return long rows (key, metric, value, reason) of one metric family for some records."""
    sources = list(dict.fromkeys(rows["source_image"]))
    edits = Edits(
        images=_load(run_dir, rows["image"]),
        source_images=_load(run_dir, sources),
        source_index=torch.tensor([sources.index(path) for path in rows["source_image"]]),
        source_prompts=tuple(map(str, rows["source_prompt"])),
        target_prompts=tuple(map(str, rows["target_prompt"])),
    )
    parts = [
        pd.DataFrame(
            {
                "key": rows["key"].to_numpy(),
                "metric": name,
                "value": scores.values.numpy(),
                "reason": scores.reasons,
            }
        )
        for name, scores in metric(edits).items()
    ]
    return pd.concat(parts, ignore_index=True)


def _load(run_dir: Path, paths: Sequence[str]) -> torch.Tensor:
    return torch.from_numpy(np.stack([read_png(run_dir / path) for path in paths]))
