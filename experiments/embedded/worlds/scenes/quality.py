"""What pictures and edits of the embedded model show: figures of experiments/embedded/quality.py."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise, product

import numpy as np
import torch
from torch import nn

from evaluation.clip import Clip
from experiments.datasets.embedded_pairs import scene_pairs
from experiments.embedded import quality_metrics
from experiments.embedded.figures import SAMPLING, Figure, generate_groups, generate_images
from experiments.embedded.judge import Judge
from experiments.embedded.worlds.scenes.world import OBJECTS, Scene, draw_scene
from p2p import Edited, EditRequest, FixedSeed, Group, Model, PromptToPrompt, Sampling
from p2p.trajectory import Method

GOALS = {"VAE": ">= 28", "LPIPS ranks": ">= 0.99", "LPIPS grows": ">= 0.95", "CLIP": ">= 0.97"}


def figures(model: Model, judge: Judge, clip: Clip) -> Iterator[Figure]:
    """Measure naming, re-weighting and what edits leave alone."""
    yield from naming(model, judge, clip)
    yield from reweighting(model, judge)
    yield from preservation(model, judge)


def naming(model: Model, judge: Judge, clip: Clip, sampling: Sampling = SAMPLING) -> list[Figure]:
    """200 held-out prompts, half with one object, half with two: does the judge see what they say?"""
    rng = np.random.default_rng((11, 0))
    scenes: list[Scene] = []
    while len(scenes) < 200:
        scene = draw_scene(rng, held_out=True)
        if len(scene.things) == (1 if len(scenes) < 100 else 2):
            scenes.append(scene)
    captions = [scene.caption() for scene in scenes]
    images = generate_images(model, captions, range(1000, 1200), sampling)
    right = quality_metrics.things_named(judge, images, scenes).tolist()
    placed = quality_metrics.settings_named(judge, images, scenes).tolist()
    to_text, to_image = quality_metrics.clip_retrieval(clip, images, captions)
    return [
        Figure(
            "generated: object of single-object prompts named right (100 images)",
            float(np.mean(right[:100])),
            ">= 0.92",
        ),
        Figure(
            "generated: both objects of two named right (100 images)", float(np.mean(right[100:])), ">= 0.75"
        ),
        Figure("generated: place named right (200 images)", float(np.mean(placed)), ">= 0.98"),
        Figure("embedded CLIP, generated images: top-1 caption in batches of 64", to_text, ">= 0.85"),
        Figure("embedded CLIP, generated images: top-1 image in batches of 64", to_image, ">= 0.85"),
    ]


def reweighting(model: Model, judge: Judge) -> list[Figure]:
    """24 (word, seed) cases: does the word's effect rise with its weight 0, 0.5, 1, 2?

    The effect of a colour is the mean of its channel contrast over the image, of night the darkness, of
    sunset red minus blue, of fog minus the standard deviation, of big the judge's object area. P2P on equal
    prompts at tau 0, self window 0.4.
    """
    cases = [
        ("red", "a red cat in the snow", lambda x: (x[0] - x[1:].mean(0)).mean()),
        ("blue", "a blue car on the beach", lambda x: (x[2] - x[:2].mean(0)).mean()),
        ("green", "a green castle in the desert", lambda x: (x[1] - x[[0, 2]].mean(0)).mean()),
        ("purple", "a purple house in the snow", lambda x: (x[[0, 2]].mean(0) - x[1]).mean()),
        ("night", "a robot in the snow at night", lambda x: -x.mean()),
        ("sunset", "a tree in a field at sunset", lambda x: (x[0] - x[2]).mean()),
        ("fog", "a bus in the city in the fog", lambda x: -x.std()),
        ("big", "a big pumpkin in a field", lambda x: judge.masks(x[None]).float().mean()),
    ]
    weights, seeds = (0.0, 0.5, 1.0, 2.0), (0, 1, 2)
    groups = []
    for word, prompt, _ in cases:
        edits = [
            PromptToPrompt(tau=0, weights={word: w}).trajectory(
                EditRequest(prompt, prompt), model.tokenizers, 50
            )
            for w in weights
        ]
        groups += [Group(prompt, seed, tuple(edits)) for seed in seeds]
    monotone = []
    for edited, (_, _, effect) in zip(
        generate_groups(model, groups), [case for case in cases for _ in seeds], strict=True
    ):
        values = [float(effect(image)) for image in edited.images]
        monotone.append(all(a < b for a, b in pairwise(values)))
    return [Figure("re-weighting monotone in 0, 0.5, 1, 2 (24 cases)", float(np.mean(monotone)), ">= 0.9")]


def preservation(model: Model, judge: Judge) -> list[Figure]:
    """64 held-out swaps x 2 seeds at tau 0.2, default self window: error outside the objects' area.

    Without LocalBlend, and with the swapped words bounding it.
    """
    methods = (PromptToPrompt(tau=0.2, local_blend=False), PromptToPrompt(tau=0.2))
    edited, names = swapped(model, methods, (0, 1))
    return [
        *preserved(judge, edited, names, 0, "P2P", "<= 0.6"),
        *preserved(judge, edited, names, 1, "P2P with LocalBlend", "<= 0.25"),
    ]


def swapped(
    model: Model,
    methods: Sequence[Method],
    seeds: Sequence[int],
    sampling: Sampling = SAMPLING,
    swaps: int = 64,
) -> tuple[list[Edited], list[str]]:
    """Return held-out swaps per seed, each by the methods and then the fixed seed, and the new objects."""
    groups, names = [], []
    for seed, pair in product(seeds, scene_pairs({"swap": swaps}, seed=1)):
        words = pair.source.things[0].name, pair.target.things[0].name
        request = EditRequest(pair.source.caption(), pair.target.caption(), blend_words=words)
        edits = tuple(
            m.trajectory(request, model.tokenizers, sampling.num_inference_steps)
            for m in (*methods, FixedSeed())
        )
        groups.append(Group(request.source_prompt, seed, edits))
        names.append(pair.target.things[0].name)
    return generate_groups(model, groups, sampling), names


def preserved(
    judge: Judge, edited: Sequence[Edited], names: Sequence[str], method: int, label: str, goal: str
) -> list[Figure]:
    """Return a method's error outside the objects, against the fixed seed's, the last of each group's images.

    The area of the objects is the union of the judge's object masks on source, edited and fixed-seed image,
    grown by 2 pixels; the same for both.
    """
    ratios, errors, named = [], [], []
    for group, name in zip(edited, names, strict=True):
        images = torch.stack([group.source, group.images[method], group.images[-1]])
        named.append(OBJECTS[int(judge.things(images[1:2])[0].argmax())] == name)
        area = judge.masks(images).any(0).float()
        area = nn.functional.max_pool2d(area[None, None], 5, 1, 2)[0, 0] > 0
        if area.float().mean() <= 0.5:
            p2p, fixed = ((images[i] - images[0]).square()[:, ~area].mean().item() for i in (1, 2))
            ratios.append(p2p / fixed)
            errors.append((p2p, fixed))
    medians = np.median(np.array(errors), 0)
    left_out = len(edited) - len(ratios)
    return [
        Figure(
            f"{label} / fixed seed, median ratio of error outside the objects ({len(ratios)} edits)",
            float(np.median(ratios)),
            goal,
        ),
        Figure(f"{label}: median squared error outside the objects", float(medians[0])),
        Figure(f"{label}: the fixed seed's there", float(medians[1])),
        Figure(f"{label}: edits left out because objects cover more than half", left_out),
        Figure(f"{label}: target object named right ({len(named)} edits)", float(np.mean(named)), ">= 0.9"),
    ]
