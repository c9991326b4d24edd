"""Labels beside what they name, placed so that none covers another one, a marker or a curve.

Every place around an anchor is tried, the nearest first, and the one that covers least is taken. What has no
free place is left to the caller: a legend, or nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke

from results.labels import escape_mathtext
from results.plots.plot_style import SIZE

_ANGLES = np.deg2rad([-45, 135, 45, -135, -90, 90, 0, 180, -20, 160, 20, -160, -70, 110, 70, -110])
_MARGIN = 1.0  # points between two labels
_NEAR = 5.0  # points: within them an anchor's own curve is met
_CROWDED = 3.0  # what a label may cover at most: two markers are as much
_LEADER = 14.0  # points: from here on a thin line leads from a label to what it names
_STEP = 2.88  # points: from one to the next at which curves are looked at, of leaders half of it
_TOUCH = 1.8  # points: within them a leader comes upon a curve


@dataclass(frozen=True)
class Label:
    """A text that may stand beside any of several points, given in data coordinates."""

    text: str
    anchors: Sequence[tuple[float, float]]
    color: str
    distances: Sequence[float] = (5.0, 8.0, 12.0)
    size: float = SIZE - 2
    weight: str = "normal"


def place_labels(
    figure: Figure, axes: Axes, labels: Iterable[Label], curves: Sequence[tuple[np.ndarray, float]]
) -> tuple[list[Artist], list[Label]]:
    """Draw the labels, the first first; return what was drawn, and those for which there was no place.

    `curves` are points (n, 2) in data coordinates, with lines between them, and how far a marker reaches
    around each, in points. A place is free where it is within the axes, apart from the labels before, and
    hardly covers markers and curves. The limits of `axes`, which are in `figure`, must be settled.
    """
    if engine := figure.get_layout_engine():
        engine.execute(figure)  # that decides how many pixels a unit has
    renderer = FigureCanvasAgg(figure).get_renderer()
    pixels = figure.dpi / 72
    there = [(axes.transData.transform(points), reach * pixels) for points, reach in curves if len(points)]
    steps = (
        np.concatenate([_along(points, _STEP * pixels) for points, _ in there]) if there else np.empty((0, 2))
    )
    inside = axes.get_window_extent(renderer).padded(-1)
    taken: list[tuple[float, float, float, float]] = []
    left: list[Label] = []
    artists: list[Artist] = []
    for label in labels:
        text = axes.text(
            0, 0, escape_mathtext(label.text), fontsize=label.size, color=label.color, weight=label.weight,
            ha="center", va="center", zorder=5, path_effects=[withStroke(linewidth=2.0, foreground="white")],
        )  # fmt: skip
        extent = text.get_window_extent(renderer)
        half = np.array([extent.width, extent.height]) / 2
        best: tuple[float, np.ndarray, np.ndarray] | None = None
        for anchor in axes.transData.transform(np.asarray(label.anchors, float).reshape(-1, 2)):
            for distance in label.distances:
                for angle in _ANGLES:
                    towards = np.array([np.cos(angle), np.sin(angle)])
                    # The nearest point of the box, not its middle, lies at the distance.
                    center = anchor + towards * distance * pixels + np.sign(np.round(towards, 2)) * half
                    box = (*(center - half), *(center + half))
                    if not (inside.x0 <= box[0] and inside.y0 <= box[1]):
                        continue
                    if not (box[2] <= inside.x1 and box[3] <= inside.y1):
                        continue
                    if any(_meet(box, other, _MARGIN * pixels) for other in taken):
                        continue
                    cost = 1.5 * sum(_within(points, box, reach) for points, reach in there)
                    cost += 0.25 * _within(steps, box, 0) + 0.03 * distance
                    # What is nearer to something else, or beyond it, seems to name that.
                    cost += 0.3 * sum(_within(points, box, distance * pixels) - 1 for points, _ in there)
                    if best is not None and cost >= best[0]:
                        continue
                    edge = np.clip(anchor, center - half, center + half)
                    cost += 0.5 * _crossings(steps, anchor, edge, pixels)
                    if best is None or cost < best[0]:
                        best = (cost, center, anchor)
        if best is None or best[0] >= _CROWDED:
            text.remove()
            left.append(label)
            continue
        artists.append(text)
        _, center, anchor = best
        text.set_position(tuple(axes.transData.inverted().transform(center)))
        taken.append((*(center - half), *(center + half)))
        edge = np.clip(anchor, center - half, center + half)
        if np.hypot(*(edge - anchor)) > _LEADER * pixels:
            ends = axes.transData.inverted().transform([anchor, edge])
            artists += axes.plot(
                *ends.T, color=label.color, linewidth=0.6, zorder=1.5, scalex=False, scaley=False
            )
    return artists, left


def _along(curve: np.ndarray, step: float) -> np.ndarray:
    """Return points along the lines between a curve's points, a step from each other."""
    parts = [curve[:1]]
    for start, end in pairwise(curve):
        count = max(int(np.hypot(*(end - start)) // step), 1)
        parts.append(start + (end - start) * np.linspace(0, 1, count + 1)[1:, None])
    return np.concatenate(parts)


def _crossings(steps: np.ndarray, start: np.ndarray, end: np.ndarray, pixels: float) -> int:
    """Count the points that a line to a label comes upon, once it has left what is near its start.

    `pixels` is how many a point has.
    """
    length = float(np.hypot(*(end - start)))
    along = np.arange(_NEAR * pixels, length, _STEP / 2 * pixels)
    line = start + (end - start) * along[:, None] / max(length, 1.0)
    apart = np.hypot(*(steps[:, None] - line[None]).transpose(2, 0, 1))
    return int((apart < _TOUCH * pixels).any(axis=1).sum())


def _meet(box: tuple[float, ...], other: tuple[float, ...], margin: float) -> bool:
    return (
        box[0] < other[2] + margin
        and other[0] < box[2] + margin
        and box[1] < other[3] + margin
        and other[1] < box[3] + margin
    )


def _within(points: np.ndarray, box: tuple[float, ...], margin: float) -> int:
    """Count the points in a box that is wider by a margin on each side."""
    x, y = points[:, 0], points[:, 1]
    inside = (x > box[0] - margin) & (x < box[2] + margin) & (y > box[1] - margin) & (y < box[3] + margin)
    return int(inside.sum())
