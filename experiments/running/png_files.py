"""Pictures of a run as 8-bit PNG files: what metrics read is what was written."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from p2p.pictures import to_pil
from results.store.whole_files import whole_file


def write_png(image: Tensor, path: Path) -> None:
    """Write an image (3, height, width) in [0, 1] as an 8-bit PNG, whole or not at all."""
    with whole_file(path) as partial:  # another worker may be making the same source image
        to_pil(image).save(partial, format="PNG")


def write_mask(mask: np.ndarray, path: Path) -> None:
    """Write a mask (height, width) bool, white = True, as an 8-bit PNG, whole or not at all."""
    write_png(torch.from_numpy(mask).float().expand(3, -1, -1), path)


def read_png(path: Path) -> np.ndarray:
    """Return an image file as (3, height, width) float32 in [0, 1]."""
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"), np.float32).transpose(2, 0, 1) / 255
