"""SSIM (Wang et al. 2004), MS-SSIM (Wang et al. 2003), PSNR and MSE between an edit and its source image.

SSIM and MS-SSIM have a Gaussian window of 11 with sigma 1.5, and are computed in float32 by torchmetrics.
Since its release 1.4.2 torchmetrics counts the windows over the mirrored border, too. SSIM here leaves
them out, as scikit-image, pytorch-msssim, piq and torchmetrics before 1.4.2 do; MS-SSIM is torchmetrics' own,
which counts them at the coarsest scale only.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from evaluation.batches import double, in_batches
from evaluation.edits import Edits
from evaluation.metric import Scores

SMALLEST_SIDE = 11  # one SSIM window
_BORDER = SMALLEST_SIDE // 2  # pixels whose window reaches over the picture's edge
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
        self.name = "pixel@2"
        self.names = ("ssim@2", "ms_ssim@1", "psnr@1", "mse@1")
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
    from torchmetrics.functional.image import structural_similarity_index_measure

    _, of_pixels = structural_similarity_index_measure(
        edit, source, data_range=1.0, reduction="none", return_full_image=True
    )
    assert isinstance(of_pixels, Tensor)
    return double(of_pixels)[..., _BORDER:-_BORDER, _BORDER:-_BORDER].mean(dim=(1, 2, 3))


def mse(source: Tensor, edit: Tensor) -> Tensor:
    """Give the mean squared error of each pair of images (N, 3, H, W): (N,) float64."""
    return (double(edit) - double(source)).square().mean(dim=(1, 2, 3))


def psnr(errors: Tensor) -> Tensor:
    """Give the PSNR, dB, that goes with mean squared errors of images in [0, 1]; infinite for 0."""
    return -10 * errors.log10()


def _compare(source: Tensor, edit: Tensor) -> Tensor:
    """Give SSIM, MS-SSIM and MSE, (N, 3), of images (N, 3, H, W)."""
    from torchmetrics.functional.image import multiscale_structural_similarity_index_measure

    ms_ssim = multiscale_structural_similarity_index_measure(
        edit, source, data_range=1.0, reduction="none", betas=ms_ssim_weights(min(edit.shape[-2:]))
    )
    return torch.stack([ssim(source, edit), double(ms_ssim), mse(source, edit)], dim=1)
