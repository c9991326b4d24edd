"""Train a world's small `open_clip` model on rendered scenes with its own loss (Radford et al. 2021).

The folder is what `open_clip` reads as `local-dir:`, tokenizer included. Run `make train-clip`.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import open_clip
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import CLIPTokenizer

from evaluation.clip import Clip
from evaluation.encoder import CONFIG
from evaluation.encoder import WEIGHTS as WEIGHTS_FILE
from experiments.embedded.augment import degrade, shift_and_mirror, to_float
from experiments.embedded.input_errors import reading
from experiments.embedded.quality_metrics import clip_held_out
from experiments.embedded.shards import load_judging_scenes
from experiments.embedded.tokenizer import save_tokenizer
from experiments.embedded.training import (
    batches,
    cosine,
    earlier,
    hardware,
    mixed_precision,
    precision,
    run_steps,
    write_card,
)
from experiments.embedded.worlds import start
from experiments.embedded.worlds.contract import SIDE, World

MEAN, STD = [0.5, 0.5, 0.5], [0.25, 0.25, 0.25]


def model_config(world: World, vocabulary: int) -> dict[str, Any]:
    """Return open_clip's configuration: a ModifiedResNet and a text transformer."""
    (image_width, embedding), (width, layers, heads) = world.sizes.clip_image, world.sizes.clip_text
    return {
        "model_cfg": {
            "embed_dim": embedding,
            "vision_cfg": {
                "image_size": SIDE,
                "layers": [1, 1, 2, 1],
                "width": image_width,
                "patch_size": None,
            },
            "text_cfg": {
                "context_length": world.max_length,
                "vocab_size": vocabulary,
                "hf_tokenizer_name": ".",
                "width": width,
                "heads": heads,
                "layers": layers,
            },
        },
        "preprocess_cfg": {"size": SIDE, "mean": MEAN, "std": STD},
    }


def without_repeats(indices: Tensor, captions: list[str]) -> Tensor:
    """Return the indices without those whose caption stands earlier: it would be its own negative."""
    return torch.tensor(list({captions[i]: i for i in reversed(indices.tolist())}.values())[::-1])


def build(
    world: World, folder: Path, further: bool
) -> tuple[open_clip.CLIP, open_clip.tokenizer.HFTokenizer]:
    """Write configuration and tokenizer into the folder and return the untrained model with its tokenizer.

    `further` keeps the folder's tokenizer and loads its weights.
    """
    if further:
        with reading(f"further: {folder}"):
            tokenizer, state = CLIPTokenizer.from_pretrained(folder), load_file(folder / WEIGHTS_FILE)
    else:
        tokenizer, state = save_tokenizer(world, folder), {}
    config = model_config(world, vocabulary=len(tokenizer))
    (folder / CONFIG).write_text(json.dumps(config, indent=1) + "\n")
    model = open_clip.CLIP(**config["model_cfg"])
    if further:
        model.load_state_dict(state)
    return model, open_clip.get_tokenizer(f"local-dir:{folder}")


def main(
    world: World,
    steps: int = 600,
    batch_size: int = 192,
    shards: int = 4,
    lr: float = 1.5e-3,
    further: bool = False,
    seed: int = 0,
) -> None:
    """Train, measure on held-out scenes, save fp16 weights and a model card.

    `further` starts from the shipped weights; give it a lower `lr` and another `seed`.
    """
    torch.manual_seed(0)
    folder = world.weights / "clip"
    model, tokenizer = build(world, folder, further)
    model = model.train().to(memory_format=torch.channels_last)
    loss = open_clip.loss.ClipLoss()
    matrices = [p for p in model.parameters() if p.ndim > 1]
    others = [p for p in model.parameters() if p.ndim <= 1]
    groups = [{"params": matrices, "weight_decay": 0.05}, {"params": others, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=lr, betas=(0.9, 0.98))
    scenes = load_judging_scenes(world, shards)
    images, captions = torch.from_numpy(scenes.images), [scene.caption() for scene in scenes.scenes]
    tokens = tokenizer(captions)
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (MEAN, STD))

    def loss_of_step(step: int) -> dict[str, Tensor]:
        generator = torch.Generator().manual_seed(7_000_003 * seed + step)
        chosen = without_repeats(batches(len(images), batch_size, step, seed=3 + seed), captions)
        where = shift_and_mirror(len(chosen), SIDE, generator, mirror=world.mirrored)
        batch = degrade(to_float(images[chosen][where]), generator)
        with mixed_precision():
            image_features, text_features, scale = model((batch - mean) / std, tokens[chosen])
        return {"contrast": loss(image_features.float(), text_features.float(), scale.clamp(max=100))}

    file = world.checkpoints / "clip.pt"
    seconds = run_steps(file, steps, model, optimizer, cosine, loss_of_step, save_every=100)
    state = {k: v.half() if v.is_floating_point() else v for k, v in model.state_dict().items()}
    save_file({k: v.contiguous() for k, v in state.items()}, folder / WEIGHTS_FILE)
    quality = clip_held_out(world, Clip("embedded", folder=folder.resolve()))
    write_card(
        folder,
        f"CLIP of {world.title}",
        {
            "data": f"{len(images)} captioned renders, degraded in training; no generated picture",
            "recipe": f"{steps} steps of {batch_size} (no equal captions), ClipLoss, AdamW {lr:g} cosine, "
            f"{precision()}{earlier(folder, 'recipe') if further else ''}",
            "time": f"{seconds / 60:.0f} min on {hardware()}{earlier(folder, 'time') if further else ''}",
            "measured on": "top-1 retrieval in batches of 64 held-out renders with no two equal captions",
            **quality,
        },
    )
    print(quality)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--shards", type=int, default=4, help="of 10,000 scenes each")
    parser.add_argument("--lr", type=float, default=1.5e-3)
    parser.add_argument("--further", action="store_true", help="start from the shipped weights")
    parser.add_argument("--seed", type=int, default=0, help="of the order of renders and their degradation")
    start(main, parser)
