"""Train the judge on rendered scenes: each pixel's class, the objects, the place if named.

Renders only, degraded as a small generative model might (augment.py). Run `make train-judge`.
"""

import argparse

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy

from experiments.embedded.augment import degrade, shift_and_mirror, to_float
from experiments.embedded.judge import Judge
from experiments.embedded.quality_metrics import judge_held_out
from experiments.embedded.scenes import load_training_scenes
from experiments.embedded.training import CHECKPOINTS, WEIGHTS, batches, cosine, run_steps, write_card
from experiments.embedded.world import OBJECTS, PLACES, Scene

UNNAMED = -100  # cross_entropy's ignored index: no caption, no place to learn


def targets(scenes: tuple[Scene, ...]) -> tuple[Tensor, Tensor]:
    """Return which objects each scene shows (n, 32) as 0 or 1, and its place (n,) or UNNAMED."""
    shown = torch.zeros(len(scenes), len(OBJECTS))
    for row, scene in zip(shown, scenes, strict=True):
        row[[OBJECTS.index(thing.name) for thing in scene.things]] = 1
    places = [tuple(PLACES).index(scene.place) if scene.place else UNNAMED for scene in scenes]
    return shown, torch.tensor(places)


def main(steps: int = 1200, batch_size: int = 48, shards: int = 4) -> None:
    """Train, measure on held-out scenes, save fp16 weights and a model card."""
    torch.manual_seed(0)
    judge = Judge().to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(judge.parameters(), lr=3e-3, betas=(0.9, 0.99), weight_decay=1e-2)
    scenes = load_training_scenes(CHECKPOINTS / "scenes", shards)
    images, labels = torch.from_numpy(scenes.images), torch.from_numpy(scenes.labels)
    shown, places = targets(scenes.scenes)
    weights = torch.ones(1 + len(OBJECTS))
    weights[0] = 0.5  # most pixels are background

    def loss_of_step(step: int) -> dict[str, Tensor]:
        generator = torch.Generator().manual_seed(step)
        chosen = batches(len(images), batch_size, step, seed=2)
        where = shift_and_mirror(batch_size, images.shape[1], generator)
        batch = degrade(to_float(images[chosen][where]), generator)
        with torch.autocast("cpu", torch.bfloat16):
            classes, presence, place = judge(batch)
        return {
            "pixels": cross_entropy(classes.float(), labels[chosen][where].long(), weights),
            "objects": 10 * binary_cross_entropy_with_logits(presence.float(), shown[chosen]),
            "place": 0.3 * cross_entropy(place.float(), places[chosen], ignore_index=UNNAMED),
        }

    seconds = run_steps("judge", steps, judge, optimizer, cosine, loss_of_step, save_every=200)
    folder = WEIGHTS / "judge"
    judge.save(folder)
    quality = judge_held_out(Judge.load(folder))
    write_card(
        folder,
        "Judge of the embedded world",
        {
            "data": f"{len(images)} rendered scenes, degraded in training; no generated picture",
            "recipe": f"{steps} steps of {batch_size}, AdamW 3e-3 cosine, bf16",
            "time": f"{seconds / 60:.0f} min on {torch.get_num_threads()} CPU threads",
            "measured on": "1,000 held-out renders (objects in places never trained)",
            **quality,
        },
    )
    print(quality)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=1200)
    main(steps=parser.parse_args().steps)
