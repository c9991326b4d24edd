"""`overhead`: one step of the engine, everything injected, against a bare UNet call of as many rows."""

from __future__ import annotations

from collections.abc import Callable

from experiments.bench.bare import BareCalls
from experiments.bench.measuring import Clock, Measured, Ratio
from experiments.datasets.embedded_pairs import COUNTS, scene_pairs
from p2p import Calls, EditRequest, Group, Model, PromptToPrompt, Sampling
from p2p.engine import tree_latents


def measure(
    model: Model, pairs: int, sampling: Sampling, clock: Clock, say: Callable[[str], None]
) -> Measured:
    """Measure on one edit of each of `pairs` pairs in one call: every edited row takes cross and self maps.

    A step is what lies between the ends of two UNet calls: guidance, scheduler, forks and the next call. Each
    is compared with a bare call right after it; the figure is the median.
    """
    method = PromptToPrompt(tau=0.0, self_replace_steps=1.0)
    groups = []
    for seed, scene in enumerate(scene_pairs(dict.fromkeys(COUNTS, 1))[:pairs]):
        pair = scene.pair()
        request = EditRequest(pair.source_prompt, pair.target_prompt, pair.weights)
        edit = method.trajectory(request, model.tokenizers, sampling.num_inference_steps)
        groups.append(Group(pair.source_prompt, seed, (edit,)))
    rows = pairs * (4 if sampling.guided else 2)
    bare = BareCalls(model, clock)
    bare.call(rows)
    tree_latents(model, groups, sampling, Calls(rows, bare.on_rows))
    steps, calls = bare.between[1:], bare.bare[rows][1:]  # the first also encodes the text
    ratio = Ratio.of([step / call for step, call in zip(steps, calls, strict=True)])
    say(f"{len(steps)} steps of {rows} rows, a bare call of {sum(calls) / len(calls) * 1000:.0f} ms each")
    return Measured({"overhead": ratio}, {"overhead_rows": rows, "overhead_steps": len(steps)})
