"""That the engine is right and fast on a GPU, in one command of minutes: `python -m experiments.bench.gpu`.

Offline, without published weights. The report is written after every figure, so that a run that is cut off
keeps what it has. Ratios of one run, no absolute times.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import diffusers
import torch

from experiments.bench import gpu_fast, gpu_right, gpu_scoring, scoring
from experiments.bench.measuring import Clock, Measured
from experiments.bench.report import Goal, driver, machine, spelled, table, versions
from p2p import Sampling
from results.store.whole_files import write_whole

TAUS = [number / 10 for number in range(11)]
GOALS: dict[str, Goal] = {
    "right": (">=", 1.0),
    "edit_vs_plain_time": ("<=", 1.05),
    "edit_vs_plain_memory": ("<=", 1.05),
    "sweep_speedup": (">=", 6.0),
    "sdxl_edit_vs_plain_memory": ("<=", 1.05),
    "evaluation_speedup": (">=", 5.0),
    "waits_per_step": ("<=", 0.0),
    "compiled_speedup": (">=", 1.25),
}
MEANING = {
    "right": "share of the tests marked gpu that pass",
    "edit_vs_plain_time": "SD 1.5's shapes: one edit / plain diffusers making the same two images, time",
    "edit_vs_plain_memory": "the same, peak memory above the weights",
    "materialised_vs_plain_time": "one edit with formed maps / the same two images, time",
    "materialised_vs_plain_memory": "the same, peak memory above the weights",
    "sweep_speedup": "SD 1.5's shapes, eleven taus of eight pairs: one after the other with formed maps, "
    "from a sample / tree",
    "sdxl_edit_vs_plain_time": "SDXL's shapes: one edit / plain diffusers making the same two images, time",
    "sdxl_edit_vs_plain_memory": "the same, peak memory above the weights",
    "evaluation_speedup": "ViT-L/14 and LPIPS of groups of edits: torchmetrics column by column / shared",
    "evaluation_speedup_clip": "the same, CLIP alone",
    "evaluation_speedup_lpips": "the same, LPIPS alone",
    "waits_per_step": "how often a step waits for the device, less diffusers' own",
    "compiled_speedup": "SD 1.5's shapes: one edit as it is / compiled, when compiled",
}
NEEDS_CUDA = "needs CUDA"
LONGEST_CAUSE = 300  # letters of an error, which in the table is a line
Say = Callable[[str], None]


@dataclass
class Report:
    """What a run has measured so far, and what it could not."""

    quick: bool
    device: str
    machine: dict[str, Any]
    measured: Measured = field(default_factory=Measured)
    missing: dict[str, str] = field(default_factory=dict)  # by key, the reason
    failed: dict[str, str] = field(default_factory=dict)  # by measurement, the error in one line

    def write(self, file: Path) -> None:
        """Write all of it, atomically."""
        figures = self.measured.figures
        content = {
            "figures": {key: ratio.value for key, ratio in figures.items()},
            "goals": {key: list(goal) for key, goal in GOALS.items()},
            "spread": {key: [ratio.least, ratio.most] for key, ratio in figures.items()},
            "missing": self.missing,
            "failed": self.failed,
            "details": self.measured.details,
            "quick": self.quick,
            "device": self.device,
            "machine": self.machine,
        }
        write_whole(file, json.dumps(content, indent=1) + "\n")

    def table(self) -> str:
        """Return the figures, and what is missing, as Markdown."""
        ratios = self.measured.figures
        figures = {key: ratio.value for key, ratio in ratios.items()}
        spread = {key: [ratio.least, ratio.most] for key, ratio in ratios.items()}
        return table(figures, spread, GOALS, MEANING, self.missing)


def measurements(quick: bool, clock: Clock) -> dict[str, tuple[tuple[str, ...], Callable[[Say], Measured]]]:
    """Return what can be measured: the keys that each measurement gives, and how."""
    device = str(clock.device)
    steps, rounds = (2, 1) if quick else (20, 5)
    shapes, decoding, xl = ("tiny", "tiny", "tiny") if quick else ("sd15", "sd15_decoding", "sdxl")
    side, xl_side = (16, 16) if quick else (64, 128)
    pairs, taus, sample = (1, [1.0, 0.0], 1) if quick else (8, TAUS, 4)
    chosen = ["-k", "pixel"] if quick else []  # of the tests
    groups, edits, turns, pixels = (1, 2, 1, 64) if quick else (8, 11, 2, 512)
    backbone = "ViT-S-32-alt" if quick else "ViT-L-14"
    return {
        "right": (("right",), lambda say: gpu_right.measure(device, chosen, say)),
        "waits": (("waits_per_step",), lambda say: gpu_fast.measure_waits(4, clock, say)),
        "edit": (
            tuple(f"{e}_vs_plain_{unit}" for e in ("edit", "materialised") for unit in ("time", "memory")),
            lambda say: gpu_fast.measure_edit(shapes, side, steps, rounds, clock, say),
        ),
        "sweep": (
            ("sweep_speedup",),
            lambda say: gpu_fast.measure_sweep(
                decoding, side, pairs, taus, Sampling(steps), sample, clock, say
            ),
        ),
        "sdxl": (
            ("sdxl_edit_vs_plain_time", "sdxl_edit_vs_plain_memory"),
            lambda say: gpu_fast.measure_xl(xl, xl_side, 2 if quick else 4, clock, say),
        ),
        "compile": (
            ("compiled_speedup",),
            lambda say: gpu_fast.measure_compiled(shapes, side, steps, rounds, clock, say),
        ),
        "evaluation": (
            ("evaluation_speedup", "evaluation_speedup_clip", "evaluation_speedup_lpips"),
            lambda say: scoring.measure(
                groups,
                edits,
                turns,
                clock,
                say,
                gpu_scoring.families(device, edits, backbone, "alex"),
                pixels,
            ),
        ),
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure what is asked for, report it, and return the exit code: 1 where something failed."""
    options = _options(arguments)
    clock = Clock(torch.device(options.device))
    offered = measurements(options.quick, clock)
    diffusers.utils.logging.disable_progress_bar()
    torch.backends.cudnn.allow_tf32 = (
        False  # else float32 on both sides of the evaluation would not be float32
    )
    found = versions()
    described = machine(options.device) | {
        "driver": driver(),
        "cuda": torch.version.cuda,
        "versions": found,
    }
    report = Report(options.quick, options.device, described)
    file = options.out / "bench_gpu.json"
    for name, (keys, measure) in offered.items():
        if options.only and not set(keys) & set(options.only):
            continue
        began = time.perf_counter()
        try:
            measured = measure(lambda text, name=name: _say(f"{name}: {text}"))  # type: ignore[misc]
        except Exception as error:  # whatever breaks one figure must not lose the others
            cause = " ".join(f"{type(error).__name__}: {error}".split())[:LONGEST_CAUSE]
            _say(f"{name}: failed: {cause}")
            report.failed[name] = cause
            report.missing |= dict.fromkeys(keys, f"failed: {cause}")
        else:
            report.measured.figures |= measured.figures
            report.measured.details |= measured.details
            report.missing |= {key: NEEDS_CUDA for key in keys if key not in measured.figures}
        if clock.device.type == "cuda":
            torch.cuda.empty_cache()
        report.measured.details[f"{name}_seconds_of_measuring"] = time.perf_counter() - began
        report.write(file)
    facts = ", ".join(
        f"{name} {described[name]}" for name in ("device", "driver", "cuda", "processor", "cores", "python")
    )
    print(f"{report.table()}\n\n{facts}, {spelled(found)}\n\n{file}")
    right = report.measured.figures.get("right")
    return 1 if report.failed or (right is not None and right.value < 1) else 0


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m experiments.bench.gpu", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="tiny shapes: a check that all runs, no figure")
    parser.add_argument("--only", nargs="+", default=[], metavar="KEY", help="figures (all: none given)")
    parser.add_argument("--device", default="cuda", help="cuda, cuda:1, ...; cpu with --quick alone")
    parser.add_argument("--out", type=Path, default=Path("runs/bench"))
    options = parser.parse_args(arguments)
    for key in options.only:
        if key not in MEANING:
            parser.error(f"--only: {key!r} is not one of {', '.join(MEANING)}")
    if not options.device.startswith("cuda") and not (options.quick and options.device == "cpu"):
        parser.error(f"--device: {options.device!r} is not allowed, it is cuda, or cpu with --quick")
    if options.device.startswith("cuda") and not torch.cuda.is_available():
        parser.error(
            f"--device: {options.device!r}, but torch {torch.__version__} sees no CUDA device; "
            "allowed without one is --quick --device cpu"
        )
    return options


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
