"""One run of the benchmark from plain objects: checked and planned, made ready, carried out.

`experiments.run` builds a `Job` from the command line; nothing here knows Hydra. What only a part of the work
needs is imported there, so that a plan costs no plotting library and no metric's network.
"""

from __future__ import annotations

import logging
import re
import shlex
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from experiments.datasets.dataset import Dataset
from experiments.datasets.pair import Pair
from experiments.planning.cost import describe, estimate, places
from experiments.planning.grid import merged, spelled_out
from experiments.planning.make_plan import plan_of
from experiments.planning.model_facts import ModelFacts
from experiments.planning.plan import NamedMethod, Plan, expand, shard
from experiments.planning.sweep import Sweep, make_sweep
from p2p.loading.model_spec import ModelSpec
from p2p.methods.external import External
from p2p.sampling import Sampling
from results.spelling import spell_json
from results.tables.auto_tau import AutoTau
from results.tables.cells import GIVEN
from results.tables.paper import USUAL, Layout

if TYPE_CHECKING:
    from evaluation.metric import Metric
    from experiments.executors.on_ray import OnRay
    from experiments.executors.ray_cluster import Cluster
    from experiments.planning.asked import Asked, Progress
    from p2p.families.model import Model
    from p2p.inversion.inversion import Inversion
    from p2p.loading.pipeline_spec import Pipelines
    from results.study.choice import StudyChoice
    from results.summary import Summary

_log = logging.getLogger(__name__)
EMBEDDED = Path(__file__).resolve().parent / "embedded"  # the small models
CROSS, AUTO = "cross_replace_steps", "auto"


@dataclass(frozen=True)
class Job:
    """A configuration as plain objects."""

    run_dir: Path
    model: ModelSpec
    dataset: Dataset
    methods: list[NamedMethod]
    seeds: list[int]
    sampling: Sampling
    metrics: Sequence[Metric]
    tracking: Any
    reference: list[str]
    shard: tuple[int, int]
    auto_tau: AutoTau
    inversions: list[Inversion | None]
    cache_dir: Path
    plots: bool
    config: dict[str, Any]
    tables: Layout = USUAL  # of the LaTeX tables
    objective: tuple[str, ...] = ()  # metrics whose means a sweeper gets
    report: bool = True
    study: StudyChoice | None = None  # what people are to compare at the end
    command: Mapping[str, Any] = field(
        default_factory=dict
    )  # as `write_provenance` keeps it; none where Python made the job
    executor: OnRay | None = None  # None: this process
    image_format: str = "png"  # of pictures, one of `results.store.picture_files.FORMATS`
    drawn: int | None = None  # how many of a method's seeds and settings each pair has; None: all


@dataclass(frozen=True)
class Ready:
    """A job whose inputs were checked and whose model is loaded: what is left can be computed."""

    sweep: Sweep  # of the whole run
    part: Plan  # of this shard
    left: Plan
    model: Model | None  # None where nothing is left, and where workers have it
    pipelines: Pipelines
    cluster: Cluster | None = None  # of workers, where any have something to do

    def close(self) -> None:
        """End the workers, where there are any."""
        if self.cluster is not None:
            self.cluster.close()


def grid_methods(
    grid: Mapping[Any, Any],
    overrides: Mapping[str, Any],
    auto_tau: AutoTau,
    defaults_of: Callable[[str], dict[str, Any]],
    make: Callable[[str, dict[str, Any]], Any],
) -> list[NamedMethod]:
    """Return every method of the grid with every set of its parameters.

    `overrides` (the command line's `tau`, `strength`, ...) replace the grid's axis in every method that has
    the parameter; a list is an axis, as in the grid. `tau: auto` is every tau that `auto_tau` chooses from.
    `defaults_of` gives a method's own configuration by its name, `make` builds a method from a whole one.
    Raises ValueError for what is no parameter of a method.
    """
    methods, used = [], set()
    if not isinstance(grid["methods"], Mapping):
        raise ValueError(f"grid.methods: {grid['methods']!r} does not map methods to their axes")
    for name, axes in grid["methods"].items():
        defaults = defaults_of(str(name))
        parts = axes if isinstance(axes, list) else [{} if axes is None else axes]
        if not all(isinstance(part, Mapping) for part in parts):
            raise ValueError(
                f"grid.methods.{name}: {axes!r} does not map parameters to values, nor is it a list of "
                "mappings that do"
            )
        axes = spelled_out(axes, defaults)
        unknown = {axis for part in expand(axes) for axis in part if axis.split(".")[0] not in defaults}
        if unknown:
            known = ", ".join(key for key in defaults if key != "_target_")
            raise ValueError(
                f"grid.methods.{name}: {', '.join(sorted(unknown))} is no parameter, allowed are {known}"
            )
        chosen = {key: value for key, value in overrides.items() if key in defaults}
        used |= set(chosen)
        dropped = {a for a, b in (("tau", CROSS), (CROSS, "tau")) if b in chosen}
        seen = []
        for params in expand(axes):
            kept = {key: value for key, value in params.items() if key not in dropped}
            for each in ({**kept, **override} for override in expand(chosen)):
                auto = merged(defaults, each).get("tau") == AUTO
                for one in [{**each, "tau": tau} for tau in auto_tau.taus] if auto else [each]:
                    if (told := (spell_json(one), auto)) not in seen:
                        seen.append(told)
                        method = make(f"grid.methods.{name}", merged(defaults, one))
                        rule = auto_tau.to_json() if auto else ""
                        methods.append(NamedMethod(str(name), method, one, rule))
    if missing := set(overrides) - used:
        raise ValueError(f"{', '.join(sorted(missing))}: no method of the grid has this parameter")
    return methods


def check_objective(job: Job) -> None:
    """Raise ValueError where the job could not give its objective."""
    allowed = [name for metric in job.metrics for name in metric.names]
    if unknown := [name for name in job.objective if name not in allowed]:
        raise ValueError(f"objective: {unknown[0]!r} is not computed, allowed are {', '.join(allowed)}")
    if job.objective and job.shard != (0, 1):
        raise ValueError("objective: a shard has a part of the pairs alone, allowed is shard=0/1")
    if job.objective and any(named.auto_tau for named in job.methods):
        raise ValueError("objective: tau=auto chooses by itself, allowed are numbers and windows")


def check_search(job: Job, asked: Sequence[str]) -> None:
    """Raise ValueError where a sweeper looks for other values than the job returns, or for the worst of them.

    `asked` has "minimize" or "maximize" for each value; empty where no sweeper says so.
    """
    if asked and len(asked) != len(job.objective):
        raise ValueError(
            f"objective: {len(job.objective)} metrics, while hydra.sweeper.direction has {len(asked)} "
            f"entries ({', '.join(asked)}); allowed is one for each metric"
        )
    better = directions(job.metrics)
    for metric, way in zip(job.objective, asked):
        right = {True: "maximize", False: "minimize", None: way}[better.get(metric)]
        if way != right:
            raise ValueError(f"hydra.sweeper.direction: {way} for {metric}, allowed is {right}")


def objectives(job: Job, ready: Ready) -> tuple[float, ...]:
    """Return the means that the job's objective asks for. Raises ValueError where one is undefined."""
    if not job.objective:
        return ()
    from experiments.scoring.objective import mean_of_edits

    pictures = ready.part.rows()  # of the whole: a shard has no objective
    return tuple(mean_of_edits(job.run_dir, pictures, metric) for metric in job.objective)


def read_pairs(job: Job) -> Sequence[Pair]:
    """Return the data set's pairs, after checks of what `tau: auto` and tables ask. Raises ValueError."""
    check_objective(job)
    metrics = [name for metric in job.metrics for name in metric.names]
    if any(named.auto_tau for named in job.methods):
        job.auto_tau.check(metrics, directions(job.metrics))
    chosen = [f"{named.name}_auto_tau" for named in job.methods if named.auto_tau]
    methods = [*GIVEN, *(named.name for named in job.methods), *chosen]
    job.tables.check(metrics, list(dict.fromkeys(methods)))
    if (told := of_another_world(metrics, job.model.local_folder())) is not None:
        _log.warning(told)
    return job.dataset.load()


def of_another_world(metrics: Sequence[str], model: Path | None) -> str | None:
    """Say which metrics know pictures of a small model of this repository alone, where the model is none."""
    small = [name for name in metrics if re.search(r"_(embedded|phantoms)\b", name)]
    if not small or (model is not None and model.resolve().is_relative_to(EMBEDDED)):
        return None
    return (
        f"metrics: {small[0]} and others are of this repository's small models, and know their pictures "
        "alone; metrics=standard has CLIP and LPIPS as published"
    )


def sweep_of(job: Job, pairs: Sequence[Pair]) -> Sweep:
    """Return what the whole job asks for; of the model only tokenizers and scheduler are read."""
    return make_sweep(
        pairs,
        job.seeds,
        job.methods,
        ModelFacts.of(job.model, job.sampling.num_inference_steps, any(job.inversions)),
        job.sampling,
        job.inversions,
        job.image_format,
        job.drawn,
    )


def told_plan(job: Job, timed: bool, shards: int = 0) -> str:
    """Return what the plan of this shard costs, what is left of it, and where it would run.

    With `timed` also for how long; only then the model is loaded and tried. With `shards` also what each of
    so many would do, and has done.
    """
    from experiments.running.generate import remaining

    sweep = sweep_of(job, read_pairs(job))
    part = plan_of(sweep, *job.shard)
    left = remaining(part, job.run_dir)
    lines = [describe(part, left), places(job.model, job.metrics)]
    if job.executor is not None:
        lines.append(job.executor.plan(job.model.device))
    if timed:
        lines.append(estimate(job.model, left))
    elif job.model.local_folder() is None:
        lines.append(f"the weights of {job.model.path!r} are not on this machine; `run` fetches them")
    else:
        lines.append("estimate=true loads the model and tells the time")
    return "\n".join([*lines, *(_told_shards(part, job, shards) if shards else [])])


def _told_shards(whole: Plan, job: Job, count: int) -> list[str]:
    """Say in a line of each shard what it does, and what the run folder has of it."""
    from experiments.running.generate import group_states

    ids = [group.id for group in whole.groups]
    states = dict(zip(ids, group_states(whole, job.run_dir), strict=True))
    lines = []
    for index in range(count):
        part = shard(whole, index, count)
        found = Counter(states[group.id] for group in part.groups)
        failed = f", {found['failed']} failed" if found["failed"] else ""
        lines.append(
            f"shard {index}/{count}: {len(part.groups)} groups, {part.evaluations:,} evaluations; "
            f"{found['there']} groups are there{failed}"
        )
    return lines


def make_ready(job: Job) -> Ready:
    """Check all that can be checked before computing, fetch what is missing, plan, load what is needed.

    Nothing is fetched for a job whose pairs cannot be read. Raises ValueError and OSError, each in one line.
    """
    from experiments.running.generate import check_model, remaining
    from experiments.scoring.score_run import check_metrics, unscored
    from p2p.loading.pipeline_spec import Pipelines
    from results.store import upkeep
    from results.store.whole_files import check_files, sweep_partials

    if job.executor is not None:
        job.executor.check(job.model.device)
    pairs = read_pairs(job)
    for line in upkeep.make_ready(job.run_dir):
        _log.warning(line)
    check_files(job.cache_dir)
    sweep_partials(job.cache_dir)
    check_metrics(job.metrics, job.run_dir)
    job.model.fetch()
    for named in job.methods:
        if isinstance(named.method, External):
            named.method.spec.fetch()
    sweep = sweep_of(job, pairs)
    part = plan_of(sweep, *job.shard)
    left = remaining(part, job.run_dir)
    if job.executor is not None:
        waits = left.groups or unscored(job.run_dir, job.metrics, part.keys())
        cluster = job.executor.start(job.model.device) if waits else None
        return Ready(sweep, part, left, None, Pipelines("cpu"), cluster)
    model = job.model.load() if left.groups else None
    pipelines = Pipelines(model.device if model else "cpu")
    if model is not None:
        check_model(left, model)
        pipelines.load(left.pipelines)
    return Ready(sweep, part, left, model, pipelines)


def run(job: Job, ready: Ready, multirun: bool) -> int:
    """Generate what is left, evaluate, summarise; return the number of groups that failed.

    The tables are of the whole plan; of all that is in the store under multirun. A shard leaves them to the
    one that ends last.
    """
    from experiments.planning.asked import asked_for
    from experiments.report import write_beside
    from experiments.running.generate import run_plan
    from experiments.running.provenance import write_provenance
    from experiments.running.record_rows import RunInfo
    from experiments.scoring.score_run import evaluate_run
    from experiments.scoring.score_stream import ScoreStream, same_cores
    from experiments.study import write_at_end
    from results.store.records import has_records, merge_rows
    from results.summary import summarise

    part, sharded = ready.part, job.shard[1] > 1
    print(describe(part, ready.left))
    others = [
        {"method": named.name, **named.method.settings()}
        for named in job.methods
        if isinstance(named.method, External)
    ]
    config = {**job.config, "pipelines": others} if others else job.config
    if job.executor is not None:
        config = {**config, "executor": asdict(job.executor)}
    config = {**config, "tables": asdict(job.tables)}  # for `p2p-bench tables`
    # Written first, for tables of what a killed job has made.
    whole = asked_for(ready.sweep, part, sharded, job.run_dir, (job.dataset.name, job.model.name))
    asked = {**job.command, **whole.names, "metrics": {one.name: list(one.names) for one in job.metrics}}
    write_provenance(job.run_dir, config, job.model.identity(), asked)
    failed = 0
    info = RunInfo(job.run_dir, job.dataset.name, job.model.name, job.cache_dir)
    if ready.cluster is not None:
        from experiments.executors.worker import Work

        with closing(ready.cluster):
            plan, units = ready.cluster.share_out(ready.left)
            work = Work.of(job.model, job.metrics, info, plan)
            failed = ready.cluster.carry_out(work, units, part.keys())
    else:
        if ready.model is not None:
            with ScoreStream(job.run_dir, job.metrics) as scores:
                saved = [] if same_cores(ready.model) else [scores.add]
                failed = run_plan(ready.left, ready.model, info, ready.pipelines, *saved)
        failed += evaluate_run(job.run_dir, job.metrics, part.keys())
    merge_rows(job.run_dir)
    progress = whole.progress(job.run_dir)
    waits = sharded and _leaves_tables(job, whole, progress, failed)
    track(job, part.keys(), multirun)
    if waits or not has_records(job.run_dir):
        print(job.run_dir)
        return failed
    rows: dict[str, Any] = {
        "settings": None if multirun else whole.settings,
        "candidates": None if multirun else whole.candidates,
        "published": job.reference,
        "note": "" if progress.made == progress.planned else f"{progress}, and tables are of these alone.",
    }
    summary = summarise(
        job.run_dir,
        **rows,
        objective=job.objective,
        layout=job.tables,
        draw=job.plots,
        reuse=job.tracking is None,
    )
    print(summary.markdown)
    if job.report:
        shown = {"tables": summary.tables, "baseline": job.tables.baseline, "objective": job.objective}
        write_beside(job.run_dir, **rows, **shown)
    if job.study is not None:
        write_at_end(job.run_dir, job.study, rows["settings"])
    track(job, whole.keys(), multirun, summary)
    if failed:
        print(f"{failed} groups failed; the next call tries them again")
    print(job.run_dir)
    return failed


def track(job: Job, keys: set[str], multirun: bool, summary: Summary | None = None) -> None:
    """Copy what pictures have come to where the job is tracked: all with their summary, or else a shard's.

    A job that is no shard has no copy but that of the whole.
    """
    if job.tracking is None or (summary is None and job.shard[1] == 1):
        return
    from results.store.records import has_records, load
    from results.tracking import Call

    if not has_records(job.run_dir):
        return
    rows = load(job.run_dir) if summary is None else summary.rows
    rows = rows[rows["key"].isin(keys)].reset_index(drop=True)
    words = job.command.get("command")  # none of a job that Python made
    call = Call(
        job.config,
        rows,
        summary.tables if summary else {},
        summary.images if summary else {},
        shlex.join(["p2p-bench", *words]) if words else "",
        job.shard if summary is None else None,
        multirun and job.shard[1] == 1,
    )
    job.tracking.log_run(job.run_dir, call)


def _leaves_tables(job: Job, whole: Asked, progress: Progress, failed: int) -> bool:
    """Print what a shard has done; return whether it leaves the tables to another one.

    The last shard to end finds that each edit of the whole run has failed, or was made and scored.
    """
    from experiments.scoring.score_run import unscored

    index, count = job.shard
    waiting = 0 if progress.waits else unscored(job.run_dir, job.metrics, whole.keys())
    told = [
        f"shard {index} of {count}: ",
        f"{failed} groups failed, the next call tries them again; " if failed else "done; ",
        str(progress),
        f", {waiting} images are not scored" if waiting else "",
    ]
    leaves = progress.waits or waiting > 0
    if leaves:
        told.append("; the last to end makes the tables, ")
        told.append(f"`p2p-bench tables {job.run_dir}` makes them of what is there")
    else:
        told.append("; this one, the last to end, makes the tables")
    print("".join(told))
    return leaves


def directions(metrics: Sequence[Metric]) -> dict[str, bool]:
    """Return for each metric column that has a better direction whether higher is better."""
    return {name: up for metric in metrics for name, up in metric.higher_is_better.items()}
