"""Workers on Ray, one for each GPU or share of CPUs, here or on a cluster: which, and how Ray is reached.

Nothing outlives the call. Only this file and `ray_cluster` know Ray.
"""

from __future__ import annotations

import logging
import os
import re
import signal
import socket
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from types import FrameType
from typing import Any

from experiments.cores import THREADS, own_cores
from experiments.executors.ray_cluster import Cluster, leave
from experiments.executors.ray_folder import RayFolder, short_folder
from experiments.executors.units import places
from experiments.running.causes import told
from p2p.devices import resolve_device

_log = logging.getLogger(__name__)
ROOT = Path(__file__).resolve().parents[2]
PASSED_ON = re.compile(
    r"(HF|TRANSFORMERS|DIFFUSERS|TORCH|PYTORCH|P2P|TOKENIZERS|CUBLAS|CUDNN|NVIDIA_TF32)_\w+|XDG_CACHE_HOME"
)
"""Variables that the nodes of a cluster are given: theirs are those of when it was started."""
SECRET = re.compile(r"TOKEN(?!IZERS)|KEY|SECRET|PASSWORD")
STOPS = ("SIGINT", "SIGTERM", "SIGUSR1", "SIGUSR2")
STORE_BYTES = 200_000_000  # for the plan; what does not fit is on the disk


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
        quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
        folder = None
        try:
            if self.address is None:
                there = _this_machine(self._gpus(device))
                folder = RayFolder(short_folder())
                with signals_wait():
                    ray.init(
                        address="local",
                        num_cpus=int(there["CPU"]),
                        num_gpus=int(there["GPU"]),
                        include_dashboard=False,
                        object_store_memory=STORE_BYTES,
                        _node_ip_address="127.0.0.1",
                        _temp_dir=str(folder.path),
                        **quiet,
                    )
            else:
                self._knock()
                ray.init(address=self.address, **quiet)
            nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
            return Cluster(self._count(nodes, device), self._options(device), folder, self.part_groups)
        except BaseException as error:
            leave(folder)
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
        threads = {THREADS: str(self.cpus_per_worker)}
        return {
            "num_cpus": self.cpus_per_worker,
            "num_gpus": gpus,
            "max_restarts": 0,
            "max_task_retries": 0,
            "max_concurrency": 2,  # one that works, one that tells
            "runtime_env": {"env_vars": {**passed, "PYTHONPATH": path, **hidden, **threads}},
        }


@contextmanager
def signals_wait() -> Iterator[None]:
    """Let the first signal that stops the call do so at the end; a second one does at once.

    Ray starts processes of its own, and Python (3.11) drops what a handler raises while it forks. SIGTERM
    may come as a SystemExit too, of handlers that Ray (2.60) puts in the place of the call's.
    """
    noted: list[int] = []
    handlers: dict[int, Any] = {}
    if threading.current_thread() is threading.main_thread():
        numbers = [getattr(signal, name) for name in STOPS if hasattr(signal, name)]
        handlers = {number: signal.getsignal(number) for number in numbers}

    def note(number: int, frame: FrameType | None) -> None:
        if not noted:
            noted.append(number)
            return
        noted.clear()
        handlers[number](number, frame)

    for number, handler in handlers.items():
        if callable(handler):
            signal.signal(number, note)
    try:
        yield
    except SystemExit as end:
        if end.code in (signal.SIGTERM, 1) and callable(handlers.get(signal.SIGTERM)):
            noted[:] = [signal.SIGTERM]
        raise
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
        if noted:
            signal.raise_signal(noted[0])


def _this_machine(gpus: float) -> dict[str, float]:
    """Return what of this machine is this process's; inside a SLURM job Ray itself would take all of it."""
    count = 0
    if gpus:
        import torch

        count = torch.cuda.device_count()
    return {"CPU": own_cores(), "GPU": count}
