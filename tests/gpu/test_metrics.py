"""Metrics on the device give the CPU's values."""

from collections.abc import Callable

import pytest
from torch.testing import assert_close

from evaluation.clip import Clip
from evaluation.metric import Metric
from evaluation.perceptual import Lpips
from evaluation.pie import PieClip, UneditedLpips, UneditedPixel
from evaluation.pixel import Pixel
from evaluation.structure import StructureDistance
from experiments.embedded.training import WEIGHTS
from tests.evaluation.pictures import masked_edits, rows_of

pytestmark = pytest.mark.gpu

CLIP, LPIPS = WEIGHTS / "clip", WEIGHTS / "lpips"
METRICS: dict[str, Callable[[str], Metric]] = {
    "clip": lambda device: Clip("embedded", None, CLIP, device, 3),
    "lpips": lambda device: Lpips("embedded", None, LPIPS, device, 3),
    "lpips_alex": lambda device: Lpips("alex", "random", None, device, 3),
    "pixel": lambda device: Pixel(device, 3),
    "pie_clip": lambda device: PieClip("embedded", None, CLIP, device, 3),
    "pie_lpips": lambda device: UneditedLpips("embedded", None, LPIPS, device, 3),
    "pie_pixel": lambda device: UneditedPixel(device, 3),
    "structure": lambda device: StructureDistance(pretrained="random", device=device),
}
TOLERANCE = 1e-4  # single precision, other kernels


@pytest.mark.parametrize("name", METRICS)
def test_a_metric(device: str, name: str) -> None:
    """Every column, reasons for missing values included; two rows where the network is large."""
    edits = rows_of(masked_edits(), [0, 1]) if name == "structure" else masked_edits()
    theirs, ours = METRICS[name]("cpu")(edits), METRICS[name](device)(edits)
    assert ours.keys() == theirs.keys()
    for column, scores in ours.items():
        assert scores.reasons == theirs[column].reasons
        expected = theirs[column].values
        assert_close(scores.values, expected, rtol=TOLERANCE, atol=TOLERANCE, equal_nan=True)
