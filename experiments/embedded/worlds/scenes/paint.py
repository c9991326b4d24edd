"""Anti-aliased painting on a (64, 64, 3) float canvas of 0 to 255."""

import numpy as np

from experiments.embedded.worlds.contract import SIDE

Y, X = np.mgrid[0:SIDE, 0:SIDE].astype(np.float32)


def blend(canvas: np.ndarray, alpha: np.ndarray, rgb: tuple[float, ...]) -> None:
    """Paint a colour over the canvas, in place, where alpha (64, 64) says."""
    canvas += (np.asarray(rgb, np.float32) - canvas) * alpha[..., None].astype(np.float32)


def edge(distance: np.ndarray) -> np.ndarray:
    """Return an anti-aliased mask: 1 where the distance is positive."""
    return np.clip(distance + 0.5, 0, 1)


def mix(a: tuple[float, ...], b: tuple[float, ...], t: float) -> tuple[float, ...]:
    """Return the colour a share t of the way from a to b."""
    return tuple(x + (y - x) * t for x, y in zip(a, b, strict=True))


def vertical(top: tuple[float, ...], bottom: tuple[float, ...], end: float) -> np.ndarray:
    """Return a canvas that fades from the top row's colour to another at row `end` and below."""
    t = np.clip(Y / end, 0, 1)[..., None]
    return np.asarray(top, np.float32) * (1 - t) + np.asarray(bottom, np.float32) * t
