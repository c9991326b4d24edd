"""What a metric is given and gives is checked where it is made."""

from dataclasses import replace
from typing import Any

import pytest
import torch

from evaluation import Edits, Scores


def test_length_is_the_number_of_edits(edits: Edits) -> None:
    assert len(edits) == 5


def _with_pixel(value: float) -> torch.Tensor:
    images = torch.full((5, 3, 64, 64), 0.5)
    images[3, 1, 2, 2] = value
    return images


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"images": torch.zeros(5, 3, 64, 64, device="meta")},
            "images is on meta; allowed: cpu, metrics move",
        ),
        ({"masks": torch.zeros(5, 1, 64, 64, device="meta")}, "masks is on meta; allowed: cpu"),
        ({"images": torch.zeros(5, 64, 64, 3)}, r"images has shape \(5, 64, 64, 3\); allowed"),
        ({"images": torch.zeros(5, 3, 64, 64, dtype=torch.float64)}, "images has dtype torch.float64"),
        ({"images": _with_pixel(float("nan"))}, "images has values from nan to nan"),
        ({"images": _with_pixel(float("inf"))}, "images has values from 0.5 to inf"),
        ({"images": _with_pixel(1.5)}, r"images has values from 0.5 to 1.5; allowed: finite, in \[0, 1\]"),
        ({"images": _with_pixel(-0.1)}, "images has values from -0.1 to 0.5"),
        (
            {"source_images": torch.zeros(2, 3, 32, 32)},
            r"source_images has shape .*allowed: \(M, 3, 64, 64\)",
        ),
        ({"source_images": torch.zeros(6, 3, 64, 64)}, "source_images holds 6 images; allowed: at most 5"),
        ({"source_index": torch.zeros(4, dtype=torch.int64)}, r"source_index is torch.int64 of shape \(4,\)"),
        ({"source_index": torch.zeros(5)}, "source_index is torch.float32"),
        (
            {"source_index": torch.tensor([0, 1, 2, 0, 0])},
            "source_index has values from 0 to 2; allowed: 0 to 1",
        ),
        ({"source_index": torch.tensor([0, -1, 1, 0, 0])}, "source_index has values from -1 to 1"),
        ({"source_prompts": ("a cat",)}, "source_prompts has 1 entries; allowed: 5"),
        ({"target_prompts": ["a cat"] * 5}, "target_prompts is .*allowed: a tuple of strings"),
        ({"target_prompts": "a cat"}, "target_prompts is 'a cat'; allowed: a tuple of strings"),
        ({"masks": torch.zeros(5, 64, 64)}, r"masks has shape \(5, 64, 64\); allowed: \(5, 1, 64, 64\)"),
        ({"masks": torch.zeros(2, 1, 64, 64)}, r"masks has shape \(2, 1, 64, 64\); allowed: \(5, 1"),
        ({"masks": torch.zeros(5, 1, 64, 64, dtype=torch.uint8)}, "masks has dtype torch.uint8"),
        ({"masks": torch.full((5, 1, 64, 64), 0.5)}, "masks has values from 0.5 to 0.5; allowed: 0 and 1"),
        ({"masks": torch.full((5, 1, 64, 64), float("nan"))}, "masks has values from nan to nan"),
    ],
)
def test_bad_edits_are_refused(edits: Edits, change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(edits, **change)


@pytest.mark.parametrize("dtype", [torch.bool, torch.float32])
def test_masks_are_zero_or_one(edits: Edits, dtype: torch.dtype) -> None:
    masks = (torch.arange(64) < 20).to(dtype).expand(5, 1, 64, 64)
    assert replace(edits, masks=masks).masks is masks
    assert edits.masks is None


def test_scores_blank_what_has_a_reason() -> None:
    scores = Scores.of(torch.tensor([1.0, 2.0]), ("", "undefined here"))
    assert scores.values.dtype == torch.float64
    assert scores.values[0] == 1
    assert scores.values[1].isnan()
    assert Scores.of(torch.tensor([1.0, 2.0])).reasons == ("", "")


@pytest.mark.parametrize(
    ("values", "reasons", "message"),
    [
        (torch.tensor([1.0]), ("",), "values is torch.float32"),
        (torch.ones(1, 1, dtype=torch.float64), ("",), "values is"),
        (torch.ones(2, dtype=torch.float64), ("",), "reasons has 1 entries; allowed: 2"),
        (torch.tensor([1.0], dtype=torch.float64), ("why",), "its reason 'why'"),
        (torch.tensor([float("nan")], dtype=torch.float64), ("",), "nan, its reason ''"),
        (torch.tensor([float("inf")], dtype=torch.float64), ("",), "inf; allowed: finite"),
    ],
)
def test_bad_scores_are_refused(values: torch.Tensor, reasons: tuple[str, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Scores(values, reasons)
