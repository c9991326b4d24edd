"""Scenes of the embedded world, drawn and rendered."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from experiments.embedded.worlds.contract import Scenes
from experiments.embedded.worlds.scenes.layout import draw_layout
from experiments.embedded.worlds.scenes.render import render
from experiments.embedded.worlds.scenes.world import OBJECTS, Scene, Thing, draw_scene


def draw_scenes(n: int, seed: Sequence[int], held_out: bool = False) -> Scenes:
    """Draw and render n scenes of the training distribution or (`held_out`) reserved combinations."""
    rng = np.random.default_rng(seed)
    images = np.empty((n, 64, 64, 3), np.uint8)
    labels = np.zeros((n, 64, 64), np.uint8)
    scenes = []
    for i in range(n):
        scene = draw_scene(rng, held_out)
        rendering = render(scene, draw_layout(rng, len(scene.things)))
        images[i] = rendering.image
        for thing, mask in zip(scene.things, rendering.masks, strict=True):
            labels[i][mask > 0.5] = 1 + OBJECTS.index(thing.name)
        scenes.append(scene)
    return Scenes(images, labels, tuple(scenes))


def read_scene(row: dict[str, Any]) -> Scene:
    """Return the scene whose fields JSON gives."""
    return Scene(**{**row, "things": tuple(Thing(**thing) for thing in row["things"])})
