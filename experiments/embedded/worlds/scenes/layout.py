"""What a caption leaves open: where each thing stands, horizon, colours, clouds, marks; and the picture's
geometry that follows from it.
"""

from dataclasses import dataclass, replace

import numpy as np

from experiments.embedded.worlds.contract import SIDE
from experiments.embedded.worlds.scenes.world import PLACES, Thing

_DIAMETER = {  # pixels, (smallest, largest), for a thing alone and for one of two
    "": ((24, 42), (22, 29)),
    "big": ((38, 48), (28, 32)),
    "small": ((20, 25), (19, 22)),
}


@dataclass(frozen=True)
class Slot:
    """Where a thing stands: all in [0, 1] but `angle` in degrees."""

    x: float
    y: float
    size: float
    mirror: bool
    angle: float


@dataclass(frozen=True)
class Layout:
    """All that a caption leaves open. Floats are in [0, 1]; lists hold more than a scene may use."""

    place: str  # used where the caption names none
    horizon: float
    sky: tuple[float, float]  # hue, brightness
    ground: tuple[float, float]
    variant: float  # which version of the place: plain or striped wall, low or high hills, ...
    sun: tuple[float, float]
    clouds: tuple[tuple[float, float, float], ...]  # x, y, size
    marks: tuple[tuple[float, float, float], ...]  # x, y, size of stars, bubbles, trees, tufts
    blocks: tuple[tuple[float, float, float], ...]  # width, height, shade of houses and hills
    slots: tuple[Slot, ...]  # one per thing
    strength: float  # of colours, patterns, fog and time of day: 0 weak, 1 full


def draw_layout(rng: np.random.Generator, things: int) -> Layout:
    """Draw all that a caption leaves open, for a scene of one or two things."""

    def triples(n: int) -> tuple[tuple[float, float, float], ...]:
        return tuple((float(a), float(b), float(c)) for a, b, c in rng.random((n, 3)))

    slots = [
        Slot(float(x), float(y), float(size), bool(rng.random() < 0.5), float(rng.uniform(-12, 12)))
        for x, y, size in (rng.random(3) for _ in range(things))
    ]
    if things == 2:  # one thing in each half
        left = float(rng.random() < 0.5)
        slots = [
            replace(s, x=0.75 * side + 0.25 * s.x) for s, side in zip(slots, (left, 1 - left), strict=True)
        ]
    return Layout(
        place=str(rng.choice(tuple(PLACES))),
        horizon=float(rng.random()),
        sky=(float(rng.random()), float(rng.random())),
        ground=(float(rng.random()), float(rng.random())),
        variant=float(rng.random()),
        sun=(float(rng.random()), float(rng.random())),
        clouds=triples(int(rng.integers(0, 5))),
        marks=triples(16),
        blocks=triples(12),
        slots=tuple(slots),
        strength=float(rng.random()),
    )


def place_thing(thing: Thing, slot: Slot, layout: Layout) -> tuple[float, float, float]:
    """Return the centre (x, y) and diameter of a thing, in pixels."""
    low, high = _DIAMETER[thing.size][len(layout.slots) - 1]
    diameter = low + (high - low) * slot.size
    x = 1 + diameter / 2 + (SIDE - 2 - diameter) * slot.x
    bottom = horizon(layout) + 3 + (SIDE - 5 - horizon(layout)) * slot.y
    return x, max(bottom - diameter / 2, 1 + diameter / 2), diameter


def horizon(layout: Layout) -> float:
    """Return the row of the horizon, in pixels."""
    return 26 + 20 * layout.horizon
