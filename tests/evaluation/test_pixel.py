"""SSIM, MS-SSIM, PSNR and MSE equal torchmetrics, scikit-image and the published formulas."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter
from skimage.metrics import peak_signal_noise_ratio, structural_similarity
from torchmetrics.functional.image import multiscale_structural_similarity_index_measure

from evaluation import Edits
from evaluation.pixel import MS_SSIM_WEIGHTS, Pixel, ms_ssim_weights
from tests.evaluation.pictures import changed, edits_of, rows_of

Array = NDArray[np.float64]


def _pairs(edits: Edits) -> list[tuple[Array, Array]]:
    sources = edits.source_images[edits.source_index]
    return [(a.double().numpy(), b.double().numpy()) for a, b in zip(sources, edits.images, strict=True)]


def _ssim_maps(a: Array, b: Array) -> tuple[Array, Array]:
    """SSIM and its contrast-structure factor per pixel (Wang et al. 2004, Eq. 13) of images (3, H, W)."""

    def blur(x: Array) -> Array:
        return np.stack([gaussian_filter(plane, 1.5, truncate=3.5, mode="mirror") for plane in x])

    mean_a, mean_b = blur(a), blur(b)
    covariance = blur(a * b) - mean_a * mean_b
    variances = blur(a * a) - mean_a**2 + blur(b * b) - mean_b**2
    contrast = (2 * covariance + 0.03**2) / (variances + 0.03**2)
    return (2 * mean_a * mean_b + 0.01**2) / (mean_a**2 + mean_b**2 + 0.01**2) * contrast, contrast


def _ms_ssim(a: Array, b: Array, weights: tuple[float, ...]) -> float:
    """Wang et al. 2003, Eq. 7: contrast-structure at every scale, luminance only at the coarsest."""
    product = 1.0
    for scale, weight in enumerate(weights):
        whole, contrast = _ssim_maps(a, b)
        last = scale == len(weights) - 1
        product *= max(whole.mean() if last else contrast[:, 5:-5, 5:-5].mean(), 0) ** weight
        a, b = (
            x[:, : x.shape[1] // 2 * 2, : x.shape[2] // 2 * 2]
            .reshape(3, x.shape[1] // 2, 2, x.shape[2] // 2, 2)
            .mean(axis=(2, 4))
            for x in (a, b)
        )
    return product


@pytest.mark.parametrize("size", [(64, 64), (50, 71), (176, 200)])
def test_equal_to_the_published_formulas(size: tuple[int, int]) -> None:
    edits = edits_of(size)
    scores = Pixel()(edits)
    for row, (a, b) in enumerate(_pairs(edits)):
        within = _ssim_maps(a, b)[0][:, 5:-5, 5:-5].mean()
        assert scores["ssim@3"].values[row] == pytest.approx(within, abs=1e-12)
        expected = _ms_ssim(a, b, ms_ssim_weights(min(size)))
        assert scores["ms_ssim@2"].values[row] == pytest.approx(expected, abs=1e-12)
        assert scores["mse@1"].values[row] == pytest.approx(np.mean((a - b) ** 2), abs=1e-12)


def test_equal_to_torchmetrics_at_the_published_scales() -> None:
    """With its own five scales, whose weights it holds in float32."""
    edits = edits_of((176, 190))
    sources = edits.source_images[edits.source_index]
    expected = multiscale_structural_similarity_index_measure(
        edits.images.double(), sources.double(), data_range=1.0, reduction="none"
    )
    torch.testing.assert_close(Pixel()(edits)["ms_ssim@2"].values, expected, atol=1e-7, rtol=0)


@pytest.mark.parametrize("size", [(64, 64), (50, 71), (11, 11)])
def test_equal_to_scikit_image(size: tuple[int, int]) -> None:
    """Its mean leaves the windows over the border out."""
    edits = edits_of(size)
    scores = Pixel()(edits)
    for row, (a, b) in enumerate(_pairs(edits)[:4]):
        expected = structural_similarity(
            a, b, gaussian_weights=True, use_sample_covariance=False, data_range=1, channel_axis=0
        )
        assert scores["ssim@3"].values[row] == pytest.approx(expected, abs=1e-12)
        assert scores["psnr@1"].values[row] == pytest.approx(peak_signal_noise_ratio(a, b, data_range=1))


def test_identical_images_have_no_psnr(edits: Edits) -> None:
    scores = Pixel()(edits)
    assert scores["psnr@1"].reasons == ("", "", "", "", "identical images")
    assert scores["mse@1"].values[4] == 0
    for name in ("ssim@3", "ms_ssim@2"):
        assert scores[name].values[4] == 1


@pytest.mark.parametrize("level", [0.1, 0.5, 0.9, 1.0])
def test_flat_pictures_have_the_values_of_the_formulas(level: float) -> None:
    """A window's variance is there a small difference of large sums, which float32 loses."""
    flat = torch.full((1, 3, 64, 64), level)
    nearly = changed(flat, 0.05)
    edits = replace(
        rows_of(edits_of(), [0, 1]), images=nearly[[0, 0]], source_images=torch.cat([flat, nearly])
    )
    scores = Pixel()(edits)
    [(a, b), _] = _pairs(edits)
    within = _ssim_maps(a, b)[0][:, 5:-5, 5:-5].mean()
    assert scores["ssim@3"].values.tolist() == pytest.approx([within, 1], abs=1e-12)
    expected = _ms_ssim(a, b, ms_ssim_weights(64))
    assert scores["ms_ssim@2"].values.tolist() == pytest.approx([expected, 1], abs=1e-12)


@pytest.mark.parametrize(
    ("side", "scales"), [(11, 1), (21, 1), (22, 2), (43, 2), (44, 3), (64, 3), (98, 3), (99, 4)]
)
def test_scales_at_small_sizes(side: int, scales: int) -> None:
    weights = ms_ssim_weights(side)
    assert len(weights) == scales
    assert sum(weights) == pytest.approx(1)
    assert np.allclose(
        np.divide(weights, weights[0]), np.divide(MS_SSIM_WEIGHTS[:scales], MS_SSIM_WEIGHTS[0])
    )
    assert side // 2 ** (scales - 1) >= 11
    assert Pixel()(edits_of((side + 3, side)))["ms_ssim@2"].values.isfinite().all()


def test_the_published_scales_from_176_pixels() -> None:
    assert len(ms_ssim_weights(175)) == 4
    assert ms_ssim_weights(176) == ms_ssim_weights(512) == MS_SSIM_WEIGHTS


def test_values_do_not_depend_on_batch_size_or_order(edits: Edits) -> None:
    rows = [3, 1, 4, 0, 2]
    whole, other = Pixel()(edits), Pixel(batch_size=2)(rows_of(edits, rows))
    for name in Pixel().names:
        assert [whole[name].reasons[row] for row in rows] == list(other[name].reasons)
        expected = whole[name].values[rows]
        torch.testing.assert_close(other[name].values, expected, atol=1e-12, rtol=1e-9, equal_nan=True)


def test_too_small_an_image_is_refused() -> None:
    with pytest.raises(ValueError, match="images have a side of 10; allowed: at least 11"):
        Pixel()(edits_of((10, 64)))
