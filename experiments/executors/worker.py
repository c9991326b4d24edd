"""A worker: loads model and metrics once, then makes and saves units of a plan, and scores pictures.

What is told while it works, records of the log and lines for the terminal, is kept for the driver.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Sequence
from contextlib import ExitStack, redirect_stdout
from dataclasses import dataclass, replace
from io import TextIOBase
from pathlib import Path

import pandas as pd

from evaluation.metric import Metric
from experiments.executors.units import Unit
from experiments.planning.plan import Plan
from experiments.running.generate import check_model, make_groups, pictures_of
from experiments.running.record_rows import RunInfo
from experiments.scoring.score_run import evaluate_records
from experiments.scoring.score_stream import ScoreStream, same_cores
from p2p.devices import exact_float32, resolve_device
from p2p.loading.model_spec import ModelSpec
from p2p.loading.pipeline_spec import Pipelines
from results.store.records import RECORD_TYPES, has_records, load_records

Line = tuple[int, str, str]
"""Level, logger and text of what is told; the logger of a line for the terminal is ""."""


@dataclass(frozen=True)
class Work:
    """All that a worker needs to know; it is sent to each of them once."""

    model: ModelSpec
    metrics: Sequence[Metric]
    info: RunInfo
    plan: Plan  # what is left to make
    earlier: pd.DataFrame  # the records that the store has of it
    folder: Path  # where relative paths start
    level: int = logging.WARNING  # from which on the log is told

    @classmethod
    def of(cls, model: ModelSpec, metrics: Sequence[Metric], info: RunInfo, plan: Plan) -> Work:
        """Return the work of making a plan, and of scoring pictures of its run."""
        none = pd.DataFrame(columns=list(RECORD_TYPES))
        records = load_records(info.run_dir) if has_records(info.run_dir) else none
        device = resolve_device(model.device, elsewhere=True).type
        return cls(
            model=replace(model, device=device),
            metrics=metrics,
            info=info,
            plan=plan,
            earlier=records[records["key"].isin(list(plan.keys()))],
            folder=Path.cwd(),
            level=logging.getLogger("experiments").getEffectiveLevel(),
        )


@dataclass(frozen=True)
class Done:
    """What a worker has made of a unit."""

    failed: int  # groups
    rows: int  # of the denoiser
    seconds: float
    processor_seconds: float  # of all threads of the worker
    lines: list[Line]  # what is left to tell


class Worker:
    """Carries out units; one at a time, while another thread may ask what it has to tell.

    Where metrics have other cores than the denoiser, pictures are scored beside it, also while the next unit
    is made, until `end_scoring`; what a store lacks then is for units to score, and so is all where they have
    the same cores.
    """

    def __init__(self) -> None:
        self._told = _Told()
        self._beside = ExitStack()
        self._scores: ScoreStream | None = None

    def load(self, work: Work) -> list[Line]:
        """Load what the work needs; return what is to tell.

        ValueError and OSError where it cannot be had, or does not fit the plan.
        """
        try:
            os.chdir(work.folder)
        except OSError as error:
            raise OSError(
                f"{work.folder}: is not on {os.uname().nodename} ({error.strerror}); run folder, data "
                "and the folder of the call have to be on a disk that all nodes see"
            ) from error
        self._work = work
        logging.captureWarnings(True)
        logging.getLogger().addHandler(self._told)
        for name in ("experiments", "p2p", "evaluation", "results"):
            logging.getLogger(name).setLevel(work.level)
        exact_float32()
        with redirect_stdout(self._told.stream):
            if work.plan.groups:
                work.model.fetch()
                self._model = work.model.load()
                check_model(work.plan, self._model)
                self._pipelines = Pipelines(self._model.device)
                self._pipelines.load(work.plan.pipelines)
                if not same_cores(self._model):
                    stream = ScoreStream(work.info.run_dir, work.metrics)
                    self._scores = self._beside.enter_context(stream)
            for metric in work.metrics:
                metric.check()
        return self._told.taken()[1]

    def carry_out(self, unit: Unit, todo: Sequence[pd.DataFrame] = ()) -> Done:
        """Make a unit, or score the records that each metric has `todo` of it.

        OSError where nothing more can be written.
        """
        began, processor = time.monotonic(), time.process_time()
        self._told.rows = 0
        with redirect_stdout(self._told.stream):
            if unit.groups:
                failed = self._make(unit)
            else:
                failed = evaluate_records(self._work.info.run_dir, self._work.metrics, todo)
        rows, lines = self._told.taken()
        return Done(failed, rows, time.monotonic() - began, time.process_time() - processor, lines)

    def end_scoring(self) -> list[Line]:
        """End what is scored beside making; return what is to tell."""
        with redirect_stdout(self._told.stream):
            self._beside.close()
        return self._told.taken()[1]

    def told(self) -> tuple[int, list[Line]]:
        """Return the rows of the denoiser that the unit at hand has taken, and what is to tell since."""
        return self._told.taken()

    def _make(self, unit: Unit) -> int:
        work = self._work
        plan = replace(work.plan, groups=tuple(work.plan.groups[place] for place in unit.groups))
        before = work.earlier[work.earlier["key"].isin(list(plan.keys()))]
        info = replace(work.info, recorded=pictures_of(before))
        scored = [self._scores.add] if self._scores else []
        return make_groups(plan, self._model, info, self._pipelines, self._told.count, *scored)


class _Told(logging.Handler):
    """Keeps what is told until it is taken."""

    def __init__(self) -> None:
        super().__init__(logging.NOTSET)
        self.rows = 0
        self.stream = _Lines(self)
        self._lines: list[Line] = []
        self._guard = threading.Lock()

    def emit(self, record: logging.LogRecord) -> None:
        self.add(record.levelno, record.name, record.getMessage())

    def add(self, level: int, logger: str, text: str) -> None:
        with self._guard:
            self._lines.append((level, logger, text))

    def count(self, rows: int) -> None:
        self.rows += rows

    def taken(self) -> tuple[int, list[Line]]:
        """Return the rows so far, and the lines since the last call."""
        with self._guard:
            lines, self._lines = self._lines, []
        return self.rows, lines


class _Lines(TextIOBase):
    """What is printed, line by line."""

    def __init__(self, told: _Told) -> None:
        self._told, self._begun = told, ""

    def write(self, text: str) -> int:
        *lines, self._begun = (self._begun + text).split("\n")
        for line in lines:
            self._told.add(logging.INFO, "", line)
        return len(text)
