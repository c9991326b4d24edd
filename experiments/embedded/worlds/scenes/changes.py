"""Changes of the embedded world's scenes: by one edit of the caption, and by what a distance has to rank."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from experiments.embedded.augment import to_float
from experiments.embedded.worlds.contract import SIDE
from experiments.embedded.worlds.scenes.layout import Layout, draw_layout, place_thing
from experiments.embedded.worlds.scenes.render import render
from experiments.embedded.worlds.scenes.world import OBJECTS, Scene, Thing, draw_scene

KINDS = ("name", "number", "attributes", "place", "time", "fog", "style")
SHARES = (0.34, 0.16, 0.14, 0.12, 0.1, 0.04, 0.1)  # of KINDS, about those of the embedded data set's edits

SMALL_CHANGE = ("shifted", "recoloured", "tinted")
OBJECT_CHANGE = ("resized", "other object", "other scene")


def other_scene(scene: Scene, rng: np.random.Generator) -> Scene:
    """Return a scene that differs by one edit: a name swapped, a thing, word or phrase added or removed.

    It is no reserved combination: those are seen in no caption of the training, not even this one.
    """
    while True:
        drawn = draw_scene(rng)
        kind = str(rng.choice(KINDS, p=SHARES))
        i = int(rng.integers(len(scene.things)))
        thing, new = scene.things[i], drawn.things[0]
        if kind == "number":
            other = replace(scene, things=scene.things[:1] if len(scene.things) == 2 else (thing, new))
        elif kind in ("name", "attributes"):
            changed = replace(thing, name=new.name) if kind == "name" else replace(new, name=thing.name)
            other = replace(scene, things=_with(scene.things, i, changed))
        else:
            other = replace(scene, **{kind: getattr(drawn, kind)})
        distinct = len({t.name for t in other.things}) == len(other.things)
        if other != scene and distinct and not other.reserved():
            return other


def _with(things: tuple[Thing, ...], i: int, thing: Thing) -> tuple[Thing, ...]:
    return (*things[:i], thing, *things[i + 1 :])


def changed_views(n: int, seed: Sequence[int], held_out: bool) -> dict[str, Tensor]:
    """Render n scenes (`source`) and changes of them, each (n, 3, 64, 64) in [0, 1].

    `shifted`: things moved by 1 or 2 pixels; `recoloured`: sky and ground hues moved by 0.1 of their range;
    `tinted`: channels multiplied by 0.95 to 1.05; `resized`: the first object by 0.3 of its range of sizes;
    `other object`: in the first one's place; `other scene`: another layout too. No training scene becomes a
    reserved one; with `held_out`, sources and other scenes are.
    """
    rng = np.random.default_rng(seed)
    pictures: dict[str, list[np.ndarray]] = {}
    for _ in range(n):
        scene, layout = _scene_and_layout(rng, held_out)
        views = {
            "source": (scene, layout),
            "shifted": (scene, _shifted(rng, scene, layout)),
            "recoloured": (scene, replace(layout, sky=_moved(layout.sky), ground=_moved(layout.ground))),
            "resized": (scene, _resized(layout)),
            "other object": (_other_object(rng, scene), layout),
            "other scene": _scene_and_layout(rng, held_out),
        }
        for kind, view in views.items():
            pictures.setdefault(kind, []).append(render(*view).image)
    images = {kind: to_float(torch.from_numpy(np.stack(rows))) for kind, rows in pictures.items()}
    gains = torch.from_numpy(rng.uniform(0.95, 1.05, (n, 3, 1, 1)).astype(np.float32))
    return {**images, "tinted": (images["source"] * gains).clamp(0, 1)}


def _scene_and_layout(rng: np.random.Generator, held_out: bool) -> tuple[Scene, Layout]:
    scene = draw_scene(rng, held_out)
    return scene, draw_layout(rng, len(scene.things))


def _shifted(rng: np.random.Generator, scene: Scene, layout: Layout) -> Layout:
    """Move each thing sideways by 1 or 2 pixels, inwards."""
    slots = []
    for thing, slot in zip(scene.things, layout.slots, strict=True):
        _, _, diameter = place_thing(thing, slot, layout)
        pixels = int(rng.integers(1, 3)) * (1 if slot.x < 0.5 else -1)
        slots.append(replace(slot, x=slot.x + pixels / (SIDE - 2 - diameter)))
    return replace(layout, slots=tuple(slots))


def _resized(layout: Layout) -> Layout:
    first, *others = layout.slots
    size = first.size + (0.3 if first.size < 0.5 else -0.3)
    return replace(layout, slots=(replace(first, size=size), *others))


def _moved(colour: tuple[float, float]) -> tuple[float, float]:
    hue, light = colour
    return hue + (0.1 if hue < 0.5 else -0.1), light


def _other_object(rng: np.random.Generator, scene: Scene) -> Scene:
    """Put another object in the first one's place; no training scene becomes a reserved one."""
    first, *others = scene.things
    while True:
        name = str(rng.choice([o for o in OBJECTS if o not in {thing.name for thing in scene.things}]))
        changed = replace(scene, things=(replace(first, name=name), *others))
        if changed.reserved() <= scene.reserved():
            return changed
