"""The `embedded` data set: scene pairs over all edit types, with the ideal edit and its mask where a scene is
rendered.

Every target prompt holds an object in a place that training never showed together (world.py).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

import numpy as np

from experiments.datasets.dataset import Dataset
from experiments.datasets.pair import Pair
from experiments.embedded.worlds.scenes.layout import Layout
from experiments.embedded.worlds.scenes.render import render
from experiments.embedded.worlds.scenes.world import (
    COLOURS,
    HEADGEAR,
    OBJECTS,
    PLACES,
    SIZES,
    STYLES,
    TIMES,
    Scene,
    Thing,
    reserved,
)

COUNTS = {
    "swap": 32,
    "add": 16,
    "remove": 14,
    "attribute": 16,
    "place": 12,
    "time": 8,
    "style": 10,
    "reweight": 12,
}


@dataclass(frozen=True)
class ScenePair:
    """An edit of a scene: what the source and the target caption say."""

    id: str
    edit_type: str
    source: Scene
    target: Scene
    weights: tuple[tuple[str, float], ...] = ()

    @property
    def difficulty(self) -> str:
        """Easy, medium or hard: the target says nothing, one thing or more beside object and place."""
        scene = self.target
        said = sum(bool(word) for t in scene.things for word in (t.size, t.colour, t.pattern, t.wearing))
        said += 2 * (len(scene.things) - 1) + bool(scene.time) + scene.fog + bool(scene.style)
        return ("easy", "medium", "hard")[min(said, 2)]

    @property
    def blend_words(self) -> tuple[str, str] | None:
        """What the edit is bounded by, a word of either caption; None for an edit of the whole picture.

        What one scene has and the other has not (a thing, something worn), else the thing that changes.
        """
        whole = replace(self.source, things=self.target.things) != self.target
        if whole or any(word not in COLOURS for word, _ in self.weights):
            return None
        return _own_word(self.source, self.target), _own_word(self.target, self.source)

    def pair(self, blend_words: bool = False) -> Pair:
        """Return the pair as every data set gives it, with or without what bounds a local edit."""
        return Pair(
            self.id,
            self.source.caption(),
            self.target.caption(),
            self.edit_type,
            self.difficulty,
            dict(self.weights),
            self.blend_words if blend_words else None,
        )


def _own_word(scene: Scene, other: Scene) -> str:
    words, others = (
        [word for thing in s.things for word in (thing.name, thing.wearing) if word] for s in (scene, other)
    )
    changed = [thing.name for thing in scene.things if thing not in other.things]
    return next((word for word in words if word not in others), [*changed, *words][0])


@dataclass(frozen=True)
class RenderedPair:
    """A rendered edit: source and ideal result (64, 64, 3) uint8, where they differ (64, 64) bool."""

    source: np.ndarray
    ideal: np.ndarray
    mask: np.ndarray


def render_pair(pair: ScenePair, layout: Layout) -> RenderedPair:
    """Render source and ideal edit with the same free factors.

    The mask is where the two differ: the things concerned and their shadows, or everything for a global edit.
    Raises ValueError for a re-weighting: its ideal is not a scene.
    """
    if pair.weights:
        raise ValueError(f"pair {pair.id}: a re-weighting has no ideal image")
    source, ideal = render(pair.source, layout), render(pair.target, layout)
    mask = (source.image != ideal.image).any(-1)
    return RenderedPair(source.image, ideal.image, mask)


@dataclass(frozen=True, kw_only=True)
class Embedded(Dataset):
    """120 pairs. Their source images are generated; what is rendered, ideals included, is `render_pair`'s.

    With `blend_words`, pairs of a local edit have the words that bound it, so that `local_blend` of
    Prompt-to-Prompt acts; without, no pair has any.
    """

    blend_words: bool = False

    def read(self) -> Iterable[Pair]:
        """Give the pairs, edit types in a fixed order.

        ValueError where `blend_words` is not true or false: the words themselves are the pairs' own.
        """
        if not isinstance(self.blend_words, bool):
            raise ValueError(f"blend_words = {self.blend_words!r}: must be true or false")
        return [pair.pair(self.blend_words) for pair in scene_pairs()]


def scene_pairs(counts: dict[str, int] | None = None, seed: int = 0) -> list[ScenePair]:
    """Draw the data set's pairs: `counts` of each edit type, by default COUNTS.

    `add` is one of `wear` and `add object`, which may be asked for by name.
    """
    drawn = []
    for number, (edit_type, count) in enumerate((counts or COUNTS).items()):
        rng = np.random.default_rng((seed, number))
        seen: set[tuple[str, str]] = set()
        while len(seen) < count:
            source, target, weights = _EDITS[edit_type](rng)
            captions = source.caption(), target.caption()
            if captions not in seen:
                seen.add(captions)
                drawn.append(ScenePair(f"{edit_type}-{len(seen):02d}", edit_type, source, target, weights))
    return drawn


Edit = tuple[Scene, Scene, tuple[tuple[str, float], ...]]


def _base(rng: np.random.Generator) -> Scene:
    """Draw a target: one thing in a place it was never trained in, at times with a time of day."""
    place = str(rng.choice(tuple(PLACES)))
    name = str(rng.choice([name for name in OBJECTS if reserved(name, place)]))
    scene = Scene((Thing(name),), place)
    if rng.random() < 0.2:
        scene = replace(scene, time=str(rng.choice(tuple(TIMES))))
    return scene


def _other(rng: np.random.Generator, *names: str) -> str:
    return str(rng.choice([name for name in OBJECTS if name not in names]))


def _swap(rng: np.random.Generator) -> Edit:
    target = _base(rng)
    return replace(target, things=(Thing(_other(rng, target.things[0].name)),)), target, ()


def _add(rng: np.random.Generator) -> Edit:
    source = _base(rng)
    return _wear(rng, source) if rng.random() < 0.5 else _add_object(rng, source)


def _wear(rng: np.random.Generator, source: Scene | None = None) -> Edit:
    source = source or _base(rng)
    worn = replace(source.things[0], wearing=str(rng.choice(HEADGEAR)))
    return source, replace(source, things=(worn,)), ()


def _add_object(rng: np.random.Generator, source: Scene | None = None) -> Edit:
    source = source or _base(rng)
    thing = source.things[0]
    return source, replace(source, things=(thing, Thing(_other(rng, thing.name)))), ()


def _remove(rng: np.random.Generator) -> Edit:
    source, target, weights = _add(rng)
    return target, source, weights


def _attribute(rng: np.random.Generator) -> Edit:
    source = _base(rng)
    thing = source.things[0]
    if rng.random() < 0.7:
        return source, replace(source, things=(replace(thing, colour=str(rng.choice(COLOURS))),)), ()
    first, second = rng.permutation(SIZES)
    big = replace(thing, size=str(first)), replace(thing, size=str(second))
    return replace(source, things=big[:1]), replace(source, things=big[1:]), ()


def _place(rng: np.random.Generator) -> Edit:
    target = _base(rng)
    return replace(target, place=str(rng.choice([p for p in PLACES if p != target.place]))), target, ()


def _time(rng: np.random.Generator) -> Edit:
    source = replace(_base(rng), time="")
    if rng.random() < 0.3:
        return source, replace(source, fog=True), ()
    return source, replace(source, time=str(rng.choice(tuple(TIMES)))), ()


def _style(rng: np.random.Generator) -> Edit:
    source = _base(rng)
    return source, replace(source, style=str(rng.choice([s for s in STYLES if s != "photo"]))), ()


def _reweight(rng: np.random.Generator) -> Edit:
    scene = replace(_base(rng), time="")
    kind = str(rng.choice(("colour", "night", "sunset", "fog")))
    if kind == "colour":
        colour = str(rng.choice(COLOURS))
        scene = replace(scene, things=(replace(scene.things[0], colour=colour),))
        return scene, scene, ((colour, float(rng.choice((0.0, 0.5, 2.0)))),)
    scene = replace(scene, fog=True) if kind == "fog" else replace(scene, time=kind)
    return scene, scene, ((kind, float(rng.choice((0.0, 0.5, 2.0)))),)


_EDITS: dict[str, Callable[[np.random.Generator], Edit]] = {
    "swap": _swap,
    "add": _add,
    "wear": _wear,
    "add object": _add_object,
    "remove": _remove,
    "attribute": _attribute,
    "place": _place,
    "time": _time,
    "style": _style,
    "reweight": _reweight,
}
