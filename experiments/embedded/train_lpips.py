"""Train a world's LPIPS (Zhang et al. 2018): a backbone that reads scenes, non-negative heads that rank.

The backbone learns to read what captions say; the heads are fitted to it by ranking. Run `make train-lpips`.
"""

import argparse
from itertools import combinations

import lpips
import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, softplus

from evaluation.small_lpips import SmallLpips, load, save
from experiments.embedded.augment import degrade, shift_and_mirror, to_float
from experiments.embedded.input_errors import InputError
from experiments.embedded.quality_metrics import (
    distances,
    ladders,
    lpips_monotone,
    lpips_ranking,
)
from experiments.embedded.shards import load_judging_scenes
from experiments.embedded.training import (
    batches,
    cosine,
    hardware,
    mixed_precision,
    precision,
    run_steps,
    write_card,
)
from experiments.embedded.worlds import start
from experiments.embedded.worlds.contract import World

FAR = 0.5  # the mean distance of two unrelated scenes; ranks do not depend on it


class Reader(nn.Module):
    """The backbone with one linear layer on its last map: logits of the world's attributes."""

    def __init__(self, model: SmallLpips, attributes: int) -> None:
        super().__init__()
        self.scaling, self.backbone = model.scaling_layer, model.net
        self.words = nn.Linear(2 * model.chns[-1], attributes)

    def forward(self, images: Tensor) -> Tensor:
        """Return (N, attributes) logits for images in [0, 1]."""
        last = self.backbone(self.scaling(2 * images - 1))[-1]
        return self.words(torch.cat([last.mean((2, 3)), last.amax((2, 3))], 1))


@torch.inference_mode()
def differences(model: SmallLpips, a: Tensor, b: Tensor) -> Tensor:
    """Return what the heads weigh, (N, channels of all stages): mean squared differences of unit features."""
    rows = []
    for pair in zip(a.split(100), b.split(100), strict=True):
        maps = [[lpips.normalize_tensor(m) for m in model.net(model.scaling_layer(2 * x - 1))] for x in pair]
        rows.append(torch.cat([(x - y).square().mean((2, 3)) for x, y in zip(*maps, strict=True)], 1))
    return torch.cat(rows)


def nearer_and_farther(
    world: World, model: SmallLpips, n: int, seed: tuple[int, ...]
) -> tuple[Tensor, Tensor]:
    """Return `differences` of training scenes and two changes of them: the nearer and the farther ones."""
    views = world.views(n, seed, False)
    source = views["source"]
    other = differences(model, source, views[world.growing_changes[-1]])
    orders = [(differences(model, source, views[kind]), other) for kind in world.small_changes]
    for rungs in ladders(world, views).values():
        orders += combinations([differences(model, source, rung) for rung in rungs], 2)
    nearer, farther = map(list, zip(*orders, strict=True))
    return torch.cat(nearer), torch.cat(farther)


def fit_heads(model: SmallLpips, nearer: Tensor, farther: Tensor, steps: int = 300) -> None:
    """Set the heads to the non-negative weights that rank best: logistic loss on the distances' log ratio."""
    spread = farther.mean(0)
    spread = spread.clamp(min=0.01 * float(spread.mean()))  # a dead channel must not get an infinite weight
    logs = torch.zeros_like(spread, requires_grad=True)  # weights = exp(logs) / spread
    optimizer = torch.optim.Adam([logs], lr=0.03)
    for _ in range(steps):
        weights = logs.exp() / spread
        ratio = ((nearer @ weights + 1e-6) / (farther @ weights + 1e-6)).log()
        loss = 0.1 * softplus((ratio + 0.1) / 0.1).mean() + 1e-3 * logs.square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        for head, part in zip(model.lins.parameters(), (logs.exp() / spread).split(model.chns), strict=True):
            head.copy_(part.view(1, -1, 1, 1))


def main(world: World, steps: int = 1000, batch_size: int = 64, shards: int = 4, ranked: int = 1000) -> None:
    """Train, fit the heads, measure on held-out scenes, save fp16 weights and a model card."""
    if not world.attributes:
        raise InputError(f"attributes: the world {world.name!r} has none, so there is nothing to learn")
    torch.manual_seed(0)
    model = SmallLpips(world.sizes.lpips)
    reader = Reader(model, len(world.attributes)).to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(reader.parameters(), lr=3e-3, betas=(0.9, 0.99), weight_decay=1e-2)
    scenes = load_judging_scenes(world, shards)
    images = torch.from_numpy(scenes.images)
    words = torch.tensor([scene.attributes() for scene in scenes.scenes])

    def loss_of_step(step: int) -> dict[str, Tensor]:
        generator = torch.Generator().manual_seed(step)
        chosen = batches(len(images), batch_size, step, seed=4)
        where = shift_and_mirror(batch_size, images.shape[1], generator, mirror=world.mirrored)
        batch = degrade(to_float(images[chosen][where]), generator)
        with mixed_precision():
            logits = reader(batch)
        wanted = words[chosen]
        known = (wanted >= 0).float()
        return {"words": binary_cross_entropy_with_logits(logits.float(), wanted.clamp(min=0), known)}

    seconds = run_steps(
        world.checkpoints / "lpips.pt", steps, reader, optimizer, cosine, loss_of_step, save_every=200
    )
    model.eval()
    fit_heads(model, *nearer_and_farther(world, model, ranked, (8, 0)))
    views = world.views(ranked // 2, (8, 1), False)
    scale = FAR / float(distances(model, views["source"], views[world.growing_changes[-1]]).mean())
    with torch.no_grad():
        for head in model.lins.parameters():
            head.mul_(scale)
    folder = world.weights / "lpips"
    save(model, folder)
    trained = load(folder)
    quality = {f"ranks {k} below another scene": v for k, v in lpips_ranking(world, trained).items()}
    quality |= {f"grows with {k}": v for k, v in lpips_monotone(world, trained).items()}
    write_card(
        folder,
        f"LPIPS of {world.title}",
        {
            "data": f"{len(images)} degraded renders for the backbone, {ranked} further scenes for the heads",
            "recipe": f"{steps} steps of {batch_size}, AdamW 3e-3 cosine, {precision()}; then a ranking loss",
            "scale": f"two unrelated scenes are {FAR} apart in the mean",
            "time": f"{seconds / 60:.0f} min on {hardware()}",
            "measured on": "500 held-out scenes: the share of scenes that rank so, that grow at every rung",
            **quality,
        },
    )
    print(quality)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--shards", type=int, default=4, help="of 10,000 scenes each")
    start(main, parser)
