"""Train a world's denoiser and text encoder on the latents of its rendered scenes.

Run `make train-diffusion`: by default a number of steps on scenes rendered beforehand, with `--minutes` for a
time, on scenes rendered meanwhile.
"""

import argparse
import copy
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import closing, nullcontext
from dataclasses import dataclass
from functools import partial

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from torch import Tensor, nn
from transformers import CLIPTextModel, CLIPTokenizer

from experiments.embedded.denoiser import (
    build_scheduler,
    build_text_encoder,
    build_unet,
    check_channels,
    idle_tokens,
    recording_processors,
    save_pipeline,
    share_padding,
    skip_attention,
)
from experiments.embedded.denoising_objective import TAKEN_FROM, THING_WEIGHT, Objective, draw_step
from experiments.embedded.examples import Stream, caption_scenes, with_latents
from experiments.embedded.input_errors import InputError, reading
from experiments.embedded.latents import encode_latents, encode_pictures
from experiments.embedded.recipe import Recipe, run
from experiments.embedded.shards import load_training_scenes
from experiments.embedded.tokenizer import save_tokenizer
from experiments.embedded.training import (
    Ema,
    batches,
    check_resumable,
    cosine,
    decayed,
    earlier,
    hardware,
    native_bf16,
    precision,
    run_minutes,
    run_steps,
)

SHARDS = 10  # of scenes rendered beforehand, unless told otherwise


@dataclass(frozen=True, kw_only=True)
class DiffusionRecipe(Recipe):
    """What is trained and how, as on the command line; raises InputError for what cannot be."""

    steps: int = 6_000
    shards: int | None = None
    scenes: int = 400_000
    first: int = 20_000
    workers: int | None = None
    lr: float = 8e-4
    further: bool = False
    precision: str = "auto"
    channels: tuple[int, ...] | None = None
    padding: str | None = None
    taken_share: float = 0.25
    thing_weight: float = THING_WEIGHT
    grounding: float = 0.03
    sink: float = 0.03
    sink_share: float = 0.1
    ship: bool = False
    quality: bool = True

    name = "pipeline"
    batch_size_help = "32 on a CPU, else 512, if not given"
    counts = ("steps", "shards", "scenes", "first", "batch_size", "workers")
    loss_weights = ("thing_weight", "grounding", "sink")
    kept = (
        *("further", "padding", "taken_share", "thing_weight", "grounding", "sink", "sink_share"),
        *("scenes", "shards"),
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.taken_share <= 1:
            raise InputError(f"taken_share: {self.taken_share}, allowed is a number in [0, 1]")
        if not 0 <= self.sink_share < 1:
            raise InputError(f"sink_share: {self.sink_share}, allowed is a number in [0, 1)")
        if self.channels is not None:
            if self.further:
                raise InputError(
                    "channels: those of the shipped weights are kept by further; give one of them"
                )
            check_channels(self.channels)

    @property
    def bf16(self) -> bool:
        """Whether the networks compute in bfloat16 under autocast."""
        return native_bf16(self.device) if self.precision == "auto" else self.precision == "bf16"

    @property
    def rows(self) -> int:
        """The batch size: small on a CPU, where steps count, large enough on a GPU to keep it busy."""
        return self.batch_size or (32 if torch.device(self.device).type == "cpu" else 512)

    def identity(self) -> dict[str, object]:
        """Return what a training that is resumed must have in common with the one that was broken off."""
        channels = list(self.channels) if self.channels else None
        return super().identity() | {"batch_size": self.rows, "channels": channels}


def build_model(recipe: DiffusionRecipe, tokenizer: CLIPTokenizer) -> nn.ModuleDict:
    """Return denoiser and text encoder on the recipe's device: untrained, or the shipped ones."""
    sizes, pipeline = recipe.definition.sizes, recipe.shipped
    if recipe.further:
        with reading(f"further: {pipeline}"):
            unet = UNet2DConditionModel.from_pretrained(pipeline / "unet", dtype=torch.float32)
            shipped = CLIPTextModel.from_pretrained(pipeline / "text_encoder", dtype=torch.float32)
        text_encoder = build_text_encoder(tokenizer, sizes.text)
        text_encoder.load_state_dict(shipped.state_dict())
    else:
        unet = build_unet(recipe.channels or sizes.unet, sizes.text[0])
        text_encoder = build_text_encoder(tokenizer, sizes.text)
    if (recipe.padding or ("positions" if recipe.further else "shared")) == "shared":
        share_padding(text_encoder)
    unet = unet.train().to(recipe.device, memory_format=torch.channels_last)
    return nn.ModuleDict({"unet": unet, "text_encoder": text_encoder.train().to(recipe.device)})


def card(recipe: DiffusionRecipe, scenes: int, steps: int, seconds: float) -> dict[str, object]:
    """Return what the model card says of a training."""
    folder, further = recipe.shipped, recipe.further
    return {
        "data": f"{scenes} rendered, captioned scenes of 64x64 pixels",
        **recipe.definition.facts,
        "recipe": f"{steps} steps of {recipe.rows}, AdamW {recipe.lr:g} "
        f"{'' if further else 'flat then '}cosine, min-SNR 5, thing weight {recipe.thing_weight:g}, "
        f"log grounding loss {recipe.grounding:g}, sink loss {recipe.sink:g} beyond {recipe.sink_share:g}, "
        f"maps of another caption in {recipe.taken_share:.0%} of rows at t >= {TAKEN_FROM}, EMA 0.999, "
        f"{precision(recipe.device, recipe.bf16)}{earlier(folder, 'recipe') if further else ''}",
        "time": f"{seconds / 60:.0f} min on {hardware(recipe.device)}"
        f"{earlier(folder, 'time') if further else ''}",
        "quality": "see QUALITY.md, written by `make quality`",
    }


def main(recipe: DiffusionRecipe) -> None:
    """Train, save the whole pipeline in float16 with a model card, and measure it where a time was given."""
    began = time.monotonic()
    if recipe.minutes:
        check_resumable(recipe.checkpoint, recipe.identity())
    torch.manual_seed(0)
    world, device, size = recipe.definition, recipe.device, recipe.rows
    tokenizer_folder = recipe.shipped / "tokenizer"
    if not tokenizer_folder.exists():
        save_tokenizer(world, tokenizer_folder)
    with reading(f"world: {recipe.shipped}"):
        tokenizer = CLIPTokenizer.from_pretrained(tokenizer_folder)
        vae = AutoencoderKL.from_pretrained(recipe.shipped / "vae", dtype=torch.float32)
    vae = vae.to(device, memory_format=torch.channels_last)
    stream: Stream | None = None
    if recipe.minutes and recipe.shards is None:
        workers = recipe.workers or max(1, (os.cpu_count() or 1) - 1)
        encode = partial(encode_pictures, vae, bf16=recipe.bf16)
        stream = Stream(recipe.world, recipe.scenes, tokenizer_folder, encode, workers)
    else:
        shards = recipe.shards or SHARDS
        scenes = load_training_scenes(world, shards)
        captioned = caption_scenes(world, scenes, tokenizer, (recipe.seed, shards, 1))
        examples = with_latents(captioned, encode_latents(world, vae, scenes, recipe.bf16).to(device))

    model = build_model(recipe, tokenizer)
    average = copy.deepcopy(model)
    ema = Ema(model, average)
    skip_attention(model["text_encoder"])
    objective = Objective(
        model["unet"],
        model["text_encoder"],
        recording_processors(model["unet"]),
        build_scheduler(),
        empty=tokenizer("", padding="max_length", return_tensors="pt").input_ids.int().to(device),
        idle=idle_tokens(tokenizer).to(device),
        bf16=recipe.bf16,
        subjects=world.subjects,
        thing_weight=recipe.thing_weight,
        grounding=recipe.grounding,
        sink=recipe.sink,
        sink_share=recipe.sink_share,
    )
    optimizer = torch.optim.AdamW(decayed(model), lr=recipe.lr, betas=(0.9, 0.99))

    def loss_of_step(step: int) -> dict[str, Tensor]:
        number = 10_000_019 * (recipe.seed + 1) + step
        draw = draw_step(size, recipe.taken_share, number, device)
        if stream is None:
            batch = examples.take(batches(len(examples), size, step, seed=2 + recipe.seed).to(device))
        else:
            stream.receive()
            chosen = torch.Generator(device).manual_seed(number + 1)
            batch = stream.take(torch.randint(len(stream), (size,), generator=chosen, device=device))
        return objective(batch, draw.noise, draw.timesteps, draw.dropped, draw.taking)

    def schedule(progress: float) -> float:
        return cosine(progress, flat=0.0 if recipe.further else 0.35, warm_up=0.03)

    def save(steps: int, seconds: float) -> None:
        n = len(examples if stream is None else stream)
        title, facts = f"Diffusion pipeline of {world.title}", card(recipe, n, steps, seconds)
        save_pipeline(recipe.folder, average, vae, tokenizer, title, facts)

    if recipe.minutes is None:
        file = world.checkpoints / "diffusion.pt"
        seconds = run_steps(file, recipe.steps, model, optimizer, schedule, loss_of_step, ema, save_every=100)
        save(recipe.steps, seconds)
    else:
        with closing(stream) if stream else nullcontext():
            if stream:
                stream.wait_for(recipe.first)
            waited, ready = time.monotonic() - began, len(examples if stream is None else stream)
            print(f"training begins after {waited:.0f} s, with {ready} scenes", flush=True)
            run_minutes(
                recipe.checkpoint,
                recipe.minutes,
                began,
                model,
                optimizer,
                schedule,
                loss_of_step,
                ema,
                recipe.identity(),
                save,
            )
    print(f"weights: {recipe.folder}", flush=True)
    if recipe.ship:
        shutil.copytree(
            recipe.folder,
            recipe.shipped,
            dirs_exist_ok=True,
            ignore=shutil.ignore_patterns("QUALITY.md", "quality.json"),
        )
    if recipe.minutes and recipe.quality:  # a process of its own: its failure leaves the weights alone
        command = ["experiments.embedded.quality", "--world", recipe.world]
        command += ["--weights", str(recipe.folder), "--device", device]
        subprocess.run([sys.executable, "-m", *command], check=False)


def parse(arguments: Sequence[str] | None = None) -> DiffusionRecipe:
    """Read the command line; what is wrong in it ends the program with one line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    add, on_off = parser.add_argument, argparse.BooleanOptionalAction
    add("--steps", type=int, help="to train for, on scenes rendered beforehand; not with --minutes")
    add(
        "--minutes",
        type=float,
        help="to train for, start and last save included but not imports; then the result is measured",
    )
    add(
        "--shards",
        type=int,
        help="of 10,000 scenes each, rendered beforehand; 10 with --steps; with --minutes, if given",
    )
    add("--scenes", type=int, help="to render while the training runs, with --minutes and without --shards")
    add("--first", type=int, help="scenes that the training waits for, with --minutes")
    add("--workers", type=int, help="rendering processes, with --minutes; all cores but one, if not given")
    add("--further", action=on_off, help="start from the shipped weights, decay from the first step on")
    add("--precision", choices=("auto", "bf16", "fp32"), help="auto is bf16 where the device computes in it")
    add(
        "--channels", type=_numbers, help="widths of the denoiser at 16x16 and 8x8; the world's, if not given"
    )
    add(
        "--padding",
        choices=("shared", "positions"),
        help="one embedding for all padding, or each position its own; if not given shared, but with "
        "--further as the shipped weights have it",
    )
    add("--taken-share", type=float, help="of rows whose cross-attention is another caption's; 0: none")
    add(
        "--thing-weight",
        type=float,
        help="of the error where a thing is, beside 1 everywhere: the smaller things are, the more; 0: off",
    )
    add("--grounding", type=float, help="weight of the loss on attention outside a word's thing; 0: off")
    add(
        "--sink", type=float, help="weight of the loss on attention that rests on padding and fillers; 0: off"
    )
    add("--sink-share", type=float, help="of a pixel's attention that padding and fillers may have together")
    add("--ship", action=on_off, help="replace the shipped weights as well")
    add("--quality", action=on_off, help="measure the result on the device, with --minutes")
    return DiffusionRecipe.read(parser, arguments)


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(int(number) for number in text.split(","))


if __name__ == "__main__":
    run(main, parse)
