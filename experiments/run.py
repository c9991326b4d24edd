"""The command line, `p2p-bench run | plan | ls | evaluate | export`; the only file that knows Hydra.

Configs are composed, instantiated into plain objects, and handed to plain functions; no DictConfig goes
further.
"""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import diffusers.utils.logging
import hydra
import pandas as pd
import transformers.utils.logging
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from hydra.types import RunMode
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from evaluation.weights import WeightsUnavailable
from experiments import export
from experiments.datasets.dataset import Dataset
from experiments.planning.cost import describe, estimate
from experiments.planning.grid import merged, spelled_out
from experiments.planning.make_plan import make_plan
from experiments.planning.model_facts import ModelFacts
from experiments.planning.plan import NamedMethod, Plan, expand, shard
from experiments.planning.setting_rows import plan_settings
from experiments.running.generate import check_model, remaining, run_plan
from experiments.running.provenance import write_provenance
from experiments.running.record_rows import RunInfo
from experiments.scoring import score_folder
from experiments.scoring.score_run import check_metrics, evaluate_run
from p2p.denoise import Sampling
from p2p.families import Model
from p2p.inversion import Inversion
from p2p.loading.model_spec import ModelSpec
from p2p.loading.pipeline_spec import Pipelines
from p2p.methods.external import External
from results.store.records import has_records
from results.store.setting_rows import write_settings
from results.summary import summarise
from results.tables.auto_tau import CANDIDATE_TYPES, AutoTau, write_candidates
from results.tables.published import load_reference

CROSS, AUTO = "cross_replace_steps", "auto"
CONF = Path(__file__).resolve().parent.parent / "conf"
GROUPS = (
    "experiment",
    "model",
    "dataset",
    "inversion",
    "method",
    "grid",
    "metrics",
    "executor",
    "tracking",
)
USAGE = """p2p-bench: experiments and benchmarks for Prompt-to-Prompt

  p2p-bench run  [overrides]   make, score and tabulate images; continues where it stood
  p2p-bench plan [overrides]   show what that would cost, and compute nothing
  p2p-bench evaluate FOLDER (--pairs FILE | dataset=...) [--source FOLDER] [metrics=...]
                               score images that any other tool made
  p2p-bench export RUN_DIR OUT [--min METRIC=VALUE ...]
                               write edits as training data of InstructPix2Pix
  p2p-bench ls                 list the experiments, models, data sets, inversions, methods, grids and metrics

Overrides are Hydra's: experiment=tau_sweep, dataset.limit=5, seed=0, -m tau=0,0.2,0.5;
`p2p-bench run --help` shows all keys."""


@dataclass(frozen=True)
class Job:
    """A configuration as plain objects."""

    run_dir: Path
    model: ModelSpec
    dataset: Dataset
    methods: list[NamedMethod]
    seeds: list[int]
    sampling: Sampling
    metrics: list[Any]
    tracking: Any
    reference: list[str]
    shard: tuple[int, int]
    auto_tau: AutoTau
    inversions: list[Inversion | None]
    cache_dir: Path
    config: dict[str, Any]


def main() -> None:
    """Run a subcommand; exit code 1 where something failed, 2 where the input was wrong."""
    logging.getLogger("fontTools").setLevel(logging.WARNING)  # Hydra shows the INFO of every library
    diffusers.utils.logging.disable_progress_bar()
    transformers.utils.logging.disable_progress_bar()
    command = sys.argv[1] if len(sys.argv) > 1 else "--help"
    if command in ("-h", "--help"):
        print(USAGE)
    elif command == "ls":
        print(list_options())
    elif command in ("evaluate", "export"):
        sys.exit(_checked(evaluate if command == "evaluate" else export.main, sys.argv[2:]))
    elif command in ("run", "plan"):
        del sys.argv[1]
        if command == "plan":  # leaves no trace on disk
            sys.argv += [
                "hydra.run.dir=.",
                "hydra.sweep.dir=.",
                "hydra.sweep.subdir=.",
                "hydra.output_subdir=null",
                "hydra/job_logging=none",
                "hydra/hydra_logging=none",
            ]
        hydra.main(version_base="1.3", config_path=str(CONF), config_name="config")(_task(command))()
    else:
        print(
            f"p2p-bench: unknown command {command!r}, allowed are run, plan, ls, evaluate, export",
            file=sys.stderr,
        )
        sys.exit(2)


def _checked(command: Callable[[list[str]], int], arguments: list[str]) -> int:
    """Run a command; what is wrong with its input is one message and exit code 2."""
    try:
        return command(arguments)
    except (ValueError, OSError, WeightsUnavailable, HydraException, OmegaConfBaseException) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


def evaluate(arguments: list[str]) -> int:
    """Score a folder of images with the configured metrics; return the exit code."""
    given, table, overrides = score_folder.parse(arguments)
    allowed = ["metrics", "metrics_device", "reference", *(["dataset"] if table is None else [])]
    for override in overrides:
        if re.split(r"[.=@]", override.lstrip("+~"))[0] not in allowed:
            raise ValueError(f"{override!r}: changes nothing here, allowed are {', '.join(allowed)}")
    with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
        config = hydra.compose("config", overrides)
    plain = OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
    assert isinstance(plain, dict)
    chosen = {key: plain[key] for key in ("metrics", "reference", *(["dataset"] if table is None else []))}
    metrics = list((_instantiate("metrics", chosen["metrics"]) or {}).values())
    published = _reference(chosen["reference"])
    if "unusable_blend_words" in chosen.get("dataset", {}):  # they bound edits, and none is made here
        chosen["dataset"] = {**chosen["dataset"], "unusable_blend_words": "drop"}
    dataset = table or _instantiate("dataset", chosen["dataset"])
    failed = score_folder.score_folder(given, dataset, metrics)
    write_provenance(
        given.run_dir,
        {
            **chosen,
            "evaluate": asdict(given) | {"edits": str(given.edits.resolve())},
            "dataset": asdict(dataset),
        },
        score_folder.MODEL,
    )
    print(summarise(given.run_dir, published=published).markdown)
    print(given.run_dir)
    return 1 if failed else 0


def _task(command: str) -> Any:
    def task(config: DictConfig) -> None:
        multirun = HydraConfig.get().mode == RunMode.MULTIRUN
        try:
            job = build(config)
            whole = prepare(job, fetch=command == "run")
            left = remaining(shard(whole, *job.shard), job.run_dir)
            if command == "plan":
                print(describe(whole, left))
                print(estimate(job.model, left))
                return
            model = job.model.load() if left.groups else None
            pipelines = Pipelines(model.device if model else "cpu")
            if model is not None:
                check_model(left, model)
                pipelines.load(left.pipelines)
        except (ValueError, OSError, WeightsUnavailable) as error:
            print(f"error: {error}", file=sys.stderr)
            if multirun:  # the other jobs go on, and Hydra exits with 1
                raise ValueError(str(error).splitlines()[0]) from None
            sys.exit(2)
        failed = run(job, whole, left, model, pipelines, multirun)
        if failed and multirun:
            raise RuntimeError(f"{failed} groups failed, see the records")
        if failed:
            sys.exit(1)

    return task


def build(config: DictConfig) -> Job:
    """Turn a composed configuration into plain objects. Raises ValueError for what cannot be."""
    try:
        plain = OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
    except OmegaConfBaseException as error:
        raise ValueError(str(error).splitlines()[0]) from error
    assert isinstance(plain, dict)
    made = {
        key: _instantiate(key, plain[key])
        for key in ("model", "dataset", "metrics", "tracking", "sampling", "auto_tau")
    }
    seeds = plain["grid"]["seeds"] if config.seed is None else plain["seed"]
    index, _, count = str(config.shard).partition("/")
    if not (index.isdecimal() and count.isdecimal() and int(index) < int(count)):
        raise ValueError(f"shard: {config.shard} is not i/n with 0 <= i < n")
    return Job(
        run_dir=Path(config.run_dir),
        model=made["model"],
        dataset=made["dataset"],
        methods=_methods(plain, made["auto_tau"]),
        seeds=list(seeds) if isinstance(seeds, list) else [seeds],
        sampling=made["sampling"],
        metrics=list((made["metrics"] or {}).values()),
        tracking=made["tracking"],
        reference=_reference(plain["reference"]),
        shard=(int(index), int(count)),
        auto_tau=made["auto_tau"],
        inversions=_inversions(plain),
        cache_dir=Path(plain["cache_dir"] or Path(config.run_dir).parent / ".cache"),
        config={str(key): value for key, value in plain.items()},
    )


def _reference(names: Any) -> list[str]:
    chosen = [names] if isinstance(names, str) else list(names or [])
    load_reference(chosen)
    return chosen


def _methods(config: Mapping[Any, Any], auto_tau: AutoTau) -> list[NamedMethod]:
    """Return every method of the grid with every set of its parameters.

    The top-level `tau`, `strength`, ... of the command line replace the grid's axis in every method that has
    the parameter; a list is an axis, as in the grid. `tau: auto` is every tau that it chooses from.
    """
    overrides = {
        name: config[name]
        for name in ("operator", "tau", "cross_replace_steps", "self_replace_steps", "weights", "strength")
    }
    overrides = {name: value for name, value in overrides.items() if value is not None}
    methods, used = [], set()
    if not isinstance(config["grid"]["methods"], dict):
        raise ValueError(f"grid.methods: {config['grid']['methods']!r} does not map methods to their axes")
    for name, axes in config["grid"]["methods"].items():
        defaults = _option("method", str(name))
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
                    if (one, auto) not in seen:
                        seen.append((one, auto))
                        method = _instantiate(f"grid.methods.{name}", merged(defaults, one))
                        methods.append(
                            NamedMethod(str(name), method, one, auto_tau.to_json() if auto else "")
                        )
    if missing := set(overrides) - used:
        raise ValueError(f"{', '.join(sorted(missing))}: no method of the grid has this parameter")
    return methods


def _inversions(config: Mapping[Any, Any]) -> list[Inversion | None]:
    """Return the inversions to sweep: those named by command line or grid, or the chosen one."""
    names = config["inversions"] or config["grid"].get("inversions")
    if config["inversion"] is not None and names is not None:
        where = "inversions" if config["inversions"] else "the grid"
        raise ValueError(f"inversion: {where} names inversions already, allowed is inversions=[NAME, ...]")
    if names is None:
        return [_instantiate("inversion", config["inversion"])]
    if isinstance(names, str) or not all(isinstance(name, str) for name in names):
        raise ValueError(f"inversions: {names!r} is not a list of names, as in [ddim, direct]")
    options = [None if name == "none" else _option("inversion", name) for name in names]
    return list(dict.fromkeys(_instantiate("inversions", option) for option in options))


def _instantiate(name: str, node: Any) -> Any:
    try:
        return instantiate(node, _convert_="all") if node is not None else None
    except hydra.errors.InstantiationException as error:
        raise ValueError(f"{name}: {error.__cause__ or error}") from error


def _option(group: str, name: str) -> dict[str, Any]:
    """Return one option of a config group, wherever Hydra's search path has it."""
    for source in HydraConfig.get().runtime.config_sources:
        file = Path(source.path) / group / f"{name}.yaml"
        if source.schema == "file" and file.is_file():
            content = OmegaConf.to_container(OmegaConf.load(file))
            assert isinstance(content, dict)
            return {str(key): value for key, value in content.items()}
    there = ", ".join(sorted(file.stem for file in (CONF / group).glob("*.yaml")))
    where = "grid.methods" if group == "method" else f"{group}s"
    raise ValueError(f"{where}: no {group} {name!r}, allowed are {there}")


def prepare(job: Job, fetch: bool) -> Plan:
    """Check and plan the whole job; of the model only tokenizer and scheduler are loaded.

    With `fetch`, what has to be downloaded is, before anything is computed.
    """
    if any(named.auto_tau for named in job.methods):
        job.auto_tau.check([name for metric in job.metrics for name in metric.names], _directions(job))
    pairs = job.dataset.load()
    if fetch:
        check_metrics(job.metrics, job.run_dir)
        job.model.fetch()
        for named in job.methods:
            if isinstance(named.method, External):
                named.method.spec.fetch()
    return make_plan(
        pairs,
        job.seeds,
        job.methods,
        ModelFacts.of(job.model, job.sampling.num_inference_steps),
        job.sampling,
        job.inversions,
    )


def run(job: Job, whole: Plan, left: Plan, model: Model | None, pipelines: Pipelines, multirun: bool) -> int:
    """Generate what is left, evaluate, summarise; return the number of groups that failed.

    The tables are of the whole plan, whatever shard this is; of all that is in the store under multirun.
    """
    part = shard(whole, *job.shard)
    print(describe(part, left))
    others = [
        {"method": named.name, **named.method.settings()}
        for named in job.methods
        if isinstance(named.method, External)
    ]
    config = {**job.config, "pipelines": others} if others else job.config
    write_provenance(job.run_dir, config, job.model.identity())
    failed = 0
    if model is not None:
        info = RunInfo(job.run_dir, job.dataset.name, job.model.name, job.cache_dir)
        failed = run_plan(left, model, info, pipelines)
    failed += evaluate_run(job.run_dir, job.metrics, part.keys())
    if not has_records(job.run_dir):  # a shard without groups, on a fresh folder
        print(job.run_dir)
        return failed
    settings = plan_settings(whole, job.dataset.name, job.model.name)
    write_settings(job.run_dir, settings)
    candidates = pd.DataFrame(list(whole.candidates), columns=list(CANDIDATE_TYPES))
    if len(candidates):
        write_candidates(job.run_dir, candidates)
    summary = summarise(
        job.run_dir,
        settings=None if multirun else settings,
        candidates=None if multirun else candidates,
        published=job.reference,
    )
    if job.tracking is not None:
        job.tracking.log_run(job.run_dir, job.config, summary.tables, summary.images)
    print(summary.markdown)
    if failed:
        print(f"{failed} groups failed; the next call tries them again")
    print(job.run_dir)
    return failed


def _directions(job: Job) -> dict[str, bool]:
    return {name: up for metric in job.metrics for name, up in metric.higher_is_better.items()}


def list_options() -> str:
    """Return every option of every config group with the first line of its file."""
    lines = []
    for group in GROUPS:
        lines.append(f"{group}:")
        for file in sorted((CONF / group).glob("*.yaml")):
            notes = [
                line[1:].strip()
                for line in file.read_text().splitlines()
                if line.startswith("#") and "@package" not in line
            ]
            lines.append(f"  {file.stem:20} {notes[0] if notes else ''}")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
