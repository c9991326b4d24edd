"""SSIM (Wang et al. 2004), MS-SSIM (Wang et al. 2003), PSNR and MSE between an edit and its source image.

SSIM and MS-SSIM have a Gaussian window of 11 with sigma 1.5, and are computed in float64: a flat window's
variance is a small difference of large sums, and in float32, as torchmetrics has it, that alone moves a flat
picture's SSIM by some 3e-4. SSIM leaves out the windows over the mirrored border, as scikit-image,
pytorch-msssim, piq and torchmetrics before 1.4.2 do; MS-SSIM counts them at the coarsest scale only, as
torchmetrics does.
"""

from collections.abc import Mapping
from math import exp

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d, pad

from evaluation.batches import double, in_batches
from evaluation.edits import Edits
from evaluation.metric import Scores

SMALLEST_SIDE = 11  # one SSIM window
_BORDER = SMALLEST_SIDE // 2  # pixels whose window reaches over the picture's edge
_SIGMA = 1.5
_C1, _C2 = 0.01**2, 0.03**2  # of images in [0, 1]
MS_SSIM_WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)  # finest scale first
# Least side for so many scales: the coarsest must hold a window. Four fit from 88, but torchmetrics asks 99.
_SIDE_FOR_SCALES = {5: 176, 4: 99, 3: 44, 2: 22, 1: SMALLEST_SIDE}


class Pixel:
    """Compare edited images with their source pixel by pixel and window by window.

    `psnr` is in dB; identical images have none, as it would be infinite and so would every mean.
    `ms_ssim` takes the published five scales where the shorter side has at least 176 pixels; below, the
    finest four (from 99 pixels), three (from 44, so at 64), two (from 22) or one (from 11), with their
    weights renormalised to sum to 1. Values at different image sizes are therefore not to be compared.
    """

    def __init__(self, device: str = "cpu", batch_size: int = 8) -> None:
        self.device, self.batch_size = device, batch_size
        self.name = "pixel@3"
        self.names = ("ssim@3", "ms_ssim@2", "psnr@1", "mse@1")
        self.higher_is_better: Mapping[str, bool] = {name: name != "mse@1" for name in self.names}

    def check(self) -> None:
        """Do nothing: there are no weights."""

    @torch.inference_mode()
    def __call__(self, edits: Edits) -> dict[str, Scores]:
        """Score every edit. Raises ValueError for images smaller than one SSIM window."""
        side = min(edits.images.shape[-2:])
        if side < SMALLEST_SIDE:
            raise ValueError(f"{self.name}: images have a side of {side}; allowed: at least {SMALLEST_SIDE}")

        def compare(rows: Tensor) -> Tensor:
            source = edits.source_images[edits.source_index[rows]].to(self.device)
            return _compare(source, edits.images[rows].to(self.device)).cpu()

        likeness, ms_ssim, errors = in_batches(compare, torch.arange(len(edits)), self.batch_size).T
        reasons = tuple("identical images" if error == 0 else "" for error in errors.tolist())
        columns = (
            Scores.of(likeness),
            Scores.of(ms_ssim),
            Scores.of(psnr(errors), reasons),
            Scores.of(errors),
        )
        return dict(zip(self.names, columns, strict=True))


def ms_ssim_weights(side: int) -> tuple[float, ...]:
    """Give the weights of the scales, finest first, that images of this shorter side have room for."""
    scales = next(scales for scales, smallest in _SIDE_FOR_SCALES.items() if side >= smallest)
    weights = MS_SSIM_WEIGHTS[:scales]
    # The published five sum to 1.0001 and stay as they are.
    return weights if scales == 5 else tuple(weight / sum(weights) for weight in weights)


def ssim(source: Tensor, edit: Tensor) -> Tensor:
    """Give the SSIM of each pair of images (N, 3, H, W) in [0, 1], a window or larger: (N,) float64.

    It is the mean over the windows that lie within the picture.
    """
    luminance, contrast = _factors(double(source), double(edit))
    return (luminance * contrast).mean(dim=(1, 2, 3))


def mse(source: Tensor, edit: Tensor) -> Tensor:
    """Give the mean squared error of each pair of images (N, 3, H, W): (N,) float64."""
    return (double(edit) - double(source)).square().mean(dim=(1, 2, 3))


def psnr(errors: Tensor) -> Tensor:
    """Give the PSNR, dB, that goes with mean squared errors of images in [0, 1]; infinite for 0."""
    return -10 * errors.log10()


def _compare(source: Tensor, edit: Tensor) -> Tensor:
    """Give SSIM, MS-SSIM and MSE, (N, 3), of images (N, 3, H, W)."""
    source, edit = double(source), double(edit)
    luminance, contrast = _factors(source, edit)
    likeness, errors = (luminance * contrast).mean(dim=(1, 2, 3)), mse(source, edit)
    *finer, coarsest = ms_ssim_weights(min(edit.shape[-2:]))
    ms_ssim = torch.ones_like(likeness)
    for scale, weight in enumerate(finer):
        if scale:  # the first is of the images as they are
            _, contrast = _factors(source, edit)
        ms_ssim = ms_ssim * contrast.mean(dim=(1, 2, 3)).relu() ** weight
        source, edit = avg_pool2d(source, 2), avg_pool2d(edit, 2)
    luminance, contrast = _factors(*(pad(x, (_BORDER,) * 4, mode="reflect") for x in (source, edit)))
    ms_ssim = ms_ssim * (luminance * contrast).mean(dim=(1, 2, 3)).relu() ** coarsest
    return torch.stack([likeness, ms_ssim, errors], dim=1)


def _factors(source: Tensor, edit: Tensor) -> tuple[Tensor, Tensor]:
    """Give SSIM's factors luminance and contrast-structure of each window within the pictures.

    Images are (N, 3, H, W) in float64, factors (N, 3, H - 10, W - 10); their product is the windows' SSIM.
    """
    moments = torch.stack([source, edit, source * source, edit * edit, source * edit])
    mean_a, mean_b, square_a, square_b, product = _window_means(moments)
    squares = mean_a**2 + mean_b**2
    luminance = (2 * mean_a * mean_b + _C1) / (squares + _C1)
    contrast = (2 * (product - mean_a * mean_b) + _C2) / (square_a + square_b - squares + _C2)
    return luminance, contrast


def _window_means(planes: Tensor) -> Tensor:
    """Give the Gaussian mean of each window within planes (..., H, W): (..., H - 10, W - 10)."""
    weights = [exp(-((place / _SIGMA) ** 2) / 2) for place in range(-_BORDER, _BORDER + 1)]
    for dim in (-2, -1):
        count = planes.shape[dim] - 2 * _BORDER
        means = torch.zeros_like(planes.narrow(dim, 0, count))
        for place, weight in enumerate(weights):
            means.add_(planes.narrow(dim, place, count), alpha=weight / sum(weights))
        planes = means
    return planes
