"""Training scenes of a world, rendered once and kept as plain arrays.

A shard holds `images.npy` (n, 64, 64, 3) uint8, `labels.npy` (n, 64, 64) uint8 (what each pixel shows: 0
background, 1 + its index in the world's labels) and `scenes.json`. A shard depends on its number only, so any
number of machines may render.
"""

import json
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict
from functools import partial
from pathlib import Path

import numpy as np
from tqdm import tqdm

from experiments.embedded.worlds.contract import Scenes, World

SHARD = 10_000
RESERVED = 500  # shards from this number on hold reserved scenes, which no denoiser is shown


def load_training_scenes(world: World, shards: int, first: int = 0, workers: int = 2) -> Scenes:
    """Load shards `first` to `first + shards - 1` from the world's checkpoints, rendering what is missing."""
    folder = world.checkpoints / "scenes"
    wanted = range(first, first + shards)
    missing = [i for i in wanted if not (folder / f"{i:03d}" / "scenes.json").exists()]
    if missing:
        with ProcessPoolExecutor(workers) as pool:
            list(
                tqdm(
                    pool.map(partial(_render_shard, world, folder), missing),
                    total=len(missing),
                    desc="rendering",
                    unit="shard",
                )
            )
    arrays = [np.load(folder / f"{i:03d}" / "images.npy", mmap_mode="r") for i in wanted]
    labels = [np.load(folder / f"{i:03d}" / "labels.npy", mmap_mode="r") for i in wanted]
    scenes = [
        world.read(row)
        for i in wanted
        for row in json.loads((folder / f"{i:03d}" / "scenes.json").read_text())
    ]
    return Scenes(np.concatenate(arrays), np.concatenate(labels), tuple(scenes))


def load_judging_scenes(world: World, shards: int) -> Scenes:
    """Load so many shards for a network that judges pictures, and a quarter as many of reserved scenes.

    Those come only where the world's `judged_all`. Such a network is held to new pictures, not to new
    combinations: never shown a combination, it would learn that there is none.
    """
    scenes = load_training_scenes(world, shards)
    if not world.judged_all:
        return scenes
    reserved = load_training_scenes(world, -(-shards // 4), RESERVED)
    return Scenes(
        np.concatenate([scenes.images, reserved.images]),
        np.concatenate([scenes.labels, reserved.labels]),
        scenes.scenes + reserved.scenes,
    )


def _render_shard(world: World, folder: Path, index: int) -> None:
    shard = folder / f"{index:03d}"
    shard.mkdir(parents=True, exist_ok=True)
    drawn = world.draw(SHARD, (2022, index), index >= RESERVED)
    np.save(shard / "images.npy", drawn.images)
    np.save(shard / "labels.npy", drawn.labels)
    partial_file = shard / "scenes.json.partial"  # renamed last: its presence says the shard is whole
    partial_file.write_text(json.dumps([asdict(scene) for scene in drawn.scenes]))
    partial_file.rename(shard / "scenes.json")
