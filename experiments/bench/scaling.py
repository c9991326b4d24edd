"""`workers_speedup`: two workers beside one, of one thread each; and how many workers a sweep has work for.

Workers are `experiments.executors.worker`'s in processes of their own, without Ray. What they took for their
units, and to start, goes into a simulated run of 101,500 edits, shared out as a real one would be.
"""

from __future__ import annotations

import multiprocessing
import os
import random
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from evaluation.clip import Clip
from evaluation.metric import Metric
from evaluation.perceptual import Lpips
from evaluation.pixel import Pixel
from experiments.bench.measuring import Measured, Ratio
from experiments.datasets.pair import Pair
from experiments.embedded.training import WEIGHTS
from experiments.executors.units import (
    Unit,
    costliest_first,
    makespan,
    parted_units,
    plan_units,
    scoring_units,
)
from experiments.executors.worker import Work, Worker
from experiments.planning.make_plan import plan_of
from experiments.planning.model_facts import ModelFacts
from experiments.planning.plan import NamedMethod, Plan
from experiments.planning.sweep import make_sweep
from experiments.running.record_rows import RunInfo
from experiments.scoring.score_run import to_score
from p2p import ModelSpec, PromptToPrompt, Sampling, SDEdit

KEYS = ("workers_speedup", "workers_idle", "scaling_whole_1024", "scaling_parted_1024")
SPEC = ModelSpec("embedded", str(WEIGHTS / "pipeline"), 16, 16, dtype="float32", device="cpu")
TAUS = [number / 20 for number in range(20)]
STRENGTHS = [number / 10 for number in range(1, 10)]
WORKERS = (1, 64, 256, 1024, 4096)
WORKER = Worker()  # of this process, which is a worker's
SLOWER = 20  # evaluations of a larger model, as many times as long, beside those that were measured


@dataclass(frozen=True)
class Took:
    """What workers took."""

    start: float  # seconds until the last of them could work
    wall: float  # from then until the last one ended
    units: list[tuple[int, float]]  # cost and seconds of each unit, with its share of the scoring

    def idle(self, workers: int) -> float:
        """Return the share of so many workers' time that they were at no unit."""
        return 1 - sum(seconds for _, seconds in self.units) / (workers * self.wall)


def sweep(pairs: int, seeds: int, steps: int) -> Plan:
    """Return a plan of 29 edits for each pair and seed."""
    sampling = Sampling(steps, 7.5)
    animals = ("dog", "cat", "fox", "bear")
    named = [
        Pair(f"{number}", f"a {animals[number % 4]} and a ball {number}", f"a lion and a ball {number}")
        for number in range(pairs)
    ]
    methods = [NamedMethod("p2p", PromptToPrompt(tau=tau), {"tau": tau}) for tau in TAUS]
    methods += [NamedMethod("sdedit", SDEdit(strength), {"strength": strength}) for strength in STRENGTHS]
    return plan_of(make_sweep(named, range(seeds), methods, ModelFacts.of(SPEC, steps), sampling))


def _load(work: Work, all_there: Any) -> None:
    """Become a worker, and wait for the others."""
    torch.set_num_threads(1)
    WORKER.load(work)
    all_there.wait()


def _carry_out(unit: Unit, todo: Sequence[pd.DataFrame] = ()) -> tuple[int, float]:
    done = WORKER.carry_out(unit, todo)
    if done.failed:
        raise RuntimeError(f"workers: {done.failed} groups failed")
    return unit.cost, done.seconds


def carried_out(plan: Plan, count: int) -> Took:
    """Make and score a plan with `count` workers."""
    context = multiprocessing.get_context("spawn")
    metrics: list[Metric] = [
        Pixel("cpu", 64),
        Clip("embedded", None, WEIGHTS / "clip", "cpu", 64),
        Lpips("embedded", None, WEIGHTS / "lpips", "cpu", 64),
    ]
    with tempfile.TemporaryDirectory() as name:
        info = RunInfo(Path(name), "bench", SPEC.name, Path(name) / "cache")
        work = Work.of(SPEC, metrics, info, plan)
        units = costliest_first(plan_units(plan))
        began = time.perf_counter()
        with ProcessPoolExecutor(count, context, _load, (work, context.Barrier(count))) as pool:
            wait([pool.submit(time.perf_counter) for _ in range(count)])
            loaded = time.perf_counter()
            took = list(pool.map(_carry_out, units))
            todo = to_score(info.run_dir, metrics, plan.keys())
            scoring = scoring_units(todo, count)
            scored = list(pool.map(_carry_out, scoring, [unit.records(todo) for unit in scoring]))
            ended = time.perf_counter()
    share = sum(seconds for _, seconds in scored) / sum(plan.costs)  # of an evaluation
    return Took(loaded - began, ended - loaded, [(cost, made + cost * share) for cost, made in took])


def simulated(units: Sequence[Unit], took: Took, workers: int, slower: float) -> float:
    """Return the seconds of a run whose evaluations take `slower` times those of units that were measured.

    Units are given by their cost, as nobody knows before how long they will take.
    """
    draw = random.Random(0)
    rates = [seconds / cost for cost, seconds in took.units]
    seconds = [unit.cost * draw.choice(rates) * slower for unit in costliest_first(units)]
    return makespan(seconds, workers, took.start)


def measure(groups: int, edits: int, rounds: int, say: Callable[[str], None]) -> Measured:
    """Compare two workers with one on so many groups, in turn, and simulate a run of so many edits."""
    os.environ["OMP_NUM_THREADS"] = "1"
    small = sweep(groups, 1, 20)  # of which tau 0.95 leaves one to inject in
    speedups, idle, one = [], [], Took(0.0, 0.0, [])
    for _ in range(rounds):
        one, two = carried_out(small, 1), carried_out(small, 2)
        speedups.append(one.wall / two.wall)
        idle.append(two.idle(2))
        say(
            f"one {one.wall:.1f} s, two {two.wall:.1f} s, of which at no unit {idle[-1]:.3f}, after "
            f"{one.start:.1f} and {two.start:.1f} s"
        )
    large = sweep(max(1, edits // 145), 5, 50)
    whole = plan_units(large)
    rows, figures = [], {"workers_speedup": Ratio.of(speedups), "workers_idle": Ratio.of(idle)}
    alone = {slower: simulated(whole, one, 1, slower) for slower in (1, SLOWER)}
    for workers in WORKERS:
        ways = {"whole": whole, "parted": parted_units(large, workers)[1]}
        for slower in alone:
            row: dict[str, float] = {"slower": slower, "workers": workers}
            for name, units in ways.items():
                ends = simulated(units, one, workers, slower)
                share = alone[slower] / ends / workers
                row |= {f"{name}_hours": ends / 3600, f"{name}_efficiency": share}
                if workers == 1024 and slower == SLOWER:
                    figures[f"scaling_{name}_1024"] = Ratio(share, share, share)
            rows.append(row)
            say(", ".join(f"{key} {value:.3f}" for key, value in row.items()))
    return Measured(figures, {"scaling": rows, "scaling_edits": large.images, "scaling_start": one.start})
