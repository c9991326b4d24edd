"""What a world's measuring models are worth, each as plain numbers on held-out scenes.

Held out: reserved scenes, which training never shows. Seeds are fixed.
"""

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor
from torchvision.transforms.functional import gaussian_blur

from evaluation.clip import Clip
from experiments.embedded.augment import to_float
from experiments.embedded.input_errors import InputError
from experiments.embedded.judge import Judge
from experiments.embedded.worlds.contract import Scene, World

NOISE = (0.02, 0.05, 0.1, 0.2)  # standard deviations
BLUR = (0.5, 1.0, 1.5, 2.5)  # standard deviations in pixels
SHOWN = 0.5  # evidence from which a thing counts as shown where none should be


def things_named(judge: Judge, images: Tensor, scenes: Sequence[Scene]) -> Tensor:
    """Say for each picture whether the most probable things are its scene's subjects: (N,) bool.

    As many are looked at as the scene has subjects; where it has none, none may have evidence above SHOWN.
    """
    evidence = judge.things(images)
    ranked = evidence.argsort(1, descending=True).tolist()
    right = []
    for row, (order, scene) in enumerate(zip(ranked, scenes, strict=True)):
        wanted = {number - 1 for _, labels in scene.named()[: judge.world.subjects] for number in labels}
        right.append(set(order[: len(wanted)]) == wanted if wanted else float(evidence[row].max()) < SHOWN)
    return torch.tensor(right)


def settings_named(judge: Judge, images: Tensor, scenes: Sequence[Scene]) -> Tensor:
    """Say for each picture whether the most probable setting is its scene's: (N,) bool, False for none."""
    numbers = [judge.world.settings.index(s.setting()) if s.setting() else -1 for s in scenes]
    return judge.settings(images).argmax(1) == torch.tensor(numbers)


def judge_held_out(judge: Judge, n: int = 1000) -> dict[str, float]:
    """Return the judge's accuracies, and the mean over pictures of the IoU of all things' area.

    Pictures that show no thing and in which none is seen have no such area and are left out of it.
    """
    drawn = judge.world.draw(n, (7, 1), True)
    images = to_float(torch.from_numpy(drawn.images))
    named, placed = things_named(judge, images, drawn.scenes), settings_named(judge, images, drawn.scenes)
    subjects = torch.tensor(
        [sum(bool(word) for word, _ in scene.named()[: judge.world.subjects]) for scene in drawn.scenes]
    )
    classes, labels = judge.classes_of_pixels(images), torch.from_numpy(drawn.labels).long()
    seen, shown = ((where > 0) & (where <= judge.world.things) for where in (classes, labels))
    either, both = seen | shown, seen & shown
    right = both & (classes == labels)
    area = either.sum((1, 2))
    some = area > 0
    return {
        **{
            f"object accuracy, {words}": _share(named[subjects == count])
            for count, words in enumerate(("no object", "one object", "both of two"))
            if (subjects == count).any()
        },
        "place accuracy": _share(placed),
        "IoU of the objects' area": round(float((both.sum((1, 2))[some] / area[some]).mean()), 4),
        "IoU with the right object": round(float((right.sum((1, 2))[some] / area[some]).mean()), 4),
    }


def clip_retrieval(
    clip: Clip, images: Tensor, captions: Sequence[str], size: int = 64
) -> tuple[float, float]:
    """Return how often an image finds its caption and a caption its image, among `size`.

    No two captions of a batch are equal; what fills no batch is left out. Raises InputError where none fills.
    """
    groups = [group for group in _distinct_batches(captions, size) if len(group) == size]
    if not groups:
        raise InputError(f"captions: {len(set(captions))} different ones, needed are {size}")
    image_features, text_features = clip.encoder.images(images), clip.encoder.prompts(captions)
    to_text, to_image = [], []
    for group in groups:
        similarity = image_features[group] @ text_features[group].T
        to_text.append(similarity.argmax(1) == torch.arange(size))
        to_image.append(similarity.argmax(0) == torch.arange(size))
    return _share(torch.cat(to_text)), _share(torch.cat(to_image))


def clip_held_out(world: World, clip: Clip, n: int = 2000) -> dict[str, float]:
    """Return `clip_retrieval` on held-out renders."""
    drawn = world.draw(n, (7, 2), True)
    captions = [scene.caption() for scene in drawn.scenes]
    to_text, to_image = clip_retrieval(clip, to_float(torch.from_numpy(drawn.images)), captions)
    return {"an image's caption found": to_text, "a caption's image found": to_image}


def lpips_ranking(world: World, lpips: torch.nn.Module, n: int = 500) -> dict[str, float]:
    """Return the share of scenes whose small change is nearer than another scene.

    `lpips` is called as the package's class: `lpips(a, b, normalize=True)` with images in [0, 1].
    """
    views = world.views(n, (7, 3), True)
    far = distances(lpips, views["source"], views[world.growing_changes[-1]])
    return {
        kind: _share(distances(lpips, views["source"], views[kind]) < far) for kind in world.small_changes
    }


def lpips_monotone(world: World, lpips: torch.nn.Module, n: int = 500) -> dict[str, float]:
    """Return the share of scenes whose distance grows at every rung of noise, of blur and of object change.

    Rungs are NOISE, BLUR and the world's growing changes.
    """
    views = world.views(n, (7, 4), True)
    rungs = ladders(world, views)
    return {name: _share(_grows(lpips, views["source"], steps)) for name, steps in rungs.items()}


def ladders(world: World, views: dict[str, Tensor]) -> dict[str, list[Tensor]]:
    """Return the rungs of noise (one draw, scaled), blur and object change of the source, near to far."""
    source = views["source"]
    noise = torch.randn(source.shape, generator=torch.Generator().manual_seed(0))
    return {
        "noise": [(source + sigma * noise).clamp(0, 1) for sigma in NOISE],
        "blur": [gaussian_blur(source, [15, 15], [sigma, sigma]) for sigma in BLUR],
        "object change": [views[kind] for kind in world.growing_changes],
    }


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


def _share(values: Tensor) -> float:
    return round(float(values.float().mean()), 4)
