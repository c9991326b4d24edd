"""The phantoms' pictures: `render(phantom, layout)` paints what the caption says over what it leaves open.

The same layout under two phantoms gives a source and its ideal edit: all that the captions do not change
stays.
"""

from dataclasses import dataclass

import numpy as np
from scipy.ndimage import gaussian_filter

from experiments.embedded.worlds.phantoms.anatomy import SEATS, Slice, X, Y, body
from experiments.embedded.worlds.phantoms.layout import (
    SIDE,
    Layout,
    lesion_contrast,
    lesion_diameter,
    shown_place,
)
from experiments.embedded.worlds.phantoms.world import LABELS, MODALITIES, Lesion, Phantom

SHARPNESS = {"ct": 0.45, "mri": 0.55, "pet": 1.15}  # standard deviation of the blur, in pixels
NOISE = {"ct": (0.012, 0.035), "mri": (0.01, 0.03), "pet": (0.015, 0.04)}  # of the grey scale: least, most

HOT = {"ct": 1.0, "mri": 1.0, "pet": 1.3}  # how much stronger contrasts are, against the blur
COLD = {"ct": 1.0, "mri": 1.0, "pet": 0.9}


@dataclass(frozen=True)
class Rendering:
    """A picture, where its lesion is, and where what can be seen of the organs is."""

    image: np.ndarray  # (64, 64, 3) uint8, three equal channels
    lesion: np.ndarray  # (64, 64) float32 in [0, 1], all 0 where there is none
    organs: dict[str, np.ndarray]  # of each place in the region, the lesion left out: as `lesion`


def render(phantom: Phantom, layout: Layout) -> Rendering:
    """Paint a phantom."""
    modality = phantom.modality
    painted = body(phantom.shown_region(), MODALITIES.index(modality), layout)
    painted.grey += 0.018 * painted.fields[2] * (painted.grey > 0.1)  # no tissue is quite even
    shape = np.zeros((SIDE, SIDE), np.float32)
    if phantom.lesion:
        shape = _lesion(painted, phantom.lesion, shown_place(phantom, layout), layout)
    organs = {place: mask * (1 - shape) for place, mask in painted.organs.items()}
    return Rendering(_image(painted, phantom, layout), shape, organs)


def _lesion(painted: Slice, lesion: Lesion, place: str, layout: Layout) -> np.ndarray:
    """Paint a lesion; return its mask."""
    x, y, wide, tall = SEATS[place]
    radius = lesion_diameter(lesion.size, layout) / 2
    room = 1 - max(0.0, radius - 3) / 8  # large ones lie nearer to the middle
    x, y = x + layout.spot[0] * wide * room, y + layout.spot[1] * tall * room
    # Bodies are bent, lesions are not: pixels from where the body has that point.
    at = int(np.argmin(np.square(painted.x - x) + np.square(painted.y - y)))
    dx, dy = X - X.flat[at] + painted.x.flat[at] - x, Y - Y.flat[at] + painted.y.flat[at] - y
    angle, turn = np.arctan2(dy, dx), 2 * np.pi * layout.turn
    distance = np.hypot(dx, dy)
    lobes = {
        "tumor": 1 + 0.13 * np.cos(3 * angle + turn) + 0.1 * np.cos(5 * angle - 2 * turn),
        "cyst": 1 + 0.05 * np.cos(2 * angle + turn),
        "abscess": 1 + 0.07 * np.cos(2 * angle + turn) + 0.05 * np.cos(3 * angle - turn),
        "bleed": 1 + 0.1 * np.cos(2 * angle),
    }[lesion.kind]
    edge = radius * lobes - distance  # pixels to the edge, positive inside
    shape = np.clip(edge + 0.5, 0, 1).astype(np.float32)
    organ = float(np.average(painted.grey, weights=shape * painted.organs[place] + 1e-6))
    modality, step = MODALITIES[painted.tissue], lesion_contrast(lesion.contrast, layout)
    cold, hot = COLD[modality] * step, HOT[modality] * step * (1.4 if "lung" in place else 1)
    rim = np.clip(1 - np.abs(edge - 0.3), 0, 1)
    inside = np.clip(edge - max(1.7, 0.36 * radius) + 0.5, 0, 1)  # of an abscess's wall
    below = np.clip(dy - 0.1 * radius + 0.5, 0, 1)  # blood sinks: a level
    level = {
        "tumor": hot * (1 + 0.12 * painted.fields[3]),
        "cyst": cold * (0.66 * rim - 1),
        "abscess": 1.15 * hot - (1.15 * hot + 0.75 * cold) * inside,
        "bleed": (1.15 * hot + 0.95 * cold) * below - 0.95 * cold,
    }[lesion.kind]
    painted.grey += (organ + level - painted.grey) * shape
    return shape


def _image(painted: Slice, phantom: Phantom, layout: Layout) -> np.ndarray:
    modality = phantom.modality
    rng = np.random.default_rng(layout.grain)
    grey = painted.grey.astype(np.float32)
    if modality == "mri":  # the coil hears what is near it better
        grey = grey * (1 + 0.10 * np.clip(painted.fields[0], -1.5, 1.5))
    grey = gaussian_filter(grey, SHARPNESS[modality] + (0.85 if phantom.quality == "blurred" else 0))
    least, most = NOISE[modality]
    noise = least + (most - least) * layout.noise + (0.045 if phantom.quality == "noisy" else 0)
    fine = rng.standard_normal((2, SIDE, SIDE)).astype(np.float32)
    if modality == "mri":
        grey = np.hypot(grey + noise * fine[0], noise * fine[1])  # noise of a magnitude, as in Rice
    else:
        grain = 0.6 if modality == "ct" else 1.0
        grey = grey + noise * gaussian_filter(fine[0], grain) * (2.0 if modality == "ct" else 3.2)
    level, width = 0.08 * (layout.window[0] - 0.5), 1 + 0.2 * (layout.window[1] - 0.5)
    grey = (grey - 0.5 - level) * width + 0.5
    grey = 0.98 - 0.95 * grey if modality == "pet" else grey
    return np.repeat((np.clip(grey, 0, 1) * 255).round().astype(np.uint8)[..., None], 3, -1)


def labels(phantom: Phantom, rendering: Rendering) -> np.ndarray:
    """Return what each pixel shows: (64, 64) uint8, 0 for background, 1 + its index in LABELS."""
    shown = np.zeros((SIDE, SIDE), np.uint8)
    for place, mask in rendering.organs.items():
        shown[mask > 0.5] = 1 + LABELS.index(place)
    if phantom.lesion:
        shown[rendering.lesion > 0.5] = 1 + LABELS.index(phantom.lesion.kind)
    return shown
