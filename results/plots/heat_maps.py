"""Pictures of heat-maps: an image and, beside it, where each word of its prompt is attended to.

Arrays in, a matplotlib Figure out; `p2p.word_heat_maps` makes the arrays (Hertz et al. 2022, Fig. 4).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from PIL import Image

from results.labels import escape_mathtext

COLOUR_MAP = "inferno"
_SIZE = 9


@dataclass(frozen=True)
class Row:
    """One row of the picture: an image, and a map for each of some words."""

    label: str  # what the row shows: whose image, which layers and steps
    image: np.ndarray  # (3, height, width) in [0, 1]
    words: Sequence[str]
    maps: np.ndarray  # (words, any height, any width), at least 0

    def __post_init__(self) -> None:
        if self.maps.ndim != 3 or len(self.maps) != len(self.words):
            raise ValueError(f"maps: shape {self.maps.shape}, allowed is ({len(self.words)}, height, width)")
        if self.image.ndim != 3 or self.image.shape[0] != 3:
            raise ValueError(f"image: shape {self.image.shape}, allowed is (3, height, width)")


def overlay(image: np.ndarray, heat: np.ndarray, peak: float | None = None) -> np.ndarray:
    """Return the image (3, height, width) with a map over it, (height, width, 3) in [0, 1].

    `heat` (any height, any width) is enlarged smoothly. `peak` has the brightest colour, 0 the darkest; None
    is the map's own. What is attended to shows through, the rest is dark.
    """
    height, width = image.shape[1:]
    top = float(heat.max()) if peak is None else peak
    share = np.clip(heat / top, 0, 1) if top > 0 else np.zeros_like(heat)
    enlarged = Image.fromarray(share.astype(np.float32)).resize((width, height), Image.Resampling.BICUBIC)
    share = np.clip(np.asarray(enlarged, np.float64), 0, 1)
    colour = matplotlib.colormaps[COLOUR_MAP](share)[..., :3]
    return 0.35 * image.transpose(1, 2, 0) + 0.65 * colour


def draw(rows: Sequence[Row], words: Sequence[str]) -> Figure:
    """Draw the rows: the image, then a panel per word with its name and its peak, its brightest colour.

    `words` are the columns in their order; a panel is empty where a row has no map of the word.
    """
    words = list(dict.fromkeys(words))
    height, width = rows[0].image.shape[1:]
    side = 1.7
    figure = Figure(
        figsize=(side * (1 + len(words)), (side * height / width + 0.45) * len(rows)), layout="constrained"
    )
    grid = figure.subplots(len(rows), 1 + len(words), squeeze=False)
    for axes in grid.ravel():
        axes.set_axis_off()
    for row, panels in zip(rows, grid):
        panels[0].imshow(row.image.transpose(1, 2, 0), interpolation="nearest")
        panels[0].set_title(escape_mathtext(row.label), fontsize=_SIZE)
        for word, heat in zip(row.words, row.maps):
            axes = panels[1 + words.index(word)]
            axes.imshow(overlay(row.image, heat))
            axes.set_title(escape_mathtext(f"{word}  ({heat.max():.2g})"), fontsize=_SIZE)
    return figure
