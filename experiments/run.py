"""The command line, `p2p-bench`: its commands, what Hydra is told, and how errors are shown.

What Hydra composes is made into plain objects (`experiments.configured`) and handed to `experiments.job`.
PyTorch, and all that needs it, is imported once the command line has turned out to be sound.
"""

from __future__ import annotations

import atexit
import logging
import os
import re
import signal
import sys
from collections.abc import Callable
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from tempfile import TemporaryDirectory
from typing import Any

import hydra
import yaml
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException, MissingConfigException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from experiments.config_keys import (
    CONF,
    check_flags,
    check_numbers,
    nearest,
)
from experiments.configured import (
    ONE_OF_SHARDS,
    instantiated,
    job_of,
    metrics_of,
    plain_values,
    published_names,
)
from experiments.options import GROUPS, list_options
from experiments.running.time_limit import TimeUp, ends_when_time_is_up
from results.store.whole_files import no_room

_log = logging.getLogger(__name__)
_failed_jobs: list[str] = []  # of this process's sweep: a sweeper may go on beyond them, and end well
MOST_SHARDS = 1000  # of the jobs of an array SLURM takes 1,001 unless told otherwise (MaxArraySize)
PLUGINS = {
    "hydra/sweeper=optuna": "optuna",
    "hydra/launcher=submitit_slurm": "slurm",
    "hydra/launcher=submitit_local": "slurm",
    "hydra/launcher=joblib": "joblib",
    "hydra/launcher=ray": "ray",
}
"""Which extra brings what Hydra itself lacks."""
USAGE = """p2p-bench: experiments and benchmarks for Prompt-to-Prompt

  p2p-bench run  [overrides]   make, score and tabulate images; continues where it stood
  p2p-bench plan [overrides]   show what that would cost, and compute nothing; estimate=true: the time too
  p2p-bench tables RUN_DIR [--no-plots]
                               make tables, plots and strips again of what the folder holds
  p2p-bench tables RUN_DIR --metrics lpips clip_target --format latex
                               print a table for a paper: chosen metrics and settings, the best marked
  p2p-bench report RUN_DIR     make the report of what the folder holds, a page for a browser
  p2p-bench study RUN_DIR [ANSWERS] [--serve]
                               make the page on which people compare edits; with their answers, what these say
  p2p-bench verify RUN_DIR [--repair] [--delete-orphans]
                               check that all that was asked for is there and whole
  p2p-bench evaluate FOLDER (--pairs FILE | dataset=...) [--source FOLDER] [metrics=...]
                               score images that any other tool made
  p2p-bench export RUN_DIR OUT [--min METRIC=VALUE ...]
                               write edits as training data of InstructPix2Pix
  p2p-bench heat-maps PROMPT [TARGET_PROMPT] --words WORD ...
                               draw where words are attended to
  p2p-bench blocks RUN_DIR --metric METRIC
                               rank the blocks of a run over single blocks, and search for the best set
  p2p-bench compare RUN_DIR RUN_DIR ...
                               differences of runs to the first, over the pairs that both have
  p2p-bench ls [--config-dir FOLDER]
                               list the experiments, models, data sets, inversions, methods, grids and metrics
  p2p-bench ls RUN_DIR ...     list runs, or those in a folder: how far each is, how large, its means
  p2p-bench --version

Overrides are Hydra's: experiment=tau_sweep, dataset.limit=5, seed=0, -m tau=0,0.2,0.5;
`p2p-bench run --help` shows all keys."""


class Terminated(BaseException):
    """SIGTERM: files that are being written are removed on the way out, as with a keyboard's interrupt."""


def main() -> None:
    """Run a subcommand; exit code 1 where something failed, 2 where the input was wrong.

    130 and 143 where the user or the system stopped it (SIGINT, SIGTERM).
    """

    def terminate(*_: object) -> None:
        raise Terminated

    _quiet_libraries()
    before = signal.signal(signal.SIGTERM, terminate)
    try:
        _main()
    except (KeyboardInterrupt, Terminated) as stop:
        elsewhere = any(one.startswith("hydra/launcher=") for one in sys.argv)
        jobs = "; jobs that a cluster has go on until it is told otherwise (scancel)" if elsewhere else ""
        print(f"\nstopped; the same command continues where it stood{jobs}", file=sys.stderr)
        sys.exit(143 if isinstance(stop, Terminated) else 130)
    except BrokenPipeError:  # of a reader that had enough, as in `p2p-bench ls | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for the flush at the end
        sys.exit(1)
    finally:
        signal.signal(signal.SIGTERM, before)


def _main() -> None:
    command = sys.argv[1] if len(sys.argv) > 1 else "--help"
    if command in ("-h", "--help"):
        print(USAGE)
    elif command == "--version":
        print(f"p2p-bench {_version()}")
    elif command == "ls":
        sys.exit(_checked(_ls, sys.argv[2:]))
    elif command in COMMANDS:
        sys.exit(_checked(COMMANDS[command], sys.argv[2:]))
    elif command in ("run", "plan"):
        del sys.argv[1]
        if command == "run":
            sys.argv[1:] = _with_shards(sys.argv[1:])
            _with_hydra(_run)
            return
        with TemporaryDirectory() as folder:  # for the multirun.yaml of Hydra: a plan leaves no trace on disk
            sys.argv += [
                "hydra.run.dir=.",
                f"hydra.sweep.dir='{folder}'",
                "hydra.sweep.subdir=.",
                "hydra.output_subdir=null",
                "hydra/job_logging=none",
                "hydra/hydra_logging=none",
            ]
            _with_hydra(_plan)
    else:
        known = ["run", "plan", "ls", *COMMANDS]
        near, allowed = nearest(command, known), ", ".join(known)
        print(f"p2p-bench: unknown command {command!r}{near}, allowed are {allowed}", file=sys.stderr)
        sys.exit(2)


def _with_shards(arguments: list[str]) -> list[str]:
    """Return the arguments with `shards=n` spelled out: a multirun with a job for each of n shards."""
    given = [one.removeprefix("shards=") for one in arguments if one.startswith("shards=")]
    if not given or given[-1] == "null":
        return arguments
    try:
        if any(one.startswith("shard=") for one in arguments):
            raise ValueError(ONE_OF_SHARDS)
        count = _shard_count(int(given[-1]) if given[-1].isdecimal() else given[-1])
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    each = ",".join(f"{index}/{count}" for index in range(count))
    rest = [one for one in arguments if not one.startswith("shards=")]
    return [*rest, f"shard={each}", *([] if {"-m", "--multirun"} & {*rest} else ["-m"])]


def _shard_count(count: Any) -> int:
    """Return how many shards are asked for, 0 for none. Raises ValueError for what is no such number."""
    if count is None:
        return 0
    if isinstance(count, bool) or not isinstance(count, int) or not 1 <= count <= MOST_SHARDS:
        raise ValueError(f"shards: {count!r} is not a whole number from 1 to {MOST_SHARDS}")
    return count


def _with_hydra(task: Callable[[DictConfig], Any]) -> None:
    """Compose the configuration of the command line and give it to the task, or each of several."""
    os.environ.setdefault("HYDRA_FULL_ERROR", "1")  # errors reach us, and are told in one line
    _failed_jobs.clear()
    try:
        hydra.main(version_base="1.3", config_path=str(CONF), config_name="config")(task)()
    except JobFailed as failure:  # under multirun; told where it happened, which may be another machine
        if failure.process != os.getpid():
            _tell_job(str(failure))
        sys.exit(1)
    except Exception as error:
        if type(error).__module__.startswith("submitit."):  # of a job that left no result
            told, _, rest = str(error).partition("\n---")  # then what it printed, or a traceback and where
            cause = [line.strip() for line in rest.splitlines() if re.match(r"\S+(Error|Exception)\b", line)]
            _tell_job(" ".join([*told.splitlines(), *cause[-1:]]).removesuffix(" Error stream produced:"))
            sys.exit(1)
        if isinstance(error, HydraException | OmegaConfBaseException) or _of_hydra(error):
            print(f"error: {_printable(_composing(error))}", file=sys.stderr)
        elif isinstance(error, OSError):  # of Hydra, which makes the run folder first
            print(f"error: {error}; is the folder writable, with space left?", file=sys.stderr)
        else:
            raise
        sys.exit(2)
    if _failed_jobs:
        told = f"{len(_failed_jobs)} jobs failed, the first: {_failed_jobs[0]}"
        print(f"error: {_printable(told)}", file=sys.stderr)
        sys.exit(1)


def _tell_job(failure: str) -> None:
    """Say what became of a job elsewhere, and how to learn of the other shards: Hydra tells of the first."""
    shards = any(one.startswith("shard=0/") for one in sys.argv)
    more = "; `p2p-bench plan` with the same arguments tells what each shard has done" if shards else ""
    print(f"error: {_printable(failure)}{more}", file=sys.stderr)


class JobFailed(Exception):
    """A job of a multirun could not be run, or groups of it failed: why, and in which process."""

    def __init__(self, text: str, process: int) -> None:
        super().__init__(text, process)
        self.process = process

    def __str__(self) -> str:
        return str(self.args[0])


def _job_failed(text: str) -> JobFailed:
    """Return the failure of this job of a multirun, with its number, and its output where it has a file.

    Under submitit its process will end with exit code 1: Hydra hands failures on as results, so that SLURM
    would call the job COMPLETED.
    """
    job, folder = HydraConfig.get().job, os.environ.get("SUBMITIT_FOLDER", "")
    if folder:
        atexit.register(_end_with_one)
        text += f"; it printed to {folder.replace('%j', str(job.id))}"
    _failed_jobs.append(f"job {job.num}: {text}")
    return JobFailed(f"job {job.num}: {text}", os.getpid())


def _end_with_one() -> None:
    """End the process, whose result submitit has written by now, with exit code 1."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(1)


def _of_hydra(error: BaseException) -> bool:
    """Say whether an error was raised in Hydra's own code, whose errors are not all HydraExceptions."""
    last = error.__traceback__
    while last is not None and last.tb_next is not None:
        last = last.tb_next
    module = last.tb_frame.f_globals.get("__name__", "") if last else ""
    return str(module).startswith(("hydra.", "omegaconf.", "antlr4."))


def _composing(error: Exception) -> str:
    """Return in one line why a configuration could not be composed, and the nearest thing there is."""
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


def _printable(text: str) -> str:
    """Return a text with its control characters spelled out, so that it stays one line."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def _is_name(value: str) -> bool:
    """Say whether a value reads as a name, or as a list of names."""
    try:
        read = yaml.safe_load(value)
    except yaml.YAMLError:
        return True
    return all(isinstance(one, str) for one in (read if isinstance(read, list) else [read]))


def _version() -> str:
    try:
        return version("p2p-bench")
    except PackageNotFoundError:
        return "(not installed)"


def _ls(arguments: list[str]) -> int:
    if arguments in (["-h"], ["--help"]):
        print("p2p-bench ls [--config-dir FOLDER]   list what can be chosen, a folder of your own included")
        print("p2p-bench ls RUN_DIR ...   list runs, or those in a folder: state, size, means")
    elif arguments and not any(one.startswith("-") for one in arguments):
        from experiments.run_list import list_runs

        print(list_runs(arguments))
    else:
        print(list_options(arguments))
    return 0


def _checked(command: Callable[[list[str]], int], arguments: list[str]) -> int:
    """Run a command; what is wrong with its input is one message and exit code 2."""
    try:
        return command(arguments)
    except (ValueError, OSError, RuntimeError, HydraException, OmegaConfBaseException) as error:
        other = isinstance(error, RuntimeError) and not _weights_are_missing(error)
        if other or isinstance(error, BrokenPipeError):
            raise
        of_hydra = isinstance(error, HydraException) or _of_hydra(error)
        told = _printable(_composing(error)) if of_hydra else error
        print(f"error: {told}", file=sys.stderr)
        return 2


def _weights_are_missing(error: RuntimeError) -> bool:
    from evaluation.weights import WeightsUnavailable

    return isinstance(error, WeightsUnavailable)


def _quiet_libraries() -> None:
    """Leave out the progress bars of the libraries, beside which ours would be torn."""
    logging.getLogger("fontTools").setLevel(logging.WARNING)  # Hydra shows the INFO of every library
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")  # transformers too heeds it when imported


def _heat_maps(arguments: list[str]) -> int:
    from experiments.pictures import heat_maps

    heat_maps.main(arguments)
    return 0


def _export(arguments: list[str]) -> int:
    from experiments import export

    return export.main(arguments)


def _evaluate(arguments: list[str]) -> int:
    """Score a folder of images with the configured metrics; return the exit code."""
    from experiments import report
    from experiments.running.provenance import write_provenance
    from experiments.scoring import score_folder
    from results.summary import summarise

    given, table, overrides = score_folder.parse(arguments)
    own = ["metrics", "reference", "plots", "report", "tables", *(["dataset"] if table is None else [])]
    allowed = ["metrics_device", *own]
    for override in overrides:
        if re.split(r"[.=@]", override.lstrip("+~"))[0] not in allowed:
            raise ValueError(f"{override!r}: changes nothing here, allowed are {', '.join(allowed)}")
    with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
        config = hydra.compose("config", overrides)
    plain = plain_values(config)
    chosen = {key: plain[key] for key in own if key not in ("plots", "report")}
    check_flags(plain)
    check_numbers(chosen)
    metrics = metrics_of(chosen["metrics"])
    published, draw = published_names(chosen["reference"]), plain["plots"]
    layout = instantiated("tables", chosen["tables"])
    layout.check([name for metric in metrics for name in metric.names])
    if "unusable_blend_words" in chosen.get("dataset", {}):  # they bound edits, and none is made here
        chosen["dataset"] = {**chosen["dataset"], "unusable_blend_words": "drop"}
    dataset = table or instantiated("dataset", chosen["dataset"])
    failed = score_folder.score_folder(given, dataset, metrics)
    told = {"evaluate": asdict(given) | {"edits": str(given.edits.resolve())}, "dataset": asdict(dataset)}
    command = {"command": ["evaluate", *arguments], "folder": os.getcwd()}
    asked = {**command, "metrics": {metric.name: list(metric.names) for metric in metrics}}
    write_provenance(given.run_dir, {**chosen, **told}, score_folder.MODEL, asked)
    summary = summarise(given.run_dir, published=published, layout=layout, draw=draw)
    print(summary.markdown)
    if plain["report"]:
        given_tables = {"tables": summary.tables, "baseline": layout.baseline}
        report.write_beside(given.run_dir, published=published, **given_tables)
    print(given.run_dir)
    return 1 if failed else 0


def _blocks(arguments: list[str]) -> int:
    from experiments import blocks

    return blocks.main(arguments)


def _compare(arguments: list[str]) -> int:
    from experiments import compare

    return compare.main(arguments)


def _tables(arguments: list[str]) -> int:
    from experiments import tables

    return tables.main(arguments)


def _report(arguments: list[str]) -> int:
    from experiments import report

    return report.main(arguments)


def _study(arguments: list[str]) -> int:
    from experiments import study

    return study.main(arguments)


def _verify(arguments: list[str]) -> int:
    from experiments import verify

    return verify.main(arguments)


COMMANDS = {
    "blocks": _blocks,
    "compare": _compare,
    "evaluate": _evaluate,
    "export": _export,
    "heat-maps": _heat_maps,
    "report": _report,
    "study": _study,
    "tables": _tables,
    "verify": _verify,
}


def _plan(config: DictConfig) -> None:
    """The task of `p2p-bench plan`."""
    job = _sound(lambda: job_of(config, elsewhere=True))
    shards = _sound(lambda: _shard_count(config.shards))
    from experiments.job import told_plan

    print(_sound(lambda: told_plan(job, config.estimate, shards)))


def _run(config: DictConfig) -> float | tuple[float, ...] | None:
    """The task of `p2p-bench run`; returns the means of `objective` for a sweeper that looks for the best."""
    try:
        with ends_when_time_is_up():
            return _carried_out(config)
    except TimeUp as up:
        told = f"stopped by the signal of a time limit ({up}); the same command continues where it stood"
        print(f"error: {told}", file=sys.stderr)
        if HydraConfig.get().mode == RunMode.MULTIRUN:
            raise _job_failed(told) from None
        sys.exit(1)


def _carried_out(config: DictConfig) -> float | tuple[float, ...] | None:
    job = _sound(lambda: job_of(config))
    from experiments.job import check_search, make_ready, objectives, run

    try:
        check_search(job, _searched_directions())
    except ValueError as error:  # of every job of the search alike: it ends
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)

    ready = _sound(lambda: make_ready(job))
    multirun = HydraConfig.get().mode == RunMode.MULTIRUN
    failed = _sound(lambda: run(job, ready, multirun), exit_code=1)
    if failed and multirun:
        raise _job_failed(f"{failed} groups failed, see the records")
    if failed:
        sys.exit(1)
    found = _sound(lambda: objectives(job, ready), exit_code=1)
    return found[0] if len(found) == 1 else found or None


def _searched_directions() -> list[str]:
    """Return "minimize" or "maximize" for each value that Optuna's sweeper asks for; [] of other sweepers."""
    hydra_config = HydraConfig.get()
    asked = hydra_config.sweeper.get("direction") if hydra_config.mode == RunMode.MULTIRUN else None
    if asked is None:
        return []
    several = asked if OmegaConf.is_list(asked) else [asked]
    return [str(getattr(one, "name", one)) for one in several]


def _sound(make: Callable[[], Any], exit_code: int = 2) -> Any:
    """Return what a step makes; what is wrong with its input, or with the disk, is one line and an exit code.

    Under multirun the other jobs go on, and Hydra exits with 1.
    """
    try:
        return make()
    except (ValueError, OSError, RuntimeError) as error:
        if isinstance(error, RuntimeError):
            from torch import OutOfMemoryError

            from evaluation.weights import WeightsUnavailable

            if not isinstance(error, (WeightsUnavailable, OutOfMemoryError)):
                raise
        _log.debug("its traceback:", exc_info=True)
        room = "; free space, and the same command continues where it stood" if no_room(error) else ""
        print(f"error: {error}{room}", file=sys.stderr)
        if HydraConfig.get().mode == RunMode.MULTIRUN:
            raise _job_failed(str(error).splitlines()[0]) from None
        sys.exit(exit_code)


if __name__ == "__main__":
    main()
