"""LoRA files that do not fit: one line that names the file, or what is told of layers that fit nothing."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from diffusers import StableDiffusionPipeline
from safetensors.torch import save_file
from torch import Tensor

from p2p import ModelSpec
from tests.p2p.test_loras import random_lora
from tests.tiny_pipelines import NO_CHECKER

Layers = dict[str, Tensor]


@pytest.fixture(scope="module")
def layers(tiny_folder: Path) -> Layers:
    """Matrices for the 28 query and key layers of the tiny UNet, by PEFT's names."""
    pipeline = StableDiffusionPipeline.from_pretrained(tiny_folder, **NO_CHECKER)
    return random_lora(pipeline.unet, ("to_q", "to_k"), 0)


def peft(layers: Layers) -> Layers:
    return {f"unet.{name}": tensor for name, tensor in layers.items()}


def kohya(layers: Layers) -> Layers:
    named: Layers = {}
    for name, tensor in layers.items():
        layer, _, kind = name.removesuffix(".weight").rpartition(".")
        key = "lora_unet_" + layer.replace(".", "_")
        named[f"{key}.lora_{'down' if kind == 'lora_A' else 'up'}.weight"] = tensor
        named[f"{key}.alpha"] = torch.tensor(2.0)
    return named


def dora(layers: Layers) -> Layers:
    scales = {name.replace("alpha", "dora_scale"): torch.ones(16, 1) for name in kohya(layers)}
    return kohya(layers) | {name: scale for name, scale in scales.items() if "dora_scale" in name}


def loha(layers: Layers) -> Layers:
    names = [name.replace("lora_down.weight", "hada_w{}") for name in kohya(layers) if "down" in name]
    parts = ("1_a", "1_b", "2_a", "2_b")
    return {name.format(part): torch.ones(4, 4) for name in names for part in parts}


def wider(layers: Layers) -> Layers:
    return peft({name: torch.cat([t, t], 1) if "lora_A" in name else t for name, t in layers.items()})


def half_misspelt(layers: Layers) -> Layers:
    return peft({name.replace("down_blocks", "downs"): tensor for name, tensor in layers.items()})


def saved(folder: Path, weights: Layers) -> Path:
    save_file({name: tensor.contiguous() for name, tensor in weights.items()}, folder / "my.safetensors")
    return folder / "my.safetensors"


def spec(tiny_folder: Path, file: Path) -> ModelSpec:
    return ModelSpec("tiny", str(tiny_folder), 16, 16, device="cpu", loras=[{"path": str(file)}])


@pytest.mark.parametrize("form", [peft, kohya])
def test_a_file_that_fits_has_nothing_to_tell(
    form: Callable[[Layers], Layers], layers: Layers, tiny_folder: Path, tmp_path: Path
) -> None:
    assert spec(tiny_folder, saved(tmp_path, form(layers))).load().warnings == []


def test_layers_that_fit_nothing_are_counted(layers: Layers, tiny_folder: Path, tmp_path: Path) -> None:
    file = saved(tmp_path, half_misspelt(layers))
    told = f"{file}: 8 of 28 layers of this LoRA fit nothing"
    assert spec(tiny_folder, file).load().warnings == [told]


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        pytest.param(dora, "is a DoRA in kohya's form", id="dora"),
        pytest.param(
            lambda _: {"weight": torch.ones(1)}, "holds no LoRA, its first key is 'weight'", id="none"
        ),
        pytest.param(lambda _: {}, "holds no LoRA, its first key is ''", id="empty"),
    ],
)
def test_a_plan_refuses_what_the_header_tells(
    weights: Callable[[Layers], Layers], message: str, layers: Layers, tiny_folder: Path, tmp_path: Path
) -> None:
    file = saved(tmp_path, weights(layers))
    for ask in (spec(tiny_folder, file).identity, spec(tiny_folder, file).load):
        with pytest.raises(ValueError, match=message) as refused:
            ask()
        assert str(refused.value).startswith(f"loras: {str(file)!r} ")


def test_what_is_no_safetensors_file_says_so(tiny_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "my.safetensors").write_bytes(b"not one")
    with pytest.raises(ValueError, match=r"loras: .*my\.safetensors' is no safetensors file"):
        spec(tiny_folder, tmp_path / "my.safetensors").identity()


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        pytest.param(wider, "size mismatch for down_blocks", id="another width"),
        pytest.param(
            lambda layers: peft({f"x.{n}": t for n, t in layers.items()}), "not|Target", id="no layer"
        ),
        pytest.param(
            lambda layers: peft(
                {n.replace("attn1", "attn9") if "lora_A" in n else n: t for n, t in layers.items()}
            ),
            "has no values for .* parameters of its layers",
            id="one of two parts of a layer",
        ),
        pytest.param(loha, "have not been correctly renamed", id="LyCORIS"),
        pytest.param(
            lambda layers: {f"transformer.{name}": tensor for name, tensor in layers.items()},
            "none of its 28 layers is there",
            id="another network",
        ),
    ],
)
def test_a_file_that_does_not_fit_is_one_short_line_that_names_it(
    weights: Callable[[Layers], Layers],
    message: str,
    layers: Layers,
    tiny_folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    file = saved(tmp_path, weights(layers))
    with pytest.raises(ValueError, match=message) as refused:
        spec(tiny_folder, file).load()
    line = str(refused.value)
    assert line.startswith(f"loras: {str(file)!r} does not fit this StableDiffusionPipeline: ")
    assert "\n" not in line
    assert len(line) < 400 + len(str(file))
    assert "unsuccessful" not in capsys.readouterr().err
