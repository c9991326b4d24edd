"""Training scenes of the embedded world, rendered once and kept as plain arrays.

A shard holds `images.npy` (n, 64, 64, 3) uint8, `labels.npy` (n, 64, 64) uint8 (what each pixel shows: 0
background, 1 + its index in OBJECTS for a thing) and `scenes.json`. A shard depends on its number only, so
any number of machines may render.
"""

import json
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import numpy as np
from tqdm import tqdm

from experiments.embedded.layout import draw_layout
from experiments.embedded.render import render
from experiments.embedded.world import OBJECTS, Scene, Thing, draw_scene

SHARD = 10_000


@dataclass(frozen=True)
class Scenes:
    """Rendered scenes: `images` (n, 64, 64, 3) uint8, `labels` (n, 64, 64) uint8, n descriptions."""

    images: np.ndarray
    labels: np.ndarray
    scenes: tuple[Scene, ...]


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


def load_training_scenes(folder: Path, shards: int, first: int = 0, workers: int = 2) -> Scenes:
    """Load shards `first` to `first + shards - 1` from a folder, rendering every shard that is not there."""
    wanted = range(first, first + shards)
    missing = [i for i in wanted if not (folder / f"{i:03d}" / "scenes.json").exists()]
    if missing:
        with ProcessPoolExecutor(workers) as pool:
            list(
                tqdm(
                    pool.map(partial(_render_shard, folder), missing),
                    total=len(missing),
                    desc="rendering",
                    unit="shard",
                )
            )
    arrays = [np.load(folder / f"{i:03d}" / "images.npy", mmap_mode="r") for i in wanted]
    labels = [np.load(folder / f"{i:03d}" / "labels.npy", mmap_mode="r") for i in wanted]
    scenes = [
        _scene(row) for i in wanted for row in json.loads((folder / f"{i:03d}" / "scenes.json").read_text())
    ]
    return Scenes(np.concatenate(arrays), np.concatenate(labels), tuple(scenes))


def _render_shard(folder: Path, index: int) -> None:
    shard = folder / f"{index:03d}"
    shard.mkdir(parents=True, exist_ok=True)
    drawn = draw_scenes(SHARD, (2022, index))
    np.save(shard / "images.npy", drawn.images)
    np.save(shard / "labels.npy", drawn.labels)
    partial_file = shard / "scenes.json.partial"  # renamed last: its presence says the shard is whole
    partial_file.write_text(json.dumps([asdict(scene) for scene in drawn.scenes]))
    partial_file.rename(shard / "scenes.json")


def _scene(row: dict) -> Scene:
    return Scene(**{**row, "things": tuple(Thing(**thing) for thing in row["things"])})
