"""How large the things of a rendered world are in an edit, and what changed around them, by its judge."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path

from torch import Tensor, nn

from evaluation.edits import Edits
from evaluation.metric import Scores
from evaluation.weights import require_files, weights_folder
from experiments.embedded.edit_success import judge_label
from experiments.embedded.judge import FILE, Judge
from experiments.embedded.worlds import load_world

GROWN = 2  # pixels around a thing that count as its own: blur and shadow
FILLED = "things cover more than half of the picture"


class JudgedAreas:
    """Measure an edit's things (objects, lesions) by a world's judge.

    Columns: `judge/area`, the pixels of all things, and `judge/area_share`, their share of the picture;
    `judge/mse_outside`, the mean squared error to the source image outside the things of either, grown by
    GROWN pixels, missing where they cover more than half of the picture.
    """

    def __init__(self, world: str = "scenes", folder: str | Path | None = None) -> None:
        self.world = load_world(world)
        self.folder = self.world.weights / "judge" if folder is None else weights_folder(folder)
        label = judge_label(self.world)
        self.name = f"judge_areas{label}@1"
        self.names = tuple(f"judge/{kind}{label}@1" for kind in ("area", "area_share", "mse_outside"))
        # Neither small nor large things are better.
        self.higher_is_better: Mapping[str, bool] = {self.names[2]: False}

    def check(self) -> None:
        """Raise in one line if the weights cannot be had."""
        require_files(self.name, self.folder, (FILE,))

    @cached_property
    def judge(self) -> Judge:
        """The loaded judge."""
        return Judge.load(self.folder, self.world)

    def __call__(self, edits: Edits) -> dict[str, Scores]:
        """Score every edit."""
        things, before = self.judge.masks(edits.images), self.judge.masks(edits.source_images)
        errors, filled = error_outside(
            edits.images, edits.source_images[edits.source_index], things | before[edits.source_index]
        )
        reasons = tuple(FILLED if full else "" for full in filled.tolist())
        area = things.sum((1, 2))
        share = area / things[0].numel()
        columns = (Scores.of(area), Scores.of(share), Scores.of(errors, reasons))
        return dict(zip(self.names, columns, strict=True))


def error_outside(images: Tensor, sources: Tensor, areas: Tensor) -> tuple[Tensor, Tensor]:
    """Return the mean squared error outside the grown areas, and whether they cover over half: both (N,).

    `images` and `sources` (N, 3, height, width) in [0, 1], `areas` (N, height, width) bool.
    """
    grown = nn.functional.max_pool2d(areas[:, None].float(), 2 * GROWN + 1, 1, GROWN)[:, 0]
    squares = (images.double() - sources.double()).square().mean(1) * (1 - grown)
    errors = squares.sum((1, 2)) / (1 - grown).sum((1, 2)).clamp(min=1)
    return errors, grown.mean((1, 2)) > 0.5
