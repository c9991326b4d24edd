"""The `embedded_training` data set: pairs to make training data of, from the training scenes of that world.

They are of the kind of InstructPix2Pix (Brooks et al. 2023, Sec. 3.1), whose captions a language model edits;
here the world itself does.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from experiments.datasets.dataset import Dataset
from experiments.datasets.embedded_pairs import ScenePair
from experiments.datasets.pair import Pair
from experiments.embedded.worlds.scenes.changes import other_scene
from experiments.embedded.worlds.scenes.world import Scene, draw_scene

STREAM = 2024  # first number of the draws' seed; rendered training scenes have 2022 and 2023


@dataclass(frozen=True, kw_only=True)
class EmbeddedTraining(Dataset):
    """`pairs` pairs drawn by `seed`, with the words that bound a local edit; fewer are the first of more.

    No scene holds an object in a place that training never shows it in, as every target of the data sets
    `embedded` and `rendered` does.
    """

    name: str = "embedded_training"
    pairs: int = 1_000
    seed: int = 0

    def read(self) -> Iterable[Pair]:
        """Give the pairs. ValueError where `pairs` is below 1 or `seed` below 0."""
        for name, least in (("pairs", 1), ("seed", 0)):
            if (value := getattr(self, name)) < least:
                raise ValueError(f"{name} = {value}: must be at least {least}")
        return [pair.pair(blend_words=True) for pair in training_pairs(self.pairs, self.seed)]


def training_pairs(count: int, seed: int) -> list[ScenePair]:
    """Draw pairs of scenes that one edit tells apart, edit types in about the shares of `embedded`'s."""
    rng = np.random.default_rng((STREAM, seed))
    drawn: dict[tuple[str, str], ScenePair] = {}
    while len(drawn) < count:
        source = draw_scene(rng)
        target = other_scene(source, rng)
        captions, kind = (source.caption(), target.caption()), edit_type(source, target)
        if kind and captions not in drawn:
            drawn[captions] = ScenePair(f"{seed}-{len(drawn):05d}", kind, source, target)
    return list(drawn.values())


def edit_type(source: Scene, target: Scene) -> str:
    """Return what kind of edit leads from one scene to the other, "" where nothing need show of it.

    A caption that merely drops a place, a size, a colour or a pattern leaves it open, and a photo is what any
    picture is that names no style. Nothing worn, no fog and day are what a caption without them shows.
    """
    if source.style != target.style:
        return "" if {source.style, target.style} == {"", "photo"} else "style"
    if source.place != target.place:
        return "place" if target.place else ""
    if (source.time, source.fog) != (target.time, target.fog):
        return "time"
    if len(source.things) != len(target.things):
        return "add" if len(target.things) > len(source.things) else "remove"
    before, after = next(
        pair for pair in zip(source.things, target.things, strict=True) if pair[0] != pair[1]
    )
    if before.name != after.name:
        return "swap"
    said = ((getattr(before, f), getattr(after, f)) for f in ("size", "colour", "pattern"))
    shows = before.wearing != after.wearing or any(new and new != old for old, new in said)
    return "attribute" if shows else ""
