"""What the embedded world's measuring models are worth, each as plain numbers on held-out scenes.

Held out: scenes with an object in a place that training never shows it in. Seeds are fixed.
"""

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor
from torchvision.transforms.functional import gaussian_blur

from evaluation.clip import Clip
from experiments.embedded.augment import to_float
from experiments.embedded.judge import Judge
from experiments.embedded.layout import SIDE, Layout, draw_layout, place_thing
from experiments.embedded.render import render
from experiments.embedded.scenes import draw_scenes
from experiments.embedded.world import OBJECTS, PLACES, Scene, draw_scene

NOISE = (0.02, 0.05, 0.1, 0.2)  # standard deviations
BLUR = (0.5, 1.0, 1.5, 2.5)  # standard deviations in pixels
SMALL_CHANGE = ("shifted", "recoloured", "tinted")
OBJECT_CHANGE = ("resized", "other object", "other scene")


def objects_named(judge: Judge, images: Tensor, scenes: Sequence[Scene]) -> Tensor:
    """Say for each picture whether the one or two most probable objects are its scene's: (N,) bool."""
    ranked = judge.objects(images).argsort(1, descending=True)
    wanted = [{OBJECTS.index(thing.name) for thing in scene.things} for scene in scenes]
    return torch.tensor([set(row[: len(w)]) == w for row, w in zip(ranked.tolist(), wanted, strict=True)])


def places_named(judge: Judge, images: Tensor, scenes: Sequence[Scene]) -> Tensor:
    """Say for each picture whether the most probable place is its scene's: (N,) bool, False where none is."""
    wanted = [tuple(PLACES).index(scene.place) if scene.place else -1 for scene in scenes]
    return judge.places(images).argmax(1) == torch.tensor(wanted)


def judge_held_out(judge: Judge, n: int = 1000) -> dict[str, float]:
    """Return the judge's accuracies, and the mean over pictures of the IoU of all objects' area."""
    drawn = draw_scenes(n, (7, 1), held_out=True)
    images = to_float(torch.from_numpy(drawn.images))
    named, placed = objects_named(judge, images, drawn.scenes), places_named(judge, images, drawn.scenes)
    single = torch.tensor([len(scene.things) == 1 for scene in drawn.scenes])
    classes, labels = judge.classes_of_pixels(images), torch.from_numpy(drawn.labels).long()
    either, both = (classes > 0) | (labels > 0), (classes > 0) & (labels > 0)
    right = both & (classes == labels)
    area = either.sum((1, 2)).clamp(min=1)
    return {
        "object accuracy, one object": _share(named[single]),
        "object accuracy, both of two": _share(named[~single]),
        "place accuracy": _share(placed),
        "IoU of the objects' area": round(float((both.sum((1, 2)) / area).mean()), 4),
        "IoU with the right object": round(float((right.sum((1, 2)) / area).mean()), 4),
    }


def clip_retrieval(
    clip: Clip, images: Tensor, captions: Sequence[str], size: int = 64
) -> tuple[float, float]:
    """Return how often an image finds its caption and a caption its image, among `size`.

    No two captions of a batch are equal; what fills no batch is left out. Raises ValueError where none fills.
    """
    groups = [group for group in _distinct_batches(captions, size) if len(group) == size]
    if not groups:
        raise ValueError(f"captions: {len(set(captions))} different ones, needed are {size}")
    image_features, text_features = clip.encoder.images(images), clip.encoder.prompts(captions)
    to_text, to_image = [], []
    for group in groups:
        similarity = image_features[group] @ text_features[group].T
        to_text.append(similarity.argmax(1) == torch.arange(size))
        to_image.append(similarity.argmax(0) == torch.arange(size))
    return _share(torch.cat(to_text)), _share(torch.cat(to_image))


def clip_held_out(clip: Clip, n: int = 2000) -> dict[str, float]:
    """Return `clip_retrieval` on held-out renders."""
    drawn = draw_scenes(n, (7, 2), held_out=True)
    captions = [scene.caption() for scene in drawn.scenes]
    to_text, to_image = clip_retrieval(clip, to_float(torch.from_numpy(drawn.images)), captions)
    return {"an image's caption found": to_text, "a caption's image found": to_image}


def lpips_ranking(lpips: torch.nn.Module, n: int = 500) -> dict[str, float]:
    """Return the share of scenes whose small change is nearer than another scene.

    `lpips` is called as the package's class: `lpips(a, b, normalize=True)` with images in [0, 1]. The small
    changes are SMALL_CHANGE of `changed_views`.
    """
    views = changed_views(n, (7, 3), held_out=True)
    far = distances(lpips, views["source"], views["other scene"])
    return {kind: _share(distances(lpips, views["source"], views[kind]) < far) for kind in SMALL_CHANGE}


def lpips_monotone(lpips: torch.nn.Module, n: int = 500) -> dict[str, float]:
    """Return the share of scenes whose distance grows at every rung of noise, of blur and of object change.

    Rungs are NOISE, BLUR and OBJECT_CHANGE: the first object resized, another in its place, another scene.
    """
    views = changed_views(n, (7, 4), held_out=True)
    return {name: _share(_grows(lpips, views["source"], rungs)) for name, rungs in ladders(views).items()}


def ladders(views: dict[str, Tensor]) -> dict[str, list[Tensor]]:
    """Return the rungs of noise (one draw, scaled), blur and object change of the source, near to far."""
    source = views["source"]
    noise = torch.randn(source.shape, generator=torch.Generator().manual_seed(0))
    return {
        "noise": [(source + sigma * noise).clamp(0, 1) for sigma in NOISE],
        "blur": [gaussian_blur(source, [15, 15], [sigma, sigma]) for sigma in BLUR],
        "object change": [views[kind] for kind in OBJECT_CHANGE],
    }


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


@torch.inference_mode()
def distances(lpips: torch.nn.Module, a: Tensor, b: Tensor) -> Tensor:
    """Return the (N,) distances of images in [0, 1], measured where the network is, on the CPU."""
    device = next(lpips.parameters(), a).device  # a distance of pixels has no weights
    parts = zip(a.split(100), b.split(100), strict=True)
    return torch.cat([lpips(x.to(device), y.to(device), normalize=True).flatten().cpu() for x, y in parts])


def _grows(lpips: torch.nn.Module, source: Tensor, rungs: Sequence[Tensor]) -> Tensor:
    steps = [distances(lpips, source, rung) for rung in (source, *rungs)]
    return torch.stack([near < far for near, far in pairwise(steps)]).all(0)


def _distinct_batches(captions: Sequence[str], size: int) -> list[list[int]]:
    """Put each caption into the first batch that has room and does not hold it yet."""
    groups: list[dict[str, int]] = []
    for i, caption in enumerate(captions):
        group = next((g for g in groups if len(g) < size and caption not in g), None)
        if group is None:
            groups.append(group := {})
        group[caption] = i
    return [list(group.values()) for group in groups]


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


def _share(values: Tensor) -> float:
    return round(float(values.float().mean()), 4)
