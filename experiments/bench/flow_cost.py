"""What an edit in few blocks of a transformer costs beside plain diffusers making the same two pictures.

Prompt-to-Prompt by maps and by projections in one block at Stable Diffusion 3's and Flux's real widths, with
three and two blocks where the models have 24 and 57: an injected block weighs more here than there.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from experiments.bench.edit import Job, process
from experiments.bench.measuring import Clock, Measured, Ratio, in_turn

METHODS = ("maps", "projections")


def keys(families: Sequence[str]) -> tuple[str, ...]:
    """Return the names of the figures."""
    return tuple(f"{f}_{m}_vs_plain_{unit}" for f in families for m in METHODS for unit in ("time", "memory"))


def measure(
    shapes: Sequence[str], side: int, rounds: int, clock: Clock, say: Callable[[str], None]
) -> Measured:
    """Measure one step of both methods and of plain diffusers in turn, unguided, for each family's shapes.

    One process does all, on the same weights: two processes of Flux's width differed by 1.4, which was not
    explained. Without guidance half of the rows, not a quarter, read another's attention.
    """
    measured = Measured()
    for name in shapes:
        family = name.split("_")[0]
        answers: dict[str, list[dict[str, Any]]] = {}
        job: Job = {"operator": "replace", "side": side, "guidance": 1.0}
        with process("engine", name, clock) as ask:
            runs = {"plain": _kept(ask, {**job, "engine": "plain"}, answers, "plain")}
            for method in METHODS:
                runs[method] = _kept(ask, {**job, "few_blocks": method}, answers, method)
            in_turn(runs, rounds, lambda text, family=family: say(f"{family}, {text} s"))  # type: ignore[misc]
        for method in METHODS:
            for unit, told in (("seconds", "time"), ("bytes", "memory")):
                ratios = [a[unit] / b[unit] for a, b in zip(answers[method], answers["plain"], strict=True)]
                measured.figures[f"{family}_{method}_vs_plain_{told}"] = Ratio.of(ratios)
        measured.details[f"{family}_flow_shapes"] = f"{name}, {side}x{side} latents, one step"
        measured.details[f"{family}_flow_bytes"] = {k: max(a["bytes"] for a in v) for k, v in answers.items()}
    return measured


def _kept(
    ask: Callable[[Job], dict[str, Any]], job: Job, answers: dict[str, list[dict[str, Any]]], name: str
) -> Callable[[], float]:
    def run() -> float:
        given = ask(job)
        answers.setdefault(name, []).append(given)
        return float(given["seconds"])

    return run
