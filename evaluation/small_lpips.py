"""A small trunk for the lpips package's own distance (Zhang et al. 2018, Eq. 1), and the folder it lies in.

Folder: `lpips.json` ({"widths": [...]}) and `lpips.safetensors` (fp16; the state dict of `SmallLpips`).
"""

import json
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import lpips
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from evaluation.weights import SMALL_LPIPS

CONFIG, WEIGHTS = SMALL_LPIPS


class Features(NamedTuple):
    """Feature maps of the five stages, each (N, width, side, side)."""

    relu1: Tensor
    relu2: Tensor
    relu3: Tensor
    relu4: Tensor
    relu5: Tensor


class SmallBackbone(nn.Module):
    """Five stages of two 3x3 convolutions, each but the first after a pooling: sides 64, 32, 16, 8, 4.

    Input is what lpips' scaling layer gives: RGB with roughly zero mean and unit variance. To train it as a
    classifier, pool the last stage's map and put a linear layer on it.
    """

    def __init__(self, widths: tuple[int, ...] = (16, 32, 64, 96, 96)) -> None:
        super().__init__()
        if len(widths) != len(Features._fields) or min(widths) < 1:
            raise ValueError(f"widths is {widths}; allowed: {len(Features._fields)} positive integers")
        self.stages = nn.ModuleList(
            _stage(before, width, halve=before != 3) for before, width in pairwise((3, *widths))
        )

    def forward(self, x: Tensor) -> Features:
        """Give the five feature maps of images (N, 3, H, W), sides at least 16."""
        maps = []
        for stage in self.stages:
            x = stage(x)
            maps.append(x)
        return Features(*maps)


def _stage(before: int, width: int, halve: bool) -> nn.Sequential:
    pool: list[nn.Module] = [nn.MaxPool2d(2)] if halve else []
    convolutions: list[nn.Module] = []
    for channels in (before, width):
        convolutions += [
            nn.Conv2d(channels, width, 3, padding=1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(),
        ]
    return nn.Sequential(*pool, *convolutions)


class SmallLpips(lpips.LPIPS):
    """lpips.LPIPS on a SmallBackbone: the package's forward, scaling layer and linear heads.

    Heads start at one, the paper's uncalibrated distance; trained heads must stay non-negative.
    """

    def __init__(self, widths: tuple[int, ...] = (16, 32, 64, 96, 96)) -> None:
        nn.Module.__init__(self)  # LPIPS.__init__ knows only AlexNet, VGG and SqueezeNet
        self.version, self.lpips, self.spatial = "0.1", True, False
        self.scaling_layer = lpips.ScalingLayer()
        self.net = SmallBackbone(widths)
        self.chns, self.L = list(widths), len(widths)
        self.lins = nn.ModuleList(lpips.NetLinLayer(width, use_dropout=True) for width in widths)
        for weight in self.lins.parameters():
            nn.init.ones_(weight)


def save(model: SmallLpips, folder: Path) -> None:
    """Write the model into a folder, fp16. Raises ValueError where a linear head has a negative weight."""
    lowest = min(weight.min().item() for weight in model.lins.parameters())
    if lowest < 0:
        raise ValueError(
            f"lins has a weight of {lowest:g}; allowed: at least 0, or the distance could be negative"
        )
    folder.mkdir(parents=True, exist_ok=True)
    (folder / CONFIG).write_text(json.dumps({"widths": model.chns}) + "\n", encoding="utf-8")
    state = {
        key: value.half().contiguous() if value.is_floating_point() else value
        for key, value in model.state_dict().items()
    }
    save_file(state, folder / WEIGHTS)


def load(folder: Path) -> SmallLpips:
    """Read a model that `save` wrote: float32, in evaluation mode."""
    model = SmallLpips(tuple(json.loads((folder / CONFIG).read_text(encoding="utf-8"))["widths"]))
    model.load_state_dict(load_file(folder / WEIGHTS))
    return model.eval()
