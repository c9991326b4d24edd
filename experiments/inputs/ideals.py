"""Ideal results of edits, as input of metrics: a picture, or a folder of pictures any of which would do.

A run keeps a copy in its folder, in the size of its images.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from experiments.inputs.content_hash import content_hash
from experiments.inputs.real_images import RealImage


def ideal_images(path: Path) -> list[RealImage]:
    """Return the picture, or the folder's pictures in the order of their names.

    Raises ValueError for an empty folder and for what cannot be read as a picture.
    """
    files = [path]
    if path.is_dir():
        files = sorted(file for file in path.iterdir() if not file.name.startswith("."))
        if not files:
            raise ValueError(f"ideal = {str(path)!r}: the folder is empty, allowed are pictures")
    return [RealImage.of(file) for file in files]


def ideal_digest(path: Path) -> str:
    """Return a short hash of the pictures' bytes."""
    return content_hash([image.digest for image in ideal_images(path)])[:16]


def ideal_warnings(path: Path, size: tuple[int, int]) -> str:
    """Say what was done to the pictures for this size, each thing once; "" where nothing was."""
    return "; ".join(dict.fromkeys(filter(None, (i.fitted(size, "ideal") for i in ideal_images(path)))))


def read_ideals(path: Path, size: tuple[int, int]) -> Tensor:
    """Return the ideals (pictures, 3, height, width) in [0, 1], cropped and resized as real sources are."""
    return torch.stack([image.read(size) for image in ideal_images(path)])
