"""The command line on a model of two stages: planned exactly, and large images on disk."""

from pathlib import Path

import pytest

from experiments.running.png_files import read_png
from results.store.records import load_records
from tests.experiments.command import Cli
from tests.p2p.families.tiny_deepfloyd import save_tiny_deepfloyd


def test_deepfloyd_runs_with_its_upscaler(
    cli: Cli, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, run_dir = save_tiny_deepfloyd(tmp_path / "pipelines"), tmp_path / "run"
    model = ["model=deepfloyd", f"model.path={folder / 'base'}", f"model.upscaler.path={folder / 'upscaler'}"]
    for stage in ("model", "model.upscaler"):
        model += [f"{stage}.dtype=float32", f"{stage}.variant=null"]
    pair = [
        "dataset=inline",
        "dataset.source_prompt=a cat on a bench",
        "dataset.target_prompt=a dog on a bench",
    ]
    grid = [
        "grid=trade_off",
        "grid.seeds=[0]",
        "grid.methods.p2p.tau=[0]",
        "grid.methods.sdedit.strength=[0.5]",
    ]
    options = ["device=cpu", "sampling.num_inference_steps=4", "metrics=pixel", "plots=false", "report=false"]
    options.append(f"run_dir={run_dir}")
    assert cli("plan", *model, *pair, *grid, *options, "estimate=true") == 0
    assert "of denoising on this machine" in capsys.readouterr().out
    assert cli("run", *model, *pair, *grid, *options) == 0
    out = capsys.readouterr().out
    records = load_records(run_dir)
    assert set(records["status"]) == {"ok"}
    assert {read_png(run_dir / image).shape for image in records["image"]} == {(3, 32, 32)}
    # Source, P2P and fixed seed take 4 steps of the base stage, SDEdit 2; all four take 4 of the upscaler.
    assert f"{2 * (3 * 4 + 2 + 4 * 4)} UNet evaluations" in out
