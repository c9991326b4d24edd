"""What Hydra's errors say of a configuration that cannot be composed, in one line."""

from __future__ import annotations

import sys

import yaml
from hydra.errors import HydraException, MissingConfigException
from omegaconf.errors import OmegaConfBaseException

from experiments.config_keys import CONF, nearest
from experiments.options import GROUPS

PLUGINS = {
    "hydra/sweeper=optuna": "optuna",
    "hydra/launcher=submitit_slurm": "slurm",
    "hydra/launcher=submitit_local": "slurm",
    "hydra/launcher=joblib": "joblib",
    "hydra/launcher=ray": "ray",
}
"""Which extra brings what Hydra itself lacks."""


def of_hydra(error: BaseException) -> bool:
    """Say whether an error was raised in Hydra's own code, whose errors are not all HydraExceptions."""
    if isinstance(error, HydraException | OmegaConfBaseException):
        return True
    last = error.__traceback__
    while last is not None and last.tb_next is not None:
        last = last.tb_next
    module = last.tb_frame.f_globals.get("__name__", "") if last else ""
    return str(module).startswith(("hydra.", "omegaconf.", "antlr4."))


def told_of_hydra(error: BaseException) -> str:
    """Return in one line why a configuration could not be composed, and the nearest thing there is."""
    return printable(_composing(error))


def printable(text: str) -> str:
    """Return a text with its control characters spelled out, so that it stays one line."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def _composing(error: BaseException) -> str:
    if isinstance(error, MissingConfigException) and error.missing_cfg_file:
        group, _, name = str(error.missing_cfg_file).rpartition("/")
        if extra := PLUGINS.get(f"{group}={name}"):
            return f"{group}={name}: needs the extra {extra}: pip install 'p2p-bench[{extra}]'"
        options = error.options or sorted(file.stem for file in (CONF / group).glob("*.yaml"))
        near, allowed = nearest(name, options), ", ".join(options)
        return f"{group}={name}: there is none{near}, allowed are {allowed}"
    cause = error.__cause__
    if isinstance(cause, KeyError | AttributeError) and isinstance(cause, OmegaConfBaseException):
        level, _, key = str(cause.full_key or "").rpartition(".")
        known = [*map(str, cause.parent_node or ()), *(() if level else GROUPS)]
        level = f"{level}." if level else ""
        return f"{level}{key}: no key of the configuration{nearest(key, known, level)}"
    told = " ".join(line.strip() for line in str(error).splitlines() if line and "https:" not in line)
    if isinstance(cause, OmegaConfBaseException):  # a mapping in a list's place, or a list in a mapping's
        told += f" ({str(cause).splitlines()[0]})"
    if "group override" in told or isinstance(error, TypeError):  # Hydra does not say which
        given = [one.lstrip("+").partition("=") for one in sys.argv]
        numbers = [f"{key}={value}" for key, _, value in given if key in GROUPS and not _is_name(value)]
        return f"{', '.join(numbers)}: is not a name of those that `p2p-bench ls` lists"
    if override := getattr(error, "override", None):
        key = str(override).partition("=")[0]
        return f"{override}: {told} (a text with signs in it needs quotes of its own: '{key}=\"...\"')"
    return told


def _is_name(value: str) -> bool:
    """Say whether a value reads as a name, or as a list of names."""
    try:
        read = yaml.safe_load(value)
    except yaml.YAMLError:
        return True
    return all(isinstance(one, str) for one in (read if isinstance(read, list) else [read]))
