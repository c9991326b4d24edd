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
def judge() -> Judge:
    """An untrained judge that sees no lesion."""
    torch.manual_seed(0)
    judge = Judge(WORLD).eval()
    with torch.no_grad():
        judge.get_parameter("classes.0.bias")[:4] = 10.0  # the background's four places under the shuffle
    return judge


def test_prompts_of_reweighting_were_never_trained_on() -> None:
    assert all(phantom.reserved() for phantom in (*quality.LARGE, *quality.TUMORS))
    assert all(phantom.lesion and phantom.lesion.size == "large" for phantom in quality.LARGE)
    assert (len(quality.LARGE) + len(quality.TUMORS)) * 3 == 24


def test_reweighting_is_measured(model: Model, judge: Judge, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("LARGE", "TUMORS"):
        monkeypatch.setattr(quality, name, getattr(quality, name)[:1])
    figures = quality.reweighting(model, judge, seeds=(0,), sampling=FEW)
    rises, large, tumor, of_kind, ratio = (figure.value for figure in figures)
    assert [figure.goal for figure in figures] == [">= 0.9", "", "", "", "<= 0.3"]
    assert rises == large == tumor == of_kind == 0  # an area that stays 0 does not rise
    assert 0 < ratio < float("inf")


def test_edits_are_measured(
    model: Model, judge: Judge, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    judge.save(tmp_path)
    success = quality.EditSuccess
    monkeypatch.setattr(quality, "EditSuccess", lambda world: success(world, folder=tmp_path))
    figures = quality.edits(model, judge, each=1, sampling=FEW)
    assert len(figures) == 3 * 5 + 2
    made = {figure.name.split()[-4]: figure.value for figure in figures[:12]}
    assert made == {"add": 0, "remove": 1, "place": 0, "swap": 0}
    assert all(0 < figure.value < float("inf") for figure in figures[15:])
    assert [figure.goal for figure in figures[:15:3]] == list(quality.EDITS.values())


def test_naming_is_measured(model: Model, judge: Judge) -> None:
    figures = quality.naming(model, judge, FEW, ill=8, well=4)
    assert [figure.goal for figure in figures] == [">= 0.85", ">= 0.9", ">= 0.9", ">= 0.98"]
    assert figures[2].value == 1
    assert all(0 <= figure.value <= 1 for figure in figures)
    assert figures[3].name == "generated: modality right (12 images)"


@pytest.mark.parametrize(
    ("areas", "rises"),
    [((1, 1, 2, 3), True), ((0, 2, 1, 3), False), ((2, 2, 2, 2), False), ((0, 0, 0, 1), True)],
)
def test_an_area_rises_that_never_falls_and_ends_larger(areas: tuple[int, ...], rises: bool) -> None:
    masks = torch.zeros(4, 8, 8, dtype=torch.bool)
    for mask, area in zip(masks, areas, strict=True):
        mask.view(-1)[:area] = True
    assert quality._rises(masks) == rises
