"""Workers on Ray, one for each GPU or share of CPUs, here or on a cluster; no other file knows Ray.

Each worker has one unit in flight, and deaths are counted here, by unit: Ray's own restarts and retries
(2.60) are spent by neighbours, so there are none. Nothing outlives the call.
"""

from __future__ import annotations

import logging
import os
import re
import shutil
import signal
import socket
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from importlib.util import find_spec
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

from tqdm import tqdm

from experiments.executors.units import Unit, Units, parted_units, places, plan_units, scoring_units
from experiments.executors.worker import Line, Work, Worker
from experiments.planning.plan import Plan
from experiments.running.causes import told
from experiments.running.generate import pictures_of
from experiments.running.record_rows import RecordRows
from experiments.running.saving import OnRecords, Row, record_failure
from p2p.devices import resolve_device
from results.store.records import record_files, record_rows
from results.store.whole_files import no_room

_log = logging.getLogger(__name__)
ROOT = Path(__file__).resolve().parents[2]
PASSED_ON = re.compile(
    r"(HF|TRANSFORMERS|DIFFUSERS|TORCH|PYTORCH|P2P|TOKENIZERS|CUBLAS|CUDNN|NVIDIA_TF32)_\w+|XDG_CACHE_HOME"
)
"""Variables that the nodes of a cluster are given: theirs are those of when it was started."""
SECRET = re.compile(r"TOKEN(?!IZERS)|KEY|SECRET|PASSWORD")
STORE_BYTES = 200_000_000  # for the plan; what does not fit is on the disk
ASKED_EVERY = 1.0  # seconds
PLACELESS = 60.0  # seconds without a worker after which it is told


@dataclass(frozen=True)
class OnRay:
    """How many workers there are, and where.

    `address` None is this machine, "auto" a cluster that this machine is a node of. `workers` None is as many
    as fit. A worker computes on `cpus_per_worker` threads, and has `gpus_per_worker` GPUs, a part or whole
    ones, where the model is on CUDA. With `part_groups` the edits of a group may be made by several workers,
    where some would have nothing to do; roundings of pixels may differ from those of one process then.
    Raises ValueError for numbers that are none of that.
    """

    address: str | None = None
    workers: int | None = None
    cpus_per_worker: int = 1
    gpus_per_worker: float = 1
    part_groups: bool = False

    def __post_init__(self) -> None:
        workers = 1 if self.workers is None else self.workers
        for name, count in (("workers", workers), ("cpus_per_worker", self.cpus_per_worker)):
            if isinstance(count, bool) or not isinstance(count, int) or count < 1:
                raise ValueError(f"{name}: {count!r} is not a whole number of at least 1")
        gpus = self.gpus_per_worker
        if isinstance(gpus, bool) or not (0 < gpus <= 1 or gpus == int(gpus) > 1):
            raise ValueError(f"gpus_per_worker: {gpus!r} is not a part of one, nor a whole number")
        if (
            not re.fullmatch(r"auto|[^:/\s]+:\d+|\[[\da-f:]+\]:\d+", self.address or "auto")
            or self.address == ""
        ):
            raise ValueError(
                f"address: {self.address!r} is no address of a cluster, as in 10.0.0.1:6379 or auto, on a "
                "node of which the call is made"
            )

    def check(self, device: str) -> None:
        """Raise ValueError where Ray is not installed, or workers cannot have the device."""
        if find_spec("ray") is None:
            raise ValueError("executor=ray: needs the extra ray: pip install 'p2p-bench[ray]'")
        if resolve_device(device, elsewhere=True).index is not None:
            raise ValueError(
                f"device: {device!r} with executor=ray, where each worker has GPUs of its own; cuda"
            )
        if self.address is None:
            self._count([_this_machine(self._gpus(device))], device)

    def plan(self, device: str) -> str:
        """Say in a line where a run would be carried out; no cluster is asked."""
        each = self._each(device)
        if self.address is not None:
            asked = "as many workers as fit" if self.workers is None else f"workers: {self.workers}"
            return f"executor: Ray at {self.address}, {asked}, {each}"
        count = self._count([_this_machine(self._gpus(device))], device)
        return f"executor: Ray on this machine, workers: {count}, {each}"

    def start(self, device: str) -> Cluster:
        """Start Ray on this machine, or connect to the cluster.

        Raises ValueError where there is none, or where it never could have the workers.
        """
        for name, value in {
            "RAY_USAGE_STATS_ENABLED": "0",
            # Else under `uv run` workers work in a copy of the folder, and what they write there is lost.
            "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",
            "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # as it will be, without a warning
        }.items():
            os.environ.setdefault(name, value)
        import ray

        main = threading.current_thread() is threading.main_thread()
        handler = signal.getsignal(signal.SIGTERM)
        quiet = {"log_to_driver": False, "logging_level": logging.ERROR}
        folder = None
        try:
            if self.address is None:
                there = _this_machine(self._gpus(device))
                # Short: the path of a socket has at most 107 letters.
                folder = Path(mkdtemp(prefix="p2p-ray-", dir="/tmp" if os.path.isdir("/tmp") else None))
                ray.init(
                    address="local",
                    num_cpus=int(there["CPU"]),
                    num_gpus=int(there["GPU"]),
                    include_dashboard=False,
                    object_store_memory=STORE_BYTES,
                    _node_ip_address="127.0.0.1",
                    _temp_dir=str(folder),
                    **quiet,
                )
            else:
                self._knock()
                ray.init(address=self.address, **quiet)
            nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
            return Cluster(self._count(nodes, device), self._options(device), folder, self.part_groups)
        except BaseException as error:
            _end(folder)
            if self.address is None or isinstance(error, ValueError) or not isinstance(error, Exception):
                raise
            raise ValueError(
                f"executor.address: no cluster of Ray answers at {self.address!r} ({told(error)})"
            ) from error
        finally:
            if main:
                signal.signal(signal.SIGTERM, handler)  # Ray puts its own there

    def _knock(self) -> None:
        """Raise OSError where nobody listens at the address: Ray itself (2.60) tries for several minutes."""
        host, _, port = (self.address or "").rpartition(":")
        if host:
            socket.create_connection((host.strip("[]"), int(port)), timeout=10).close()

    def _gpus(self, device: str) -> float:
        """Return how many GPUs a worker has."""
        return self.gpus_per_worker if resolve_device(device, elsewhere=True).type == "cuda" else 0

    def _each(self, device: str) -> str:
        cpus, gpus = self.cpus_per_worker, self._gpus(device)
        with_gpus = f" and {gpus:g} GPU{'s' * (gpus > 1)}" if gpus else ""
        return f"each with {cpus} CPU{'s' * (cpus > 1)}{with_gpus}"

    def _count(self, nodes: Sequence[dict[str, float]], device: str) -> int:
        """Return how many workers there are to be. Raises ValueError where nodes cannot have so many."""
        fit = places(nodes, self.cpus_per_worker, self._gpus(device))
        if not fit or fit < (self.workers or 1):
            there = "; ".join(
                f"{int(node.get('CPU', 0))} CPUs, {int(node.get('GPU', 0))} GPUs" for node in nodes
            )
            raise ValueError(
                f"executor.workers: {self.workers or 1}, {self._each(device)}, where {fit} have a place; the "
                f"nodes have {there or 'gone'}"
            )
        return self.workers or fit

    def _options(self, device: str) -> dict[str, Any]:
        """Return what an actor is made with.

        The nodes of a cluster have neither the call's variables nor, always, its code on their path. No GPUs
        asked for hides none of them (2.60).
        """
        gpus = self._gpus(device)
        passed = {
            name: value
            for name, value in os.environ.items()
            if PASSED_ON.fullmatch(name) and not SECRET.search(name)
        }
        path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH", "")]))
        hidden = {} if gpus else {"CUDA_VISIBLE_DEVICES": ""}
        threads = {"OMP_NUM_THREADS": str(self.cpus_per_worker)}
        return {
            "num_cpus": self.cpus_per_worker,
            "num_gpus": gpus,
            "max_restarts": 0,
            "max_task_retries": 0,
            "max_concurrency": 2,  # one that works, one that tells
            "runtime_env": {"env_vars": {**passed, "PYTHONPATH": path, **hidden, **threads}},
        }


def _this_machine(gpus: float) -> dict[str, float]:
    """Return what of this machine is this process's; inside a SLURM job Ray itself would take all of it."""
    asked = os.environ.get("SLURM_CPUS_PER_TASK", "")
    affinity = getattr(os, "sched_getaffinity", None)
    cpus = len(affinity(0)) if affinity else os.cpu_count() or 1
    count = 0
    if gpus:
        import torch

        count = torch.cuda.device_count()
    return {"CPU": min(cpus, int(asked)) if asked.isdecimal() else cpus, "GPU": count}


def _end(folder: Path | None) -> None:
    """Leave the cluster, whose actors of this call end with that; one of this machine's own ends."""
    import ray

    ray.shutdown()
    if folder is not None:
        shutil.rmtree(folder, ignore_errors=True)


@dataclass
class _Hand:
    """A worker, and the call that it is at."""

    actor: Any
    call: Any
    unit: Unit | None = None  # None while it loads
    idle: bool = False
    rows: int = 0  # of the denoiser, of the unit at hand
    asked: Any = None  # the call by which it was last asked what it has to tell
    when: float = 0.0
    loaded: float = 0.0  # since when it could work


@dataclass
class Cluster:
    """Ray at hand, with a place for `workers`; `close` leaves it."""

    workers: int
    options: dict[str, Any]
    folder: Path | None  # Ray's, where it is of this machine
    part_groups: bool = False

    def close(self) -> None:
        """End the workers."""
        _end(self.folder)

    def share_out(self, plan: Plan) -> tuple[Plan, list[Unit]]:
        """Return a plan of the same pictures, and the units in which the workers make it."""
        if self.part_groups:
            return parted_units(plan, self.workers)
        units = plan_units(plan)
        if 0 < len(units) < self.workers:
            rest = self.workers - len(units)
            idle = f"{rest} of {self.workers} workers have nothing to make"
            print(f"{idle}; executor.part_groups=true parts groups among them")
        return plan, units

    def carry_out(self, work: Work, units: Sequence[Unit]) -> int:
        """Make a work's plan by these units, and score what it has; return how many groups failed.

        Raises ValueError and OSError where no worker could load it, or nothing more can be written.
        """
        names = {str(name) for left in work.unscored for name in left["group"]}
        units = [*units, *scoring_units(sorted(names))]
        makes = bool(work.plan.groups)
        total, unit = (work.plan.evaluations, "eval") if makes else (len(units), "unit")
        desc = "generating" if makes else "evaluating"
        with (
            tqdm(total=total, desc=desc, unit=unit, smoothing=0.05) as bar,
            record_files(work.info.run_dir) as files,
        ):

            def write(records: Sequence[Row]) -> None:
                files.write(record_rows(records))

            run = _Run(work, Units(units, work.plan.costs), self.options, bar, write)
            run.wanted = min(self.workers, len(units))
            try:
                run.carried_out()
            except SystemError as error:  # as which Ray (2.60) tells what the handler of a signal raised
                stop = error.__cause__
                if stop is None or isinstance(stop, Exception):
                    raise
                raise stop from None
        if run.lost:
            print(f"{run.lost} workers ended before their time; what they had was tried again")
        return run.failed


@dataclass
class _Run:
    """One work on its workers."""

    work: Work
    units: Units
    options: dict[str, Any]
    bar: Any
    write: OnRecords  # what records go to
    wanted: int = 0  # workers
    failed: int = 0
    lost: int = 0  # workers
    done: int = 0  # rows of units that are done, or such units
    worked: float = 0.0  # seconds that workers were at units
    processor: float = 0.0  # seconds of processors that units took
    present: float = 0.0  # seconds that workers could have been at units
    unloaded: int = 0  # workers that ended while they loaded, since one has loaded
    hands: list[_Hand] = field(default_factory=list)
    seen: set[Line] = field(default_factory=set)
    began: float = field(default_factory=time.monotonic)

    def carried_out(self) -> None:
        import ray

        actor = ray.remote(Worker)
        work = ray.put(self.work)
        while len(self.units) or any(hand.unit for hand in self.hands):
            while len(self.hands) < min(self.wanted, len(self.units) + self._busy()):
                made = actor.options(**self.options).remote()
                self.hands.append(_Hand(made, made.load.remote(work)))
            for hand in self.hands:
                if hand.idle and len(self.units):
                    hand.unit, hand.idle, hand.rows = self.units.take(), False, 0
                    hand.call, hand.when = hand.actor.carry_out.remote(hand.unit), time.monotonic()
            calls = {hand.call: hand for hand in self.hands if not hand.idle}
            # Short, so that signals are seen soon.
            ready, _ = ray.wait(list(calls), timeout=0.5)
            for call in ready:
                self._ended(calls[call])
            self._ask()
            self._show()
        present = self.present + sum(time.monotonic() - h.loaded for h in self.hands if h.loaded)
        _log.info(
            "workers were at units for %.0f of %.0f s, %.1f s of processor time",
            self.worked,
            present,
            self.processor,
        )

    def _busy(self) -> int:
        return sum(hand.unit is not None for hand in self.hands)

    def _ended(self, hand: _Hand) -> None:
        """Take what a call returned, or see to what became of its worker."""
        import ray

        try:
            if hand.unit is None:
                self._tell([line for line in ray.get(hand.call) if line not in self.seen], once=True)
                self.unloaded, hand.loaded = 0, time.monotonic()
            else:
                done = ray.get(hand.call)
                self._tell(done.lines)
                self.failed += done.failed
                self.done += done.rows if self.work.plan.groups else 1
                self.worked += done.seconds
                self.processor += done.processor_seconds
            self._hear(hand, 10.0)
            hand.unit, hand.idle, hand.rows = None, True, 0
        except ray.exceptions.RayTaskError as error:  # the worker lives
            cause = error.cause if isinstance(error.cause, Exception) else error
            if no_room(cause):
                raise cause from None
            if hand.unit is None:
                self._drop(hand, cause)
                return
            self._lose(hand.unit, told(cause))
            self._hear(hand, 10.0)
            hand.unit, hand.idle, hand.rows = None, True, 0
        except ray.exceptions.RayError as error:  # it ended, its node did, or they cannot be reached
            self.lost += 1
            cause = OSError(_death(error))
            if hand.unit is None:
                self.unloaded += 1
                if self.unloaded > self.wanted:
                    self._drop(hand, cause)
                    return
            self._remove(hand)
            if hand.unit is not None:
                self._lose(hand.unit, str(cause))

    def _remove(self, hand: _Hand) -> None:
        import ray

        self.hands.remove(hand)
        self.present += time.monotonic() - hand.loaded if hand.loaded else 0.0
        ray.kill(hand.actor)  # one that cannot be reached may work on

    def _drop(self, hand: _Hand, cause: Exception) -> None:
        """Go on without a worker that could not load; raise its cause where there is no other one."""
        self._remove(hand)
        self.wanted -= 1
        if not self.wanted:
            raise cause from None
        _log.warning("a worker cannot be had, %d are left: %s", self.wanted, told(cause))

    def _lose(self, unit: Unit, cause: str) -> None:
        """See to a unit whose worker ended: put it back, or record it as failed."""
        count = len(unit.groups) + len(unit.made)
        if self.units.lost(unit):
            _log.warning("a worker ended over %d groups, which are tried again: %s", count, cause)
            return
        self.failed += 1
        info = replace(self.work.info, recorded=pictures_of(self.work.earlier))
        for place in unit.groups:
            group = self.work.plan.groups[place]
            record_failure(RecordRows(group, self.work.plan, info), cause, self.write)
        for name in unit.made:
            tqdm.write(f"failed: scoring of {name}: {cause}")

    def _ask(self) -> None:
        """Ask workers that are at a unit, from time to time, what they have to tell; hear who answered."""
        now = time.monotonic()
        for hand in self.hands:
            if hand.unit is None:
                continue
            if hand.asked is None:
                if now > hand.when + ASKED_EVERY:
                    hand.asked, hand.when = hand.actor.told.remote(), now
            else:
                self._hear(hand, 0.0)

    def _hear(self, hand: _Hand, seconds: float) -> None:
        """Hear what a worker has answered, if it was asked and answers within so many seconds."""
        import ray

        if hand.asked is None or not ray.wait([hand.asked], timeout=seconds)[0]:
            return
        try:
            hand.rows, lines = ray.get(hand.asked)
            self._tell(lines)
        except ray.exceptions.RayError:  # the call of its unit tells
            pass
        hand.asked = None

    def _tell(self, lines: Sequence[Line], once: bool = False) -> None:
        """Tell what a worker has told, as if it had been told here."""
        for line in lines:
            level, logger, text = line
            if logger:
                logging.getLogger(logger).log(level, "%s", text)
            else:
                tqdm.write(text)
            if once:
                self.seen.add(line)

    def _show(self) -> None:
        """Show how far the workers are, and who they are."""
        at_work, starting = self._busy(), sum(not (hand.idle or hand.unit) for hand in self.hands)
        parts = [
            f"{at_work} workers" if at_work or not starting else "",
            f"{starting} start" * bool(starting),
        ]
        parts.append(f"{self.lost} lost" * bool(self.lost))
        self.bar.set_postfix_str(", ".join(filter(None, parts)), refresh=False)
        so_far = self.done + (sum(hand.rows for hand in self.hands) if self.work.plan.groups else 0)
        self.bar.update(so_far - self.bar.n)
        if at_work:
            self.began = time.monotonic()
        elif time.monotonic() > self.began + PLACELESS:
            _log.warning("no worker could be started for %.0f s; is the cluster full?", PLACELESS)
            self.began = float("inf")


def _death(error: Exception) -> str:
    """Return in a line why a worker ended, of Ray's page about it."""
    text = " ".join(str(error).split())
    found = re.search(r"(Worker exit detail|death_cause|The actor (?:is|died)\b)[^.]*", text)
    return f"its worker ended: {(found[0] if found else text)[:300]}"
