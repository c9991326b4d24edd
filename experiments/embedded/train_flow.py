"""Train a world's flow transformer on the latents of rendered scenes, for so many minutes.

Rectified flow (Esser et al. 2024): latents on the straight line from picture to noise, noise levels drawn
logit-normally. Run `make train-flow`; `flow_transformer.py` says what the network is.
"""

import argparse
import copy
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers import AutoencoderKL
from torch import Tensor
from transformers import CLIPTextModel, CLIPTokenizer

from experiments.embedded.denoising_objective import CAPTION_DROPOUT, THING_WEIGHT
from experiments.embedded.examples import Rows, covered_cells, named_tokens
from experiments.embedded.flow_transformer import (
    FlowModel,
    build_transformer,
    check_width,
    save_pipeline,
    shipped_words,
)
from experiments.embedded.input_errors import InputError, reading
from experiments.embedded.latents import encode_latents
from experiments.embedded.recipe import Recipe, run
from experiments.embedded.recorded_attention import grounding_loss
from experiments.embedded.shards import load_training_scenes
from experiments.embedded.training import (
    Ema,
    batches,
    check_resumable,
    cosine,
    decayed,
    earlier,
    hardware,
    mixed_precision,
    native_bf16,
    precision,
    run_minutes,
    write_card,
)
from experiments.embedded.worlds.contract import Scenes, World

LEVELS = (0.2, 1.2)  # mean and deviation of the noise level's logit; wider than SD3's (0, 1) towards noise


@dataclass(frozen=True)
class FlowExamples(Rows):
    """Captioned scenes as latents, on one device."""

    latents: Tensor  # (n, 4, 16, 16) float16, scaled means
    ids: Tensor  # (n, tokens) int32
    tokens: Tensor  # (n, slots) int64, where the caption has each named word, 0 where there is none
    covered: Tensor  # (n, slots, 16, 16) uint8, sixteenths of a latent cell that each word is about


def flow_examples(world: World, scenes: Scenes, latents: Tensor, tokenizer: CLIPTokenizer) -> FlowExamples:
    """Return the scenes with their captions, on the latents' device."""
    captions = [scene.caption() for scene in scenes.scenes]
    ids = tokenizer(captions, padding="max_length", return_tensors="pt").input_ids.int()
    parts = (ids, named_tokens(world, scenes, ids, tokenizer), covered_cells(world, scenes))
    return FlowExamples(latents, *(part.to(latents.device) for part in parts))


@dataclass(frozen=True)
class FlowObjective:
    """The loss of a batch: the velocity's squared error, thing-weighted, and where words' attention goes."""

    model: FlowModel
    empty: Tensor  # (1, tokens), the empty caption's ids
    bf16: bool
    subjects: int = 2  # of a scene's named words, the first are the things whose pixels weigh more
    grounding: float = 0.03  # beside a velocity loss of about 0.5

    def __call__(
        self, batch: FlowExamples, noise: Tensor, sigmas: Tensor, dropped: Tensor
    ) -> dict[str, Tensor]:
        """Return the losses by name; `sigmas` (batch,) in [0, 1], `dropped` (batch,) captions left out."""
        ids = torch.where(dropped[:, None], self.empty, batch.ids)
        clean, level = batch.latents.float(), sigmas[:, None, None, None]
        noisy = (1 - level) * clean + level * noise
        with mixed_precision(clean.device.type, self.bf16):
            velocity = self.model(noisy, sigmas, self.model.text(ids))
        masks = batch.covered.float() / 16
        told = (1 - sigmas)[:, None]
        emphasis = 1 + THING_WEIGHT * told[..., None] * masks[:, : self.subjects].sum(1)  # (batch, 16, 16)
        error = (velocity.float() - (noise - clean)).square().mean(1) * emphasis
        losses = {"velocity": error.mean()}
        if self.grounding:
            where = batch.tokens * ~dropped[:, None]
            pointed = (told / 0.4).clamp(max=1)  # in pure noise there is nothing to point at
            maps = [processor.probabilities for processor in self.model.attention]
            grounded = [(grounding_loss(m, where, masks) * pointed).mean() for m in maps]
            losses["grounding"] = self.grounding * torch.stack(grounded).mean()
        return losses


def draw_levels(n: int, generator: torch.Generator) -> Tensor:
    """Return n noise levels in [0, 1], logit-normal (LEVELS), one from each n-th of the distribution."""
    mean, deviation = LEVELS
    share = (torch.arange(n) + torch.rand(n, generator=generator)) / n
    return (mean + deviation * torch.special.ndtri(share.clamp(1e-5, 1 - 1e-5))).sigmoid()


@dataclass(frozen=True, kw_only=True)
class FlowRecipe(Recipe):
    """What is trained and how, as on the command line; raises InputError for what cannot be."""

    minutes: float = 100
    batch_size: int = 32
    shards: int = 12
    lr: float = 1e-3
    grounding: float = 0.03
    width: int = 160
    blocks: int = 5
    further: Path | None = None
    ship: bool = False

    name = "flow"
    seed_help = "of the weights, the order of pictures and the noise"
    counts = ("batch_size", "shards", "blocks")
    loss_weights = ("grounding",)
    kept = ("batch_size", "shards", "grounding", "width", "blocks")

    def __post_init__(self) -> None:
        super().__post_init__()
        check_width(self.width)
        if self.further and not self.further.is_file():
            raise InputError(
                f"further: {self.further} is not there, allowed is the state of a training, a .pt file"
            )

    def identity(self) -> dict[str, object]:
        """Return what a training that is resumed must have in common with the one that was broken off."""
        return super().identity() | ({"further": str(self.further)} if self.further else {})


def build_model(recipe: FlowRecipe, tokenizer: CLIPTokenizer) -> FlowModel:
    """Return the model on the recipe's device: its words the shipped text encoder's, the rest untrained.

    Where the recipe goes further from another training, all weights are that one's average. Raises InputError
    where these are of another size.
    """
    torch.manual_seed(recipe.seed)
    with reading(f"world: {recipe.shipped}"):
        shipped = CLIPTextModel.from_pretrained(recipe.shipped / "text_encoder", dtype=torch.float32)
    transformer = build_transformer(recipe.width, recipe.blocks)
    model = FlowModel(transformer, shipped_words(shipped), tokenizer)
    if recipe.further:
        state = torch.load(recipe.further, map_location="cpu", weights_only=True, mmap=True)
        try:
            model.load_state_dict(state["ema"])
        except (KeyError, RuntimeError) as error:
            size = f"width {recipe.width} and {recipe.blocks} blocks"
            raise InputError(
                f"further: {recipe.further} is not of {size} ({str(error).splitlines()[0]})"
            ) from None
    return model.train().to(recipe.device)


def card(recipe: FlowRecipe, scenes: int, steps: int, seconds: float) -> dict[str, object]:
    """Return what the model card says of a training."""
    before = earlier(recipe.further.with_suffix(""), "recipe") if recipe.further else ""
    return {
        "data": f"{scenes} rendered, captioned scenes of 64x64 pixels",
        **recipe.definition.facts,
        "recipe": f"{steps} steps of {recipe.batch_size}, AdamW {recipe.lr:g} flat then cosine, thing weight "
        f"{THING_WEIGHT}, noise levels' logits {LEVELS[0]:g} +- {LEVELS[1]:g}, log grounding loss "
        f"{recipe.grounding:g}, EMA 0.999, {precision(recipe.device)}" + before,
        "time": f"{seconds / 60:.0f} min on {hardware(recipe.device)}",
    }


def main(recipe: FlowRecipe) -> None:
    """Train, and keep the whole pipeline in float16 with a model card, once a minute."""
    check_resumable(recipe.checkpoint, recipe.identity())
    world, device = recipe.definition, recipe.device
    with reading(f"world: {recipe.shipped}"):
        tokenizer = CLIPTokenizer.from_pretrained(recipe.shipped / "tokenizer")
        vae = AutoencoderKL.from_pretrained(recipe.shipped / "vae", dtype=torch.float32)
    scenes = load_training_scenes(world, recipe.shards)
    vae = vae.to(device, memory_format=torch.channels_last)
    latents = encode_latents(world, vae, scenes, native_bf16(device)).to(device)
    examples = flow_examples(world, scenes, latents, tokenizer)
    del scenes

    model = build_model(recipe, tokenizer)
    average = copy.deepcopy(model)
    ema = Ema(model, average)
    empty = tokenizer("", padding="max_length", return_tensors="pt").input_ids.int().to(device)
    objective = FlowObjective(model, empty, native_bf16(device), world.subjects, recipe.grounding)
    optimizer = torch.optim.AdamW(decayed(model), lr=recipe.lr, betas=(0.9, 0.99), fused=True)

    def loss_of_step(step: int) -> dict[str, Tensor]:
        size, number = recipe.batch_size, 10_000_019 * (recipe.seed + 1) + step
        batch = examples.take(batches(len(examples), size, step, seed=2 + recipe.seed).to(device))
        rng = torch.Generator().manual_seed(number)
        dropped = torch.rand(size, generator=rng) < CAPTION_DROPOUT
        sigmas = draw_levels(size, rng)
        noise = torch.randn(batch.latents.shape, generator=rng)
        return objective(batch, noise.to(device), sigmas.to(device), dropped.to(device))

    def save(steps: int, seconds: float) -> None:
        save_pipeline(recipe.folder, average, vae, tokenizer)
        facts = card(recipe, len(examples), steps, seconds)
        write_card(recipe.folder, f"Flow transformer of {world.title}", facts)

    recipe.folder.parent.mkdir(parents=True, exist_ok=True)
    run_minutes(
        recipe.checkpoint,
        recipe.minutes,
        time.monotonic(),
        model,
        optimizer,
        lambda progress: cosine(progress, flat=0.35, warm_up=0.02),
        loss_of_step,
        ema,
        recipe.identity(),
        save,
    )
    print(f"weights: {recipe.folder}", flush=True)
    if recipe.ship:
        shutil.copytree(recipe.folder, world.weights / "flow", dirs_exist_ok=True)


def parse(arguments: Sequence[str] | None = None) -> FlowRecipe:
    """Read the command line; what is wrong in it ends the program with one line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    add = parser.add_argument
    add("--minutes", type=float, help="to train for, from the first step on; a broken off training goes on")
    add("--shards", type=int, help="of 10,000 scenes each, rendered and encoded beforehand")
    add("--grounding", type=float, help="weight of the loss on attention outside a word's thing; 0: off")
    add("--width", type=int, help="channels of the transformer")
    add("--blocks", type=int, help="of the transformer")
    add("--further", type=Path, help="start from the average of another training, its .pt file")
    add("--ship", action=argparse.BooleanOptionalAction, help="replace the shipped weights as well")
    return FlowRecipe.read(parser, arguments)


if __name__ == "__main__":
    run(main, parse)
