"""Pictures scored while others are made, on a thread of their own: all that wait go together."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pandas as pd

from evaluation.metric import Metric
from experiments.scoring.score_run import (
    BATCH,
    parted,
    read_edits,
    start_values,
    value_rows,
    with_source_digests,
)
from p2p.families.model import Model
from results.store.records import metric_files, metric_rows, scored_keys
from results.store.row_files import RowFiles

_log = logging.getLogger(__name__)


def same_cores(model: Model) -> bool:
    """Say whether metrics beside the denoiser would take its cores, so that they had better come after it."""
    return model.device.type == "cpu"


class ScoreStream:
    """Scores the pictures of the records that it is given, as a context; at most `batch_size` go together.

    The caller never waits for it. The end of the context waits for what is being computed, and for what waits
    where that is one batch at most: its pictures are read once for all metrics. More than that is left, as it
    is where the context's body raises, and as is what could not be scored: `evaluate_run` computes what is
    missing, shows how far it is, and tells of failures.
    """

    def __init__(self, run_dir: Path, metrics: Sequence[Metric], batch_size: int = BATCH) -> None:
        self.run_dir, self.metrics, self.batch_size = run_dir, metrics, batch_size
        self._thread = ThreadPoolExecutor(1, "scoring")
        self._files: list[tuple[Metric, RowFiles]] = []
        self._merging = ExitStack()
        self._known: set[str] | None = None  # keys that have values, or that were given before; not read yet
        self._waiting: list[Mapping[str, Any]] = []
        self._ends = False

    def __enter__(self) -> ScoreStream:
        return self

    def __exit__(self, kind: type[BaseException] | None, *error: Any) -> None:
        self._ends = kind is not None or len(self._waiting) > self.batch_size
        try:
            self._thread.shutdown(cancel_futures=self._ends)
        except BaseException:  # a signal, while it waits
            self._ends = True
            self._thread.shutdown(wait=False, cancel_futures=True)
            raise
        self._merging.__exit__(kind, *error)

    def add(self, records: Sequence[Mapping[str, Any]]) -> None:
        """Take records of pictures that are on the disk."""
        if self._known is None:
            names = [metric.names for metric in self.metrics]
            self._known = set().union(*(whole for whole, _ in scored_keys(self.run_dir, names)))
        new = {row["key"]: row for row in records if row["key"] not in self._known}
        self._known.update(new)
        self._waiting.extend(new.values())
        for _ in range(0, len(new), self.batch_size):
            self._thread.submit(self._score)

    def _score(self) -> None:
        """Score what waits by now, which is more the further scoring is behind."""
        records = self._waiting[: self.batch_size]
        del self._waiting[: self.batch_size]
        if not records:
            return
        try:
            for rows in parted(with_source_digests(pd.DataFrame(records)), self.batch_size):
                edits = read_edits(self.run_dir, rows)
                for metric, files in self._opened():
                    if self._ends:
                        return
                    values = value_rows(metric, edits, rows["key"])
                    files.gather(metric_rows(values, metric.name))
        except Exception:  # whatever it is, `evaluate_run` meets it again, and tells of it
            _log.debug("scoring while generating failed, and is left for later:", exc_info=True)

    def _opened(self) -> list[tuple[Metric, RowFiles]]:
        """Return the metrics and the files of their values, begun with the first of these."""
        if not self._files:
            for metric in self.metrics:
                start_values(self.run_dir, metric)
                files = self._merging.enter_context(metric_files(self.run_dir, metric.name))
                self._files.append((metric, files))
        return self._files
