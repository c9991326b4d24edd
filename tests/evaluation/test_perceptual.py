"""LPIPS equals the lpips package on every trunk, the small one included."""

import json
from functools import cache
from pathlib import Path
from typing import Any

import lpips
import pytest
import torch
from safetensors import safe_open

from evaluation import Edits, WeightsUnavailable, small_lpips
from evaluation.perceptual import _IMAGENET, Lpips
from evaluation.small_lpips import SmallBackbone, SmallLpips
from tests.evaluation.pictures import changed, edits_of, pictures, rows_of


@cache
def _random(net: str) -> Lpips:
    return Lpips(net, "random")


def _by_package(model: Any, edits: Edits) -> torch.Tensor:
    with torch.no_grad():
        sources = edits.source_images[edits.source_index]
        return model(sources, edits.images, normalize=True).flatten().double()


@pytest.mark.parametrize("net", ["alex", "vgg", "squeeze"])
def test_published_trunks_equal_the_package(net: str, edits: Edits) -> None:
    """Random trunks with the package's own linear heads."""
    metric = _random(net)
    values = metric(edits)[f"lpips_{net}_random@1"].values
    torch.testing.assert_close(values, _by_package(metric.model, edits), atol=1e-6, rtol=1e-5)
    assert type(metric.model) is lpips.LPIPS
    # Equal images; where a row stands in its batch may turn a convolution's last digit.
    assert values[4] < 1e-10


def test_small_trunk_equals_the_package(lpips_folder: Path, edits: Edits) -> None:
    metric = Lpips("tiny", folder=lpips_folder)
    values = metric(edits)["lpips_tiny@1"].values
    torch.testing.assert_close(values, _by_package(metric.model, edits), atol=1e-6, rtol=1e-5)
    # Equal images; where a row stands in its batch may turn a convolution's last digit.
    assert values[4] < 1e-10
    assert (values[:4] > 1e-3).all()
    assert type(metric.model).forward is lpips.LPIPS.forward


def test_untrained_heads_are_the_uncalibrated_distance(edits: Edits) -> None:
    """Heads of one sum over channels, which is the package's `lpips=False`."""
    model = SmallLpips().eval()
    weighted = _by_package(model, edits)
    model.lpips = False
    torch.testing.assert_close(weighted, _by_package(model, edits), atol=1e-6, rtol=1e-5)


def test_distance_is_symmetric_and_grows_with_the_change(lpips_folder: Path) -> None:
    source = pictures(1, 64, 64)
    steps = torch.cat([changed(source, amount) for amount in (0.05, 0.2, 0.8)])
    prompts = ("",) * 3
    there = Edits(steps, source, torch.zeros(3, dtype=torch.int64), prompts, prompts)
    back = Edits(source.expand(3, -1, -1, -1), steps, torch.arange(3), prompts, prompts)
    metric = Lpips("tiny", folder=lpips_folder)
    values = metric(there)[metric.name].values
    assert (values.diff() > 0).all()
    torch.testing.assert_close(values, metric(back)[metric.name].values, atol=1e-6, rtol=1e-5)


def test_values_do_not_depend_on_batch_size_or_order(lpips_folder: Path, edits: Edits) -> None:
    rows = [3, 1, 4, 0, 2]
    whole = Lpips("tiny", folder=lpips_folder)(edits)["lpips_tiny@1"].values
    other = Lpips("tiny", folder=lpips_folder, batch_size=2)(rows_of(edits, rows))["lpips_tiny@1"].values
    torch.testing.assert_close(whole[rows], other, atol=1e-6, rtol=1e-5)


def test_sources_are_looked_at_once(
    lpips_folder: Path, edits: Edits, monkeypatch: pytest.MonkeyPatch
) -> None:
    metric = Lpips("tiny", folder=lpips_folder)
    seen = 0

    def count(module: Any, inputs: tuple[torch.Tensor, ...]) -> None:
        nonlocal seen
        seen += len(inputs[0])

    handle = metric.model.net.register_forward_pre_hook(count)
    metric(edits)
    handle.remove()
    assert seen == 5 + 2


@pytest.mark.parametrize(("net", "side"), [("alex", 31), ("vgg", 16), ("squeeze", 17), ("tiny", 16)])
def test_smallest_image(net: str, side: int, lpips_folder: Path) -> None:
    metric = Lpips(net, folder=lpips_folder) if net == "tiny" else _random(net)
    assert metric(edits_of((side, side + 5)))[metric.name].values.isfinite().all()
    with pytest.raises(ValueError, match=f"images have a side of {side - 1}; allowed: at least {side}"):
        metric(edits_of((side - 1, 64)))


def test_a_saved_model_comes_back_in_half_precision(tmp_path: Path) -> None:
    model = SmallLpips((4, 8, 8, 16, 16))
    small_lpips.save(model, tmp_path / "model")
    again = small_lpips.load(tmp_path / "model")
    assert json.loads((tmp_path / "model" / "lpips.json").read_text()) == {"widths": [4, 8, 8, 16, 16]}
    with safe_open(tmp_path / "model" / "lpips.safetensors", "pt") as file:
        assert set(file.keys()) == set(model.state_dict())
        assert file.get_tensor("net.stages.1.1.weight").dtype == torch.float16
    assert not again.training
    for key, value in model.state_dict().items():
        torch.testing.assert_close(again.state_dict()[key], value, atol=1e-4, rtol=1e-3, msg=key)


def test_a_negative_head_is_refused(tmp_path: Path) -> None:
    model = SmallLpips()
    with torch.no_grad():
        model.lins[2].model[1].weight[0, 3] = -0.5
    with pytest.raises(ValueError, match=r"lins has a weight of -0.5; allowed: at least 0"):
        small_lpips.save(model, tmp_path)


def test_stages_halve_the_side() -> None:
    maps = SmallBackbone().eval()(torch.zeros(1, 3, 64, 64))
    assert [tuple(stage.shape[1:3]) for stage in maps] == [(16, 64), (32, 32), (64, 16), (96, 8), (96, 4)]
    with pytest.raises(ValueError, match="widths is"):
        SmallBackbone((16, 32))


def test_arguments_are_checked() -> None:
    with pytest.raises(ValueError, match="net is 'resnet'; allowed: alex, vgg, squeeze"):
        Lpips("resnet", "imagenet")
    with pytest.raises(ValueError, match="pretrained is 'openai'; allowed: imagenet, random"):
        Lpips("alex", "openai")
    with pytest.raises(ValueError, match="just one of them"):
        Lpips("alex")


def test_weights_that_cannot_be_had_are_said_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Nothing listens on port 9 here: refused at once, network or not.
    monkeypatch.setattr("evaluation.perceptual._IMAGENET", {"alex": "http://127.0.0.1:9/alexnet-1.pth"})
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    metric = Lpips("alex", "imagenet")
    assert metric.name == "lpips_alex@1"
    with pytest.raises(
        WeightsUnavailable, match="lpips_alex@1: no weights at .*alexnet-1.pth.*refused"
    ) as caught:
        metric.check()
    assert "\n" not in str(caught.value)
    (tmp_path / "hub" / "checkpoints").mkdir(parents=True)
    (tmp_path / "hub" / "checkpoints" / "alexnet-1.pth").touch()
    metric.check()
    with pytest.raises(WeightsUnavailable, match="lpips_tiny@1: .* lacks lpips.json, lpips.safetensors"):
        Lpips("tiny", folder=tmp_path).load()


def test_the_addresses_are_those_that_torchvision_fetches_from() -> None:
    from torchvision.models import AlexNet_Weights, SqueezeNet1_1_Weights, VGG16_Weights

    kinds = {"alex": AlexNet_Weights, "vgg": VGG16_Weights, "squeeze": SqueezeNet1_1_Weights}
    assert {name: kind.IMAGENET1K_V1.url for name, kind in kinds.items()} == _IMAGENET
