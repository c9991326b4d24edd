"""`overlap_64`, `overlap_512`: share of a run's wall time in the denoiser, which is a stand-in that sleeps.

All else is the real thing, from the plan to the last value: pictures, records, and the embedded metrics. Only
the decoder is left out, as it shares the denoiser's device. Beside it the same with the stages in turn, and
what of the rest is lost once a run, before the denoiser's first call and after its last one, and what at each
picture.
"""

from __future__ import annotations

import math
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from unittest import mock

import torch
from torch import Tensor

from evaluation.clip import Clip
from evaluation.metric import Metric
from evaluation.perceptual import Lpips
from evaluation.pixel import Pixel
from experiments.bench.measuring import Measured, Ratio
from experiments.bench.shapes import SHAPES, model_at, random_pipeline
from experiments.datasets.pair import Pair
from experiments.embedded.training import WEIGHTS
from experiments.executors import worker as worker_module
from experiments.executors.units import plan_units
from experiments.executors.worker import Work, Worker
from experiments.planning.make_plan import plan_of
from experiments.planning.model_facts import ModelFacts
from experiments.planning.plan import NamedMethod, Plan
from experiments.planning.sweep import make_sweep
from experiments.running import generate
from experiments.running.record_rows import RunInfo
from experiments.running.saving import Saver
from experiments.scoring.score_run import evaluate_run
from experiments.scoring.score_stream import ScoreStream
from p2p import FixedSeed, ModelSpec, Sampling, StableDiffusion
from p2p.loading.pipeline_spec import Pipelines
from results.store.records import load

SPEC = ModelSpec("embedded", str(WEIGHTS / "pipeline"), 16, 16, dtype="float32", device="cpu")
SIDES = (64, 512)
KEYS = tuple(
    f"overlap_{side}{part}"
    for part in ("", "_in_turn", "_worker", "_ends_seconds", "_between")
    for side in SIDES
)
GOAL = 0.95
TARGETS = ("dog", "horse", "fox")
STEPS = 10
RUNS = {64: (40, 0.2), 512: (32, 1.0)}
"""By the side of pictures: groups of six pictures, and the seconds that the stand-in takes for a picture."""
QUICK = {64: (1, 0.01), 512: (1, 0.01)}


@dataclass
class Sleeping:
    """A denoiser that sleeps; it keeps when each call began and ended."""

    per_row: float
    calls: list[tuple[float, float]] = field(default_factory=list)

    def __call__(self, sample: Tensor, *_: object, **__: object) -> tuple[Tensor]:
        began = time.perf_counter()
        time.sleep(self.per_row * len(sample))
        self.calls.append((began, time.perf_counter()))
        return (torch.zeros_like(sample),)


@dataclass(frozen=True)
class Taken:
    """Where a run's wall time went, in seconds: in the denoiser, around all of its calls, between these."""

    asleep: float
    ends: float
    between: float

    @classmethod
    def of(cls, began: float, calls: Sequence[tuple[float, float]], ended: float) -> Taken:
        """Return it of a run's beginning and end, and those of the denoiser's calls."""
        asleep = sum(end - begin for begin, end in calls)
        first, last = calls[0][0], calls[-1][1]
        return cls(asleep, first - began + ended - last, last - first - asleep)

    @property
    def share(self) -> float:
        """The share of the run in the denoiser."""
        return self.asleep / (self.asleep + self.ends + self.between)

    def long_enough(self, goal: float) -> float:
        """Return from how many seconds on a run has that share, where its ends take what they took here.

        Infinity where what is lost between the calls is too much for it in a run of any length.
        """
        pace = self.asleep / (self.asleep + self.between)
        return pace * self.ends / (pace - goal) if pace > goal else math.inf


class InTurn(Saver):
    """Saves before the caller goes on."""

    def _put(self, work: Callable[..., None], *given: object) -> None:
        work(*given)


def photo(side: int) -> Tensor:
    """Return a picture (3, side, side) of shades and grain, as slow to encode as a photograph."""
    y, x = torch.meshgrid(torch.linspace(0, 1, side), torch.linspace(0, 1, side), indexing="ij")
    grain = torch.randn(3, side, side, generator=torch.Generator().manual_seed(0)) * 0.02
    return (torch.stack([x, y, (x * y).sqrt()]) * 0.8 + 0.1 + grain).clamp(0, 1)


Way = Callable[[StableDiffusion, Plan, Sequence[Metric], RunInfo], int]
"""How a plan is carried out; returns how many groups failed."""


def overlapping(model: StableDiffusion, plan: Plan, metrics: Sequence[Metric], info: RunInfo) -> int:
    """As a run of one process does."""
    with ScoreStream(info.run_dir, metrics) as scores:
        return generate.run_plan(plan, model, info, Pipelines("cpu"), scores.add)


def in_turn(model: StableDiffusion, plan: Plan, metrics: Sequence[Metric], info: RunInfo) -> int:
    """Make, save and score one after the other."""
    with mock.patch.object(generate, "Saver", InTurn):
        return generate.run_plan(plan, model, info, Pipelines("cpu"))


def by_a_worker(model: StableDiffusion, plan: Plan, metrics: Sequence[Metric], info: RunInfo) -> int:
    """As a worker does whose driver takes no time."""
    worker = Worker()
    with (
        mock.patch.object(ModelSpec, "load", return_value=model),
        mock.patch.object(worker_module, "same_cores", return_value=False),
    ):
        worker.load(Work.of(SPEC, metrics, info, plan))
    failed = sum(worker.carry_out(unit).failed for unit in plan_units(plan))
    worker.end_scoring()
    return failed


def taken(
    model: StableDiffusion, plan: Plan, metrics: Sequence[Metric], sleeping: Sleeping, way: Way
) -> Taken:
    """Carry out a run and return where its wall time went.

    RuntimeError where a picture or a value is missing.
    """
    with tempfile.TemporaryDirectory() as name:
        run_dir = Path(name)
        info = RunInfo(run_dir, "stand-in", "stand-in", run_dir / "cache")
        sleeping.calls.clear()
        began = time.perf_counter()
        failed = way(model, plan, metrics, info)
        failed += evaluate_run(run_dir, metrics, plan.keys())
        ended = time.perf_counter()
        values = load(run_dir)
        reasons = values[[f"reason:{name}" for metric in metrics for name in metric.names]]
        if failed or reasons.isin(["not evaluated"]).any(axis=None):
            raise RuntimeError(f"overlap: {failed} groups failed, or some pictures have no value")
    return Taken.of(began, sleeping.calls, ended)


def measure(runs: Mapping[int, tuple[int, float]], say: Callable[[str], None]) -> Measured:
    """Measure runs as in `RUNS`, each with the stages in turn and overlapping."""
    figures: dict[str, Ratio] = {}
    details: dict[str, object] = {}
    pipeline = random_pipeline(SHAPES["tiny"], "cpu")
    clip = Clip("embedded", None, WEIGHTS / "clip", "cpu", 64)
    lpips = Lpips("embedded", None, WEIGHTS / "lpips", "cpu", 64)
    clip.load()
    lpips.load()
    metrics: list[Metric] = [Pixel("cpu", 64), clip, lpips]
    sampling = Sampling(STEPS, max_batch=16)
    for side, (groups, took) in runs.items():
        model = model_at(pipeline, side // 8)
        facts = ModelFacts("stand-in", model.tokenizers, STEPS, scheduler=model.new_scheduler(STEPS))
        pairs = [Pair(target, "a cat on a bench", f"a {target} on a bench") for target in TARGETS]
        method = NamedMethod("fixed_seed", FixedSeed(), {})  # no other one can do without real attention
        plan = plan_of(make_sweep(pairs, range(groups), [method], facts, sampling))
        pictures = sum(len(group.pictures()) for group in plan.groups)
        sleeping = Sleeping(took * pictures / plan.evaluations)
        decoded = photo(side)

        def decode(latents: Tensor, decoded: Tensor = decoded) -> Tensor:
            return decoded.expand(len(latents), -1, -1, -1)

        with (
            mock.patch.object(pipeline.unet, "forward", sleeping),
            mock.patch.object(StableDiffusion, "decode", lambda _, latents: decode(latents)),
        ):
            one_by_one = taken(model, plan, metrics, sleeping, in_turn)
            worker = taken(model, plan, metrics, sleeping, by_a_worker)
            run = taken(model, plan, metrics, sleeping, overlapping)
        told = {"": run.share, "_in_turn": one_by_one.share, "_worker": worker.share}
        told["_ends_seconds"] = run.ends
        told["_between"] = run.between / (run.asleep + run.between)
        figures |= {f"overlap_{side}{part}": Ratio(value, value, value) for part, value in told.items()}
        long_enough = run.long_enough(GOAL)
        say(
            f"{side} px, {pictures} pictures: {run.share:.3f}, in turn {one_by_one.share:.3f}, "
            f"by a worker {worker.share:.3f}; "
            f"{run.asleep:.1f} s in the denoiser, {run.ends:.2f} s at the ends, {run.between:.2f} s between "
            f"its calls; {GOAL} "
            + ("in no run" if math.isinf(long_enough) else f"in runs of {long_enough:.0f} s and more")
        )
        details |= {f"overlap_{side}_pictures": pictures, f"overlap_{side}_seconds_a_picture": took}
        details[f"overlap_{side}_seconds_to_goal"] = None if math.isinf(long_enough) else long_enough
    return Measured(figures, details)
