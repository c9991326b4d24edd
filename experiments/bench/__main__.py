"""Speed and memory as ratios measured in one run: `make bench` prints a table, writes runs/bench/bench.json.

Machines are noisy, so no figure is an absolute time: what a ratio compares is measured in turn.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path

import diffusers
import torch

from experiments.bench import (
    compiled,
    edit_cost,
    flow_cost,
    overhead,
    overlap,
    scaling,
    scoring,
    startup,
    store,
    sweep,
)
from experiments.bench.measuring import Clock, Measured
from experiments.bench.report import Goal, machine, table
from experiments.embedded.training import WEIGHTS
from p2p import Model, ModelSpec, Sampling
from results.store.whole_files import write_whole

FLOWS = ("sd3", "flux")
TAUS = [number / 10 for number in range(11)]
GOALS: dict[str, Goal] = {
    "sweep_speedup": (">=", 5.0),
    "sweep_vs_bound": ("<=", 1.05),
    "naive_vs_diffusers_step": ("<=", 1.1),
    "overhead": ("<=", 1.03),
    "edit_vs_plain_time": ("<=", 1.05),
    "edit_vs_plain_memory": ("<=", 1.05),
    **dict.fromkeys(flow_cost.keys(FLOWS), ("<=", 1.05)),
    "startup_help": ("<=", 0.05),
    "startup_ls": ("<=", 0.05),
    "startup_typo": ("<=", 0.05),
    "startup_typo_megabytes": ("<=", 60.0),
    "startup_plan": ("<=", 1 / 3),
    "startup_large_plan": ("<=", 0.1),
    "startup_finished_run": ("<=", 1 / 3),
    "workers_speedup": (">=", 1.9),
    "scaling_parted_1024": (">=", 0.9),
    "overlap_64": (">=", overlap.GOAL),
    "overlap_512": (">=", overlap.GOAL),
    "store_files": ("<=", 1 / 20),
    "store_writing": ("<=", 0.1),
    "store_tables": ("<=", 0.1),
    "store_plots": ("<=", 0.1),
    "store_tables_megabytes": ("<=", 1000.0),
}
MEANING = {
    "sweep_speedup": "tau sweep: naive loop / tree",
    "sweep_vs_bound": "tau sweep: tree / its UNet evaluations bare",
    "naive_vs_diffusers_step": "naive loop / plain diffusers with formed maps",
    "overhead": "engine step, all injected / bare UNet call",
    "edit_vs_plain_time": "one edit / the same two images without control, time",
    "edit_vs_plain_memory": "the same, peak memory above the weights",
    "materialised_vs_plain_time": "the naive loop's edit / the same two images, time",
    "materialised_vs_plain_memory": "the same, peak memory above the weights",
    **{
        f"{family}_{method}_vs_plain_{unit}": f"P2P by {method} in one block / the same two images, {unit}"
        for family in FLOWS
        for method in flow_cost.METHODS
        for unit in ("time", "memory")
    },
    "self_memory_growth": "an edit's memory per pixel, largest / smallest size; linear is 1, quadratic the "
    "sizes' ratio",
    "evaluation_speedup": "scoring groups of edits: libraries column by column / shared features",
    "compiled_speedup": "edits of the embedded model, denoising alone: as it is / compiled, when compiled",
    "startup_help": "`p2p-bench --help`: processor time, now / before",
    "startup_ls": "`p2p-bench ls`: processor time, now / before",
    "startup_typo": "a misspelt experiment: processor time, now / before",
    "startup_typo_megabytes": "a misspelt experiment: peak memory, MB",
    "startup_plan": "`plan experiment=quickstart`: processor time, now / before",
    "startup_large_plan": "`plan` of 1,000 pairs x 11 taus x 2 seeds beyond one of 1 pair, now / before",
    "startup_finished_run": "`run` with nothing left to make beyond its `plan`, now / before",
    "workers_speedup": "two workers of one thread each / one, by the clock, without starting",
    "workers_idle": "share of two workers' time at no unit: what sharing out loses, whatever the cores share",
    "scaling_whole_1024": "efficiency of 1,024 workers in a simulated run, whole groups",
    "scaling_parted_1024": "the same, groups in parts",
    "overlap_64": "share of a run's wall time in a denoiser that sleeps, pictures of 64 px",
    "overlap_512": "the same, pictures of 512 px",
    "overlap_64_in_turn": "64 px, made, saved and scored in turn",
    "overlap_512_in_turn": "512 px, made, saved and scored in turn",
    **{
        f"overlap_{side}_{part}": f"{side} px, {what}"
        for side in overlap.SIDES
        for part, what in {
            "worker": "by a worker, unit by unit, whose driver takes no time",
            "ends_seconds": "seconds before the denoiser's first call and after its last one, once a run",
            "between": "share of the time in between in which it is not called, whatever the run's length",
        }.items()
    },
    "store_files": "files of records and metric values, now / before",
    "store_writing": "writing them: processor time, now / before",
    "store_tables": "loading and tabulating a run: processor time, now / before",
    "store_plots": "the same with plots and strips",
    "store_tables_megabytes": "loading and tabulating a run: peak memory, MB",
    **{f"evaluation_speedup_{name}": f"the same, {name} alone" for name in scoring.FAMILIES},
}
Say = Callable[[str], None]


def measurements(
    quick: bool, clock: Clock, edits_stored: int = 10_010
) -> dict[str, tuple[tuple[str, ...], Callable[[Say], Measured]]]:
    """Return what can be measured: the keys that each measurement gives, and how."""
    spec = ModelSpec("embedded", str(WEIGHTS / "pipeline"), 16, 16, dtype="float32", device=str(clock.device))

    def embedded() -> Model:
        return spec.load()

    def measure_compiled(say: Say) -> Measured:
        model, sampling = embedded(), Sampling(2 if quick else 20)
        groups = sweep.pair_groups(model, 1 if quick else 4, [0.0], sampling)
        return compiled.measure(model, groups, sampling, 1 if quick else 5, clock, say)

    pairs, taus, steps = (1, [0.0, 1.0], 2) if quick else (8, TAUS, 50)
    shapes, side, rounds = ("tiny", 16, 1) if quick else ("sd15", 64, 2)
    flows = tuple(f"{family}_tiny" for family in FLOWS) if quick else FLOWS
    narrow, sides = ("tiny", (16, 24, 32)) if quick else ("narrow", (64, 96, 128))
    step_steps, step_rounds = (1, 1) if quick else (5, 7)
    groups, edits, turns = (1, 2, 1) if quick else (8, 11, 3)
    many, limit, starts = (20, 1, 1) if quick else (1000, 4, 5)
    stored = 1 if quick else edits_stored // 110
    return {
        "overhead": (
            ("overhead",),
            lambda say: overhead.measure(embedded(), pairs, Sampling(min(steps, 25)), clock, say),
        ),
        "step": (
            ("naive_vs_diffusers_step",),
            lambda say: sweep.measure_step(embedded(), Sampling(step_steps), step_rounds, clock, say),
        ),
        "sweep": (
            ("sweep_speedup", "sweep_vs_bound"),
            lambda say: sweep.measure(embedded(), pairs, taus, Sampling(steps), clock, say),
        ),
        "edit": (
            tuple(f"{e}_vs_plain_{unit}" for e in ("edit", "materialised") for unit in ("time", "memory")),
            lambda say: edit_cost.measure(shapes, side, rounds, clock, say),
        ),
        "flow": (
            flow_cost.keys(FLOWS),
            lambda say: flow_cost.measure(flows, 8 if quick else 32, step_rounds, clock, say),
        ),
        "self_memory": (
            (*(f"self_memory_{side}" for side in sides), "self_memory_growth"),
            lambda say: edit_cost.measure_growth(narrow, sides, clock, say),
        ),
        "evaluation": (
            ("evaluation_speedup", *(f"evaluation_speedup_{name}" for name in scoring.FAMILIES)),
            lambda say: scoring.measure(groups, edits, turns, clock, say),
        ),
        "compile": (("compiled_speedup",), lambda say: measure_compiled(say)),
        "startup": (startup.KEYS, lambda say: startup.measure(many, limit, starts, say)),
        "overlap": (
            overlap.KEYS,
            lambda say: overlap.measure(overlap.QUICK if quick else overlap.RUNS, say),
        ),
        "workers": (
            scaling.KEYS,
            lambda say: scaling.measure(*((1, 145, 1) if quick else (8, 101_500, 3)), say),
        ),
        "store": (store.KEYS, lambda say: store.measure(stored, say)),
    }


def main() -> None:
    """Measure what is asked for and report it."""
    parser = argparse.ArgumentParser(prog="python -m experiments.bench", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="tiny shapes: a check that all runs, no figure")
    parser.add_argument("--only", nargs="+", default=[], metavar="KEY", help="figures (all: none given)")
    parser.add_argument("--device", default="cpu")
    parser.add_argument(
        "--clock",
        choices=("wall", "own"),
        default="wall",
        help="own: this process's processor seconds, where the machine has other work",
    )
    parser.add_argument("--out", type=Path, default=Path("runs/bench"))
    parser.add_argument("--edits", type=int, default=10_010, help="of the run that `store` keeps")
    options = parser.parse_args()
    if options.edits < 110:
        parser.error(f"--edits: {options.edits} is too few, allowed are 110 or more")
    clock = Clock(torch.device(options.device), options.clock == "own")
    offered = measurements(options.quick, clock, options.edits)
    keys = [key for some, _ in offered.values() for key in some]
    for key in options.only:
        if key not in keys and key not in offered:
            parser.error(f"--only: {key!r} is not one of {', '.join([*offered, *keys])}")
    diffusers.utils.logging.disable_progress_bar()
    described = machine(options.device)
    whole = Measured()
    for name, (some, measure) in offered.items():
        if options.only and not {name, *some} & set(options.only):
            continue
        began = time.perf_counter()
        measured = measure(lambda text, name=name: print(f"{name}: {text}", file=sys.stderr, flush=True))  # type: ignore[misc]
        whole.figures |= measured.figures
        whole.details |= measured.details | {f"{name}_seconds_of_measuring": time.perf_counter() - began}
        for key, ratio in measured.figures.items():
            print(f"{name}: {key} {ratio.value:.3f}", file=sys.stderr, flush=True)
    figures = {key: ratio.value for key, ratio in whole.figures.items()}
    spread = {key: [ratio.least, ratio.most] for key, ratio in whole.figures.items()}
    report = {
        "figures": figures,
        "goals": {key: list(goal) for key, goal in GOALS.items() if key in figures},
        "spread": spread,
        "details": whole.details,
        "quick": options.quick,
        "clock": options.clock,
        "machine": described,
    }
    write_whole(options.out / "bench.json", json.dumps(report, indent=1) + "\n")
    facts = ", ".join(f"{name} {value}" for name, value in described.items())
    sides = {key: f"an edit / two images, peak memory at {key.split('_')[-1]}² latents" for key in figures}
    print(f"{table(figures, spread, GOALS, sides | MEANING)}\n\n{facts}\n\n{options.out / 'bench.json'}")


if __name__ == "__main__":
    main()
