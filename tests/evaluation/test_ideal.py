"""Errors to an ideal edit: against plain sums, per area, and for the nearest of several ideals."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from evaluation.edits import Edits
from evaluation.ideal import Ideal

WHOLE, EDITED, UNEDITED = "ideal/mse@1", "ideal/mse_edited@1", "ideal/mse_unedited@1"


@pytest.fixture
def edits() -> Edits:
    """Two edits of one source; the ideal of the first paints its left half, the second has none."""
    generator = torch.Generator().manual_seed(0)
    images, source = torch.rand(2, 3, 8, 8, generator=generator), torch.rand(1, 3, 8, 8, generator=generator)
    ideal = source.clone()
    ideal[..., :4] = 1 - ideal[..., :4]
    return Edits(images, source, torch.tensor([0, 0]), ("a", "a"), ("b", "b"), ideals=(ideal, None))


def test_errors_equal_plain_sums(edits: Edits) -> None:
    scores = Ideal()(edits)
    assert edits.ideals is not None
    assert edits.ideals[0] is not None
    image, ideal = edits.images[0].double().numpy(), edits.ideals[0][0].double().numpy()
    squares = np.square(image - ideal)
    for name, part in ((WHOLE, squares), (EDITED, squares[..., :4]), (UNEDITED, squares[..., 4:])):
        assert scores[name].values[0].item() == pytest.approx(part.mean(), rel=1e-12)


def test_without_an_ideal_there_is_a_reason(edits: Edits) -> None:
    for scores in (*Ideal()(edits).values(), *Ideal()(replace(edits, ideals=None)).values()):
        assert scores.reasons[1] == "no ideal image"
        assert scores.values[1].isnan()


def test_the_ideal_itself_has_no_error(edits: Edits) -> None:
    assert edits.ideals is not None
    assert edits.ideals[0] is not None
    made = replace(edits, images=torch.cat([edits.ideals[0], edits.images[1:]]))
    assert [scores.values[0].item() for scores in Ideal()(made).values()] == [0, 0, 0]


def test_of_several_ideals_the_nearest_counts_in_every_column(edits: Edits) -> None:
    assert edits.ideals is not None
    assert edits.ideals[0] is not None
    ideal, source = edits.ideals[0], edits.source_images
    upper = source.clone()
    upper[..., :2, :] = edits.images[0, :, :2]
    several = replace(edits, ideals=(torch.cat([ideal, upper]), None))
    alone = [Ideal()(replace(edits, ideals=(one, None))) for one in (ideal, upper)]
    nearest = min(alone, key=lambda scores: scores[WHOLE].values[0].item())
    for name, scores in Ideal()(several).items():
        assert scores.values[0] == nearest[name].values[0]


@pytest.mark.parametrize(
    ("columns", "name", "reason"),
    [
        (0, EDITED, "the ideal is the source image"),
        (8, UNEDITED, "the ideal differs from the source image everywhere"),
    ],
)
def test_a_part_that_is_not_there_has_no_value(edits: Edits, columns: int, name: str, reason: str) -> None:
    ideal = edits.source_images.clone()
    ideal[..., :columns] = 1 - ideal[..., :columns]
    scores = Ideal()(replace(edits, ideals=(ideal, None)))
    assert scores[name].reasons[0] == reason
    assert scores[WHOLE].reasons[0] == ""


def test_ideals_of_another_size_are_refused(edits: Edits) -> None:
    with pytest.raises(ValueError, match=r"ideals has shape \(1, 3, 4, 4\); allowed: \(K, 3, 8, 8\)"):
        replace(edits, ideals=(torch.zeros(1, 3, 4, 4), None))
