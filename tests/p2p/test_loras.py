"""Pipelines with LoRAs: the engine equals diffusers, edits equal formed maps, and records know of them."""

from pathlib import Path

import pytest
import torch
from diffusers import StableDiffusionPipeline
from safetensors.torch import load_file
from torch import nn

from p2p import ModelSpec, StableDiffusion
from tests.p2p.families.materialised import (
    SAMPLING,
    SOURCE,
    STEPS,
    TOLERANCE,
    check_edit,
    check_plain,
    plain_latents,
)

pytestmark = pytest.mark.xdist_group("loras")


def random_lora(module: nn.Module, names: tuple[str, ...], seed: int) -> dict[str, torch.Tensor]:
    """Return random matrices of rank 2 for every linear layer of one of these names."""
    generator = torch.Generator().manual_seed(seed)
    layers = {}
    for name, layer in module.named_modules():
        if isinstance(layer, nn.Linear) and name.endswith(names):
            down, up = (2, layer.in_features), (layer.out_features, 2)
            layers[f"{name}.lora_A.weight"] = 0.3 * torch.randn(down, generator=generator)
            layers[f"{name}.lora_B.weight"] = 0.3 * torch.randn(up, generator=generator)
    assert layers
    return layers


@pytest.fixture(scope="module")
def files(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two LoRAs of the tiny pipeline: one of UNet and text encoder, one of the UNet alone."""
    pipeline = StableDiffusionPipeline.from_pretrained(tiny_folder, safety_checker=None)
    folder = tmp_path_factory.mktemp("loras")
    attention = ("to_q", "to_k", "to_v", "to_out.0")
    StableDiffusionPipeline.save_lora_weights(
        folder,
        unet_lora_layers=random_lora(pipeline.unet, attention, 0),
        text_encoder_lora_layers=random_lora(pipeline.text_encoder, ("q_proj", "v_proj"), 1),
        weight_name="style.safetensors",
    )
    StableDiffusionPipeline.save_lora_weights(
        folder, random_lora(pipeline.unet, attention, 2), weight_name="thing.safetensors"
    )
    return [folder / "style.safetensors", folder / "thing.safetensors"]


def spec(tiny_folder: Path, *loras: dict[str, object]) -> ModelSpec:
    return ModelSpec("tiny", str(tiny_folder), 16, 16, dtype="float64", device="cpu", loras=loras)


@pytest.fixture(scope="module")
def model(tiny_folder: Path, files: list[Path]) -> StableDiffusion:
    one, two = files
    model = spec(tiny_folder, {"path": str(one), "scale": 0.7}, {"path": str(two)}).load()
    assert isinstance(model, StableDiffusion)
    return model


def call(pipeline, prompts: list[str], generators: list[torch.Generator], kind: str = "latent"):
    return pipeline(
        prompts,
        num_inference_steps=STEPS,
        guidance_scale=SAMPLING.guidance_scale,
        generator=generators,
        output_type=kind,
    ).images


def test_it_equals_diffusers_with_the_same_loras(
    model: StableDiffusion, tiny_folder: Path, files: list[Path]
) -> None:
    check_plain(
        model,
        lambda prompts, generators: call(model.pipeline, prompts, generators),
        lambda prompt, seed: call(model.pipeline, [prompt], [torch.Generator().manual_seed(seed)], "pt")[0],
    )
    pipeline = StableDiffusionPipeline.from_pretrained(tiny_folder, safety_checker=None, dtype=torch.float64)
    with torch.no_grad():
        for module, prefix in ((pipeline.unet, "unet."), (pipeline.text_encoder, "text_encoder.")):
            for file, scale in zip(files, (0.7, 1.0), strict=True):
                merge(module, prefix, file, scale)
    merged, own = (
        plain_latents(p, lambda prompts, g, p=p: call(p, prompts, g), SOURCE, 3)
        for p in (pipeline, model.pipeline)
    )
    torch.testing.assert_close(own, merged, rtol=0, atol=TOLERANCE)


def merge(module: nn.Module, prefix: str, file: Path, scale: float) -> None:
    """Add `scale B A` to the layers' weights: what LoRA means."""
    weights = load_file(file)
    for name, layer in module.named_modules():
        if f"{prefix}{name}.lora_A.weight" in weights:
            down, up = (weights[f"{prefix}{name}.lora_{letter}.weight"] for letter in "AB")
            layer.weight += scale * up.double() @ down.double()


def test_they_change_the_image(model: StableDiffusion, tiny_model: StableDiffusion) -> None:
    with_loras, without = (
        plain_latents(m.pipeline, lambda p, g, m=m: call(m.pipeline, p, g), SOURCE, 3)
        for m in (model, tiny_model)
    )
    assert (with_loras - without).abs().max() > 1000 * TOLERANCE


@pytest.mark.parametrize("name", ["replace", "refine"])
def test_edits_equal_formed_maps(model: StableDiffusion, name: str) -> None:
    check_edit(model, lambda prompts, generators: call(model.pipeline, prompts, generators), name)


def test_identity_knows_file_scale_and_order(tiny_folder: Path, files: list[Path], tmp_path: Path) -> None:
    one, two = ({"path": str(file), "scale": 0.7} for file in files)
    copy = tmp_path / "renamed.safetensors"
    copy.write_bytes(files[0].read_bytes())
    identities = [
        spec(tiny_folder, *loras).identity()
        for loras in ((), (one,), (two,), (one | {"scale": 0.8},), (one, two))
    ]
    assert len(set(identities)) == len(identities)
    assert spec(tiny_folder, one | {"path": str(copy)}).identity() == identities[1]


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"path": "a.bin"}, "'a.bin' is no .safetensors file"),
        ({"path": "a.safetensors", "scale": "x"}, "scale 'x' of 'a.safetensors' is not a finite number"),
        ({"path": "a.safetensors", "weight": 1}, "is no mapping of path and, optionally, scale"),
    ],
)
def test_bad_entries_say_so(tiny_folder: Path, entry: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        spec(tiny_folder, entry)


def test_a_file_that_is_not_there_says_so(tiny_folder: Path) -> None:
    with pytest.raises(OSError, match=r"loras: no file 'nowhere\.safetensors'"):
        spec(tiny_folder, {"path": "nowhere.safetensors"}).identity()
