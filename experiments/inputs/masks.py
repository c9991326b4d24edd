"""Masks of pairs, as input of metrics: white = the area to edit.

A run keeps a copy of each in its folder, in the size of its images, so that it can be scored again without
the data set.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from PIL import Image

from experiments.datasets.pair import Pair, raise_problems
from experiments.inputs.real_images import fit, picture_size

WHITE = 128  # of 255, and more


def read_mask(
    path: Path, pair_id: str, size: tuple[int, int] | None = None, image: Path | None = None
) -> np.ndarray:
    """Return a mask (height, width), True = the area to edit; greys count as the nearer of black and white.

    A mask of the size of the pair's own picture, `image`, comes in `size` (height, width), cropped and
    resized as the picture is, to the nearest pixel. Raises ValueError, naming the pair, where the file is no
    image, or of neither size.
    """
    try:
        with Image.open(path) as opened:
            mask = opened.convert("L")
    except OSError as error:
        raise ValueError(f"pair {pair_id!r}: mask {path}: {str(error).splitlines()[0]}") from None
    own = (mask.height, mask.width)
    if size is not None and own != size:
        pictures = picture_size(image) if image is not None else None
        if own != pictures:
            also = f", or its picture's, {pictures[1]} x {pictures[0]}" if pictures else ""
            raise ValueError(
                f"pair {pair_id!r}: mask {path} is {own[1]} x {own[0]} pixels, "
                f"allowed is the image's size, {size[1]} x {size[0]}{also}"
            )
        mask = fit(mask, size, Image.Resampling.NEAREST)
    return np.asarray(mask) >= WHITE


def mask_digest(mask: np.ndarray) -> str:
    """Return a short hash of what a mask marks."""
    return hashlib.sha256(repr(mask.shape).encode() + np.packbits(mask).tobytes()).hexdigest()[:16]


def check_sizes(pairs: Iterable[Pair], size: tuple[int, int]) -> None:
    """Raise one ValueError that names every pair whose mask fits no image of this size (height, width)."""
    problems = []
    for pair in pairs:
        try:
            if pair.mask is not None:
                read_mask(pair.mask, pair.id, size, pair.image)
        except ValueError as error:
            problems.append(str(error))
    raise_problems(problems, "the masks")
