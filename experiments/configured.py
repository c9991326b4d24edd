"""A configuration that Hydra composed, made into plain objects, of which a run is a `Job`.

Keys and values are checked on the way; no DictConfig goes further. PyTorch, and all that needs it, is
imported once the configuration has turned out to be sound.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException

from experiments.config_keys import CONF, check_keys, check_objective, named_by_text, nearest
from experiments.config_types import ANSWERS, misfits, named
from experiments.options import options_of
from results.run_keys import CARRIED_OUT, SHOWN

if TYPE_CHECKING:
    from evaluation.metric import Metric
    from experiments.job import Job
    from p2p.inversion.inversion import Inversion
    from p2p.loading.model_spec import ModelSpec

ONE_OF_SHARDS = "shard: is one of the parts that shards= makes, allowed is one of the two"
SHORT_CUTS = ("operator", "tau", "cross_replace_steps", "self_replace_steps", "weights", "strength")
MOVED = {
    "p2p.baselines.FixedSeed": "p2p.FixedSeed",
    "p2p.baselines.SDEdit": "p2p.SDEdit",
    "p2p.denoise.Sampling": "p2p.Sampling",
    "p2p.edits.PromptToPrompt": "p2p.PromptToPrompt",
    "p2p.external.External": "p2p.External",
    "p2p.masactrl.MasaCtrl": "p2p.MasaCtrl",
    "p2p.plug_and_play.PlugAndPlay": "p2p.PlugAndPlay",
    "results.auto_tau.AutoTau": "results.tables.auto_tau.AutoTau",
    "results.auto_tau.Target": "results.tables.auto_tau.Target",
}
"""Where a `_target_` of somebody's YAML is now."""


def job_of(config: DictConfig, elsewhere: bool = False) -> Job:
    """Turn a composed configuration into plain objects. Raises ValueError for what cannot be.

    With `elsewhere` devices need not be on this machine.
    """
    plain = plain_values(config)
    check_keys(plain)
    if plain["shards"] is not None and not elsewhere:
        raise ValueError("shards: stands on the command line alone, as in `p2p-bench run shards=16`")
    if plain["shards"] is not None and config.shard != "0/1":
        raise ValueError(ONE_OF_SHARDS)
    index, _, count = str(config.shard).partition("/")
    if not (index.isdecimal() and count.isdecimal() and int(index) < int(count)):
        raise ValueError(f"shard: {config.shard} is not i/n with 0 <= i < n")
    from experiments.job import Job, grid_methods
    from p2p.devices import resolve_device

    nodes = ("model", "dataset", "tracking", "sampling", "auto_tau", "tables", "study")
    made = {key: instantiated(key, plain[key]) for key in nodes}
    made["model"] = replace(made["model"], carried_over=_carried_over(plain["model"]))
    executor = instantiated("executor", plain.get("executor"))
    elsewhere = elsewhere or (executor is not None and executor.address is not None)
    for spec in filter(None, (made["model"], made["model"].upscaler)):
        resolve_device(spec.device, elsewhere)
    seeds = plain["grid"]["seeds"] if config.seed is None else plain["seed"]
    overrides = {name: plain[name] for name in SHORT_CUTS if plain[name] is not None}
    return Job(
        run_dir=Path(config.run_dir),
        model=made["model"],
        dataset=made["dataset"],
        methods=grid_methods(plain["grid"], overrides, made["auto_tau"], _method_defaults, instantiated),
        seeds=list(seeds) if isinstance(seeds, list) else [seeds],
        sampling=made["sampling"],
        metrics=metrics_of(plain["metrics"], elsewhere),
        tracking=made["tracking"],
        reference=published_names(plain["reference"]),
        shard=(int(index), int(count)),
        auto_tau=made["auto_tau"],
        tables=made["tables"],
        inversions=_inversions(plain),
        cache_dir=Path(plain["cache_dir"] or Path(config.run_dir).parent / ".cache"),
        plots=plain["plots"],
        report=plain["report"],
        study=made["study"],
        command=_command(),
        objective=check_objective(plain["objective"]),
        executor=executor,
        image_format=plain["images"]["format"],
        drawn=plain["grid"].get("drawn"),
        # A tracker tells runs apart by this: a run that is drawn later, or is made elsewhere, is the same.
        config={
            **{key: value for key, value in plain.items() if key not in (*SHOWN, *CARRIED_OUT)},
            "model": _settled(made["model"], plain["model"]),
        },
    )


def _command() -> dict[str, Any]:
    """Return the arguments of p2p-bench that ask for this job alone, and the folder they were given in."""
    told = HydraConfig.get()
    own = [s.path for s in told.runtime.config_sources if s.provider == "command-line" and s.schema == "file"]
    flags = [word for folder in own for word in ("--config-dir", folder)]
    if told.job.config_name != "config":
        flags += ["--config-name", str(told.job.config_name)]
    return {"command": ["run", *flags, *told.overrides.task], "folder": told.runtime.cwd}


def plain_values(config: DictConfig) -> dict[str, Any]:
    """Return a configuration as plain values. Raises ValueError for one that cannot be resolved."""
    try:
        plain = OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
    except OmegaConfBaseException as error:
        told = str(error).splitlines()[0]
        if isinstance(error, MissingMandatoryValue):
            told = f"{error.full_key}: is missing, and has no default"
        raise ValueError(told) from error
    assert isinstance(plain, dict)
    return {str(key): named_by_text(value) for key, value in plain.items()}


def composed(overrides: Sequence[str]) -> dict[str, Any]:
    """Return the values of the configuration with these overrides, where Hydra does not start the command."""
    with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
        return plain_values(hydra.compose("config", list(overrides)))


def _carried_over(config: Mapping[str, Any]) -> list[str]:
    """Return the settings of the model's scheduler that its file states for other weights than the chosen.

    One that the command line names is the user's own word.
    """
    hydra_config = HydraConfig.get()
    file = _option("model", hydra_config.runtime.choices["model"])
    own = file.get("model", file)  # beside a sampling, where the model has one of its own
    stated, chosen = own.get("scheduler_config") or {}, config.get("scheduler_config") or {}
    if own.get("path") in (config.get("path"), "???"):
        return []
    given = {override.lstrip("+").split("=")[0] for override in hydra_config.overrides.task}
    return [
        name
        for name in ("prediction_type", "timestep_spacing")
        if name in stated
        and stated[name] == chosen.get(name)
        and not given & {"model.scheduler_config", f"model.scheduler_config.{name}"}
    ]


def _settled(spec: ModelSpec, config: Mapping[Any, Any]) -> dict[str, Any]:
    """Return a model's configuration with the device and the precision that it comes to."""
    from p2p.devices import resolve_device

    own: dict[str, Any] = {"device": str(resolve_device(spec.device, elsewhere=True)), "dtype": spec.dtype}
    if spec.upscaler is not None:
        own["upscaler"] = _settled(spec.upscaler, config["upscaler"])
    return {**config, **own}


def metrics_of(config: Mapping[str, Any] | None, elsewhere: bool = False) -> list[Metric]:
    """Return the metrics, each on a device of this machine, or with `elsewhere` of any.

    On CUDA float32 is made exact, so that a value does not depend on whether a model was loaded before.
    """
    from p2p.devices import exact_float32, resolve_device

    placed = {}
    for name, node in (config or {}).items():
        placed[name] = node
        if isinstance(node, Mapping) and "device" in node:
            try:
                device = resolve_device(node["device"], elsewhere)
            except ValueError as error:
                raise ValueError(f"metrics.{name}.{error}") from error
            placed[name] = {**node, "device": str(device)}
            if device.type == "cuda":
                exact_float32()
    return [instantiated(f"metrics.{name}", node) for name, node in placed.items()]


def published_names(names: Any) -> list[str]:
    """Return which tables of published numbers are shown. Raises ValueError for a name that is none."""
    from results.tables.published import load_reference

    if not (names is None or isinstance(names, str | list)) or any(
        not isinstance(n, str) for n in names or []
    ):
        raise ValueError(f"reference: {names!r} is not a list of names, as in [pie_bench]")
    chosen = [names] if isinstance(names, str) else list(names or [])
    load_reference(chosen)
    return chosen


def _inversions(config: Mapping[Any, Any]) -> list[Inversion | None]:
    """Return the inversions to sweep: those named by command line or grid, or the chosen one."""
    names = config["grid"].get("inversions") if config["inversions"] is None else config["inversions"]
    if config["inversion"] is not None and names is not None:
        where = "inversions" if config["inversions"] else "the grid"
        raise ValueError(f"inversion: {where} names inversions already, allowed is inversions=[NAME, ...]")
    if names is None:
        return [instantiated("inversion", config["inversion"])]
    if not isinstance(names, list) or not names or not all(isinstance(name, str) for name in names):
        raise ValueError(f"inversions: {names!r} is not a list of names, as in [ddim, direct]")
    options = [None if name == "none" else _option("inversion", name) for name in names]
    return list(dict.fromkeys(instantiated("inversions", option) for option in options))


def instantiated(name: str, node: Any) -> Any:
    """Return the object that a configuration describes. Raises ValueError where it cannot be."""
    target = str(node.get("_target_", "")) if isinstance(node, Mapping) else ""
    if target in MOVED:
        raise ValueError(f"{name}: {target} is now {MOVED[target]}")
    try:
        made = instantiate(node, _convert_="all") if node is not None else None
    except hydra.errors.InstantiationException as error:
        raise ValueError(f"{name}: {_not_made(target, node, error)}") from error
    if target:
        for _, problem in misfits(named(target) or dict, node):
            raise ValueError(f"{name}: {problem}")
        if not hasattr(made, ANSWERS[name.partition(".")[0]]):
            raise ValueError(f"{name}: {target!r} makes no object that serves here")
    return made


def _not_made(target: str, node: Mapping[str, Any], error: Exception) -> str:
    """Return in one line why a class could not be called."""
    cause = error.__cause__ or error
    told = " ".join(str(cause).split("\n"))
    kind = named(target)
    if kind is None:
        return told
    found = re.search(r"unexpected keyword argument '(.+?)'", told)
    if isinstance(cause, TypeError) and found:
        known = [one for one in inspect.signature(kind).parameters if one != "self"]
        return f"{found[1]} is no parameter{nearest(found[1], known)}, allowed are {', '.join(known)}"
    # A class's own check knows more, such as a range, unless it has taken the value apart before.
    for value, problem in misfits(kind, node):
        if not (isinstance(cause, ValueError) and repr(value) in told):
            return problem
    return told


def _method_defaults(name: str) -> dict[str, Any]:
    return _option("method", name)


def _option(group: str, name: str) -> dict[str, Any]:
    """Return one option of a config group, wherever Hydra's search path has it."""
    for source in HydraConfig.get().runtime.config_sources:
        file = Path(source.path) / group / f"{name}.yaml"
        if source.schema == "file" and file.is_file():
            content = OmegaConf.to_container(OmegaConf.load(file))
            assert isinstance(content, dict)
            return {str(key): value for key, value in content.items()}
    folders = [Path(s.path) for s in HydraConfig.get().runtime.config_sources if s.schema == "file"]
    there = sorted(file.stem for file in options_of(group, folders))
    where = "grid.methods" if group == "method" else f"{group}s"
    near = nearest(name, there)
    raise ValueError(f"{where}: no {group} {name!r}{near}, allowed are {', '.join(there)}")
