"""The benchmark at tiny shapes: what it compares is the same work, and its report has every figure.

No test looks at a time.
"""

import json
import math
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import cache, partial
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import StableDiffusionPipeline

from experiments.bench import __main__ as bench
from experiments.bench import (
    edit,
    edit_cost,
    flow_cost,
    naive,
    overhead,
    overlap,
    scaling,
    scoring,
    startup,
    store,
    sweep,
)
from experiments.bench.bare import BareCalls
from experiments.bench.flow_shapes import FLOW_SHAPES, random_flow_pipeline
from experiments.bench.measuring import Clock, Ratio, held_memory, in_turn
from experiments.bench.report import meets
from experiments.bench.shapes import SHAPES, random_pipeline
from experiments.planning.plan import Plan
from p2p import Calls, Group, Model, Sampling
from p2p.engine import generate
from p2p.evaluations import plan_evaluations

pytestmark = pytest.mark.xdist_group("bench")

CLOCK = Clock(torch.device("cpu"))
OWN_KEYS = {
    "sweep_speedup", "sweep_vs_bound", "naive_vs_diffusers_step", "overhead",
    "edit_vs_plain_time", "edit_vs_plain_memory",
    "materialised_vs_plain_time", "materialised_vs_plain_memory",
    "self_memory_16", "self_memory_24", "self_memory_32", "self_memory_growth",
    *flow_cost.keys(bench.FLOWS),
    *startup.KEYS,
    *overlap.KEYS,
    *scaling.KEYS,
    *store.KEYS,
    "compiled_speedup", "evaluation_speedup", *(f"evaluation_speedup_{name}" for name in scoring.FAMILIES),
}  # fmt: skip


@cache
def tiny_pipeline(shapes: str) -> StableDiffusionPipeline:
    """A pipeline of these shapes, built once: reading CLIP's vocabulary takes a second."""
    return random_pipeline(SHAPES[shapes], "cpu")


def quiet(text: str) -> None:
    """Say nothing."""


def test_the_tree_gives_the_naive_loops_images(tiny_model: Model) -> None:
    """Pairs of replace and refine, in double precision: not one 8-bit value differs."""
    measured = sweep.measure(tiny_model, 2, [0.0, 0.5, 1.0], Sampling(4, 3.0), CLOCK, quiet)
    assert set(measured.figures) == {"sweep_speedup", "sweep_vs_bound"}
    assert measured.details["sweep_images_compared"] == 2 * 3 * 2
    assert measured.details["sweep_8_bit_values_that_differ"] == 0
    assert measured.details["sweep_evaluations_one_by_one"] == 2 * 3 * 4 * 4


def test_other_images_are_an_error(tiny_model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    original = naive.edit_images
    monkeypatch.setattr(naive, "edit_images", lambda *args: 1 - original(*args))
    with pytest.raises(RuntimeError, match=r"differ by up to \d+ levels in \d+ of \d+ values, allowed are"):
        sweep.measure(tiny_model, 1, [0.0], Sampling(1), CLOCK, quiet)


@pytest.mark.parametrize("operator", edit.TARGETS)
def test_all_engines_generate_the_same_images(operator: str) -> None:
    """Plain, engine and materialised have one source; the edits of the last two are equal, and no plain one.

    In float32: sums over attention of a random UNet, in another order.
    """
    pipeline = tiny_pipeline("tiny")
    job = {"operator": operator, "side": 16, "guidance": 7.5}
    plain, engine, materialised = (
        edit.run(name, pipeline, job) for name in ("plain", "engine", "materialised")
    )
    torch.testing.assert_close(engine, materialised, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(engine[0], plain[0], rtol=1e-4, atol=1e-4)
    assert (engine[1] - plain[1]).abs().max() > 1e-3


@pytest.mark.parametrize("shapes", ["sd3_tiny", "flux_tiny"])
def test_edits_in_few_blocks_are_measured_beside_the_very_pictures_of_diffusers(shapes: str) -> None:
    """The source is plain diffusers' own; both methods edit in the injected block, each its own way."""
    own = FLOW_SHAPES[shapes]
    pipeline = random_flow_pipeline(own, "cpu")
    job = {"operator": "replace", "side": 8, "guidance": 1.0, "steps": 3}
    plain = edit.run("plain", pipeline, job)
    if plain.ndim == 3:  # Flux's are packed
        plain = pipeline._unpack_latents(plain, 64, 64, pipeline.vae_scale_factor)
    edits = [
        edit.run("engine", pipeline, {**job, "few_blocks": method, "blocks": own.injected})
        for method in flow_cost.METHODS
    ]
    for latents in edits:
        torch.testing.assert_close(latents[0], plain[0], rtol=1e-4, atol=1e-4)  # float32
        assert (latents[1] - plain[1]).abs().max() > 1e-4
    assert (edits[0][1] - edits[1][1]).abs().max() > 1e-4


def test_bare_calls_count_what_was_planned(tiny_model: Model) -> None:
    sampling = Sampling(3, 3.0, max_batch=4)
    groups = [Group(f"a cat {seed}", seed, ()) for seed in range(3)]
    bare = BareCalls(tiny_model, CLOCK, every=2)
    generate(tiny_model, groups, sampling, Calls(sampling.max_batch, bare.on_rows))
    assert bare.counts == {4: 3, 2: 3}
    assert sum(rows * n for rows, n in bare.counts.items()) == plan_evaluations(groups, 3, sampling)
    assert {rows: len(times) for rows, times in bare.bare.items()} == {4: 2, 2: 2}
    assert bare.bound() == pytest.approx(sum(3 * sum(times) / 2 for times in bare.bare.values()))


def test_overhead_leaves_the_first_step_out(tiny_model: Model) -> None:
    measured = overhead.measure(tiny_model, 2, Sampling(3), CLOCK, quiet)
    assert measured.details == {"overhead_rows": 8, "overhead_steps": 2}


def test_scores_that_differ_from_the_libraries_are_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    original = scoring._errors
    monkeypatch.setattr(scoring, "_errors", lambda *args: (1.01 * values for values in original(*args)))
    with pytest.raises(RuntimeError, match="evaluation: pixel differs from the library's"):
        scoring.measure(1, 2, 1, CLOCK, quiet)


def test_rounds_run_forwards_and_backwards() -> None:
    order: list[str] = []
    times = in_turn({name: lambda name=name: order.append(name) or 1.0 for name in "abc"}, 3)  # type: ignore[misc]
    assert "".join(order) == "abccbaabc"
    assert times == {"a": [1.0] * 3, "b": [1.0] * 3, "c": [1.0] * 3}


def test_ratios() -> None:
    assert Ratio.of([3.0, 1.0, 2.0]) == Ratio(2.0, 1.0, 3.0)
    assert Ratio.of_sums([1.0, 4.0], [1.0, 1.0]) == Ratio(2.5, 1.0, 4.0)


HELD = """
import torch
from experiments.bench.measuring import held_memory, peak_memory

def call():
    for _ in range(2):
        torch.ones(2**24)

before, device = torch.ones(2**24), torch.device("cpu")
call()  # what is loaded at the first call is no part of it
held = held_memory(device)
peak, gauge = peak_memory(call, device)
print((peak - held) / 2**20, gauge)
"""


def test_peak_memory_is_what_a_call_holds_at_most() -> None:
    """64 MiB twice, one after the other, beside 64 MiB that were there before.

    In a process of its own: in one with many tests behind it the system may hold what was freed for longer.
    """
    command = [sys.executable, "-c", HELD]
    done = subprocess.run(command, cwd=startup.ROOT, capture_output=True, text=True, check=True)
    mebibytes, _, gauge = done.stdout.strip().partition(" ")
    if gauge.startswith("VmHWM"):
        assert 62 < float(mebibytes) < 80


@contextmanager
def here(engine: str, shapes: str, clock: Clock) -> Iterator[Callable[[edit.Job], dict[str, Any]]]:
    """What `edit.process` gives, without the process: starting one takes seconds."""
    pipeline = tiny_pipeline(shapes)
    loaded = held_memory(clock.device)
    yield lambda job: edit.answer(engine, pipeline, clock, loaded, job)


def now_alone(step: Callable[..., dict[str, Any]], tree: Path, *given: Any) -> dict[str, Any]:
    """Carry out a step of the store with this tree; one with the earlier version took as long as it likes."""
    return step(tree, *given) if tree == store.ROOT else {"files": 1, "seconds": 1.0, "megabytes": 1.0}


def pretended(tree: Path, arguments: list[str]) -> startup.Spent:
    """Take longer the more is asked for."""
    return startup.Spent(sum(map(len, arguments)) + 9.0 * (arguments[0] == "run"), 9.0)


def as_many_times_as_fast(plan: Plan, count: int) -> scaling.Took:
    """Take a second for every hundred evaluations, shared by so many workers."""
    return scaling.Took(9.0, plan.evaluations / 100 / count, [(100, 1.0)])


@pytest.mark.slow
def test_the_quick_form_reports_every_figure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(edit_cost, "process", here)
    monkeypatch.setattr(startup, "earlier_tree", lambda commit: nullcontext(Path("before")))
    monkeypatch.setattr(startup, "spent", pretended)
    monkeypatch.setattr(store, "earlier_tree", lambda commit: nullcontext(Path("before")))
    monkeypatch.setattr(store, "step", partial(now_alone, store.step))
    monkeypatch.setattr(scaling, "carried_out", as_many_times_as_fast)
    monkeypatch.setattr("p2p.compiling.BACKEND", "eager")
    monkeypatch.setattr("sys.argv", ["bench", "--quick", "--out", str(tmp_path)])
    bench.main()
    report = json.loads((tmp_path / "bench.json").read_text())
    assert set(report["figures"]) == set(report["spread"]) == OWN_KEYS
    assert all(math.isfinite(value) and value > 0 for value in report["figures"].values())
    assert set(report["goals"]) == set(bench.GOALS) <= OWN_KEYS
    assert report["quick"]
    assert {"processor", "cores", "threads", "torch"} <= set(report["machine"])
    assert report["details"]["sweep_largest_8_bit_difference"] <= sweep.LEVELS
    rows = [line for line in capsys.readouterr().out.splitlines() if line.startswith("| ")]
    assert {row.split(" | ")[0][2:] for row in rows[1:]} == OWN_KEYS


@pytest.mark.parametrize("arguments", [["--help"], ["ls"], ["run", "experiment=quikstart"]])
def test_the_command_line_is_entered_without_pytorch(arguments: list[str]) -> None:
    took = startup.spent(startup.ROOT, arguments)
    assert took.seconds > 0
    assert 5 < took.megabytes < 60  # PyTorch alone takes 500


def test_an_earlier_commit_that_is_not_there_is_one_line() -> None:
    with (
        pytest.raises(ValueError, match="startup: commit 0000000 is not in this clone"),
        startup.earlier_tree("0" * 40),
    ):
        pass


def test_one_figure_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = ["--quick", "--only", "overhead", "--clock", "own", "--out", str(tmp_path)]
    monkeypatch.setattr("sys.argv", ["bench", *arguments])
    bench.main()
    report = json.loads((tmp_path / "bench.json").read_text())
    assert list(report["figures"]) == ["overhead"]
    assert report["clock"] == "own"


def test_an_unknown_figure_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["bench", "--only", "speed"])
    with pytest.raises(SystemExit):
        bench.main()
    assert "--only: 'speed' is not one of overhead, " in capsys.readouterr().err


def test_goals() -> None:
    assert meets(bench.GOALS["sweep_speedup"], 5.0)
    assert not meets(bench.GOALS["sweep_speedup"], 4.9)
    assert meets(bench.GOALS["overhead"], 1.03)
    assert not meets(bench.GOALS["overhead"], 1.04)


@pytest.mark.slow
def test_an_edit_in_a_process_of_its_own() -> None:
    with edit.process("engine", "tiny", CLOCK) as ask:
        given = ask({"operator": "refine", "side": 16, "guidance": 7.5})
    assert set(given) == {"seconds", "bytes", "gauge"}
    with (
        pytest.raises(RuntimeError, match="engine on none: the process ended, exit code 1"),
        edit.process("engine", "none", CLOCK),
    ):
        pass


def test_what_a_run_loses_at_its_ends_is_told_from_what_it_loses_at_each_call() -> None:
    """Of 10.67 s 4 are the ends; of the rest four fifths are in the denoiser, half of all."""
    run = overlap.Taken.of(0.0, [(1.0, 3.0), (4.0, 6.0)], 9.0)
    assert (run.asleep, run.ends, run.between, run.share) == (4.0, 4.0, 1.0, 4 / 9)
    assert run.long_enough(0.5) == pytest.approx(32 / 3)
    assert run.long_enough(0.8) == float("inf")
