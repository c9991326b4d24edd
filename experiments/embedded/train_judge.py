"""Train a world's judge on its rendered scenes: each pixel's class, and the setting if named.

Renders only, degraded as a small generative model might (augment.py). Run `make train-judge`.
"""

import argparse
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from experiments.embedded.augment import degrade, shift_and_mirror, to_float
from experiments.embedded.input_errors import InputError, reading
from experiments.embedded.judge import Judge
from experiments.embedded.quality_metrics import judge_held_out
from experiments.embedded.shards import load_judging_scenes
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
from experiments.embedded.worlds.contract import Scene, World

UNNAMED = -100  # cross_entropy's ignored index: no caption, no setting to learn


def named_settings(world: World, scenes: Sequence[Scene]) -> Tensor:
    """Return the number of each scene's setting (n,), or UNNAMED."""
    return torch.tensor([world.settings.index(s.setting()) if s.setting() else UNNAMED for s in scenes])


def main(
    world: World,
    steps: int = 3000,
    batch_size: int = 48,
    shards: int = 10,
    lr: float = 3e-3,
    further: bool = False,
    seed: int = 0,
) -> None:
    """Train, measure on held-out scenes, save fp16 weights and a model card.

    `further` starts from the shipped weights; give it a lower `lr` and another `seed`.
    """
    if not world.labels:
        raise InputError(f"labels: the world {world.name!r} has none, so there is nothing to learn")
    torch.manual_seed(0)
    folder = world.weights / "judge"
    with reading(f"further: {folder}"):
        judge = Judge.load(folder, world).train() if further else Judge(world)
    judge = judge.to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(judge.parameters(), lr=lr, betas=(0.9, 0.99), weight_decay=1e-2)
    scenes = load_judging_scenes(world, shards)
    images, labels = torch.from_numpy(scenes.images), torch.from_numpy(scenes.labels)
    settings = named_settings(world, scenes.scenes)
    weights = torch.ones(1 + len(world.labels))
    weights[0] = 0.5  # most pixels are background

    def loss_of_step(step: int) -> dict[str, Tensor]:
        generator = torch.Generator().manual_seed(7_000_003 * seed + step)
        chosen = batches(len(images), batch_size, step, seed=2 + seed)
        where = shift_and_mirror(batch_size, images.shape[1], generator, mirror=world.mirrored)
        batch = degrade(to_float(images[chosen][where]), generator)
        with mixed_precision():
            classes, setting = judge(batch)
        return {
            "pixels": cross_entropy(classes.float(), labels[chosen][where].long(), weights),
            "setting": 0.3 * cross_entropy(setting.float(), settings[chosen], ignore_index=UNNAMED),
        }

    file = world.checkpoints / "judge.pt"
    seconds = run_steps(file, steps, judge, optimizer, cosine, loss_of_step, save_every=200)
    judge.save(folder)
    quality = judge_held_out(Judge.load(folder, world))
    write_card(
        folder,
        f"Judge of {world.title}",
        {
            "data": f"{len(images)} rendered scenes, degraded in training; no generated picture",
            "recipe": f"{steps} steps of {batch_size}, AdamW {lr:g} cosine, {precision()}"
            f"{earlier(folder, 'recipe') if further else ''}",
            "time": f"{seconds / 60:.0f} min on {hardware()}{earlier(folder, 'time') if further else ''}",
            "measured on": "1,000 new renders of reserved combinations",
            **quality,
        },
    )
    print(quality)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument("--shards", type=int, default=10, help="of 10,000 scenes each")
    parser.add_argument("--lr", type=float, default=3e-3)
    parser.add_argument("--further", action="store_true", help="start from the shipped weights")
    parser.add_argument("--seed", type=int, default=0, help="of the order of renders and their degradation")
    start(main, parser)
