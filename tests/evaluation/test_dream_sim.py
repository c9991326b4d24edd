"""DreamSim through its own package, with tiny random weights, equals the package asked by hand, and is one
line without it."""

import importlib.util
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from evaluation import Edits, WeightsUnavailable
from evaluation.dream_sim import BACKBONES, DreamSim
from tests.evaluation.pictures import edits_of, rows_of

NAME = "dreamsim_open_clip_vitb32@1"
WIDTH = 24


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What an archive holds, of a transformer of two blocks, with adapters that do something."""
    package = pytest.importorskip("dreamsim.model", reason="dreamsim is an extra")
    from dreamsim.feature_extraction import load_open_clip_as_dino
    from dreamsim.feature_extraction.vision_transformer import VisionTransformer
    from peft import LoraConfig, get_peft_model

    def tiny(patch_size: int) -> Any:
        norm = partial(nn.LayerNorm, eps=1e-6)
        return VisionTransformer(
            patch_size=patch_size, embed_dim=WIDTH, depth=2, num_heads=2, qkv_bias=True, norm_layer=norm
        )

    monkeypatch.setattr(load_open_clip_as_dino, "vit_base", tiny)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        vit = tiny(32)
        vit.pos_drop = nn.LayerNorm(WIDTH)
        weights = {**vit.state_dict(), "proj": torch.randn(WIDTH, 16)}
        torch.save({"state_dict": weights}, tmp_path / "open_clip_vitb32_pretrain.pth.tar")
        settings = package.dreamsim_args["model_config"]["open_clip_vitb32"]
        model = package.PerceptualModel(
            **settings, load_dir=str(tmp_path), normalize_embeds=True, device="cpu"
        )
        adapted = get_peft_model(model, LoraConfig(r=4, lora_alpha=8, target_modules=["qkv"]))
        for name, parameter in adapted.named_parameters():
            if "lora" in name:
                parameter.data.normal_()
        adapted.save_pretrained(tmp_path / "open_clip_vitb32_single_lora")
    return tmp_path


@torch.no_grad()
def test_equal_to_the_package_by_hand(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from torchvision.transforms.functional import to_pil_image

    edits = edits_of((60, 90))
    metric = DreamSim(folder=folder)
    metric.load()
    values = metric(edits)[NAME].values
    model, given = metric.model
    for row, image in enumerate(edits.images):
        source = edits.source_images[edits.source_index[row]]
        a, b = (given(to_pil_image((one * 255).round().byte())) for one in (source, image))
        assert a.shape == (1, 3, 224, 224)
        assert values[row].item() == pytest.approx(model(a, b).item(), abs=1e-5)
        with model.disable_adapter():  # that its adapters were read
            assert row == 4 or abs(values[row].item() - model(a, b).item()) > 1e-3
    assert values[4].item() == pytest.approx(0, abs=1e-6)  # the edit that is its source
    assert values[:4].min() > 1e-3
    assert capsys.readouterr().out == ""


def test_values_do_not_depend_on_batch_size_or_order(folder: Path, edits: Edits) -> None:
    rows = [3, 1, 4, 0, 2]
    one_by_one = DreamSim(folder=folder, batch_size=1)(rows_of(edits, rows))[NAME].values
    together = DreamSim(folder=folder)(edits)[NAME].values
    torch.testing.assert_close(together[rows], one_by_one, atol=1e-6, rtol=0)


def test_names_arguments_and_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for backbone in BACKBONES:
        metric = DreamSim(backbone)
        assert metric.names == (f"dreamsim_{backbone}@1",)
        assert metric.higher_is_better == {metric.name: False}
    with pytest.raises(ValueError, match="backbone is 'ensemble'; allowed: open_clip_vitb32, clip_vitb32$"):
        DreamSim("ensemble")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(WeightsUnavailable, match=rf"{NAME}: the package dreamsim is not installed; pip "):
        DreamSim(folder=tmp_path).check()
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name)
    with pytest.raises(WeightsUnavailable, match=rf"{NAME}: .* lacks open_clip_vitb32_pretrain.pth.tar, op"):
        DreamSim(folder=tmp_path).check()

    def offline(*_: Any, **__: Any) -> None:
        raise OSError("no network")

    monkeypatch.setattr("urllib.request.urlopen", offline)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    with pytest.raises(
        WeightsUnavailable, match=rf"{NAME}: .*dreamsim_open_clip_vitb32_checkpoint.zip cannot"
    ):
        DreamSim().check()
