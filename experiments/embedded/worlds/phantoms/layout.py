"""What a caption leaves open: pose, outline, where in its organ a lesion lies, contrast, window, noise."""

from dataclasses import dataclass

import numpy as np

from experiments.embedded.worlds.phantoms.world import REGIONS, Phantom

SIDE = 64
_DIAMETER = {"small": (5.5, 7.5), "": (6.5, 11.0), "large": (10.5, 14.0)}  # pixels, (smallest, largest)
_CONTRAST = {"faint": (0.15, 0.2), "": (0.24, 0.36), "clear": (0.36, 0.44)}  # shares of the grey scale


@dataclass(frozen=True)
class Layout:
    """All that a caption leaves open. Floats are in [0, 1] where nothing else is said."""

    places: tuple[str, ...]  # one of each region: where a lesion lies if its caption does not say
    shift: tuple[float, float]  # right, down
    scale: tuple[float, float]  # width, height
    angle: float  # of the body
    organs: tuple[float, ...]  # eight numbers that vary what organs measure
    spot: tuple[float, float]  # of a lesion in its organ, each in [-1, 1]
    size: float  # of a lesion, within what its size word allows
    contrast: float  # of a lesion, within what its contrast word allows
    turn: float  # of a lesion
    window: tuple[float, float]  # level, width
    noise: float  # how much
    seed: int  # of the fields: what bends shapes, and textures
    grain: int  # seed of the noise


def draw_layout(rng: np.random.Generator) -> Layout:
    """Draw all that a caption leaves open."""

    def numbers(n: int) -> tuple[float, ...]:
        return tuple(float(x) for x in rng.random(n))

    radius, angle = np.sqrt(rng.random()), rng.uniform(0, 2 * np.pi)
    shift, scale, window = numbers(2), numbers(2), numbers(2)
    return Layout(
        places=tuple(str(rng.choice(places)) for places in REGIONS.values()),
        shift=(shift[0], shift[1]),
        scale=(scale[0], scale[1]),
        angle=float(rng.random()),
        organs=numbers(8),
        spot=(float(radius * np.cos(angle)), float(radius * np.sin(angle))),
        size=float(rng.random()),
        contrast=float(rng.random()),
        turn=float(rng.random()),
        window=(window[0], window[1]),
        noise=float(rng.random()),
        seed=int(rng.integers(2**31)),
        grain=int(rng.integers(2**31)),
    )


def shown_place(phantom: Phantom, layout: Layout) -> str:
    """Return where the phantom's lesion lies: where its caption says, else where the layout does."""
    said = phantom.lesion.place if phantom.lesion else ""
    return said or layout.places[tuple(REGIONS).index(phantom.shown_region())]


def lesion_diameter(size: str, layout: Layout) -> float:
    """Return the diameter of a circle of the lesion's area, in pixels."""
    low, high = _DIAMETER[size]
    return low + (high - low) * layout.size


def lesion_contrast(contrast: str, layout: Layout) -> float:
    """Return the contrast of a lesion to its organ, a share of the grey scale."""
    low, high = _CONTRAST[contrast]
    return low + (high - low) * layout.contrast
