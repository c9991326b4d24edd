"""What pictures and edits of the phantoms' model show: figures of experiments/embedded/quality.py."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import cycle, islice, pairwise, product

import numpy as np
import torch
from torch import Tensor

from evaluation.clip import Clip
from evaluation.edits import Edits
from experiments.datasets.phantom_pairs import PhantomPair, phantom_pairs
from experiments.embedded import quality_metrics
from experiments.embedded.augment import to_float
from experiments.embedded.edit_success import EditSuccess
from experiments.embedded.figures import Figure, generate_groups, generate_images
from experiments.embedded.judge import Judge
from experiments.embedded.judged_areas import error_outside
from experiments.embedded.worlds.phantoms.drawing import draw_phantoms
from experiments.embedded.worlds.phantoms.world import (
    KINDS,
    MODALITIES,
    PLACES,
    REGIONS,
    Lesion,
    Phantom,
    draw_phantom,
)
from p2p import EditRequest, FixedSeed, Group, Model, PromptToPrompt, Sampling

# Captions that differ in what they leave unsaid are all true of a picture: it need not find its own of 64.
GOALS = {"VAE": ">= 28", "LPIPS ranks": ">= 0.99", "LPIPS grows": ">= 0.95", "CLIP": ""}
SAMPLING = Sampling(guidance_scale=4)  # as conf/model/phantoms.yaml has it
WEIGHTS = (0.0, 0.5, 1.0, 2.0)
EDITS = {"add": ">= 0.8", "remove": ">= 0.9", "place": ">= 0.8", "swap": ">= 0.8", "style": ">= 0.9"}
LARGE = (  # combinations that training never shows
    Phantom("ct", "", Lesion("tumor", "left lung", "large")),
    Phantom("mri", "", Lesion("cyst", "spleen", "large")),
    Phantom("ct", "", Lesion("bleed", "left hemisphere", "large")),
    Phantom("pet", "", Lesion("abscess", "left lung", "large")),
)
TUMORS = (  # all of them
    Phantom("ct", "chest", Lesion("tumor", "left lung")),
    Phantom("ct", "head", Lesion("tumor", "left hemisphere")),
    Phantom("mri", "abdomen", Lesion("tumor", "right kidney")),
    Phantom("pet", "abdomen", Lesion("tumor", "left kidney")),
)


def figures(model: Model, judge: Judge, clip: Clip) -> Iterator[Figure]:
    """Measure CLIP by single words, naming, re-weighting, and edits of lesions."""
    yield from told_apart(clip)
    yield from naming(model, judge)
    yield from reweighting(model, judge)
    yield from edits(model, judge)


def told_apart(clip: Clip, n: int = 600) -> list[Figure]:
    """Held-out renders: of captions that differ in one word alone, does CLIP prefer the picture's own?"""
    drawn = draw_phantoms(n, (14, 0), True)
    features = clip.encoder.images(to_float(torch.from_numpy(drawn.images)))
    right: dict[str, list[bool]] = {"kind (of 4)": [], "place (of its region's)": [], "modality (of 3)": []}
    for phantom, feature in zip(drawn.scenes, features, strict=True):
        lesion = phantom.lesion
        others = (
            [replace(phantom, lesion=replace(lesion, kind=kind)) for kind in KINDS],
            [
                replace(phantom, lesion=replace(lesion, place=place))
                for place in REGIONS[phantom.shown_region()]
            ],
            [replace(phantom, modality=modality) for modality in MODALITIES],
        )
        for name, choices in zip(right, others, strict=True):
            texts = clip.encoder.prompts(tuple(choice.caption() for choice in choices))
            right[name].append(choices[int((texts @ feature).argmax())] == phantom)
    return [
        Figure(f"phantoms CLIP, renders: {name} told apart", float(np.mean(shares)), ">= 0.9")
        for name, shares in right.items()
    ]


def naming(
    model: Model, judge: Judge, sampling: Sampling = SAMPLING, ill: int = 200, well: int = 60
) -> list[Figure]:
    """So many held-out prompts with a lesion, and without one: does the judge see what they say?"""
    rng = np.random.default_rng((11, 1))
    drawn = [draw_phantom(rng, held_out=True) for _ in range(ill)]
    healthy = cycle(Phantom(modality, region) for modality, region in product(MODALITIES, REGIONS))
    phantoms = [*drawn, *islice(healthy, well)]
    captions = [phantom.caption() for phantom in phantoms]
    images = generate_images(model, captions, range(1000, 1000 + ill + well), sampling)
    named = quality_metrics.things_named(judge, images, phantoms).tolist()
    modality = quality_metrics.settings_named(judge, images, phantoms).tolist()
    around = judge.surroundings(judge.classes_of_pixels(images[:ill]))
    places = [phantom.lesion.place for phantom in drawn if phantom.lesion]
    placed = [PLACES[int(row.argmax())] == place for row, place in zip(around, places, strict=True)]
    told: list[tuple[str, int, list[bool], str]] = [
        ("kind of lesion named right", ill, named[:ill], ">= 0.85"),
        ("place of lesion right", ill, placed, ">= 0.9"),
        ("no lesion where none is said", well, named[ill:], ">= 0.9"),
        ("modality right", ill + well, modality, ">= 0.98"),
    ]
    return [
        Figure(f"generated: {what} ({n} images)", float(np.mean(right)), goal)
        for what, n, right, goal in told
    ]


def reweighting(
    model: Model, judge: Judge, seeds: Sequence[int] = (0, 1, 2), sampling: Sampling = SAMPLING
) -> list[Figure]:
    """24 (prompt, seed) cases, half "large", half "tumor": does the lesion's area rise with the weight?

    P2P on equal prompts at tau 0, self window 0.4, weights WEIGHTS: the area never falls and is larger at the
    end, once that of any lesion, once that of the kind that the prompt names. Its error outside lesions is
    held against that of the fixed seed whose prompt lacks the word (the size, the lesion), which is what the
    weight 0 stands for; both on one area.
    """
    cases = [("large", large, _unsized(large)) for large in LARGE]
    cases += [("tumor", tumor, replace(tumor, lesion=None)) for tumor in TUMORS]
    groups = []
    for word, phantom, without in cases:
        prompt = phantom.caption()
        request = EditRequest(prompt, prompt)
        weighted = [
            PromptToPrompt(tau=0, weights={word: w}).trajectory(
                request, model.tokenizers, sampling.num_inference_steps
            )
            for w in WEIGHTS
        ]
        fixed = FixedSeed().trajectory(
            EditRequest(prompt, without.caption()), model.tokenizers, sampling.num_inference_steps
        )
        groups += [Group(prompt, seed, (*weighted, fixed)) for seed in seeds]
    rises: dict[str, list[bool]] = {"large": [], "tumor": []}
    of_kind, ratios = [], []
    told = [(word, phantom.lesion.kind) for word, phantom, _ in cases if phantom.lesion for _ in seeds]
    for (word, kind), edited in zip(told, generate_groups(model, groups, sampling), strict=True):
        images = torch.stack([edited.source, *edited.images])
        masks = judge.masks(images)
        rises[word].append(_rises(masks[1:-1]))
        of_kind.append(_rises(judge.mask_of(images[1:-1], kind)))
        if errors := _errors(images, masks):
            *own, free = errors
            ratios.append(np.mean([own[0], own[1], own[3]]) / free)  # weight 1 is the source itself
    both = rises["large"] + rises["tumor"]
    return [
        Figure("re-weighting: area rises with 0, 0.5, 1, 2 (24 cases)", float(np.mean(both)), ">= 0.9"),
        Figure('re-weighting: of these "large" (12)', float(np.mean(rises["large"]))),
        Figure('re-weighting: of these "tumor" (12)', float(np.mean(rises["tumor"]))),
        Figure("re-weighting: area of the named kind rises (24 cases)", float(np.mean(of_kind))),
        Figure(
            f"re-weighting / fixed seed, median ratio of error outside the lesions ({len(ratios)} cases)",
            float(np.median(ratios)),
            "<= 0.3",
        ),
    ]


def _rises(masks: Tensor) -> bool:
    """Say whether the area of masks (N, height, width) never falls and is larger at the end."""
    areas = masks.sum((1, 2)).tolist()
    return all(a <= b for a, b in pairwise(areas)) and areas[0] < areas[-1]


def _unsized(phantom: Phantom) -> Phantom:
    assert phantom.lesion
    return replace(phantom, lesion=replace(phantom.lesion, size=""))


def edits(model: Model, judge: Judge, each: int = 32, sampling: Sampling = SAMPLING) -> list[Figure]:
    """Held-out edits of each type at tau 0.2, default self window: made by the judge, and what else changed.

    With the words that bound an edit, without, and by the fixed seed. Errors outside the lesions are of all
    but changes of modality.
    """
    pairs = phantom_pairs(dict.fromkeys(EDITS, each), seed=1)
    groups = []
    for pair in pairs:
        request = EditRequest(pair.source.caption(), pair.target.caption(), blend_words=pair.blend_words)
        methods = (PromptToPrompt(tau=0.2), PromptToPrompt(tau=0.2, local_blend=False), FixedSeed())
        trajectories = tuple(
            m.trajectory(request, model.tokenizers, sampling.num_inference_steps) for m in methods
        )
        groups.append(Group(request.source_prompt, 0, trajectories))
    edited = [torch.stack([e.source, *e.images]) for e in generate_groups(model, groups, sampling)]
    made = [_made(pairs, edited, method) for method in (1, 2, 3)]
    found = []
    for edit_type, goal in EDITS.items():
        of_type = [pair.edit_type == edit_type for pair in pairs]
        for label, values in zip(("P2P with LocalBlend", "P2P", "fixed seed"), made, strict=True):
            share = float(np.mean(np.array(values)[of_type]))
            found.append(
                Figure(f"{label}: {edit_type} made ({each} edits)", share, goal if values is made[0] else "")
            )
    local = [images for pair, images in zip(pairs, edited, strict=True) if pair.edit_type != "style"]
    measured = [_errors(images, judge.masks(images)) for images in local]
    errors = np.array([one for one in measured if one])
    ratios = np.median(errors[:, :2] / errors[:, 2:], 0)
    n, names = len(errors), (("P2P with LocalBlend", "<= 0.3"), ("P2P", "<= 0.6"))
    found += [
        Figure(f"{label} / fixed seed, median ratio of error outside ({n} edits)", float(ratio), goal)
        for (label, goal), ratio in zip(names, ratios, strict=True)
    ]
    return found


def _made(pairs: Sequence[PhantomPair], edited: Sequence[Tensor], method: int) -> list[float]:
    """Return the judge's verdict on one picture of each group: 1 or 0."""
    (scores,) = EditSuccess("phantoms")(
        Edits(
            torch.stack([images[method] for images in edited]),
            torch.stack([images[0] for images in edited]),
            torch.arange(len(edited)),
            tuple(pair.source.caption() for pair in pairs),
            tuple(pair.target.caption() for pair in pairs),
        )
    ).values()
    return scores.values.tolist()


def _errors(images: Tensor, masks: Tensor) -> list[float]:
    """Return each edit's error to the first picture, outside the lesions of all of them.

    Nothing where these cover more than half of the picture.
    """
    edited, area = images[1:], masks.any(0).expand(len(images) - 1, -1, -1)
    errors, filled = error_outside(edited, images[:1].expand_as(edited), area)
    return [] if filled.any() else [float(error) for error in errors]
