"""Pictures of a run as 8-bit PNG files: what metrics read is what was written."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from p2p.pictures import to_pil
from results.store.picture_files import Digest, read_picture, write_picture


def write_png(image: Tensor, path: Path, before: Digest | None = None) -> Digest:
    """Write an image (3, height, width) in [0, 1] as an 8-bit PNG, unless it is there.

    Returns the digest of the file that is there: `results.store.picture_files.write_picture` says which.
    """
    return write_picture(path, to_pil(image), before)


def write_mask(mask: np.ndarray, path: Path) -> None:
    """Write a mask (height, width) bool, white = True, as an 8-bit PNG, unless it is there."""
    write_png(torch.tensor(mask).float().expand(3, -1, -1), path)


def read_png(path: Path, told: Digest | None = None) -> np.ndarray:
    """Return a picture of a run as (3, height, width) float32 in [0, 1].

    DamagedPicture where it cannot be read or is not the one that `told` is of.
    """
    return np.asarray(read_picture(path, told), np.float32).transpose(2, 0, 1) / 255
