"""Which keys a configuration has, and what may stand there: what nothing reads is an error, not silence."""

from __future__ import annotations

import difflib
import math
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import yaml

CONF = Path(__file__).resolve().parents[1] / "conf"
NODES: dict[str, Any] = {
    "model": Mapping,
    "dataset": Mapping,
    "inversion": Mapping | None,
    "grid": Mapping,
    "metrics": Mapping | None,
    "tracking": Mapping | None,
    "sampling": Mapping,
    "auto_tau": Mapping,
    "tables": Mapping,
    "study": Mapping | None,
    "images": Mapping,
}
"""What the nodes of a configuration are; the groups `executor` and `experiment` set keys of others."""
GRID = ("seeds", "methods", "inversions", "drawn")  # the keys of a grid
IMAGES = ("format",)  # the keys of `images`
FLAGS = ("plots", "report", "estimate")


def check_keys(config: Mapping[str, Any]) -> None:
    """Raise ValueError for a key that `+` added and nothing reads, naming the nearest one there is."""
    own = yaml.safe_load((CONF / "config.yaml").read_text(encoding="utf-8"))
    known_keys = [*(str(key) for key in own if key not in ("defaults", "hydra")), *NODES, "shard", "shards"]
    executor = config.get("executor")  # only where it is not this process
    if executor is not None and isinstance(executor, Mapping) and "_target_" in executor:
        known_keys.append("executor")
    elif "executor" in config:
        raise ValueError("executor: has keys with executor=ray alone, as in executor=ray executor.workers=2")
    if missing := sorted(set(known_keys) - set(config)):
        raise ValueError(f"{missing[0]}: is missing, and nothing can be left out of the configuration")
    for key, kinds in NODES.items():
        if not isinstance(config[key], kinds):
            raise ValueError(f"{key}: {config[key]!r} is none of its choices, `p2p-bench ls` lists them")
    for key in ("model", "dataset", "inversion", "tracking", "sampling", "auto_tau", "tables", "study"):
        if isinstance(config[key], Mapping) and "_target_" not in config[key]:
            raise ValueError(f"{key}: {config[key]!r} names no `_target_`, the class that it configures")
    if not isinstance(config["run_dir"], str) or not config["run_dir"]:
        raise ValueError(f"run_dir: {config['run_dir']!r} is no path")
    name = config["name"]
    parts = str(name).split("/")
    if not isinstance(name, str | int | float) or not parts[0] or ".." in parts or set(parts) == {"."}:
        raise ValueError(f"name: {name!r} is no name of a folder in runs/; run_dir=PATH takes any place")
    if not isinstance(config["cache_dir"], str | None):
        raise ValueError(f"cache_dir: {config['cache_dir']!r} is no path, nor null")
    check_flags(config)
    check_numbers(config)
    levels: list[tuple[str, Collection[str], Collection[str]]] = [
        ("", config, known_keys),
        ("grid.", config["grid"], GRID),
        ("images.", config["images"], IMAGES),
    ]
    for key in ("seeds", "methods"):
        if key not in config["grid"]:
            raise ValueError(f"grid.{key}: is missing, a grid has seeds and methods")
    for level, there, known in levels:
        for key in there:
            if key not in known:
                raise ValueError(
                    f"{level}{key}: no key of the configuration{nearest(key, known, level)}; "
                    f"`p2p-bench run --help` shows all"
                )
    check_images(config["images"])
    for name, metric in (config["metrics"] or {}).items():
        if not (isinstance(metric, Mapping) and "_target_" in metric):
            raise ValueError(f"metrics.{name}: {metric!r} names no `_target_`, the class of the metric")


def check_numbers(config: Any, path: str = "") -> None:
    """Raise ValueError for a number that is infinite or none, wherever it stands in a configuration."""
    if isinstance(config, float) and not math.isfinite(config):
        raise ValueError(f"{path}: {config!r} is not a finite number")
    parts = dict(enumerate(config)) if isinstance(config, list) else config
    for name, part in parts.items() if isinstance(parts, Mapping) else ():
        check_numbers(part, f"{path}.{name}" if path else str(name))


def named_by_text(config: Any) -> Any:
    """Return a configuration whose numbers for names are texts: `weights={2: 3}` is of the word "2".

    Any other name stays as it is, and is refused where a word is asked for.
    """
    if isinstance(config, list):
        return [named_by_text(part) for part in config]
    if not isinstance(config, Mapping):
        return config
    number = (int, float)
    texts = {name: str(name) for name in config if isinstance(name, number) and not isinstance(name, bool)}
    return {texts.get(name, name): named_by_text(part) for name, part in config.items()}


def check_flags(config: Mapping[str, Any]) -> None:
    """Raise ValueError for a switch that is neither on nor off."""
    for key in FLAGS:
        if not isinstance(config[key], bool):
            raise ValueError(f"{key}: {config[key]!r} is not true or false")


def check_images(images: Mapping[str, Any]) -> None:
    """Raise ValueError where a configuration does not say in which format pictures are saved."""
    from results.store.picture_files import FORMATS

    chosen = images.get("format")
    if chosen not in FORMATS:
        raise ValueError(f"images.format: {chosen!r} is not one of {', '.join(FORMATS)}")


def check_objective(names: Any) -> tuple[str, ...]:
    """Return the metrics that a sweep looks at, if any. Raises ValueError for what is no name."""
    chosen = [] if names is None else names if isinstance(names, list) else [names]
    if any(not isinstance(name, str) or not name for name in chosen):
        raise ValueError(f"objective: {names!r} is no metric, as in lpips_embedded@1, nor a list of them")
    return tuple(chosen)


def nearest(word: str, known: Collection[str], level: str = "") -> str:
    """Return ", did you mean" and the known word that is nearest, "" where none is near."""
    near = difflib.get_close_matches(word, [str(name) for name in known], 1)
    return f", did you mean {level}{near[0]}" if near else ""
