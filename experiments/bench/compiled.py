"""What `model.compile=true` gains and costs: edits by the denoiser as it is and compiled, in turn."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch

from experiments.bench.measuring import Clock, Measured, Ratio, in_turn
from experiments.bench.sweep import model_calls
from p2p import Group, Model, Sampling
from p2p.engine import tree_latents
from p2p.evaluations import plan_evaluations


def measure(
    model: Model,
    groups: Sequence[Group],
    sampling: Sampling,
    rounds: int,
    clock: Clock,
    say: Callable[[str], None],
) -> Measured:
    """Measure edits of groups without text encoders' and autoencoder's share, which is not compiled.

    What compiling costs is the first run less a later one; it is earned again after as many UNet
    evaluations as `compiled_break_even` says, -1 where never.
    """
    models = {"eager": replace(model, compile=False), "compiled": replace(model, compile=True)}
    found: dict[str, list[torch.Tensor]] = {}

    def run(name: str) -> None:
        found[name] = list(tree_latents(models[name], groups, sampling).values())

    first = {name: clock.seconds(lambda name=name: run(name)) for name in models}  # type: ignore[misc]
    say(f"first run: eager {first['eager']:.1f} s, compiled {first['compiled']:.1f} s")
    times = in_turn(
        {name: lambda name=name: clock.seconds(lambda: run(name)) for name in models},  # type: ignore[misc]
        rounds,
        say,
    )
    ratio = Ratio.of([a / b for a, b in zip(times["eager"], times["compiled"], strict=True)])
    evaluations = plan_evaluations(groups, model_calls(model, sampling), sampling)
    least = {name: min(seconds) for name, seconds in times.items()}
    cost, saved = first["compiled"] - least["compiled"], least["eager"] - least["compiled"]
    pairs = zip(found["eager"], found["compiled"], strict=True)
    differences = [(a - b).abs().max().item() for a, b in pairs]
    return Measured(
        {"compiled_speedup": ratio},
        {
            "compiled_seconds_of_compiling": cost,
            "compiled_evaluations": evaluations,
            "compiled_break_even": round(cost / saved * evaluations) if saved > 0 else -1,
            "compiled_largest_difference_of_latents": max(differences),
        },
    )
