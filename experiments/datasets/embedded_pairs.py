"""The `embedded` data set: scene pairs over all edit types, with the ideal edit and its mask where a scene is
rendered.

Every target prompt holds an object in a place that training never showed together (world.py).
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np

from experiments.datasets.world_pairs import GeneratedPairs, Weights, WorldPair, drawn_edits
from experiments.embedded.worlds.scenes.layout import Layout, Slot, draw_layout
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


ACROSS, DOWN, STEPS = 5, 5, 3  # placements of an added object, each mirrored or not: 150


@dataclass(frozen=True)
class ScenePair(WorldPair):
    """An edit of a scene: what the source and the target caption say."""

    source: Scene
    target: Scene

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

    def draw_layout(self, rng: np.random.Generator) -> Layout:
        """Draw what the captions leave open, with room for the things of both."""
        return draw_layout(rng, max(len(self.source.things), len(self.target.things)))

    def paint(self, scene: Scene, layout: Layout) -> np.ndarray:
        """Return the picture of a scene, (64, 64, 3) uint8."""
        return render(scene, layout).image

    def placements(self, layout: Layout) -> Iterator[Layout]:
        """Yield the placements of an object that is added, none for any other edit."""
        if self.edit_type == "add object":
            yield from placements(layout)


def _own_word(scene: Scene, other: Scene) -> str:
    words, others = (
        [word for thing in s.things for word in (thing.name, thing.wearing) if word] for s in (scene, other)
    )
    changed = [thing.name for thing in scene.things if thing not in other.things]
    return next((word for word in words if word not in others), [*changed, *words][0])


def placements(layout: Layout) -> Iterator[Layout]:
    """Yield layouts of a scene of two things in which the second stands elsewhere in its own half.

    A grid over what `draw_layout` draws: place, size and mirroring; upright, as a small tilt hardly shows.
    """
    first, second = layout.slots
    half = 0.75 * (second.x >= 0.5)
    grid = itertools.product(
        np.linspace(0, 0.25, ACROSS), np.linspace(0, 1, DOWN), np.linspace(0, 1, STEPS), (False, True)
    )
    for x, y, size, mirror in grid:
        yield replace(layout, slots=(first, Slot(half + float(x), float(y), float(size), mirror, 0.0)))


@dataclass(frozen=True, kw_only=True)
class Embedded(GeneratedPairs):
    """120 pairs. Their source images are generated; what is rendered, ideals included, is `Rendered`."""

    def draw(self) -> list[ScenePair]:
        """Draw the pairs, always the same."""
        return scene_pairs()


def scene_pairs(counts: dict[str, int] | None = None, seed: int = 0) -> list[ScenePair]:
    """Draw the data set's pairs: `counts` of each edit type, by default COUNTS.

    `add` is one of `wear` and `add object`, which may be asked for by name.
    """
    return [ScenePair(*edit) for edit in drawn_edits(_EDITS, counts or COUNTS, seed)]


Edit = tuple[Scene, Scene, Weights]


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
