"""What one edit costs beside plain diffusers generating the same two images: time, and peak memory.

`edit_vs_plain_*` and `materialised_vs_plain_*` at SD 1.5's real shapes; `self_memory_SIDE` for latents of
growing side, self-attention injected in every layer, and `self_memory_growth`: memory per pixel at the
largest side against that at the smallest, 1 where memory is linear in the pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from statistics import median
from typing import Any

from experiments.bench.edit import TARGETS, Job, process
from experiments.bench.measuring import Clock, Measured, Ratio, in_turn

GUIDANCE = 7.5


def measure(shapes: str, side: int, rounds: int, clock: Clock, say: Callable[[str], None]) -> Measured:
    """Measure replace and refine; the worse of the two counts.

    Plain and engine take turns. The materialised engine, which has no goal, runs once after them: three
    processes at a time would want three times the weights.
    """
    answers: dict[str, list[dict[str, Any]]] = {}
    jobs: dict[str, Job] = {
        operator: {"operator": operator, "side": side, "guidance": GUIDANCE} for operator in TARGETS
    }
    with ExitStack() as stack:
        plain, engine = (stack.enter_context(process(name, shapes, clock)) for name in ("plain", "engine"))
        runs = {"plain": _run(plain, jobs["replace"], answers, "plain")}
        for operator, job in jobs.items():
            runs[operator] = _run(engine, job, answers, operator)
        in_turn(runs, rounds, lambda text: say(f"{text} s"))
    with process("materialised", shapes, clock) as materialised:
        runs = {f"materialised {o}": _run(materialised, job, answers, f"m {o}") for o, job in jobs.items()}
        in_turn(runs, 1, lambda text: say(f"{text} s"))
    measured = Measured()
    for unit, name in (("seconds", "time"), ("bytes", "memory")):
        base = [a[unit] for a in answers["plain"]]
        edits = {o: Ratio.of([a[unit] / b for a, b in zip(answers[o], base, strict=True)]) for o in jobs}
        formed = {o: Ratio.of([a[unit] / median(base) for a in answers[f"m {o}"]]) for o in jobs}
        for key, ratios in ((f"edit_vs_plain_{name}", edits), (f"materialised_vs_plain_{name}", formed)):
            measured.figures[key] = max(ratios.values(), key=lambda ratio: ratio.value)
            measured.details[key] = {operator: ratio.value for operator, ratio in ratios.items()}
    measured.details["edit_peak_bytes"] = {
        name: max(a["bytes"] for a in some) for name, some in answers.items()
    }
    measured.details["edit_memory_gauge"] = answers["plain"][0]["gauge"]
    measured.details["edit_shapes"] = f"{shapes}, {side}x{side} latents, one step"
    return measured


def measure_growth(shapes: str, sides: Sequence[int], clock: Clock, say: Callable[[str], None]) -> Measured:
    """Measure the memory of one edit for each side of the latents, without guidance.

    So that half of the rows, not a quarter, read another's attention.
    """
    peaks: dict[str, dict[int, int]] = {}
    for engine in ("plain", "engine"):
        with process(engine, shapes, clock) as ask:
            for side in sides:
                held = ask({"operator": "replace", "side": side, "guidance": 1.0})["bytes"]
                peaks.setdefault(engine, {})[side] = held
                say(f"{engine}, {side}x{side} latents: {held / 2**20:.0f} MiB")
    ratios = {side: peaks["engine"][side] / peaks["plain"][side] for side in sides}
    measured = Measured({f"self_memory_{side}": Ratio.of([ratio]) for side, ratio in ratios.items()})
    small, large = min(sides), max(sides)
    growth = peaks["engine"][large] / peaks["engine"][small] / (large / small) ** 2
    measured.figures["self_memory_growth"] = Ratio.of([growth])
    measured.details["self_memory_bytes"] = peaks
    measured.details["self_memory_shapes"] = f"{shapes}, one step, without guidance"
    return measured


def _run(
    ask: Callable[[Job], dict[str, Any]], job: Job, answers: dict[str, list[dict[str, Any]]], name: str
) -> Callable[[], float]:
    def run() -> float:
        given = ask(job)
        answers.setdefault(name, []).append(given)
        return given["seconds"]

    return run
