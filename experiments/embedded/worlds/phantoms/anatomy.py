"""Bodies in cross-section: chest, abdomen and head as ellipses in bent coordinates, in a modality's greys.

Shapes and greys are made up to be recognised, not measured of any person.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from PIL import Image

from experiments.embedded.worlds.phantoms.layout import SIDE, Layout

Y, X = (axis - (SIDE - 1) / 2 for axis in np.mgrid[0:SIDE, 0:SIDE].astype(np.float32))

# Grey of each tissue in [0, 1], for ct, mri, pet. Those of pet are uptake, which it shows as darkness.
GREYS: dict[str, tuple[float, float, float]] = {
    "air": (0.02, 0.03, 0.04),
    "fat": (0.30, 0.88, 0.10),
    "muscle": (0.55, 0.42, 0.20),
    "bone": (0.96, 0.60, 0.26),
    "cortex": (0.96, 0.06, 0.16),  # of bones
    "lung": (0.28, 0.24, 0.32),
    "heart": (0.74, 0.52, 0.66),
    "vessel": (0.78, 0.14, 0.40),
    "liver": (0.56, 0.56, 0.50),
    "spleen": (0.62, 0.44, 0.44),
    "kidney": (0.66, 0.50, 0.62),
    "pelvis": (0.46, 0.26, 0.50),  # of a kidney
    "stomach": (0.46, 0.26, 0.24),
    "gas": (0.04, 0.05, 0.08),
    "scalp": (0.40, 0.86, 0.10),
    "brain": (0.46, 0.58, 0.56),
    "grey matter": (0.54, 0.42, 0.66),
    "fluid": (0.20, 0.10, 0.20),
    "falx": (0.62, 0.30, 0.40),
}
# Where a lesion may lie, in the body's coordinates: the middle and half the width and height of an ellipse.
SEATS: dict[str, tuple[float, float, float, float]] = {
    "right lung": (-14.5, 1.0, 3.5, 8.5),
    "left lung": (15.0, 2.0, 3.0, 7.5),
    "liver": (-13.0, -5.0, 6.0, 5.0),
    "spleen": (19.0, 2.0, 1.5, 4.5),
    "right kidney": (-11.0, 10.5, 2.0, 2.5),
    "left kidney": (11.0, 10.5, 2.0, 2.5),
    "right hemisphere": (-10.5, 1.0, 3.5, 13.0),
    "left hemisphere": (10.5, 1.0, 3.5, 13.0),
}


@dataclass
class Slice:
    """A slice while it is painted: the body's coordinates, its greys so far, and where each organ is."""

    x: np.ndarray  # (64, 64) of the body, pixels from its middle to the right
    y: np.ndarray  # (64, 64), down
    tissue: int  # which of a tissue's greys: 0 ct, 1 mri, 2 pet
    vary: tuple[float, ...]  # the layout's eight numbers, each in [-1, 1]
    fields: np.ndarray  # (4, 64, 64) smooth noise of unit deviation, coarse to fine
    grey: np.ndarray = field(default_factory=lambda: np.zeros((SIDE, SIDE), np.float32))
    organs: dict[str, np.ndarray] = field(default_factory=dict)

    def ellipse(
        self, middle: tuple[float, float], half: tuple[float, float], turn: float = 0, power: float = 2
    ) -> np.ndarray:
        """Return an anti-aliased mask; `half` are half the width and height, `turn` is in degrees."""
        c, s = math.cos(math.radians(turn)), math.sin(math.radians(turn))
        dx, dy = self.x - middle[0], self.y - middle[1]
        u, v = np.abs(dx * c + dy * s) / half[0], np.abs(dy * c - dx * s) / half[1]
        radius = np.sqrt(u * u + v * v) if power == 2 else (u**power + v**power) ** (1 / power)
        distance = (1 - radius) * min(half)
        return np.clip(distance + 0.5, 0, 1)

    def paint(self, mask: np.ndarray, tissue: str) -> None:
        """Paint a tissue where the mask is; it covers the organs that were there."""
        self.grey += (GREYS[tissue][self.tissue] - self.grey) * mask
        for organ in self.organs.values():
            organ *= 1 - mask

    def organ(self, place: str, mask: np.ndarray, tissue: str) -> None:
        """Paint an organ that a lesion may lie in."""
        self.paint(mask, tissue)
        self.organs[place] = mask.astype(np.float32)


def body(region: str, tissue: int, layout: Layout) -> Slice:
    """Paint a region of a healthy body."""
    fields = _fields(layout.seed)
    angle = math.radians(12 * (layout.angle - 0.5))
    x, y = X - 5 * (layout.shift[0] - 0.5), Y - 5 * (layout.shift[1] - 0.5)
    x, y = x * math.cos(angle) + y * math.sin(angle), y * math.cos(angle) - x * math.sin(angle)
    x, y = x / (0.9 + 0.18 * layout.scale[0]), y / (0.88 + 0.2 * layout.scale[1])
    bent = 1.1 if region != "head" else 0.8
    painted = Slice(
        x + bent * fields[0], y + bent * fields[1], tissue, tuple(2 * v - 1 for v in layout.organs), fields
    )
    painted.paint(np.ones((SIDE, SIDE), np.float32), "air")
    _REGIONS[region](painted)
    return painted


def _fields(seed: int) -> np.ndarray:
    """Return (4, 64, 64): noise of some 20, 20, 6 and 2.5 pixels."""
    rng = np.random.default_rng(seed)
    fields = []
    for cells in (4, 4, 11, 26):
        coarse = Image.fromarray(rng.standard_normal((cells, cells)).astype(np.float32))
        fields.append(np.asarray(coarse.resize((SIDE, SIDE), Image.Resampling.BICUBIC)))
    return np.stack(fields)


def _trunk(s: Slice, half: tuple[float, float], fat: float) -> np.ndarray:
    """Paint skin, fat and muscle; return what lies within."""
    s.paint(s.ellipse((0, 0), half, power=2.4), "fat")
    s.paint(s.ellipse((0, 0), (half[0] - fat, half[1] - fat), power=2.3), "muscle")
    return s.ellipse((0, 0), (half[0] - fat - 2.2, half[1] - fat - 2.2), power=2.2)


def _bone(s: Slice, middle: tuple[float, float], half: tuple[float, float], turn: float = 0) -> None:
    s.paint(s.ellipse(middle, half, turn), "cortex")
    if min(half) > 1.5:
        s.paint(s.ellipse(middle, (half[0] - 0.9, half[1] - 0.9), turn), "bone")


def _spine(s: Slice, y: float) -> None:
    _bone(s, (-4.6, y + 5.5), (3.4, 1.4), 35)
    _bone(s, (4.6, y + 5.5), (3.4, 1.4), -35)
    _bone(s, (0, y + 8.2), (1.4, 2.6))
    _bone(s, (0, y), (4.6 + 0.4 * s.vary[7], 3.9))
    s.paint(s.ellipse((0, y + 5.0), (2.0, 1.6)), "muscle")


def _chest(s: Slice) -> None:
    v = s.vary
    _trunk(s, (29.5, 23), 2.6 + 0.9 * v[0])
    tall, wide = 15.2 + 0.8 * v[1], 10.0 + 0.6 * v[2]
    vessels = np.clip(s.fields[3] - 0.9, 0, 1.2) * 0.5  # branches that the lungs show as specks
    for place, x in (("right lung", -14.2), ("left lung", 14.6)):
        lung = s.ellipse((x, 0.5), (wide, tall), 8 if x < 0 else -8, 2.3)
        s.organ(place, lung, "lung")
        s.grey += lung * vessels * (GREYS["vessel"][0] - 0.3) * (0.7 if s.tissue == 0 else 0.35)
    for i in range(10):  # ribs
        t = math.radians(36 * i + 20 + 5 * v[3])
        if abs(math.cos(t)) > 0.25:
            _bone(s, (26.4 * math.cos(t), 19.4 * math.sin(t)), (2.8, 1.15), math.degrees(t) + 90)
    _bone(s, (0, -18.6), (3.4, 1.3))
    s.paint(s.ellipse((0, 3), (4.6, 11)), "muscle")
    s.paint(s.ellipse((3.6 + v[4], -6.5 + v[5]), (9.4 + 0.8 * v[6], 7.6), 25), "heart")
    s.paint(s.ellipse((1 + v[4], -8 + v[5]), (3.2, 2.6), 25), "vessel")
    s.paint(s.ellipse((4.2, 6.5), (2.3, 2.3)), "vessel")
    _spine(s, 11.5)


def _abdomen(s: Slice) -> None:
    v = s.vary
    inside = _trunk(s, (29.5, 23.5), 2.8 + 1.2 * v[0])
    s.paint(inside, "fat")
    s.paint(s.ellipse((-10.5, 13.5), (7, 6)) * inside, "muscle")  # beside the spine
    s.paint(s.ellipse((10.5, 13.5), (7, 6)) * inside, "muscle")
    s.paint(s.ellipse((10.5 + v[1], -8.5), (8.8, 7 + 0.7 * v[2]), 20) * inside, "stomach")
    s.paint(s.ellipse((11 + v[1], -11.5), (4.6 + v[3], 2.4)) * inside, "gas")
    for x, y, r in ((3.0, 1.5, 3.0), (8.6, 3.0, 2.8), (12.4, 0.2, 2.6)):
        s.paint(s.ellipse((x + v[4], y + v[5]), (r, r)) * inside, "stomach")
    liver = np.maximum(
        s.ellipse((-13.6, -3.5), (11.6 + 0.6 * v[6], 13.2), 8, 2.5),
        s.ellipse((-3.5 + v[6], -10.5), (10.5, 5.8), 12),
    )
    s.organ("liver", liver * inside, "liver")
    s.organ("spleen", s.ellipse((19.4, 2.4), (5.4, 9.4 + 0.6 * v[3]), -12) * inside, "spleen")
    for place, side in (("right kidney", -1), ("left kidney", 1)):
        middle = (11.0 * side, 10.6)
        s.paint(s.ellipse(middle, (7.0, 7.4), 15 * side), "fat")
        s.organ(place, s.ellipse(middle, (5.7, 6.3 + 0.3 * v[5]), 15 * side), "kidney")
        pelvis = s.ellipse((middle[0] - 2.6 * side, middle[1] - 0.6), (2.1, 1.9))
        s.grey += (GREYS["pelvis"][s.tissue] - s.grey) * pelvis  # it belongs to the kidney
    s.paint(s.ellipse((2.6, 6.2), (2.2, 2.2)), "vessel")
    s.paint(s.ellipse((-3.2, 5.6), (2.3, 1.8)), "vessel")
    _spine(s, 12.0)


def _head(s: Slice) -> None:
    v = s.vary
    half = (23.5 + 0.5 * v[0], 28.0 + 0.5 * v[1])
    s.paint(s.ellipse((0, 0), half, power=2.15), "scalp")
    s.paint(s.ellipse((0, 0), (half[0] - 1.5, half[1] - 1.5), power=2.15), "cortex")
    if s.tissue:  # marrow, which ct shows as bright as the rest
        s.paint(s.ellipse((0, 0), (half[0] - 2.5, half[1] - 2.5), power=2.15), "bone")
        s.paint(s.ellipse((0, 0), (half[0] - 3.2, half[1] - 3.2), power=2.15), "cortex")
    inner = (half[0] - 4.0, half[1] - 4.0)
    s.paint(s.ellipse((0, 0), inner, power=2.15), "fluid")
    brain = s.ellipse((0, 0), (inner[0] - 0.6, inner[1] - 0.6), power=2.15)
    furrows = np.clip(1.3 * s.fields[3] - 1.3, 0, 1) * (1 - s.ellipse((0, 0), (inner[0] - 5, inner[1] - 5)))
    white = s.ellipse((0, 0), (inner[0] - 4.2, inner[1] - 4.6), power=2.15)
    white = np.clip(white - np.clip(0.55 * s.fields[2], 0, 0.7) * (1 - white * 0.75), 0, 1)
    right = np.clip(0.5 - s.x, 0, 1)  # of the midline, the patient's
    for place, half_of_it in (("right hemisphere", right), ("left hemisphere", 1 - right)):
        s.organ(place, brain * half_of_it, "grey matter")
    s.grey += (GREYS["fluid"][s.tissue] - s.grey) * furrows * brain * 0.8
    s.grey += (GREYS["brain"][s.tissue] - s.grey) * white * brain
    midline = np.clip(1.0 - np.abs(s.x), 0, 1) * brain * (np.abs(s.y) > 9)
    s.grey += (GREYS["falx"][s.tissue] - s.grey) * midline
    wide = 1.9 + 0.6 * v[2]
    for side in (-1, 1):
        s.paint(s.ellipse((3.3 * side, -4.5 + v[3]), (wide, 6.0 + 0.7 * v[4]), 17 * side), "fluid")
        s.paint(s.ellipse((4.6 * side, 8.0 + v[5]), (wide, 5.0 + 0.7 * v[6]), -24 * side), "fluid")


_REGIONS: dict[str, Callable[[Slice], None]] = {"chest": _chest, "abdomen": _abdomen, "head": _head}
