"""What is measured of the phantoms' model, on tiny random networks: every figure is there, in its range."""

import json
from pathlib import Path

import pytest
import torch

from experiments.embedded.judge import Judge
from experiments.embedded.worlds.phantoms import quality
from experiments.embedded.worlds.phantoms.definition import WORLD
from p2p import Model, ModelSpec, Sampling
from tests.tiny import save_tiny_pipeline

FEW = Sampling(num_inference_steps=2)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    """A tiny random pipeline whose pictures have the world's size."""
    folder = save_tiny_pipeline(tmp_path_factory.mktemp("tiny") / "pipeline")
    file = folder / "unet" / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"sample_size": 32}))
    return ModelSpec("tiny", str(folder), self_max_side=32, blend_side=16, device="cpu").load()


@pytest.fixture(scope="module")
def judge(tmp_path_factory: pytest.TempPathFactory) -> Judge:
    """An untrained judge."""
    torch.manual_seed(0)
    return Judge(WORLD).eval()


def test_prompts_of_reweighting_were_never_trained_on() -> None:
    assert all(phantom.reserved() for phantom in (*quality.LARGE, *quality.TUMORS))
    assert all(phantom.lesion and phantom.lesion.size == "large" for phantom in quality.LARGE)
    assert (len(quality.LARGE) + len(quality.TUMORS)) * 3 == 24


def test_reweighting_is_measured(model: Model, judge: Judge) -> None:
    figures = quality.reweighting(model, judge, seeds=(0,), sampling=FEW)
    rises, large, tumor, ratio = (figure.value for figure in figures)
    assert [figure.goal for figure in figures] == [">= 0.9", "", "", "<= 0.3"]
    assert 2 * rises == pytest.approx(large + tumor)
    assert 0 <= ratio < float("inf")


def test_edits_are_measured(
    model: Model, judge: Judge, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    judge.save(tmp_path)
    success = quality.EditSuccess
    monkeypatch.setattr(quality, "EditSuccess", lambda world: success(world, folder=tmp_path))
    figures = quality.edits(model, judge, each=1, sampling=FEW)
    assert len(figures) == 3 * 5 + 2
    assert all(figure.value in (0, 1) for figure in figures[:15])
    assert [figure.goal for figure in figures[:15:3]] == list(quality.EDITS.values())


def test_naming_is_measured(model: Model, judge: Judge) -> None:
    figures = quality.naming(model, judge, FEW)
    assert [figure.goal for figure in figures] == [">= 0.85", ">= 0.9", ">= 0.9", ">= 0.98"]
    assert all(0 <= figure.value <= 1 for figure in figures)
