"""The cores that this process, and jobs that it starts beside each other, compute on."""

from __future__ import annotations

import os

THREADS = "OMP_NUM_THREADS"
"""What PyTorch reads when it is imported; what the user has set stays."""


def own_cores() -> int:
    """Return how many cores are this process's: those it may run on, or that its SLURM job has asked for."""
    affinity = getattr(os, "sched_getaffinity", None)
    cores = len(affinity(0)) if affinity else os.cpu_count() or 1
    asked = os.environ.get("SLURM_CPUS_PER_TASK", "")
    return min(cores, int(asked)) if asked.isdecimal() else cores


def share_cores(jobs: int) -> None:
    """Give each of so many jobs, which will start here at once, its share of the cores.

    Threads of several jobs on the same cores wait for each other, on small models for longer than they work.
    """
    os.environ.setdefault(THREADS, str(max(1, own_cores() // jobs)))


def keep_to_own_cores() -> None:
    """Compute on the CPUs that a SLURM job has asked for, where the node lets it see all of them."""
    if os.environ.get("SLURM_CPUS_PER_TASK"):
        os.environ.setdefault(THREADS, str(own_cores()))
