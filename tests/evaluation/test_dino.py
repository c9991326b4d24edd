"""DINO similarity equals timm's ViT with the same weights; DINOv2's equals its own class, called by hand."""

from pathlib import Path

import huggingface_hub
import numpy as np
import pytest
import torch
from PIL import Image
from timm.models.vision_transformer import VisionTransformer
from transformers import Dinov2Config, Dinov2Model

from evaluation import Edits, WeightsUnavailable
from evaluation.dino import PUBLISHED, Dino
from tests.evaluation.pictures import edits_of, rows_of

NAME = "dino_image_tiny@1"


@pytest.fixture(scope="module")
def tiny(vit_folder: Path) -> Dino:
    return Dino("tiny", folder=vit_folder)


def _pixels(image: torch.Tensor) -> torch.Tensor:
    """Resize the shorter side to 256 by PIL alone, cut 224 out of the middle, normalise: (1, 3, 224, 224)."""
    picture = Image.fromarray(np.uint8((image * 255).round().permute(1, 2, 0).numpy()))
    scale = 256 / min(picture.size)
    width, height = (int(side * scale) for side in picture.size)
    left, top = round((width - 224) / 2), round((height - 224) / 2)
    cut = picture.resize((width, height), Image.Resampling.BICUBIC).crop((left, top, left + 224, top + 224))
    values = torch.tensor(np.asarray(cut)).permute(2, 0, 1) / 255
    mean, std = (torch.tensor(v)[:, None, None] for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    return ((values - mean) / std)[None]


@pytest.mark.parametrize("size", [(64, 64), (60, 90)])
def test_equal_to_timm(tiny: Dino, vit: VisionTransformer, size: tuple[int, int]) -> None:
    """The folder's configuration has transformers' epsilon, 1e-12, as the hub's have; DINO's own is 1e-6."""
    edits = edits_of(size)
    values = tiny(edits)[NAME].values
    with torch.no_grad():
        for row, image in enumerate(edits.images):
            source = edits.source_images[edits.source_index[row]]
            a, b = (vit.forward_features(_pixels(picture))[:, 0] for picture in (image, source))
            expected = torch.nn.functional.cosine_similarity(a, b).item()
            assert values[row].item() == pytest.approx(expected, abs=1e-5)
            assert expected < 0.999 or row == 4
    assert values[4].item() == pytest.approx(1, abs=1e-6)
    assert tiny.model.config.layer_norm_eps == 1e-6


def test_dinov2_is_taken_and_run_in_float32(tmp_path: Path, edits: Edits) -> None:
    """transformers 5 would run weights saved in half in half."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        config = Dinov2Config(
            hidden_size=32, num_hidden_layers=2, num_attention_heads=2, image_size=56, patch_size=14
        )
        Dinov2Model(config).half().save_pretrained(tmp_path)
    model = Dinov2Model.from_pretrained(tmp_path, dtype=torch.float32).eval()
    values = Dino("tiny", folder=tmp_path)(edits)[NAME].values
    with torch.no_grad():
        a, b = (model(_pixels(image)).pooler_output for image in (edits.images[3], edits.source_images[1]))
    expected = torch.nn.functional.cosine_similarity(a, b).item()
    assert values[3].item() == pytest.approx(expected, abs=1e-6)


def test_values_do_not_depend_on_batch_size_or_order(tiny: Dino, vit_folder: Path, edits: Edits) -> None:
    rows = [3, 1, 4, 0, 2]
    other = Dino("tiny", folder=vit_folder, batch_size=2)(rows_of(edits, rows))[NAME].values
    torch.testing.assert_close(tiny(edits)[NAME].values[rows], other, atol=1e-6, rtol=0)


def test_names_arguments_and_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, str]] = []

    def offline(url: str, timeout: float) -> None:
        raise OSError("no network")

    monkeypatch.setattr(huggingface_hub, "get_hf_file_metadata", offline)
    monkeypatch.setattr(
        huggingface_hub,
        "try_to_load_from_cache",
        lambda repo, file, revision: asked.append((repo, revision)),
    )
    for backbone, pinned in PUBLISHED.items():
        metric = Dino(backbone)
        assert metric.names == (f"dino_image_{backbone}@1",)
        assert metric.higher_is_better == {metric.name: True}
        with pytest.raises(WeightsUnavailable, match=rf"{metric.name}: no weights of {pinned.repo} .*"):
            metric.check()
        assert asked[-1] == (pinned.repo, pinned.revision)
    with pytest.raises(ValueError, match="backbone is 'mine'; allowed: dino-vits16, dinov2-base, or any"):
        Dino("mine")
    with pytest.raises(WeightsUnavailable, match=r"dino_image_mine@1: .* lacks config.json"):
        Dino("mine", folder=tmp_path).check()
