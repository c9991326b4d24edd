"""Ratios of times measured in turn, and the memory held at the peak of a call."""

from __future__ import annotations

import ctypes
import gc
import resource
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

import torch


@dataclass(frozen=True)
class Ratio:
    """A ratio, and the least and the largest of the ratios it was made of."""

    value: float
    least: float
    most: float

    @classmethod
    def of(cls, ratios: Sequence[float]) -> Ratio:
        """Return the median of ratios."""
        return cls(median(ratios), min(ratios), max(ratios))

    @classmethod
    def of_sums(cls, times: Sequence[float], bases: Sequence[float]) -> Ratio:
        """Return the ratio of two sums."""
        ratios = [time / base for time, base in zip(times, bases, strict=True)]
        return cls(sum(times) / sum(bases), min(ratios), max(ratios))


@dataclass
class Measured:
    """Figures by key, and what else belongs to them: parts, tolerances, numbers of runs."""

    figures: dict[str, Ratio] = field(default_factory=dict)
    details: dict[str, object] = field(default_factory=dict)


@dataclass(frozen=True)
class Clock:
    """Tells the time of a device.

    `own` counts the processor's seconds of this process alone, for a machine that has other work to do: what
    others take is left out, and so is waiting.
    """

    device: torch.device
    own: bool = False

    def now(self) -> float:
        """Return the time in seconds at which all that was asked of the device is done."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.process_time() if self.own else time.perf_counter()

    def seconds(self, run: Callable[[], object]) -> float:
        """Return how long a call takes."""
        began = self.now()
        run()
        return self.now() - began


def in_turn(
    functions: Mapping[str, Callable[[], float]], rounds: int, say: Callable[[str], None] = lambda text: None
) -> dict[str, list[float]]:
    """Return what each function measured, round by round.

    Every second round runs backwards, so that a machine that slows down slows none more than the others.
    """
    measured: dict[str, list[float]] = {name: [] for name in functions}
    for number in range(rounds):
        names = list(functions) if number % 2 == 0 else list(functions)[::-1]
        for name in names:
            measured[name].append(functions[name]())
            say(f"round {number + 1} of {rounds}, {name}: {measured[name][-1]:.2f}")
    return measured


def held_memory(device: torch.device) -> int:
    """Return the bytes held now, in the unit and by the gauge of `peak_memory`."""
    gc.collect()
    if device.type == "cuda":
        return torch.cuda.memory_allocated(device)
    _return_freed_memory()
    return _status("VmRSS") if _reset_high_water_mark() else _max_resident()


def peak_memory(run: Callable[[], object], device: torch.device) -> tuple[int, str]:
    """Return the most memory in bytes held during a call, and by which gauge.

    On a GPU torch's own count. Else the process's resident set: its high-water mark where Linux lets it be
    reset, `ru_maxrss` elsewhere, which sees a peak only where it exceeds every earlier one. Where the whole
    machine is short of memory, Linux takes back pages of loaded libraries, and the mark falls short by those.
    """
    gc.collect()
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        run()
        return torch.cuda.max_memory_allocated(device), "torch.cuda.max_memory_allocated"
    _return_freed_memory()
    reset = _reset_high_water_mark()
    run()
    return (_status("VmHWM"), "VmHWM, reset before the call") if reset else (_max_resident(), "ru_maxrss")


def _reset_high_water_mark() -> bool:
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return False
    return True


def _return_freed_memory() -> None:
    """Give back what malloc keeps for later, else a call can use it without being seen."""
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
        if trim:
            trim(0)


def _status(name: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{name}:"))


def _max_resident() -> int:
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
