"""Speed as ratios measured in one run: `make bench` prints a Markdown table and writes runs/bench/bench.json.

Machines are noisy, so nothing here is an absolute time: what a ratio compares is measured in turn.
"""

from __future__ import annotations

import json
import platform
import time
from collections.abc import Callable
from pathlib import Path

import torch

from experiments.embedded.pairs import scene_pairs
from experiments.embedded.training import WEIGHTS
from p2p import EditRequest, Group, Model, ModelSpec, PromptToPrompt, Sampling, generate
from p2p.engine import plan_evaluations
from p2p.families.model import stack_rows

TAUS = [t / 10 for t in range(11)]


def best(functions: list[Callable[[], object]], repeats: int) -> list[float]:
    """Return each function's shortest time in seconds, measured in turn."""
    times: list[list[float]] = [[] for _ in functions]
    for _ in range(repeats):
        for function, kept in zip(functions, times, strict=True):
            began = time.perf_counter()
            function()
            kept.append(time.perf_counter() - began)
    return [min(kept) for kept in times]


def sweep(model: Model, pairs: int, sampling: Sampling) -> dict[str, float]:
    """Eleven values of tau on some swaps: the tree against one branch at a time, each with its own source."""
    groups = []
    for pair in scene_pairs({"swap": pairs}):
        source, target = pair.source.caption(), pair.target.caption()
        methods = [PromptToPrompt(tau=tau) for tau in TAUS]
        edits = tuple(
            m.trajectory(EditRequest(source, target), model.tokenizers, sampling.num_inference_steps)
            for m in methods
        )
        groups.append(Group(source, 0, edits))
    alone = [Group(g.source_prompt, g.seed, (edit,)) for g in groups for edit in g.edits]
    tree, one_by_one = best(
        [
            lambda: generate(model, groups, sampling),
            lambda: [generate(model, [group], sampling) for group in alone],
        ],
        1,
    )
    rows = [plan_evaluations(some, sampling.num_inference_steps, sampling) for some in (groups, alone)]
    return {"sweep_speedup_vs_one_by_one": one_by_one / tree, "sweep_evaluations_saved": rows[1] / rows[0]}


def overhead(model: Model, rows: int = 32) -> dict[str, float]:
    """A UNet call through the engine's processors, nothing injected, against the pipeline's own."""
    latents = torch.randn(rows, *model.latent_shape, generator=torch.Generator().manual_seed(0))
    conditioning, timestep = stack_rows([model.encode_prompt("")] * rows), torch.tensor(500)

    @torch.no_grad()
    def bare() -> None:
        model.predict(latents, timestep, conditioning)

    def installed() -> None:
        with model.injection_processors():
            bare()

    bare()
    plain, engine = best([bare, installed], 15)
    return {"processor_overhead": engine / plain}


def main() -> None:
    """Measure on the embedded model and report."""
    model = ModelSpec(
        "embedded", str(WEIGHTS / "pipeline"), self_max_side=16, blend_side=16, device="cpu"
    ).load()
    figures = {**overhead(model), **sweep(model, 2, Sampling())}
    processor = platform.processor() or platform.machine()
    machine = f"{processor}, {torch.get_num_threads()} threads, torch {torch.__version__}"
    folder = Path("runs/bench")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "bench.json").write_text(json.dumps({**figures, "machine": machine}, indent=1) + "\n")
    print(
        "\n".join(
            [
                "| ratio | value |",
                "|---|---:|",
                *(f"| {name} | {value:.2f} |" for name, value in figures.items()),
                "",
                machine,
            ]
        )
    )


if __name__ == "__main__":
    main()
