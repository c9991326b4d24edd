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
from contextlib import closing
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from tempfile import TemporaryDirectory
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from experiments.config_keys import CONF, nearest
from experiments.configured import job_of
from experiments.cores import keep_to_own_cores, share_cores
from experiments.hydra_errors import of_hydra, printable, told_of_hydra
from experiments.options import list_options
from experiments.run_arguments import job_count, parted, shard_count, with_shards
from experiments.running.time_limit import TimeUp, ends_when_time_is_up
from results.store.whole_files import no_room

_log = logging.getLogger(__name__)
_failed_jobs: list[str] = []  # of this process's sweep: a sweeper may go on beyond them, and end well
COMMANDS = {
    "blocks": "experiments.blocks",
    "compare": "experiments.compare",
    "evaluate": "experiments.evaluate",
    "export": "experiments.export",
    "heat-maps": "experiments.pictures.heat_maps",
    "report": "experiments.report",
    "study": "experiments.study",
    "tables": "experiments.tables",
    "verify": "experiments.verify",
}
"""Whose `main` takes the arguments of each command but those of Hydra, and returns the exit code."""
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
        sys.exit(_checked(import_module(COMMANDS[command]).main, sys.argv[2:]))
    elif command in ("run", "plan"):
        del sys.argv[1]
        try:
            overrides, flags = parted(with_shards(sys.argv[1:]) if command == "run" else sys.argv[1:])
        except ValueError as error:
            print(f"error: {printable(str(error))}", file=sys.stderr)
            sys.exit(2)
        if command == "run":
            # All of its jobs start at once; joblib shares out cores itself.
            if "hydra/launcher=submitit_local" in overrides:
                share_cores(job_count(overrides))
            sys.argv[1:] = [*overrides, *flags]
            _with_hydra(_run)
            return
        with TemporaryDirectory() as folder:  # for the multirun.yaml of Hydra: a plan leaves no trace on disk
            traceless = [
                "hydra.run.dir=.",
                f"hydra.sweep.dir='{folder}'",
                "hydra.sweep.subdir=.",
                "hydra.output_subdir=null",
                "hydra/job_logging=none",
                "hydra/hydra_logging=none",
            ]
            sys.argv[1:] = [*overrides, *traceless, *flags]
            _with_hydra(_plan)
    else:
        known = ["run", "plan", "ls", *COMMANDS]
        near, allowed = nearest(command, known), ", ".join(known)
        print(f"p2p-bench: unknown command {command!r}{near}, allowed are {allowed}", file=sys.stderr)
        sys.exit(2)


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
        if of_hydra(error):
            print(f"error: {told_of_hydra(error)}", file=sys.stderr)
        elif isinstance(error, OSError):  # of Hydra, which makes the run folder first
            print(f"error: {error}; is the folder writable, with space left?", file=sys.stderr)
        else:
            raise
        sys.exit(2)
    if _failed_jobs:
        told = f"{len(_failed_jobs)} jobs failed, the first: {_failed_jobs[0]}"
        print(f"error: {printable(told)}", file=sys.stderr)
        sys.exit(1)


def _tell_job(failure: str) -> None:
    """Say what became of a job elsewhere, and how to learn of the other shards: Hydra tells of the first."""
    shards = any(one.startswith("shard=0/") for one in sys.argv)
    more = "; `p2p-bench plan` with the same arguments tells what each shard has done" if shards else ""
    print(f"error: {printable(failure)}{more}", file=sys.stderr)


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
        print(f"error: {told_of_hydra(error) if of_hydra(error) else error}", file=sys.stderr)
        return 2


def _weights_are_missing(error: RuntimeError) -> bool:
    from evaluation.weights import WeightsUnavailable

    return isinstance(error, WeightsUnavailable)


def _quiet_libraries() -> None:
    """Leave out the progress bars of the libraries, beside which ours would be torn."""
    logging.getLogger("fontTools").setLevel(logging.WARNING)  # Hydra shows the INFO of every library
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")  # transformers too heeds it when imported


def _plan(config: DictConfig) -> None:
    """The task of `p2p-bench plan`."""
    job = _sound(lambda: job_of(config, elsewhere=True))
    shards = _sound(lambda: shard_count(config.shards))
    from experiments.job import told_plan

    print(_sound(lambda: told_plan(job, config.estimate, shards)))


def _run(config: DictConfig) -> float | tuple[float, ...] | None:
    """The task of `p2p-bench run`; returns the means of `objective` for a sweeper that looks for the best."""
    keep_to_own_cores()
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
    with closing(ready):  # also where the folder cannot be written before the workers have begun
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
