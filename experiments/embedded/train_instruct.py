"""Train a small InstructPix2Pix of a world on edits that `p2p-bench export` wrote (Brooks et al. 2023).

The world's denoiser with four more channels for the source's latents, further trained to make the edited
picture. What it is told is the edited caption, not an instruction: a world's tokenizer has no words for
commands, and its text encoder lets no word know of another. Run `make train-instruct`.
"""

import argparse
import copy
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    StableDiffusionInstructPix2PixPipeline,
    UNet2DConditionModel,
)
from diffusers.models.attention_processor import AttnProcessor
from PIL import Image
from torch import Tensor, nn
from transformers import CLIPTextModel, CLIPTokenizer

from experiments.embedded.denoiser import build_scheduler, save_pipeline
from experiments.embedded.denoising_objective import min_snr
from experiments.embedded.examples import Rows
from experiments.embedded.input_errors import InputError, reading
from experiments.embedded.latents import encode_pictures
from experiments.embedded.recipe import Recipe, run
from experiments.embedded.training import (
    Ema,
    batches,
    check_resumable,
    cosine,
    decayed,
    hardware,
    mixed_precision,
    native_bf16,
    precision,
    run_minutes,
)
from experiments.embedded.worlds.contract import SIDE

DROPOUT = 0.05  # of the text alone, of the source alone, and of both


@dataclass(frozen=True)
class Edits:
    """Exported edits: pictures and the captions of the edited ones."""

    sources: np.ndarray  # (n, 64, 64, 3) uint8
    targets: np.ndarray  # (n, 64, 64, 3) uint8
    captions: tuple[str, ...]

    def mirrored(self) -> "Edits":
        """Return these edits and the same ones mirrored."""
        pairs = [np.concatenate([part, part[:, :, ::-1]]) for part in (self.sources, self.targets)]
        return Edits(pairs[0], pairs[1], self.captions * 2)


def read_edits(folder: Path) -> Edits:
    """Read what `p2p-bench export` wrote. Raises InputError, naming the file, for what is no such folder."""
    try:
        listed = [
            (name, seed) for name, seeds in json.loads((folder / "seeds.json").read_text()) for seed in seeds
        ]
        prompts = {name: json.loads((folder / name / "prompt.json").read_text()) for name, _ in listed}
        captions = tuple(str(prompts[name]["output"]) for name, _ in listed)
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise InputError(
            f"data: {folder} is no export of p2p-bench ({type(error).__name__}: {error})"
        ) from None
    if not listed:
        raise InputError(f"data: {folder} holds no edit, at least one is needed")
    pictures = [
        np.stack([_read(folder / name / f"{seed}_{number}.jpg") for name, seed in listed])
        for number in (0, 1)
    ]
    return Edits(pictures[0], pictures[1], captions)


def _read(file: Path) -> np.ndarray:
    with reading(f"data: {file}"), Image.open(file) as image:
        pixels = np.asarray(image.convert("RGB"))
    if pixels.shape != (SIDE, SIDE, 3):
        raise InputError(f"data: {file} is {pixels.shape[1]}x{pixels.shape[0]}, allowed is {SIDE}x{SIDE}")
    return pixels


@dataclass(frozen=True)
class EditExamples(Rows):
    """Edits as latents and caption ids, on one device."""

    sources: Tensor  # (n, 4, 16, 16) float16, means as the autoencoder gives them, not scaled
    targets: Tensor  # (n, 4, 16, 16) float16, scaled means
    ids: Tensor  # (n, tokens) int32


def edit_examples(edits: Edits, vae: AutoencoderKL, tokenizer: CLIPTokenizer, bf16: bool) -> EditExamples:
    """Return the edits as latents on the autoencoder's device.

    A source's latents are not scaled: diffusers' pipeline gives the denoiser the autoencoder's means as they
    are (0.42, `prepare_image_latents`), the noisy latents scaled. Raises InputError for a caption that is
    longer than the tokenizer allows.
    """
    ids = tokenizer(list(edits.captions), padding="max_length", return_tensors="pt").input_ids.int()
    if ids.shape[1] > tokenizer.model_max_length:
        raise InputError(
            f"data: a caption has {ids.shape[1]} tokens, allowed are {tokenizer.model_max_length}"
        )
    sources, targets = (encode_pictures(vae, part, bf16) for part in (edits.sources, edits.targets))
    return EditExamples(sources / vae.config.scaling_factor, targets, ids.to(targets.device))


def widen(unet: UNet2DConditionModel) -> UNet2DConditionModel:
    """Return a copy of a denoiser that takes four more channels and, untrained, ignores what they hold."""
    wide: UNet2DConditionModel = UNet2DConditionModel.from_config({**unet.config, "in_channels": 8})
    weights = dict(unet.state_dict())
    weights["conv_in.weight"] = nn.functional.pad(weights["conv_in.weight"], (0, 0, 0, 0, 0, 4))
    wide.load_state_dict(weights)
    return wide


@dataclass(frozen=True)
class InstructObjective:
    """The loss of a batch: min-SNR denoising of the edited picture, told its caption and its source."""

    unet: UNet2DConditionModel
    text_encoder: CLIPTextModel
    scheduler: DDIMScheduler
    empty: Tensor  # (1, tokens), the empty caption's ids
    bf16: bool

    def __call__(
        self, batch: EditExamples, noise: Tensor, timesteps: Tensor, no_text: Tensor, no_source: Tensor
    ) -> dict[str, Tensor]:
        """Return the loss by name; `no_text`, `no_source` (batch,) bool: that condition is left out."""
        ids = torch.where(no_text[:, None], self.empty, batch.ids)
        sources = batch.sources.float() * ~no_source[:, None, None, None]  # zeros stand for none
        noisy = self.scheduler.add_noise(batch.targets.float(), noise, timesteps)
        rows = torch.cat([noisy, sources], 1).contiguous(memory_format=torch.channels_last)
        with torch.no_grad():
            text = self.text_encoder(ids).last_hidden_state
        with mixed_precision(noisy.device.type, self.bf16):
            prediction = self.unet(rows, timesteps, text).sample
        error = (prediction.float() - noise).square().mean((1, 2, 3))
        return {"denoising": (error * min_snr(self.scheduler, timesteps)).mean()}


def draw_conditions(n: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Draw (n,) bool, twice: rows without their caption, rows without their source; DROPOUT says how many."""
    drawn = torch.rand(n, generator=generator)
    return (drawn < 2 * DROPOUT), (drawn >= DROPOUT) & (drawn < 3 * DROPOUT)


@dataclass(frozen=True, kw_only=True)
class InstructRecipe(Recipe):
    """What is trained and how, as on the command line; raises InputError for what cannot be."""

    data: Path
    minutes: float = 35
    batch_size: int = 16
    lr: float = 5e-4

    name = "instruct"
    kept = ("batch_size",)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not (self.data / "seeds.json").is_file():
            raise InputError(f"data: {self.data} has no seeds.json, allowed is a folder of p2p-bench export")

    def identity(self) -> dict[str, object]:
        """Return what a training that is resumed must have in common with the one that was broken off."""
        return super().identity() | {"data": str(self.data.resolve())}


def main(recipe: InstructRecipe) -> None:
    """Train, and keep the whole pipeline in float16 with a model card, once a minute."""
    began = time.monotonic()
    check_resumable(recipe.checkpoint, recipe.identity())
    torch.manual_seed(recipe.seed)
    world, device, bf16 = recipe.definition, recipe.device, native_bf16(recipe.device)
    shipped = recipe.shipped
    edits = read_edits(recipe.data)
    with reading(f"world: {shipped}"):
        tokenizer = CLIPTokenizer.from_pretrained(shipped / "tokenizer")
        vae = AutoencoderKL.from_pretrained(shipped / "vae", dtype=torch.float32).to(device)
        text_encoder = CLIPTextModel.from_pretrained(shipped / "text_encoder", dtype=torch.float32).to(device)
        unet = widen(UNet2DConditionModel.from_pretrained(shipped / "unet", dtype=torch.float32))
    seen = edits.mirrored() if world.mirrored else edits
    examples = edit_examples(seen, vae, tokenizer, bf16)

    unet = unet.train().to(device, memory_format=torch.channels_last)
    average = copy.deepcopy(unet)
    if torch.device(device).type == "cpu":
        unet.set_attn_processor(AttnProcessor())  # the CPU's backward pass of SDPA is slow
    empty = tokenizer("", padding="max_length", return_tensors="pt").input_ids.int().to(device)
    objective = InstructObjective(unet, text_encoder, build_scheduler(), empty, bf16)
    size = min(recipe.batch_size, len(examples))

    def loss_of_step(step: int) -> dict[str, Tensor]:
        index = batches(len(examples), size, step, seed=2 + recipe.seed).to(device)
        batch = examples.take(index)
        rng = torch.Generator().manual_seed(10_000_019 * (recipe.seed + 1) + step)
        noise = torch.randn(batch.targets.shape, generator=rng)
        stratum = (torch.arange(size) + torch.rand(size, generator=rng)) / size
        no_text, no_source = draw_conditions(size, rng)
        timesteps = (stratum * 1000).long().clamp(max=999)
        return objective(batch, *(part.to(device) for part in (noise, timesteps, no_text, no_source)))

    def save(steps: int, seconds: float) -> None:
        model = nn.ModuleDict({"unet": average, "text_encoder": text_encoder})
        facts = card(recipe, len(edits.captions), steps, seconds)
        title = f"InstructPix2Pix of {world.title}"
        kind = StableDiffusionInstructPix2PixPipeline
        save_pipeline(recipe.folder, model, vae, tokenizer, title, facts, kind)

    recipe.folder.parent.mkdir(parents=True, exist_ok=True)
    run_minutes(
        recipe.checkpoint,
        recipe.minutes,
        began,
        unet,
        torch.optim.AdamW(decayed(unet), lr=recipe.lr, betas=(0.9, 0.99)),
        lambda progress: cosine(progress, flat=0.4, warm_up=0.03),
        loss_of_step,
        Ema(unet, average),
        recipe.identity(),
        save,
    )
    print(f"weights: {recipe.folder}", flush=True)


def card(recipe: InstructRecipe, edits: int, steps: int, seconds: float) -> dict[str, object]:
    """Return what the model card says of a training."""
    world = recipe.definition
    return {
        "data": f"{edits} edits of generated pictures by Prompt-to-Prompt"
        f"{', mirrored too' if world.mirrored else ''}; told the edited captions",
        **world.facts,
        "recipe": f"the world's denoiser with 4 more channels, {steps} steps of {recipe.batch_size}, AdamW "
        f"{recipe.lr:g} flat then cosine, min-SNR 5, text, source and both dropped in {DROPOUT:.0%} of rows "
        f"each, EMA 0.999, {precision(recipe.device)}",
        "time": f"{seconds / 60:.0f} min on {hardware(recipe.device)}",
    }


def parse(arguments: Sequence[str] | None = None) -> InstructRecipe:
    """Read the command line; what is wrong in it ends the program with one line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    add = parser.add_argument
    add("--data", type=Path, help="what `p2p-bench export` wrote")
    add(
        "--minutes",
        type=float,
        help="to train for, start and last save included; a broken off training goes on",
    )
    return InstructRecipe.read(parser, arguments, data=Path("runs/instruct_edits"))


if __name__ == "__main__":
    run(main, parse)
