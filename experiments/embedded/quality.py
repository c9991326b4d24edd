"""What the embedded models show on held-out scenes and prompts: `make quality` measures every figure and
writes QUALITY.md; `--weights FOLDER` measures a pipeline that is not shipped and writes there.

Every seed and prompt is fixed here, before any model is looked at. Where a goal stands beside a figure,
missing it fails.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise, product
from pathlib import Path
from typing import NoReturn

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from evaluation.clip import Clip
from evaluation.perceptual import Lpips
from experiments.datasets.embedded_pairs import scene_pairs
from experiments.embedded import quality_metrics
from experiments.embedded.examples import named_masks, named_tokens
from experiments.embedded.judge import Judge
from experiments.embedded.recorded_attention import RecordingProcessor
from experiments.embedded.train_diffusion import idle_tokens
from experiments.embedded.train_vae import psnr, to_model
from experiments.embedded.training import ROOT, WEIGHTS, check_device, hardware
from experiments.embedded.worlds.contract import Scenes, World
from experiments.embedded.worlds.scenes.definition import WORLD
from experiments.embedded.worlds.scenes.world import OBJECTS, Scene, draw_scene
from p2p import (
    Edited,
    EditRequest,
    FixedSeed,
    Group,
    Model,
    ModelSpec,
    PromptToPrompt,
    Sampling,
    generate,
)
from p2p.engine import batches
from p2p.families.model import stack_rows
from p2p.trajectory import Method

PIPELINE = WEIGHTS / "pipeline"
SPEC = ModelSpec("embedded", str(PIPELINE), self_max_side=16, blend_side=16, device="cpu")
SAMPLING = Sampling()


@dataclass(frozen=True)
class Figure:
    """One measured number and the goal it is held against, if there is one: `>=` or `<=`."""

    name: str
    value: float
    goal: str = ""

    @property
    def met(self) -> bool:
        """Whether the goal is reached; true where there is none."""
        if not self.goal:
            return True
        relation, bound = self.goal.split()
        return self.value >= float(bound) if relation == ">=" else self.value <= float(bound)


def generate_images(
    model: Model, prompts: Sequence[str], seeds: Sequence[int], sampling: Sampling = SAMPLING
) -> Tensor:
    """Return one image (3, 64, 64) in [0, 1] per prompt and seed."""
    groups = [Group(prompt, seed, ()) for prompt, seed in zip(prompts, seeds, strict=True)]
    return torch.stack([edited.source for edited in generate_groups(model, groups, sampling)])


def generate_groups(model: Model, groups: Sequence[Group], sampling: Sampling = SAMPLING) -> list[Edited]:
    """Return the groups' images, made in the order of the groups, many at a time."""
    edited: list[Edited] = []
    sampling = sampling if model.device.type == "cpu" else replace(sampling, max_batch=512)
    for numbers in tqdm(list(batches(groups, sampling)), desc="generating", unit="batch", mininterval=10):
        edited += generate(model, [groups[i] for i in numbers], sampling)
    return edited


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


@dataclass(frozen=True)
class Recorded:
    """Cross-attention on noised renders, and what their captions name."""

    drawn: Scenes
    ids: Tensor  # (n, tokens)
    tokens: Tensor  # (n, 2) where each thing is named, 0: none
    masks: Tensor  # (n, 2, 16, 16)
    maps: tuple[Tensor, ...]  # of each layer (n, pixels, tokens): conditional rows, mean over heads


@torch.no_grad()
def record_attention(model: Model, timestep: int, world: World = WORLD) -> Recorded:
    """Return the attention on 128 held-out renders, noised to a timestep; on the CPU."""
    drawn = world.draw(128, (12, 0), True)
    unet, scheduler, tokenizer = model.pipeline.unet, model.pipeline.scheduler, model.pipeline.tokenizer
    latents = model.encode((to_model(torch.from_numpy(drawn.images)) + 1) / 2)
    captions = [scene.caption() for scene in drawn.scenes]
    ids = tokenizer(captions, padding="max_length", return_tensors="pt").input_ids
    noise = torch.randn(latents.shape, generator=torch.Generator().manual_seed(timestep)).to(latents)
    noisy = scheduler.add_noise(latents, noise, torch.full((128,), timestep, device=latents.device))
    conditioning = stack_rows([model.encode_prompt(caption) for caption in captions])
    original = dict(unet.attn_processors)
    recorders = {name: RecordingProcessor() for name in original if "attn2" in name}
    unet.set_attn_processor({name: recorders.get(name, original[name]) for name in original})
    try:
        model.predict(noisy, torch.tensor(timestep, device=latents.device), conditioning)
    finally:
        unet.set_attn_processor(original)
    return Recorded(
        drawn,
        ids,
        named_tokens(world, drawn, ids, tokenizer),
        named_masks(world, torch.from_numpy(drawn.labels), drawn, torch.arange(128)),
        tuple(recorder.probabilities.float().cpu() for recorder in recorders.values()),
    )


def pointing_game(model: Model, timesteps: Sequence[int] = (300, 600, 800)) -> list[Figure]:
    """128 noised held-out renders: does an object word's map at 16x16 peak inside the object's box?

    The map is the conditional row's mean over heads and the 16x16 layers.
    """
    figures = []
    for t in timesteps:
        recorded = record_attention(model, t)
        maps = torch.stack([layer for layer in recorded.maps if layer.shape[1] == 256]).mean(0)
        hits = []
        for row in range(128):
            for j in range(len(recorded.drawn.scenes[row].things)):
                peak = int(maps[row, :, recorded.tokens[row, j]].argmax())
                cells = (recorded.masks[row, j] > 0.2).nonzero()
                if len(cells):
                    (top, left), (bottom, right) = cells.min(0).values.tolist(), cells.max(0).values.tolist()
                    hits.append(top <= peak // 16 <= bottom and left <= peak % 16 <= right)
        figures.append(
            Figure(
                f"pointing game at t = {t} ({len(hits)} objects)",
                float(np.mean(hits)),
                ">= 0.95" if t == 600 else "",
            )
        )
    return figures


def attention_rests(model: Model, timestep: int = 600) -> list[Figure]:
    """128 noised held-out renders: which tokens have the attention, over all layers and pixels?"""
    recorded, tokenizer = record_attention(model, timestep), model.pipeline.tokenizer
    mass = torch.stack([layer.mean(1) for layer in recorded.maps]).mean(0)  # (n, tokens)
    idle = idle_tokens(tokenizer)[recorded.ids]
    padding = recorded.ids == tokenizer.pad_token_id
    start = recorded.ids == tokenizer.bos_token_id
    kinds = {"the start token": start, "padding": padding, "filler words": idle & ~padding}
    return [
        Figure(f"attention at t = {timestep}: share of {name}", float((mass * where).sum(1).mean()))
        for name, where in kinds.items()
    ]


def reweighting(model: Model) -> list[Figure]:
    """24 (word, seed) cases: does the word's effect rise with its weight 0, 0.5, 1, 2?

    The effect of a colour is the mean of its channel contrast over the image, of night the darkness, of
    sunset red minus blue, of fog minus the standard deviation, of big the judge's object area. P2P on equal
    prompts at tau 0, self window 0.4.
    """
    judge = Judge.load(WEIGHTS / "judge", WORLD)
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


def measure(weights: Path = PIPELINE, device: str = "cpu") -> Iterator[Figure]:
    """Measure everything about a pipeline, cheap figures first; the judging networks are the shipped ones."""
    judge = Judge.load(WEIGHTS / "judge", WORLD).to(device)
    clip = Clip(backbone="embedded", folder=str(WEIGHTS / "clip"), device=device)
    lpips = Lpips(net="embedded", folder=str(WEIGHTS / "lpips"), device=device)
    model = replace(SPEC, path=str(weights), device=device).load()
    yield Figure(
        "VAE reconstruction PSNR, dB (1,000 renders)",
        psnr(model.pipeline.vae, WORLD.draw(1000, (7, 0), True)),
        ">= 28",
    )
    yield from pointing_game(model)
    yield from attention_rests(model)
    for name, value in quality_metrics.judge_held_out(judge).items():
        yield Figure(f"judge, renders: {name}", value)
    for kind, share in quality_metrics.lpips_ranking(WORLD, lpips.model).items():
        yield Figure(f"embedded LPIPS: {kind} ranks below another scene (500)", share, ">= 0.99")
    for kind, share in quality_metrics.lpips_monotone(WORLD, lpips.model).items():
        yield Figure(f"embedded LPIPS: grows with {kind} at every rung (500)", share, ">= 0.95")
    renders = WORLD.draw(640, (13, 0), True)
    images = (to_model(torch.from_numpy(renders.images)) + 1) / 2
    to_text, to_image = quality_metrics.clip_retrieval(clip, images, [s.caption() for s in renders.scenes])
    yield Figure("embedded CLIP, renders: top-1 caption in batches of 64", to_text, ">= 0.97")
    yield Figure("embedded CLIP, renders: top-1 image in batches of 64", to_image, ">= 0.97")
    yield from naming(model, judge, clip)
    yield from reweighting(model)
    yield from preservation(model, judge)


def report(figures: Sequence[Figure], seconds: float, command: str, device: str) -> str:
    """Return the figures as a Markdown table."""
    lines = [
        "# What the embedded models show",
        "",
        f"`{command}`, {seconds / 60:.0f} min on {hardware(device)}.",
        "",
    ]
    lines += ["| figure | measured | goal |", "|---|---|---|"]
    lines += [f"| {f.name} | {f.value:.4g} | {f.goal}{'' if f.met else ' **missed**'} |" for f in figures]
    return "\n".join(lines) + "\n"


def write(figures: Iterable[Figure], folder: Path, command: str, device: str) -> list[Figure]:
    """Write QUALITY.md and quality.json as the figures come, so that what is broken off is not lost."""
    began, known = time.monotonic(), []
    for figure in figures:
        known.append(figure)
        print(f"{figure.name}: {figure.value:.4g} {figure.goal}", flush=True)
        (folder / "QUALITY.md").write_text(report(known, time.monotonic() - began, command, device))
        (folder / "quality.json").write_text(json.dumps({f.name: f.value for f in known}, indent=1) + "\n")
    return known


def main(weights: Path = PIPELINE, device: str = "cpu") -> None:
    """Measure and write the figures: beside the code, or into the folder of weights that are not shipped.

    Exit 1 where a goal is missed.
    """
    shipped = weights.resolve() == PIPELINE.resolve()
    options = ("" if shipped else f" --weights {weights}") + (
        "" if device == "cpu" else f" --device {device}"
    )
    command = f'make quality ARGS="{options.strip()}"' if options else "make quality"
    figures = write(measure(weights, device), ROOT if shipped else weights, command, device)
    end(figures)


def end(figures: Sequence[Figure]) -> NoReturn:
    """Say which goals are missed; exit 1 where one is."""
    missed = [figure.name for figure in figures if not figure.met]
    print(
        f"{len(missed)} of {len(figures)} figures miss their goal{': ' if missed else ''}{'; '.join(missed)}"
    )
    sys.exit(1 if missed else 0)


def parse(description: str, weights: Path) -> argparse.Namespace:
    """Read the command line, `weights` its default; what is wrong in it ends the program with one line."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--weights", type=Path, default=weights, help="folder of the pipeline")
    parser.add_argument("--device", default="cpu", help="cpu, cuda or cuda:N")
    given = parser.parse_args()
    try:
        check_device(given.device)
        if not (given.weights / "model_index.json").is_file():
            raise ValueError(
                f"weights: {given.weights} is no pipeline, allowed is a folder with model_index.json"
            )
    except ValueError as error:
        parser.error(str(error))
    return given


if __name__ == "__main__":
    given = parse(str(__doc__), PIPELINE)
    main(given.weights, given.device)
