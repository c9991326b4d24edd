"""Structure distance equals the published formula on another library's ViT with the same weights."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import torch
from timm.models.vision_transformer import VisionTransformer
from torch.nn.functional import interpolate
from transformers import ViTModel

from evaluation import Edits, WeightsUnavailable
from evaluation.structure import StructureDistance
from tests.evaluation.pictures import changed, edits_of, pictures, rows_of

NAME = "pie/structure_distance_tiny@1"


@pytest.fixture(scope="module")
def tiny(vit_folder: Path) -> StructureDistance:
    return StructureDistance("tiny", folder=vit_folder)


def _self_similarity(vit: VisionTransformer, image: torch.Tensor) -> torch.Tensor:
    """Cosines (places, places) between keys, each worked out head by head from the fused projection."""
    mean, std = (torch.tensor(v)[:, None, None] for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    resized = interpolate(image[None] * 255, (224, 224), mode="bilinear", align_corners=False)
    seen: list[torch.Tensor] = []
    handle = vit.blocks[-1].attn.qkv.register_forward_hook(lambda module, given, out: seen.append(out))
    with torch.no_grad():
        vit((resized - mean) / std)
    handle.remove()
    heads = 4
    keys = seen[0][0].double().reshape(50, 3, heads, 32 // heads)[:, 1]
    norms = keys.square().sum(dim=(1, 2)).sqrt()
    return sum(keys[:, head] @ keys[:, head].T for head in range(heads)) / torch.outer(norms, norms)


@pytest.mark.parametrize("side", [64, 224, 512])
def test_equal_to_the_published_formula(tiny: StructureDistance, vit: VisionTransformer, side: int) -> None:
    """Enlarged, as it is, and made smaller: without antialiasing, whatever torchvision's default."""
    edits = edits_of((side, side))
    edits = replace(edits, images=(edits.images + _noise(edits)).clamp(0, 1))
    values = tiny(edits)[NAME].values
    for row in range(len(edits)):
        source = _self_similarity(vit, edits.source_images[edits.source_index[row]])
        expected = (_self_similarity(vit, edits.images[row]) - source).square().mean().item()
        assert expected > 1e-4
        # float32 keys: cosines agree to about 1e-6.
        assert values[row].item() == pytest.approx(expected, abs=1e-5, rel=1e-4)


def _noise(edits: Edits) -> torch.Tensor:
    """So fine that antialiasing would remove most of it."""
    return 0.3 * torch.randn(edits.images.shape, generator=torch.Generator().manual_seed(5))


def test_equal_images_have_no_distance_and_the_distance_grows(tiny: StructureDistance) -> None:
    source = pictures(1, 64, 64)
    steps = torch.cat([source, *(changed(source, amount) for amount in (0.1, 0.3, 0.9))])
    prompts = ("",) * 4
    values = tiny(Edits(steps, source, torch.zeros(4, dtype=torch.int64), prompts, prompts))[NAME].values
    assert values[0] < 1e-10  # another batch may turn a last digit
    assert (values.diff() > 0).all()


def test_values_do_not_depend_on_batch_size_or_order(
    tiny: StructureDistance, vit_folder: Path, edits: Edits
) -> None:
    rows = [3, 1, 4, 0, 2]
    other = StructureDistance("tiny", folder=vit_folder, batch_size=2)(rows_of(edits, rows))[NAME].values
    torch.testing.assert_close(tiny(edits)[NAME].values[rows], other, atol=1e-7, rtol=1e-5)


@pytest.mark.parametrize("batch_size", [1, 2, 8])
def test_sources_are_looked_at_once(vit_folder: Path, edits: Edits, batch_size: int) -> None:
    metric, seen = StructureDistance("tiny", folder=vit_folder, batch_size=batch_size), 0

    def count(module: Any, given: tuple[torch.Tensor, ...]) -> None:
        nonlocal seen
        seen += len(given[0])

    metric.model.embeddings.patch_embeddings.projection.register_forward_pre_hook(count)
    metric(edits)
    assert seen == 5 + 2


def test_a_long_image_is_limited(tiny: StructureDistance) -> None:
    """224 for the shorter side would make 672 of the longer one; the limit is 480, so 160 x 480."""
    shapes = []
    handle = tiny.model.embeddings.register_forward_pre_hook(
        lambda module, given: shapes.append(tuple(given[0].shape[-2:]))
    )
    assert tiny(edits_of((64, 192)))[NAME].values.isfinite().all()
    handle.remove()
    assert set(shapes) == {(160, 480)}


def test_names_and_arguments(tmp_path: Path) -> None:
    assert StructureDistance(pretrained="facebook").name == "pie/structure_distance@1"
    assert StructureDistance(folder=tmp_path).name == "pie/structure_distance@1"
    assert StructureDistance(pretrained="random").name == "pie/structure_distance_random@1"
    assert StructureDistance("a b", folder=tmp_path).name == "pie/structure_distance_a-b@1"
    with pytest.raises(ValueError, match="just one of them"):
        StructureDistance()
    with pytest.raises(ValueError, match="pretrained is 'timm'; allowed: facebook, random"):
        StructureDistance(pretrained="timm")
    with pytest.raises(ValueError, match="backbone is 'dino-vits8'; allowed: dino-vitb8, or any name with"):
        StructureDistance("dino-vits8", "facebook")


def test_weights_that_cannot_be_had_are_said_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def offline(url: str, timeout: float) -> None:
        raise OSError("no network")

    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda repo, file, revision: None)
    monkeypatch.setattr(huggingface_hub, "get_hf_file_metadata", offline)
    with pytest.raises(
        WeightsUnavailable, match=r"pie/structure_distance@1: no weights .*dino-vitb8.*"
    ) as caught:
        StructureDistance(pretrained="facebook").check()
    assert "\n" not in str(caught.value)
    StructureDistance(pretrained="random").check()
    (tmp_path / "config.json").touch()
    with pytest.raises(WeightsUnavailable, match=r"lacks model.safetensors"):
        StructureDistance(folder=tmp_path).check()
    (tmp_path / "pytorch_model.bin").touch()
    StructureDistance(folder=tmp_path).check()


def test_weights_saved_in_half_are_run_in_float32(vit_folder: Path, tmp_path: Path) -> None:
    """transformers 5 would run them in half."""
    ViTModel.from_pretrained(vit_folder, add_pooling_layer=False).half().save_pretrained(tmp_path)
    assert {p.dtype for p in ViTModel.from_pretrained(tmp_path).parameters()} == {torch.float16}
    model = StructureDistance("tiny", folder=tmp_path).model
    assert {p.dtype for p in model.parameters()} == {torch.float32}
