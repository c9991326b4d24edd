"""The judge of the embedded world: which objects a picture shows, where each is, and in what place.

One small U-Net trained on renders only (train_judge.py), so it owes nothing to the model that it judges.
"""

from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from experiments.embedded.layout import SIDE
from experiments.embedded.world import OBJECTS, PLACES

FILE = "judge.safetensors"
WIDTHS = (48, 96, 128)  # channels at 32x32, 16x16 and 8x8


class Judge(nn.Module):
    """Objects, places and masks of (N, 3, 64, 64) float32 RGB images in [0, 1].

    Classes are numbered as in `Scenes.labels`: 0 is background, 1 + i is OBJECTS[i]. Any other shape raises
    ValueError.
    """

    def __init__(self) -> None:
        super().__init__()
        a, b, c = WIDTHS
        self.fine = nn.Sequential(nn.PixelUnshuffle(2), _conv(12, a), _conv(a, a))
        self.middle = nn.Sequential(_conv(a, b, stride=2), _conv(b, b))
        self.coarse = nn.Sequential(_conv(b, c, stride=2), _conv(c, c), _conv(c, c))
        self.to_middle = nn.Sequential(_conv(c + b, b), _conv(b, b))
        self.to_fine = nn.Sequential(_conv(b + a, a), _conv(a, a))
        self.classes = nn.Sequential(nn.Conv2d(a, 4 * (1 + len(OBJECTS)), 1), nn.PixelShuffle(2))
        self.place = nn.Linear(2 * c, len(PLACES))

    @classmethod
    def load(cls, folder: Path) -> "Judge":
        """Read trained weights from a folder."""
        judge = cls()
        judge.load_state_dict(load_file(Path(folder) / FILE))
        return judge.eval()

    def save(self, folder: Path) -> None:
        """Write the weights to a folder, floats as float16."""
        folder.mkdir(parents=True, exist_ok=True)
        state = {k: v.half() if v.is_floating_point() else v for k, v in self.state_dict().items()}
        save_file({k: v.contiguous() for k, v in state.items()}, folder / FILE)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return logits: (N, 33, 64, 64) of each pixel's class, (N, 7) of the place."""
        if images.shape[1:] != (3, SIDE, SIDE):
            raise ValueError(f"images: shape {tuple(images.shape)}, allowed is (N, 3, {SIDE}, {SIDE})")
        fine = self.fine(images * 4 - 2)
        middle = self.middle(fine)
        coarse = self.coarse(middle)
        pooled = torch.cat([coarse.mean((2, 3)), coarse.amax((2, 3))], 1)
        middle = self.to_middle(torch.cat([_double(coarse), middle], 1))
        fine = self.to_fine(torch.cat([_double(middle), fine], 1))
        return self.classes(fine), self.place(pooled)

    def objects(self, images: Tensor) -> Tensor:
        """Return the evidence that each of OBJECTS is shown: (N, 32), each in [0, 1].

        It is the largest mean probability of the object's pixels over any 7x7 square of the picture.
        """
        return torch.cat([_evidence(self._judged(part)[0]) for part in images.split(64)])

    def places(self, images: Tensor) -> Tensor:
        """Return how probable each of PLACES is: (N, 7), rows sum to 1."""
        return torch.cat([self._judged(part)[1].softmax(1) for part in images.split(64)])

    def classes_of_pixels(self, images: Tensor) -> Tensor:
        """Return each pixel's class: (N, 64, 64) integers, 0 for background, 1 + index in OBJECTS."""
        return torch.cat([self._judged(part)[0].argmax(1) for part in images.split(64)])

    def masks(self, images: Tensor) -> Tensor:
        """Return where any object is: (N, 64, 64) bool."""
        return self.classes_of_pixels(images) > 0

    def mask_of(self, images: Tensor, name: str) -> Tensor:
        """Return where one object is: (N, 64, 64) bool. Raises ValueError for an unknown name."""
        if name not in OBJECTS:
            raise ValueError(f"name: {name!r} is not one of {', '.join(OBJECTS)}")
        return self.classes_of_pixels(images) == 1 + OBJECTS.index(name)

    @torch.inference_mode()
    def _judged(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Judge where the judge is; what it says comes back to where the images are."""
        classes, place = self(images.to(self.place.weight.device))
        return classes.to(images.device), place.to(images.device)


def _evidence(classes: Tensor) -> Tensor:
    return nn.functional.avg_pool2d(classes.softmax(1)[:, 1:], 7, 1).amax((2, 3))


def _conv(channels: int, to: int, stride: int = 1) -> nn.Sequential:
    convolution = nn.Conv2d(channels, to, 3, stride, 1, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(to), nn.ReLU(inplace=True))


def _double(x: Tensor) -> Tensor:
    return nn.functional.interpolate(x, scale_factor=2, mode="nearest")
