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
from p2p.pictures import WHOLE, colour_and_alpha, open_picture, wide_values


def read_mask(
    path: Path, pair_id: str, size: tuple[int, int] | None = None, image: Path | None = None
) -> np.ndarray:
    """Return a mask (height, width), True = the area to edit; greys count as the nearer of black and white.

    A mask of the size of the pair's own picture, `image`, comes in `size` (height, width), cropped and
    resized as the picture is, to the nearest pixel. Raises ValueError, naming the pair, where the file is no
    image, of neither size, or may mark more than one area (`mask_warnings`).
    """
    mask, _ = _read(path, pair_id)
    own = mask.shape
    if size is not None and own != size:
        pictures = picture_size(image) if image is not None else None
        if own != pictures:
            also = f", or its picture's, {pictures[1]} x {pictures[0]}" if pictures else ""
            raise ValueError(
                f"pair {pair_id!r}: mask {path} is {own[1]} x {own[0]} pixels, "
                f"allowed is the image's size, {size[1]} x {size[0]}{also}"
            )
        mask = np.asarray(fit(Image.fromarray(mask), size, Image.Resampling.NEAREST))
    return mask


def mask_warnings(path: Path, pair_id: str) -> str:
    """Say how an unusual mask was read, or that it marks nothing; "" where there is nothing to say.

    A mask of 0 and one dark value marks that value, and one whose colour is the same everywhere marks what is
    opaque; other dark masks, and those whose colour and alpha mark different areas, are a ValueError.
    """
    _, notes = _read(path, pair_id)
    return f"mask: {'; '.join(notes)}" if notes else ""


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


def _read(path: Path, pair_id: str) -> tuple[np.ndarray, list[str]]:
    try:
        image, notes = open_picture(path)
        marks, told = _marks(image)
    except ValueError as error:
        raise ValueError(f"pair {pair_id!r}: mask {path}: {error}") from error
    return marks, [*notes, *told, *([] if marks.any() else ["marks nothing"])]


def _marks(image: Image.Image) -> tuple[np.ndarray, list[str]]:
    """Return what a picture marks, by its colour or by its alpha, and a word on it where that is unusual."""
    if image.mode in WHOLE:
        return _light(wide_values(image), WHOLE[image.mode])
    colour, alpha = colour_and_alpha(image)
    grey = np.asarray(colour.convert("L"))
    if alpha is None or not _varies(np.asarray(alpha)):
        return _light(grey, 255)
    marks, told = _light(np.asarray(alpha), 255)
    if _varies(np.asarray(colour)) and not np.array_equal(marks, _light(grey, 255)[0]):
        raise ValueError("its colour and its alpha mark different areas, allowed is one of them")
    return marks, ["read from its alpha, opaque = the area to edit", *told]


def _light(values: np.ndarray, whole: float) -> tuple[np.ndarray, list[str]]:
    """Return where values are nearer to `whole` than to 0."""
    peak = values.max()
    if peak == 0 or peak > whole / 2:
        return values > whole / 2, []
    if values.min() == 0 and ((values == 0) | (values == peak)).all():
        return values == peak, [f"of 0 and {peak:g}, read as black and white"]
    raise ValueError(
        f"has no value over {peak:g} of {whole:g}, allowed are black and white, or 0 and one other value"
    )


def _varies(values: np.ndarray) -> bool:
    return bool((values != values[:1, :1]).any())
