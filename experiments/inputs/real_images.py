"""Real source images: told apart by their bytes, cropped and resized to the model's size.

The largest centred rectangle of the model's shape is kept and resized with Lanczos's filter; a picture of the
model's size stays as it is.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

RULE = "centre, lanczos"  # part of the content keys: another rule gives other pixels


@dataclass(frozen=True)
class RealImage:
    """A picture file and the hash of its bytes."""

    path: Path = field(compare=False)
    digest: str

    @classmethod
    def of(cls, path: Path) -> RealImage:
        """Return the file's image. Raises ValueError where it cannot be read as one."""
        _open(path)
        return cls(path, hashlib.sha256(path.read_bytes()).hexdigest())

    def read(self, size: tuple[int, int]) -> Tensor:
        """Return the picture (3, height, width), float32 in [0, 1] with 8-bit values, in this size."""
        picture = fit(_open(self.path), size, Image.Resampling.LANCZOS)
        pixels = np.asarray(picture, np.float32).transpose(2, 0, 1) / 255
        return torch.from_numpy(pixels)

    def fitted(self, size: tuple[int, int]) -> str:
        """Say what was done to the picture for this size; "" where nothing was."""
        picture = _open(self.path)
        height, width = size
        if picture.size == (width, height):
            return ""
        left, top, right, bottom = _centre(picture, size)
        kept = f"{right - left}x{bottom - top}"
        return f"image: {picture.width}x{picture.height}, centre {kept} kept, resized to {width}x{height}"


def fit(picture: Image.Image, size: tuple[int, int], resample: Image.Resampling) -> Image.Image:
    """Return the centre of a picture, as much as has the shape of `size` (height, width), in that size."""
    height, width = size
    if picture.size == (width, height):
        return picture
    # Cropped first: given a box, Pillow's filter also looks at what is outside.
    return picture.crop(_centre(picture, size)).resize((width, height), resample)


def picture_size(path: Path) -> tuple[int, int]:
    """Return a picture file's height and width, as it is read. Raises ValueError where it cannot be."""
    picture = _open(path)
    return picture.height, picture.width


def _centre(picture: Image.Image, size: tuple[int, int]) -> tuple[int, int, int, int]:
    """Return the box of the largest centred rectangle that has the shape of `size` (height, width)."""
    height, width = size
    scale = min(picture.width / width, picture.height / height)
    kept_width, kept_height = max(1, round(width * scale)), max(1, round(height * scale))
    left, top = (picture.width - kept_width) // 2, (picture.height - kept_height) // 2
    return left, top, left + kept_width, top + kept_height


def _open(path: Path) -> Image.Image:
    try:
        with Image.open(path) as image:
            return ImageOps.exif_transpose(image).convert("RGB")
    except (OSError, ValueError, Image.DecompressionBombError) as error:
        cause = str(error).splitlines()[0]
        raise ValueError(f"image = {str(path)!r}: cannot be read as a picture ({cause})") from error
