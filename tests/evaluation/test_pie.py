"""PIE-Bench's columns equal the libraries of the published code, called as it calls them."""

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import huggingface_hub
import numpy as np
import pytest
import torch
from skimage.metrics import mean_squared_error, peak_signal_noise_ratio, structural_similarity
from torchmetrics.functional.image.lpips import _LPIPS
from torchmetrics.functional.multimodal import clip_score
from torchmetrics.image import PeakSignalNoiseRatio
from torchmetrics.regression import MeanSquaredError
from transformers import CLIPImageProcessorPil, CLIPModel, CLIPProcessor, CLIPTokenizer

from evaluation import Edits, Metric, Scores, WeightsUnavailable
from evaluation.clip import Clip
from evaluation.perceptual import Lpips
from evaluation.pie import PieClip, UneditedLpips, UneditedPixel
from evaluation.pixel import Pixel
from tests.evaluation.pictures import masked_edits, rows_of

WHOLE = ("", "", "", "mask covers the whole image", "")
PARTS = ("source_image", "target_image", "target_image_edit_part")
EMPTY = ("", "", "", "", "mask is empty")


@pytest.fixture(scope="module")
def squeeze() -> UneditedLpips:
    return UneditedLpips("squeeze", "random")


def _unedited(edits: Edits, row: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Both images of an edit as the published code masks them: 8-bit over 255, times one minus the mask."""
    kept = 1 - edits.masks[row].numpy()
    pair = (edits.images[row], edits.source_images[edits.source_index[row]])
    both = [np.uint8((image * 255).round().numpy()).astype(np.float32) / 255 * kept for image in pair]
    return torch.tensor(both[0])[None], torch.tensor(both[1])[None]


def test_pixel_columns_equal_torchmetrics(masked: Edits) -> None:
    scores = UneditedPixel()(masked)
    libraries = {
        "pie/psnr_unedit@1": PeakSignalNoiseRatio(data_range=1.0),
        "pie/mse_unedit@1": MeanSquaredError(),
    }
    for name, library in libraries.items():
        for row in (0, 1, 2):
            expected = library(*_unedited(masked, row)).item()
            # float32 sums of the library: 1e-5, for decibels of the value's own size.
            assert scores[name].values[row].item() == pytest.approx(expected, abs=1e-5, rel=1e-6), name


def test_pixel_columns_equal_scikit_image(masked: Edits) -> None:
    scores = UneditedPixel()(masked)
    for row in (0, 1, 2):
        image, source = (x[0].double().numpy() for x in _unedited(masked, row))
        expected = peak_signal_noise_ratio(source, image, data_range=1)
        assert scores["pie/psnr_unedit@1"].values[row].item() == pytest.approx(expected, abs=1e-5)
        assert scores["pie/mse_unedit@1"].values[row].item() == pytest.approx(
            mean_squared_error(source, image), abs=1e-9
        )
        # What torchmetrics gave until 1.4.1; the published evaluation is older.
        expected = structural_similarity(
            source, image, gaussian_weights=True, use_sample_covariance=False, data_range=1, channel_axis=0
        )
        assert scores["pie/ssim_unedit@3"].values[row].item() == pytest.approx(expected, abs=1e-12)


def test_lpips_squeeze_equals_torchmetrics(squeeze: UneditedLpips, masked: Edits) -> None:
    """On the package's weights, as torchmetrics' own copy of the trunk cannot be fetched here."""
    library = _LPIPS(net="squeeze", pnet_rand=True).eval()
    state = {
        re.sub(r"slice(\d)", lambda found: f"slices.{int(found[1]) - 1}", key): value
        for key, value in squeeze.lpips.model.state_dict().items()
        if not key.startswith("scaling_layer")
    }
    library.load_state_dict(state)
    values = squeeze(masked)["pie/lpips_squeeze_random_unedit@1"].values
    for row in (0, 1, 2):
        image, source = _unedited(masked, row)
        with torch.no_grad():
            expected = library(image * 2 - 1, source * 2 - 1).item()
        # The libraries keep a vector's norm from zero in two ways, which shows where a trunk is dark.
        assert values[row].item() == pytest.approx(expected, abs=1e-5, rel=1e-5)
        assert expected > 1e-4


def test_lpips_equals_the_package_on_masked_images(lpips_folder: Path, masked: Edits) -> None:
    metric = UneditedLpips("tiny", folder=lpips_folder, batch_size=2)
    scores = metric(masked)["pie/lpips_tiny_unedit@1"]
    for row in (0, 1, 2, 4):
        image, source = _unedited(masked, row)
        with torch.no_grad():
            expected = metric.lpips.model(source * 2 - 1, image * 2 - 1).item()
        assert scores.values[row].item() == pytest.approx(expected, abs=1e-6, rel=1e-5)
    assert scores.reasons == WHOLE


def test_sources_are_looked_at_once_per_mask(lpips_folder: Path, masked: Edits) -> None:
    """Edits 0 and 2 share source and, here, mask; edit 4 has a mask of its own."""
    masks = masked.masks.clone()
    masks[2] = masks[0]
    metric, seen = UneditedLpips("tiny", folder=lpips_folder), 0

    def count(module: Any, given: tuple[torch.Tensor, ...]) -> None:
        nonlocal seen
        seen += len(given[0])

    metric.load()
    handle = metric.lpips.model.net.register_forward_pre_hook(count)
    before = metric(replace(masked, masks=masks))[metric.name].values
    handle.remove()
    assert seen == 5 + 4
    alone = metric(rows_of(replace(masked, masks=masks), [0, 1, 2, 4]))[metric.name].values
    torch.testing.assert_close(before[[0, 1, 2, 4]], alone, atol=1e-6, rtol=1e-5)


class _Unwrapped(CLIPModel):
    """The features as transformers 4 gave them, so that torchmetrics' CLIPScore runs."""

    def get_image_features(self, *given: torch.Tensor) -> torch.Tensor:
        return super().get_image_features(*given).pooler_output

    def get_text_features(self, *given: torch.Tensor) -> torch.Tensor:
        return super().get_text_features(*given).pooler_output


@pytest.mark.parametrize("size", [(64, 64), (60, 90)])
def test_clip_columns_equal_torchmetrics(hub_folder: Path, size: tuple[int, int]) -> None:
    edits = masked_edits(size)
    model = _Unwrapped.from_pretrained(hub_folder).eval()
    processor = CLIPProcessor(
        CLIPImageProcessorPil.from_pretrained(hub_folder), CLIPTokenizer.from_pretrained(hub_folder)
    )

    def library(image: torch.Tensor, prompt: str) -> float:
        return clip_score(image, prompt, lambda: (model, processor)).item()

    scores = PieClip(folder=hub_folder)(edits)
    columns = [scores[f"pie/clip_similarity_{part}@1"] for part in PARTS]
    positive = 0
    for row, (before, after) in enumerate(zip(edits.source_prompts, edits.target_prompts, strict=True)):
        image, source = (
            np.uint8((x * 255).round().permute(1, 2, 0).numpy())
            for x in (edits.images[row], edits.source_images[edits.source_index[row]])
        )
        part = np.uint8(image * edits.masks[row].permute(1, 2, 0).numpy())
        pairs = ((source, before), (image, after), (part, after))
        for column, (picture, prompt) in list(zip(columns, pairs, strict=True))[: 2 if row == 4 else 3]:
            with torch.no_grad():
                expected = library(torch.tensor(picture).permute(2, 0, 1), prompt)
            # 100 times a float32 cosine: its last digit is 1e-5, and it is a sum.
            assert column.values[row].item() == pytest.approx(expected, abs=5e-5)
            positive += expected > 0
    assert 7 <= positive < 14
    assert columns[2].reasons == EMPTY


def test_clip_of_an_open_clip_model_is_its_cosine(clip_folder: Path, masked: Edits) -> None:
    scores = PieClip("tiny", folder=clip_folder)(masked)
    assert tuple(scores) == tuple(f"pie/clip_similarity_{part}_tiny@1" for part in PARTS)
    cosines = Clip("tiny", folder=clip_folder)(masked)["clip_target_tiny@1"].values
    expected = (100 * cosines).clamp(min=0)
    torch.testing.assert_close(
        scores["pie/clip_similarity_target_image_tiny@1"].values, expected, atol=1e-4, rtol=0
    )


def test_clip_sees_only_the_edited_part(clip_folder: Path, masked: Edits) -> None:
    metric, name = PieClip("tiny", folder=clip_folder), "pie/clip_similarity_target_image_edit_part_tiny@1"
    outside = torch.where(masked.masks == 1, masked.images, 1 - masked.images)
    same = metric(replace(masked, images=outside))[name].values
    torch.testing.assert_close(same, metric(masked)[name].values, atol=1e-5, rtol=0, equal_nan=True)


@pytest.mark.parametrize(("words", "fits"), [(75, True), (76, False)])
def test_what_needs_too_long_a_prompt_is_missing(
    hub_folder: Path, masked: Edits, words: int, fits: bool
) -> None:
    """torchmetrics would cut it, the end token included, and say so once in a warning."""
    prompt = " ".join(["a"] * words)
    long = replace(masked, target_prompts=(prompt, *masked.target_prompts[1:]))
    metric = PieClip(folder=hub_folder)
    scores = metric(long)
    for name in metric.names[1:]:
        assert (scores[name].reasons[0] == "target prompt longer than 77 tokens") != fits
    assert scores[metric.names[0]].reasons[0] == ""


def _all(clip_folder: Path, lpips_folder: Path) -> list[Metric]:
    return [
        UneditedPixel(),
        UneditedLpips("tiny", folder=lpips_folder),
        PieClip("tiny", folder=clip_folder),
    ]


def test_what_is_undefined_is_missing_with_its_reason(
    clip_folder: Path, lpips_folder: Path, masked: Edits
) -> None:
    scores: dict[str, Scores] = {}
    without: dict[str, Scores] = {}
    for metric in _all(clip_folder, lpips_folder):
        scores |= metric(masked)
        without |= metric(replace(masked, masks=None))
        assert set(scores) >= set(metric.names)
    for name, column in scores.items():
        masks_matter = "unedit" in name or "edit_part" in name
        assert column.values.isnan().tolist() == [bool(reason) for reason in column.reasons]
        assert without[name].reasons == ("no mask" if masks_matter else "",) * 5
    assert scores["pie/mse_unedit@1"].reasons == scores["pie/ssim_unedit@3"].reasons == WHOLE
    assert scores["pie/psnr_unedit@1"].reasons == (*WHOLE[:4], "identical outside the mask")
    assert scores["pie/mse_unedit@1"].values[4] == 0


def test_an_empty_mask_leaves_the_whole_image(lpips_folder: Path, masked: Edits) -> None:
    empty = replace(masked, masks=torch.zeros(5, 1, 64, 64, dtype=torch.bool))
    pixel, whole = UneditedPixel()(empty), Pixel()(masked)
    for name in ("psnr@1", "mse@1", "ssim@3"):
        torch.testing.assert_close(
            pixel[f"pie/{name.replace('@', '_unedit@')}"].values,
            whole[name].values,
            atol=1e-6,
            rtol=0,
            equal_nan=True,
        )
    values = UneditedLpips("tiny", folder=lpips_folder)(empty)["pie/lpips_tiny_unedit@1"].values
    expected = Lpips("tiny", folder=lpips_folder)(masked)["lpips_tiny@1"].values
    torch.testing.assert_close(values, expected, atol=1e-6, rtol=1e-5)


def test_a_larger_mask_looks_better(masked: Edits) -> None:
    """Masked pixels count as zero error: there is no normalisation by area."""
    one = rows_of(masked, [0])
    errors = [
        UneditedPixel()(replace(one, masks=(torch.arange(64) < columns).expand(1, 1, 64, 64)))
        for columns in (0, 16, 32, 48)
    ]
    values = [scores["pie/mse_unedit@1"].values.item() for scores in errors]
    assert values == sorted(values, reverse=True)
    kept = (one.images - one.source_images)[..., 48:].double().square().sum() / (3 * 64 * 64)
    assert values[3] == pytest.approx(kept.item(), rel=1e-6)


def test_values_do_not_depend_on_batch_size_or_order(
    clip_folder: Path, lpips_folder: Path, masked: Edits
) -> None:
    rows = [3, 1, 4, 0, 2]
    smaller = [
        UneditedPixel(batch_size=2),
        UneditedLpips("tiny", folder=lpips_folder, batch_size=2),
        PieClip("tiny", folder=clip_folder, batch_size=2),
    ]
    for metric, other in zip(_all(clip_folder, lpips_folder), smaller, strict=True):
        whole, parts = metric(masked), other(rows_of(masked, rows))
        for name in metric.names:
            assert [whole[name].reasons[row] for row in rows] == list(parts[name].reasons)
            torch.testing.assert_close(
                whole[name].values[rows], parts[name].values, atol=2e-5, rtol=1e-5, equal_nan=True
            )


def test_names_and_arguments(tmp_path: Path) -> None:
    assert PieClip().names == tuple(f"pie/clip_similarity_{part}@1" for part in PARTS)
    assert PieClip(folder=tmp_path).name == "pie/clip_similarity@1"
    assert PieClip("ViT-B-32", "random").names[0] == "pie/clip_similarity_source_image_ViT-B-32_random@1"
    assert (
        PieClip("openai/clip-vit-base-patch16").name == "pie/clip_similarity_openai-clip-vit-base-patch16@1"
    )
    assert UneditedLpips("squeeze", "imagenet").names == ("pie/lpips_squeeze_unedit@1",)
    with pytest.raises(ValueError, match="one of them at most"):
        PieClip("x", "openai", folder=tmp_path)


def test_weights_that_cannot_be_had_are_said_in_one_line(
    hub_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def offline(url: str, timeout: float) -> None:
        raise OSError("no network")

    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda repo, file, revision: None)
    monkeypatch.setattr(huggingface_hub, "get_hf_file_metadata", offline)
    monkeypatch.setattr("evaluation.perceptual._IMAGENET", {"squeeze": "http://127.0.0.1:9/squeeze.pth"})
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    metrics = {PieClip(): "large-patch14", UneditedLpips("squeeze", "imagenet"): "squeeze.pth"}
    metrics[PieClip("x", folder=tmp_path)] = "lacks config.json"
    for metric, what in metrics.items():
        with pytest.raises(WeightsUnavailable, match=f"{metric.name}: .*{what}") as caught:
            metric.check()
        assert "\n" not in str(caught.value)
    PieClip(folder=hub_folder).check()


def test_too_small_an_image_is_refused() -> None:
    with pytest.raises(
        ValueError, match="pie/pixel_unedit@3: images have a side of 10; allowed: at least 11"
    ):
        UneditedPixel()(masked_edits((10, 64)))
