"""Phantoms, drawn and rendered."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from experiments.embedded.worlds.contract import Scenes
from experiments.embedded.worlds.phantoms.layout import SIDE, Layout, draw_layout, shown_place
from experiments.embedded.worlds.phantoms.render import labels, render
from experiments.embedded.worlds.phantoms.world import Lesion, Phantom, draw_phantom, reserved


def draw_phantoms(n: int, seed: Sequence[int], held_out: bool = False) -> Scenes:
    """Draw and render n phantoms of the training distribution or (`held_out`) reserved combinations."""
    rng = np.random.default_rng(seed)
    images = np.empty((n, SIDE, SIDE, 3), np.uint8)
    shown = np.empty((n, SIDE, SIDE), np.uint8)
    phantoms = []
    for i in range(n):
        phantom, layout = phantom_and_layout(rng, held_out)
        rendering = render(phantom, layout)
        images[i], shown[i] = rendering.image, labels(phantom, rendering)
        phantoms.append(phantom)
    return Scenes(images, shown, tuple(phantoms))


def phantom_and_layout(rng: np.random.Generator, held_out: bool = False) -> tuple[Phantom, Layout]:
    """Draw a phantom and a layout; where none of the two is held out, neither is what they show.

    A caption that does not say where the lesion lies is never held out, and shows no reserved combination.
    """
    phantom = draw_phantom(rng, held_out)
    while True:
        layout = draw_layout(rng)
        lesion = phantom.lesion
        if not lesion or lesion.place:
            return phantom, layout
        if not reserved(phantom.modality, lesion.kind, shown_place(phantom, layout)):
            return phantom, layout


def read_phantom(row: dict[str, Any]) -> Phantom:
    """Return the phantom whose fields JSON gives."""
    return Phantom(**{**row, "lesion": Lesion(**row["lesion"]) if row["lesion"] else None})
