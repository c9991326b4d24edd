"""Changes of phantoms that a distance has to rank."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from experiments.embedded.augment import to_float
from experiments.embedded.worlds.phantoms.drawing import phantom_and_layout
from experiments.embedded.worlds.phantoms.layout import Layout, shown_place
from experiments.embedded.worlds.phantoms.render import render
from experiments.embedded.worlds.phantoms.world import REGIONS, Lesion, Phantom

SMALL_CHANGE = ("shifted", "windowed", "other noise")
LESION_CHANGE = ("resized", "moved", "other phantom")


def changed_views(n: int, seed: Sequence[int], held_out: bool) -> dict[str, Tensor]:
    """Render n phantoms with a lesion (`source`) and changes of them, each (n, 3, 64, 64) in [0, 1].

    `shifted`: the body by one pixel; `windowed`: level and width by 0.2 of their ranges; `other noise`: as
    much of it, drawn anew; `resized`: the lesion by 0.4 of its range of sizes; `moved`: to another place of
    the region, or in this one; `other phantom`: another layout too. No training phantom becomes a reserved
    one; with `held_out`, sources and other phantoms are.
    """
    rng = np.random.default_rng(seed)
    pictures: dict[str, list[np.ndarray]] = {}
    for _ in range(n):
        phantom, lesion, layout = _with_lesion(rng, held_out)
        views = {
            "source": (phantom, layout),
            "shifted": (phantom, replace(layout, shift=(_moved(layout.shift[0], 0.2), layout.shift[1]))),
            "windowed": (
                phantom,
                replace(layout, window=(_moved(layout.window[0], 0.2), _moved(layout.window[1], 0.2))),
            ),
            "other noise": (phantom, replace(layout, grain=int(rng.integers(2**31)))),
            "resized": (phantom, replace(layout, size=_moved(layout.size, 0.4))),
            "moved": _elsewhere(rng, phantom, lesion, layout),
            "other phantom": phantom_and_layout(rng, held_out),
        }
        for kind, view in views.items():
            pictures.setdefault(kind, []).append(render(*view).image)
    return {kind: to_float(torch.from_numpy(np.stack(rows))) for kind, rows in pictures.items()}


def _with_lesion(rng: np.random.Generator, held_out: bool) -> tuple[Phantom, Lesion, Layout]:
    while True:
        phantom, layout = phantom_and_layout(rng, held_out)
        if phantom.lesion:
            return phantom, phantom.lesion, layout


def _moved(value: float, by: float) -> float:
    return value + (by if value < 0.5 else -by)


def _elsewhere(
    rng: np.random.Generator, phantom: Phantom, lesion: Lesion, layout: Layout
) -> tuple[Phantom, Layout]:
    """Put the lesion into another place, if one is not reserved, else to the other end of its own."""
    here = shown_place(phantom, layout)
    places = [place for place in REGIONS[phantom.shown_region()] if place != here]
    there = replace(lesion, place=str(rng.choice(places)))
    moved = replace(phantom, lesion=there)
    if moved.reserved() <= phantom.reserved():
        return moved, layout
    return phantom, replace(layout, spot=(-layout.spot[0], -layout.spot[1]))
