"""A run begun on one device and resumed on the other makes nothing twice."""

import sys
from pathlib import Path

import pytest
from hydra.core.global_hydra import GlobalHydra

import experiments.run
from results.store.records import load

pytestmark = pytest.mark.gpu


def run(monkeypatch: pytest.MonkeyPatch, *overrides: str) -> None:
    """Call `p2p-bench run` in this process."""
    monkeypatch.setattr(sys, "argv", ["p2p-bench", "run", *overrides])
    GlobalHydra.instance().clear()
    experiments.run.main()


def written(run_dir: Path) -> dict[str, int]:
    """Return when each image of a run was written, in nanoseconds."""
    return {
        str(file.relative_to(run_dir)): file.stat().st_mtime_ns for file in run_dir.rglob("images/**/*.png")
    }


def test_a_run_is_resumed_on_the_other_device(
    device: str, tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From the CPU to the device, which adds a seed, and back, where nothing is left to make."""
    run_dir = tmp_path / "run"
    common = [
        "model=folder", f"model.path={tiny_folder}", "model.self_max_side=16", "model.dtype=float32",
        "sampling.num_inference_steps=3", "dataset=inline", "dataset.source_prompt=a cat on a bench",
        "dataset.target_prompt=a dog on a bench", "grid=single", "metrics=pixel", f"run_dir={run_dir}",
    ]  # fmt: skip
    run(monkeypatch, *common, "device=cpu", "seed=[0]", "tau=[0.3]")
    first = written(run_dir)
    assert first
    run(monkeypatch, *common, f"device={device}", f"metrics_device={device}", "seed=[0,1]", "tau=[0.3]")
    second = written(run_dir)
    assert first.items() < second.items()
    run(monkeypatch, *common, "device=cpu", "seed=[0,1]", "tau=[0.3]")
    assert written(run_dir) == second
    records = load(run_dir)
    edits = records[records["method"] == "p2p"]
    assert sorted(zip(edits["seed"], edits["tau"], strict=True)) == [(0, 0.3), (1, 0.3)]
    assert edits["mse@1"].notna().all()
    assert not records.duplicated(["key", "pair_id", "method"]).any()
