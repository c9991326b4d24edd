"""Train a world's denoiser and text encoder on the latents of its rendered scenes.

The text encoder is context-free (its self-attention is zeroed and frozen): in a jointly trained causal
encoder a word's meaning moves into the words after it, and the word's own attention map is inverted. Run
`make train-diffusion`: by default a number of steps on scenes rendered beforehand, with `--minutes` for a
time, on scenes rendered meanwhile.
"""

import argparse
import copy
import hashlib
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import closing, nullcontext
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path

import numpy as np
import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    StableDiffusionInstructPix2PixPipeline,
    StableDiffusionPipeline,
    UNet2DConditionModel,
)
from diffusers.models.attention_processor import AttnProcessor, AttnProcessor2_0
from torch import Tensor, nn
from tqdm import tqdm
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from experiments.embedded.examples import Examples, Stream, caption_scenes, with_latents
from experiments.embedded.recorded_attention import RecordingProcessor, Taken, grounding_loss, sink_loss
from experiments.embedded.shards import load_training_scenes
from experiments.embedded.tokenizer import save_tokenizer
from experiments.embedded.train_vae import to_model
from experiments.embedded.training import (
    Ema,
    ResumeError,
    batches,
    check_device,
    check_out,
    check_resumable,
    cosine,
    decayed,
    earlier,
    hardware,
    mixed_precision,
    native_bf16,
    precision,
    run_minutes,
    run_steps,
    write_card,
)
from experiments.embedded.worlds import HELP, NAMES, load_world
from experiments.embedded.worlds.contract import Scenes, World

CAPTION_DROPOUT = 0.1
THING_WEIGHT = (
    3  # of the error where a thing is, over that of the place: things are small and hold the detail
)
FILLERS = ("a", "an", "and", "of", "with", "in", "the", "on", "at")
TAKEN_FROM = 200  # maps are taken at timesteps from here on: edits inject in the first 80 % of their steps
SHARDS = 10  # of scenes rendered beforehand, unless told otherwise
PADDING_SIZE = 1_000  # of the padding's token embedding, beside position embeddings of 0.04 after training


def check_channels(channels: Sequence[int]) -> None:
    """Raise ValueError unless there are two widths, each a multiple of 16."""
    if len(channels) != 2 or any(c < 16 or c % 16 for c in channels):
        raise ValueError(f"channels: {','.join(map(str, channels))}, allowed are two multiples of 16")


def build_unet(channels: Sequence[int], text_width: int) -> UNet2DConditionModel:
    """Return the untrained denoiser, with cross-attention at 16x16 and 8x8 to tokens of `text_width`.

    Raises ValueError for what `check_channels` does not allow.
    """
    check_channels(channels)
    return UNet2DConditionModel(
        sample_size=16,
        in_channels=4,
        out_channels=4,
        down_block_types=("CrossAttnDownBlock2D",) * 2,
        up_block_types=("CrossAttnUpBlock2D",) * 2,
        block_out_channels=tuple(channels),
        layers_per_block=1,
        attention_head_dim=2,
        cross_attention_dim=text_width,
        norm_num_groups=16,
    )


def build_text_encoder(tokenizer: CLIPTokenizer, sizes: tuple[int, int, int]) -> CLIPTextModel:
    """Return the untrained text encoder, each token blind to the others; `sizes`: width, layers, heads."""
    width, layers, heads = sizes
    config = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=4 * width,
        projection_dim=width,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        max_position_embeddings=tokenizer.model_max_length,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    encoder = CLIPTextModel(config)
    for name, module in encoder.named_modules():
        if name.endswith("self_attn.out_proj"):
            for parameter in module.parameters():
                nn.init.zeros_(parameter).requires_grad_(False)
    return encoder


@torch.no_grad()
def share_padding(encoder: CLIPTextModel) -> None:
    """Give all padding one embedding, whatever its position.

    A context-free encoder's output at a padding position is a function of the padding's token embedding plus
    the position's, and the layer norms see directions alone. So a token embedding a thousand times the size
    of the positions' leaves nothing of those, in an ordinary CLIPTextModel. Padding that knew its positions
    drew sinks of attention to some of them, and an edit that moves padding then breaks the picture. The end
    token is the padding token and shares the embedding.
    """
    weight = encoder.get_input_embeddings().weight
    drawn = torch.randn(weight.shape[1], generator=torch.Generator().manual_seed(0))
    weight[encoder.config.pad_token_id] = PADDING_SIZE * drawn.to(weight)


def idle_tokens(tokenizer: CLIPTokenizer) -> Tensor:
    """Return (vocabulary,) bool: padding, the end token and filler words, where attention is not to rest."""
    idle = torch.zeros(len(tokenizer), dtype=torch.bool)
    idle[[tokenizer.pad_token_id, tokenizer.eos_token_id]] = True
    pieces = tokenizer.get_vocab()
    idle[[pieces[f"{word}</w>"] for word in FILLERS if f"{word}</w>" in pieces]] = True
    return idle


def build_scheduler() -> DDIMScheduler:
    """Return the noise schedule; beta_end 0.018 as 0.012 leaves a readable mean in latents this small."""
    return DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.018,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
    )


def skip_attention(encoder: CLIPTextModel) -> None:
    """Do not compute the attention of a context-free encoder while it is trained: it adds exactly nothing."""
    for name, module in encoder.named_modules():
        if name.endswith("self_attn"):
            module.forward = lambda hidden_states, **_: (torch.zeros_like(hidden_states), None)


@dataclass
class Objective:
    """The loss of a batch: min-SNR denoising, thing-weighted, and losses on where cross-attention goes.

    Everything is on one device. `cross` are the denoiser's processors of cross-attention; `empty` (1, tokens)
    is the empty caption, `idle` (vocabulary,) what `idle_tokens` returns. A weight of 0 leaves a loss out.
    """

    unet: UNet2DConditionModel
    text_encoder: CLIPTextModel
    cross: Sequence[RecordingProcessor]
    scheduler: DDIMScheduler
    empty: Tensor
    idle: Tensor
    bf16: bool
    subjects: int = 2  # of a scene's named words, the first are the things whose pixels weigh more
    grounding: float = 0.03  # beside a denoising loss of about 0.1
    sink: float = 0.03
    sink_share: float = 0.1

    def __call__(
        self, batch: Examples, noise: Tensor, timesteps: Tensor, dropped: Tensor, taking: Tensor
    ) -> dict[str, Tensor]:
        """Return the losses by name.

        `dropped` (batch,) bool: the caption is left out. `taking` (k,): rows whose cross-attention is taken
        from the other caption of their scene on the same noisy latents, which makes up no gradient.
        """
        ids = torch.where(dropped[:, None], self.empty, batch.ids)
        clean = batch.latents.float()
        noisy = self.scheduler.add_noise(clean, noise, timesteps)
        noisy = noisy.contiguous(memory_format=torch.channels_last)
        if len(taking):
            self._take(noisy[taking], timesteps[taking], batch, taking)
        with mixed_precision(clean.device.type, self.bf16):
            prediction = self.unet(noisy, timesteps, self.text_encoder(ids).last_hidden_state).sample
        for processor in self.cross:
            processor.taken = None
        alphas = self.scheduler.alphas_cumprod.to(clean.device)[timesteps]
        snr = alphas / (1 - alphas)
        weight = snr.clamp(max=5) / snr  # min-SNR (Hang et al. 2023), gamma 5
        told = (1 - timesteps / 1000)[:, None]
        pointed = (told / 0.4).clamp(max=1)  # in pure noise there is nothing to point at
        masks = batch.covered.float() / 16
        emphasis = 1 + THING_WEIGHT * told[..., None] * masks[:, : self.subjects].sum(1)  # (batch, 16, 16)
        error = (prediction.float() - noise).square().mean(1) * emphasis
        losses = {"denoising": (error.mean((1, 2)) * weight).mean()}
        maps = [processor.probabilities for processor in self.cross]
        if self.grounding:
            where = batch.tokens * ~dropped[:, None]
            grounded = [(grounding_loss(m, where, masks) * pointed).mean() for m in maps]
            losses["grounding"] = self.grounding * torch.stack(grounded).mean()
        if self.sink:
            sinks = [sink_loss(m, self.idle[ids], self.sink_share).mean() for m in maps]
            losses["sink"] = self.sink * torch.stack(sinks).mean()
        return losses

    @torch.no_grad()
    def _take(self, noisy: Tensor, timesteps: Tensor, batch: Examples, taking: Tensor) -> None:
        """Let the chosen rows take the maps of their scene's other caption in the next call."""
        for processor in self.cross:
            processor.keep_maps = True
        # An autocast of its own: what is cast without gradient must not serve the call that needs one.
        with mixed_precision(noisy.device.type, self.bf16):
            self.unet(noisy, timesteps, self.text_encoder(batch.other_ids[taking]).last_hidden_state)
        for processor in self.cross:
            assert processor.maps is not None
            processor.taken = Taken(taking, processor.maps, batch.mapper[taking])
            processor.keep_maps, processor.maps = False, None


def recording_processors(unet: UNet2DConditionModel) -> list[RecordingProcessor]:
    """Let the denoiser's cross-attention keep its maps; return the processors that do."""
    cross = {name: RecordingProcessor() for name in unet.attn_processors if "attn2" in name}
    plain = (
        AttnProcessor() if unet.device.type == "cpu" else AttnProcessor2_0()
    )  # SDPA's CPU backward is slow
    unet.set_attn_processor({name: cross.get(name, plain) for name in unet.attn_processors})
    return list(cross.values())


@dataclass(frozen=True)
class Draw:
    """What is drawn for one step. Rows are stratified in time: row i's timestep is in the i-th part."""

    noise: Tensor
    timesteps: Tensor
    dropped: Tensor  # (batch,) bool
    taking: Tensor  # (k,) rows that take maps; none that is dropped


def draw_step(batch_size: int, taken_share: float, seed: int, device: str) -> Draw:
    """Draw noise, timesteps, dropped captions and the rows that take another caption's maps, by the seed."""
    rng = torch.Generator().manual_seed(seed)
    dropped = torch.rand(batch_size, generator=rng) < CAPTION_DROPOUT
    stratum = (torch.arange(batch_size) + torch.rand(batch_size, generator=rng)) / batch_size
    timesteps = (stratum * 1000).long().clamp(max=999)
    taking = torch.rand(batch_size, generator=rng) < taken_share
    taking &= ~dropped & (timesteps >= TAKEN_FROM)
    shape, on_device = (batch_size, 4, 16, 16), torch.Generator(device).manual_seed(seed)
    return Draw(
        noise=torch.randn(shape, generator=on_device, device=device),
        timesteps=timesteps.to(device),
        dropped=dropped.to(device),
        taking=taking.nonzero().flatten().to(device),
    )


@torch.no_grad()
def encode_pictures(vae: AutoencoderKL, images: np.ndarray, bf16: bool) -> Tensor:
    """Return scaled latent means (n, 4, 16, 16) float16, on the autoencoder's device, of uint8 pictures."""
    parts = []
    for part in torch.from_numpy(images).split(250):
        with mixed_precision(vae.device.type, bf16):
            latents = vae.encode(to_model(part.to(vae.device))).latent_dist.mode()
        parts.append((latents.float() * vae.config.scaling_factor).half())
    return torch.cat(parts)


def encode_latents(world: World, vae: AutoencoderKL, scenes: Scenes, bf16: bool) -> Tensor:
    """Return scaled latent means (n, 4, 16, 16) fp16, from a file if they were computed before."""
    weights = (world.weights / "pipeline" / "vae" / "diffusion_pytorch_model.safetensors").read_bytes()
    file = world.checkpoints / f"latents-{hashlib.sha256(weights).hexdigest()[:8]}.npy"
    if file.exists() and len(np.load(file, mmap_mode="r")) == len(scenes.scenes):
        return torch.from_numpy(np.load(file))
    parts = tqdm(np.array_split(scenes.images, len(scenes.scenes) // 250 + 1), "encoding", mininterval=10)
    latents = torch.cat([encode_pictures(vae, part, bf16).cpu() for part in parts])
    np.save(file, latents.numpy())
    return latents


@dataclass(frozen=True)
class Recipe:
    """What is trained and how, as on the command line; raises ValueError for what cannot be."""

    world: str = NAMES[0]
    steps: int = 6_000
    minutes: float | None = None
    batch_size: int | None = None
    shards: int | None = None
    scenes: int = 400_000
    first: int = 20_000
    workers: int | None = None
    lr: float = 8e-4
    further: bool = False
    seed: int = 0
    device: str = "cpu"
    precision: str = "auto"
    channels: tuple[int, ...] | None = None
    padding: str | None = None
    taken_share: float = 0.25
    grounding: float = 0.03
    sink: float = 0.03
    sink_share: float = 0.1
    out: Path | None = None
    ship: bool = False
    quality: bool = True

    def __post_init__(self) -> None:
        world = load_world(self.world)
        check_device(self.device)
        for name in ("steps", "shards", "scenes", "first", "batch_size", "workers"):
            if (value := getattr(self, name)) is not None and value < 1:
                raise ValueError(f"{name}: {value}, allowed is 1 or more")
        if self.minutes is not None and not 0 < self.minutes < float("inf"):
            raise ValueError(f"minutes: {self.minutes}, allowed is a number above 0")
        if not 0 < self.lr < float("inf"):
            raise ValueError(f"lr: {self.lr}, allowed is a number above 0")
        for name in ("grounding", "sink"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise ValueError(f"{name}: {getattr(self, name)}, allowed is 0 or more")
        if not 0 <= self.taken_share <= 1:
            raise ValueError(f"taken_share: {self.taken_share}, allowed is a number in [0, 1]")
        if not 0 <= self.sink_share < 1:
            raise ValueError(f"sink_share: {self.sink_share}, allowed is a number in [0, 1)")
        if self.channels is not None:
            if self.further:
                raise ValueError(
                    "channels: those of the shipped weights are kept by further; give one of them"
                )
            check_channels(self.channels)
        check_out(self.folder, world.weights)

    @property
    def bf16(self) -> bool:
        """Whether the networks compute in bfloat16 under autocast."""
        return native_bf16(self.device) if self.precision == "auto" else self.precision == "bf16"

    @property
    def rows(self) -> int:
        """The batch size: small on a CPU, where steps count, large enough on a GPU to keep it busy."""
        return self.batch_size or (32 if torch.device(self.device).type == "cpu" else 512)

    @property
    def folder(self) -> Path:
        """Where the weights go: `out`, else the world's checkpoints."""
        return self.out or load_world(self.world).checkpoints / "pipeline"

    @property
    def checkpoint(self) -> Path:
        """Where a training of `minutes` keeps its state, beside the weights."""
        return self.folder.with_name(f"{self.folder.name}.pt")

    def identity(self) -> dict[str, object]:
        """Return what a training that is resumed must have in common with the one that was broken off."""
        names = (
            "world",
            "lr",
            "further",
            "seed",
            "padding",
            "taken_share",
            "grounding",
            "sink",
            "sink_share",
            "scenes",
            "shards",
        )
        channels = list(self.channels) if self.channels else None
        return {"batch_size": self.rows, "channels": channels, **{n: getattr(self, n) for n in names}}


def build_model(recipe: Recipe, tokenizer: CLIPTokenizer) -> nn.ModuleDict:
    """Return denoiser and text encoder on the recipe's device: untrained, or the shipped ones."""
    world = load_world(recipe.world)
    sizes, pipeline = world.sizes, world.weights / "pipeline"
    if recipe.further:
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


def save_pipeline(
    folder: Path,
    model: nn.ModuleDict,
    vae: AutoencoderKL,
    tokenizer: CLIPTokenizer,
    title: str,
    facts: dict[str, object],
    kind: type[StableDiffusionPipeline]
    | type[StableDiffusionInstructPix2PixPipeline] = StableDiffusionPipeline,
) -> None:
    """Write the whole pipeline in float16 with its card, in place of what the folder held."""
    new, old = (folder.with_name(f"{folder.name}.{state}") for state in ("new", "old"))
    for leftover in (new, old):
        shutil.rmtree(leftover, ignore_errors=True)

    def half(part: nn.Module) -> nn.Module:
        return copy.deepcopy(part).cpu().half()

    pipeline = kind(
        vae=half(vae),
        text_encoder=half(model["text_encoder"]),
        tokenizer=tokenizer,
        unet=half(model["unet"]),
        scheduler=build_scheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    for part in (pipeline.vae, pipeline.unet):
        part.register_to_config(_name_or_path="")  # else it says where this machine keeps the weights
    pipeline.save_pretrained(new)
    write_card(new, title, facts)
    if folder.exists():
        folder.rename(old)
    new.rename(folder)
    shutil.rmtree(old, ignore_errors=True)


def card(recipe: Recipe, scenes: int, steps: int, seconds: float) -> dict[str, object]:
    """Return what the model card says of a training."""
    world, further = load_world(recipe.world), recipe.further
    folder = world.weights / "pipeline"
    return {
        "data": f"{scenes} rendered, captioned scenes of 64x64 pixels",
        **world.facts,
        "recipe": f"{steps} steps of {recipe.rows}, AdamW {recipe.lr:g} "
        f"{'' if further else 'flat then '}cosine, min-SNR 5, thing weight {THING_WEIGHT}, "
        f"log grounding loss {recipe.grounding:g}, sink loss {recipe.sink:g} beyond {recipe.sink_share:g}, "
        f"maps of another caption in {recipe.taken_share:.0%} of rows at t >= {TAKEN_FROM}, EMA 0.999, "
        f"{precision(recipe.device, recipe.bf16)}{earlier(folder, 'recipe') if further else ''}",
        "time": f"{seconds / 60:.0f} min on {hardware(recipe.device)}"
        f"{earlier(folder, 'time') if further else ''}",
        "quality": "see QUALITY.md, written by `make quality`",
    }


def main(recipe: Recipe) -> None:
    """Train, save the whole pipeline in float16 with a model card, and measure it where a time was given."""
    began = time.monotonic()
    if recipe.minutes:
        check_resumable(recipe.checkpoint, recipe.identity())
    torch.manual_seed(0)
    world, device, size = load_world(recipe.world), recipe.device, recipe.rows
    shipped = world.weights / "pipeline"
    tokenizer_folder = shipped / "tokenizer"
    if not tokenizer_folder.exists():
        save_tokenizer(world, tokenizer_folder)
    tokenizer = CLIPTokenizer.from_pretrained(tokenizer_folder)
    vae = AutoencoderKL.from_pretrained(shipped / "vae", dtype=torch.float32)
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
            shipped,
            dirs_exist_ok=True,
            ignore=shutil.ignore_patterns("QUALITY.md", "quality.json"),
        )
    if recipe.minutes and recipe.quality:  # a process of its own: its failure leaves the weights alone
        command = ["experiments.embedded.quality", "--world", recipe.world]
        command += ["--weights", str(recipe.folder), "--device", device]
        subprocess.run([sys.executable, "-m", *command], check=False)


def parse(arguments: Sequence[str] | None = None) -> Recipe:
    """Read the command line; what is wrong in it ends the program with one line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    add, on_off = parser.add_argument, argparse.BooleanOptionalAction
    add("--world", help=f"whose denoiser: {HELP}")
    add("--steps", type=int, help="to train for, on scenes rendered beforehand; not with --minutes")
    add(
        "--minutes",
        type=float,
        help="to train for, start and last save included but not imports; then the result is measured",
    )
    add("--batch-size", type=int, help="32 on a CPU, else 512, if not given")
    add(
        "--shards",
        type=int,
        help="of 10,000 scenes each, rendered beforehand; 10 with --steps; with --minutes, if given",
    )
    add("--scenes", type=int, help="to render while the training runs, with --minutes and without --shards")
    add("--first", type=int, help="scenes that the training waits for, with --minutes")
    add("--workers", type=int, help="rendering processes, with --minutes; all cores but one, if not given")
    add("--lr", type=float, help="peak learning rate")
    add("--further", action=on_off, help="start from the shipped weights, decay from the first step on")
    add("--seed", type=int, help="of the order of scenes and the noise")
    add("--device", help="cpu, cuda or cuda:N")
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
    add("--grounding", type=float, help="weight of the loss on attention outside a word's thing; 0: off")
    add(
        "--sink", type=float, help="weight of the loss on attention that rests on padding and fillers; 0: off"
    )
    add("--sink-share", type=float, help="of a pixel's attention that padding and fillers may have together")
    add(
        "--out",
        type=Path,
        help="folder for the weights, in the world's checkpoints if not given; a training of minutes keeps "
        "its state beside it",
    )
    add("--ship", action=on_off, help="replace the shipped weights as well")
    add("--quality", action=on_off, help="measure the result on the device, with --minutes")
    parser.set_defaults(**{field.name: field.default for field in fields(Recipe)})
    given = vars(parser.parse_args(arguments))
    try:
        return Recipe(**given)
    except ValueError as error:
        parser.error(str(error))


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(int(number) for number in text.split(","))


if __name__ == "__main__":
    try:
        main(parse())
    except (ResumeError, OSError) as error:
        sys.exit(f"train_diffusion: {error}")
