"""Masks of pairs, as input of metrics: white = the area to edit.

A run keeps a copy of each in its folder, so that it can be scored again without the data set.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from PIL import Image

from experiments.datasets.pair import raise_problems

WHITE = 128  # of 255, and more


def read_mask(path: Path, pair_id: str, size: tuple[int, int] | None = None) -> np.ndarray:
    """Return a mask (height, width), True = the area to edit; greys count as the nearer of black and white.

    Raises ValueError, naming the pair, where the file is no image or not of `size` (height, width).
    """
    try:
        with Image.open(path) as image:
            mask = np.asarray(image.convert("L")) >= WHITE
    except OSError as error:
        raise ValueError(f"pair {pair_id!r}: mask {path}: {str(error).splitlines()[0]}") from None
    if size is not None and mask.shape != size:
        raise ValueError(
            f"pair {pair_id!r}: mask {path} is {mask.shape[1]} x {mask.shape[0]} pixels, "
            f"allowed is the image's size, {size[1]} x {size[0]}"
        )
    return mask


def mask_digest(mask: np.ndarray) -> str:
    """Return a short hash of what a mask marks."""
    return hashlib.sha256(repr(mask.shape).encode() + np.packbits(mask).tobytes()).hexdigest()[:16]


def check_sizes(masks: Iterable[tuple[str, Path]], size: tuple[int, int]) -> None:
    """Raise one ValueError that names every pair whose mask is not of the images' size (height, width)."""
    problems = []
    for pair_id, path in masks:
        try:
            read_mask(path, pair_id, size)
        except ValueError as error:
            problems.append(str(error))
    raise_problems(problems, "the masks")
