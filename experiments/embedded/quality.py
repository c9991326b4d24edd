"""What a world's models show on held-out scenes and prompts: `make quality` measures every figure and writes
QUALITY.md; `--weights FOLDER` measures a pipeline that is not shipped and writes there.

Every seed and prompt is fixed here and in worlds/*/quality.py, before any model is looked at. Where a goal
stands beside a figure, missing it fails.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import NoReturn

import numpy as np
import torch
from torch import Tensor

from evaluation.clip import Clip
from evaluation.perceptual import Lpips
from experiments.embedded import quality_metrics
from experiments.embedded.denoiser import idle_tokens
from experiments.embedded.examples import named_masks, named_tokens
from experiments.embedded.figures import Figure
from experiments.embedded.judge import Judge
from experiments.embedded.recorded_attention import RecordingProcessor
from experiments.embedded.train_vae import psnr, to_model
from experiments.embedded.training import check_device, hardware
from experiments.embedded.worlds import NAMES, load_world
from experiments.embedded.worlds.contract import Scenes, World
from p2p import Model, ModelSpec
from p2p.families.model import stack_rows


def spec(world: World, weights: Path | None = None, device: str = "cpu") -> ModelSpec:
    """Return a world's model: the shipped one, or that of a folder."""
    path = str(weights or world.weights / "pipeline")
    return ModelSpec(world.model, path, self_max_side=16, blend_side=16, device=device)


@dataclass(frozen=True)
class Recorded:
    """Cross-attention on noised renders, and what their captions name."""

    drawn: Scenes
    ids: Tensor  # (n, tokens)
    tokens: Tensor  # (n, slots) where each word is named, 0: none
    masks: Tensor  # (n, slots, 16, 16)
    maps: tuple[Tensor, ...]  # of each layer (n, pixels, tokens): conditional rows, mean over heads


@torch.no_grad()
def record_attention(world: World, model: Model, timestep: int) -> Recorded:
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


def pointing_game(world: World, model: Model, timesteps: Sequence[int] = (300, 600, 800)) -> list[Figure]:
    """128 noised held-out renders: does a subject's map at 16x16 peak inside the subject's box?

    The map is the conditional row's mean over heads and the 16x16 layers. No figure where the captions name
    nothing.
    """
    figures = []
    for t in timesteps:
        recorded = record_attention(world, model, t)
        maps = torch.stack([layer for layer in recorded.maps if layer.shape[1] == 256]).mean(0)
        hits = []
        for row in range(128):
            for j in range(world.subjects):
                if not recorded.tokens[row, j]:
                    continue
                peak = int(maps[row, :, recorded.tokens[row, j]].argmax())
                cells = (recorded.masks[row, j] > 0.2).nonzero()
                if len(cells):
                    (top, left), (bottom, right) = cells.min(0).values.tolist(), cells.max(0).values.tolist()
                    hits.append(top <= peak // 16 <= bottom and left <= peak % 16 <= right)
        if hits:
            name, goal = f"pointing game at t = {t} ({len(hits)} objects)", ">= 0.95" if t == 600 else ""
            figures.append(Figure(name, float(np.mean(hits)), goal))
    return figures


def attention_rests(world: World, model: Model, timestep: int = 600) -> list[Figure]:
    """128 noised held-out renders: which tokens have the attention, over all layers and pixels?"""
    recorded, tokenizer = record_attention(world, model, timestep), model.pipeline.tokenizer
    mass = torch.stack([layer.mean(1) for layer in recorded.maps]).mean(0)  # (n, tokens)
    idle = idle_tokens(tokenizer)[recorded.ids]
    padding = recorded.ids == tokenizer.pad_token_id
    start = recorded.ids == tokenizer.bos_token_id
    kinds = {"the start token": start, "padding": padding, "filler words": idle & ~padding}
    return [
        Figure(f"attention at t = {timestep}: share of {name}", float((mass * where).sum(1).mean()))
        for name, where in kinds.items()
    ]


def lpips_figures(world: World, goals: Mapping[str, str], device: str) -> Iterator[Figure]:
    """500 held-out scenes: does the world's shipped LPIPS put changes in the right order?"""
    lpips = Lpips(net=world.model, folder=str(world.weights / "lpips"), device=device)
    for kind, share in quality_metrics.lpips_ranking(world, lpips.model).items():
        other = world.growing_changes[-1].replace("other", "another")
        name = f"{world.model} LPIPS: {kind} ranks below {other} (500)"
        yield Figure(name, share, goals["LPIPS ranks"])
    for kind, share in quality_metrics.lpips_monotone(world, lpips.model).items():
        name = f"{world.model} LPIPS: grows with {kind} at every rung (500)"
        yield Figure(name, share, goals["LPIPS grows"])


def measure(world: World, weights: Path | None = None, device: str = "cpu") -> Iterator[Figure]:
    """Measure everything about a pipeline, cheap figures first; the judging networks are the shipped ones.

    What a world has none of, a judge or an LPIPS, is not measured.
    """
    own = import_module(world.quality) if world.quality else None
    goals: dict[str, str] = defaultdict(str, own.GOALS if own else {})
    judge = Judge.load(world.weights / "judge", world).to(device) if world.labels else None
    clip = Clip(backbone=world.model, folder=str(world.weights / "clip"), device=device)
    model = spec(world, weights, device).load()
    yield Figure(
        "VAE reconstruction PSNR, dB (1,000 renders)",
        psnr(model.pipeline.vae, world.draw(1000, (7, 0), True)),
        goals["VAE"],
    )
    yield from pointing_game(world, model)
    yield from attention_rests(world, model)
    for name, value in (quality_metrics.judge_held_out(judge) if judge else {}).items():
        yield Figure(f"judge, renders: {name}", value)
    if world.attributes:
        yield from lpips_figures(world, goals, device)
    renders = world.draw(640, (13, 0), True)
    images = (to_model(torch.from_numpy(renders.images)) + 1) / 2
    to_text, to_image = quality_metrics.clip_retrieval(clip, images, [s.caption() for s in renders.scenes])
    yield Figure(f"{world.model} CLIP, renders: top-1 caption in batches of 64", to_text, goals["CLIP"])
    yield Figure(f"{world.model} CLIP, renders: top-1 image in batches of 64", to_image, goals["CLIP"])
    if own:
        yield from own.figures(model, judge, clip)


def report(
    figures: Sequence[Figure], seconds: float, command: str, device: str, title: str = "the embedded models"
) -> str:
    """Return the figures as a Markdown table."""
    lines = [
        f"# What {title} show",
        "",
        f"`{command}`, {seconds / 60:.0f} min on {hardware(device)}.",
        "",
    ]
    lines += ["| figure | measured | goal |", "|---|---|---|"]
    lines += [f"| {f.name} | {f.value:.4g} | {f.goal}{'' if f.met else ' **missed**'} |" for f in figures]
    return "\n".join(lines) + "\n"


def write(
    figures: Iterable[Figure], folder: Path, command: str, device: str, title: str = "the embedded models"
) -> list[Figure]:
    """Write QUALITY.md and quality.json as the figures come, so that what is broken off is not lost."""
    began, known = time.monotonic(), []
    for figure in figures:
        known.append(figure)
        print(f"{figure.name}: {figure.value:.4g} {figure.goal}", flush=True)
        (folder / "QUALITY.md").write_text(report(known, time.monotonic() - began, command, device, title))
        (folder / "quality.json").write_text(json.dumps({f.name: f.value for f in known}, indent=1) + "\n")
    return known


def main(world: World, weights: Path | None = None, device: str = "cpu") -> None:
    """Measure and write the figures: beside the shipped weights' folder, or into the folder that is measured.

    Exit 1 where a goal is missed.
    """
    given = ("--world", world.name, world.name != NAMES[0]), ("--weights", weights, weights is not None)
    options = " ".join(f"{name} {value}" for name, value, said in given if said)
    options += "" if device == "cpu" else f" --device {device}"
    command = f'make quality ARGS="{options.strip()}"' if options else "make quality"
    title = f"the {world.model} models"
    end(write(measure(world, weights, device), weights or world.weights.parent, command, device, title))


def end(figures: Sequence[Figure]) -> NoReturn:
    """Say which goals are missed; exit 1 where one is."""
    missed = [figure.name for figure in figures if not figure.met]
    print(
        f"{len(missed)} of {len(figures)} figures miss their goal{': ' if missed else ''}{'; '.join(missed)}"
    )
    sys.exit(1 if missed else 0)


def parse(description: str, weights: Path | None = None) -> argparse.Namespace:
    """Read the command line; what is wrong in it ends the program with one line.

    Without default `weights`, any world's can be asked for, and its shipped ones are the default.
    """
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    if weights is None:
        parser.add_argument("--world", default=NAMES[0], help="whose models are measured")
    shipped = "" if weights else "; the shipped one, if not given"
    parser.add_argument("--weights", type=Path, default=weights, help=f"folder of the pipeline{shipped}")
    parser.add_argument("--device", default="cpu", help="cpu, cuda or cuda:N")
    given = parser.parse_args()
    try:
        check_device(given.device)
        folder = given.weights or load_world(given.world).weights / "pipeline"
        if not (folder / "model_index.json").is_file():
            raise ValueError(f"weights: {folder} is no pipeline, allowed is a folder with model_index.json")
    except ValueError as error:
        parser.error(str(error))
    return given


if __name__ == "__main__":
    given = parse(str(__doc__))
    try:
        main(load_world(given.world), given.weights, given.device)
    except (ValueError, OSError) as error:
        sys.exit(f"quality: {error}")
