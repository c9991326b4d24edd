"""The judge of a world: which things a picture shows, where each is, and in what setting.

One small U-Net trained on renders only (train_judge.py), so it owes nothing to the model that it judges.
"""

from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from experiments.embedded.worlds.contract import SIDE, World

FILE = "judge.safetensors"
CLOSE = 2  # pixels from a thing
FEWEST = 4  # pixels of what surrounds things that are more than a slip


@dataclass(frozen=True)
class Seen:
    """What a judge sees in N images, looked at once."""

    things: Tensor  # (N, world.things) in [0, 1], as `Judge.things`
    settings: Tensor  # (N, settings), rows sum to 1
    classes: Tensor  # (N, 64, 64) integers, as `Judge.classes_of_pixels`


class Judge(nn.Module):
    """Things, settings and masks of (N, 3, 64, 64) float32 RGB images in [0, 1].

    Classes are numbered as in `Scenes.labels`: 0 is background, 1 + i is `world.labels[i]`. Any other shape
    raises ValueError.
    """

    def __init__(self, world: World) -> None:
        super().__init__()
        self.world = world
        a, b, c = world.sizes.judge
        self.fine = nn.Sequential(nn.PixelUnshuffle(2), _conv(12, a), _conv(a, a))
        self.middle = nn.Sequential(_conv(a, b, stride=2), _conv(b, b))
        self.coarse = nn.Sequential(_conv(b, c, stride=2), _conv(c, c), _conv(c, c))
        self.to_middle = nn.Sequential(_conv(c + b, b), _conv(b, b))
        self.to_fine = nn.Sequential(_conv(b + a, a), _conv(a, a))
        self.classes = nn.Sequential(nn.Conv2d(a, 4 * (1 + len(world.labels)), 1), nn.PixelShuffle(2))
        self.place = nn.Linear(2 * c, len(world.settings))

    @classmethod
    def load(cls, folder: Path, world: World) -> "Judge":
        """Read the trained weights of a world from a folder."""
        judge = cls(world)
        judge.load_state_dict(load_file(Path(folder) / FILE))
        return judge.eval()

    def save(self, folder: Path) -> None:
        """Write the weights to a folder, floats as float16."""
        folder.mkdir(parents=True, exist_ok=True)
        state = {k: v.half() if v.is_floating_point() else v for k, v in self.state_dict().items()}
        save_file({k: v.contiguous() for k, v in state.items()}, folder / FILE)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return logits: (N, 1 + labels, 64, 64) of each pixel's class, (N, settings) of the setting."""
        if images.shape[1:] != (3, SIDE, SIDE):
            raise ValueError(f"images: shape {tuple(images.shape)}, allowed is (N, 3, {SIDE}, {SIDE})")
        fine = self.fine(images * 4 - 2)
        middle = self.middle(fine)
        coarse = self.coarse(middle)
        pooled = torch.cat([coarse.mean((2, 3)), coarse.amax((2, 3))], 1)
        middle = self.to_middle(torch.cat([_double(coarse), middle], 1))
        fine = self.to_fine(torch.cat([_double(middle), fine], 1))
        return self.classes(fine), self.place(pooled)

    def look(self, images: Tensor) -> Seen:
        """Return all that is seen in images, of one pass through the network."""
        n, side = self.world.things, self.world.smallest
        seen = [
            (_evidence(classes, n, side), setting.softmax(1), classes.argmax(1))
            for classes, setting in map(self._judged, images.split(64))
        ]
        return Seen(*(torch.cat(part) for part in zip(*seen, strict=True)))

    def things(self, images: Tensor) -> Tensor:
        """Return the evidence that each of the world's things is shown: (N, world.things), each in [0, 1].

        It is the largest mean probability of the thing's pixels over any square of the picture whose side is
        `world.smallest`.
        """
        return self.look(images).things

    def settings(self, images: Tensor) -> Tensor:
        """Return how probable each of the world's settings is: (N, settings), rows sum to 1."""
        return self.look(images).settings

    def classes_of_pixels(self, images: Tensor) -> Tensor:
        """Return each pixel's class: (N, 64, 64) integers, 1 + index in the labels, else 0."""
        return self.look(images).classes

    def masks(self, images: Tensor) -> Tensor:
        """Return where any of the world's things is: (N, 64, 64) bool."""
        classes = self.classes_of_pixels(images)
        return (classes > 0) & (classes <= self.world.things)

    def mask_of(self, images: Tensor, name: str) -> Tensor:
        """Return where one label is: (N, 64, 64) bool. Raises ValueError for an unknown name."""
        labels = self.world.labels
        if name not in labels:
            raise ValueError(f"name: {name!r} is not one of {', '.join(labels)}")
        return self.classes_of_pixels(images) == 1 + labels.index(name)

    def surroundings(self, classes: Tensor) -> Tensor:
        """Return the share of what surrounds things that lies close to one: (N, labels - things) in [0, 1].

        `classes` (N, 64, 64) are each pixel's, as `classes_of_pixels` returns them.
        An organ that has a lesion has nearly all the more of itself at it the smaller it is. All 0 where no
        thing is seen, and for what is hidden altogether.
        """
        things = self.world.things
        if things == len(self.world.labels):
            return torch.zeros(len(classes), 0)
        seen = ((classes > 0) & (classes <= things)).float()[:, None]
        close = nn.functional.max_pool2d(seen, 2 * CLOSE + 1, 1, CLOSE)[:, 0]
        numbers = range(1 + things, 1 + len(self.world.labels))
        organs = torch.stack([classes == number for number in numbers], 1).float()
        near, all_of_it = (organs * close[:, None]).sum((2, 3)), organs.sum((2, 3))
        return near / all_of_it.clamp(min=FEWEST)

    @torch.inference_mode()
    def _judged(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Judge where the judge is; what it says comes back to where the images are."""
        classes, place = self(images.to(self.place.weight.device))
        return classes.to(images.device), place.to(images.device)


def _evidence(classes: Tensor, things: int, side: int) -> Tensor:
    return nn.functional.avg_pool2d(classes.softmax(1)[:, 1 : 1 + things], side, 1).amax((2, 3))


def _conv(channels: int, to: int, stride: int = 1) -> nn.Sequential:
    convolution = nn.Conv2d(channels, to, 3, stride, 1, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(to), nn.ReLU(inplace=True))


def _double(x: Tensor) -> Tensor:
    return nn.functional.interpolate(x, scale_factor=2, mode="nearest")
