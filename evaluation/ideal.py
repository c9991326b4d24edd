"""How near an edit comes to its ideal result, where that is known: mean squared error, whole and by area.

The area to edit is where the ideal differs from the source image; what lies outside ought to stay.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from evaluation.edits import Edits
from evaluation.metric import Scores

NO_IDEAL = "no ideal image"
SMALLEST_PART = 0.02  # of the image; a mean over fewer pixels says little


class Ideal:
    """Compare edited images with their ideals: MSE of values in [0, 1].

    Columns: `ideal/mse` over the whole image, `ideal/mse_edited` where the ideal differs from the source,
    `ideal/mse_unedited` where it does not. Of several ideals the one with the smallest error over the whole
    image counts, in all columns. A part of less than SMALLEST_PART of the image has no value.
    """

    def __init__(self) -> None:
        self.name = "ideal@1"
        self.names = ("ideal/mse@1", "ideal/mse_edited@1", "ideal/mse_unedited@1")
        self.higher_is_better: Mapping[str, bool] = dict.fromkeys(self.names, False)

    def check(self) -> None:
        """Do nothing: there are no weights."""

    def __call__(self, edits: Edits) -> dict[str, Scores]:
        """Score every edit; an edit without an ideal has no value."""
        values = torch.zeros(3, len(edits), dtype=torch.float64)
        reasons: list[tuple[str, str, str]] = []
        for row, ideals in enumerate(edits.ideals or (None,) * len(edits)):
            if ideals is None:
                reasons.append((NO_IDEAL,) * 3)
                continue
            source = edits.source_images[edits.source_index[row]]
            whole, inside, outside, area = errors(edits.images[row], source, ideals)
            values[:, row] = torch.stack([whole, inside, outside])
            reasons.append(
                (
                    "",
                    "the ideal is the source image" if area < SMALLEST_PART else "",
                    "the ideal differs from the source image everywhere" if area > 1 - SMALLEST_PART else "",
                )
            )
        columns = zip(self.names, values, zip(*reasons, strict=True), strict=True)
        return {name: Scores.of(value, why) for name, value, why in columns}


def errors(image: Tensor, source: Tensor, ideals: Tensor) -> tuple[Tensor, Tensor, Tensor, float]:
    """Return the error to the nearest ideal: whole, where that differs from the source, elsewhere; the share.

    Images are (3, height, width), ideals (pictures, 3, height, width). A part without a pixel has error 0.
    """
    squares = (ideals.double() - image.double()).square().mean(1)  # (pictures, height, width)
    nearest = int(squares.mean((1, 2)).argmin())
    square, area = squares[nearest], (ideals[nearest] != source).any(0)
    inside, outside = (square * part for part in (area, ~area))
    count = area.sum()
    return (
        square.mean(),
        inside.sum() / count.clamp(min=1),
        outside.sum() / (~area).sum().clamp(min=1),
        float(count / area.numel()),
    )
