"""Real source images: told apart by their bytes, read as RGB, cropped and resized to the model's size.

The largest centred rectangle of the model's shape is kept and resized with Lanczos's filter; a picture of the
model's size stays as it is.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from pathlib import Path

from PIL import Image
from torch import Tensor

from p2p.pictures import open_picture, to_rgb, to_tensor

RULE = "centre, lanczos"  # part of the content keys: another rule gives other pixels


@dataclass(frozen=True)
class RealImage:
    """A picture file, and the hash of its bytes and of how they are read where that changes values."""

    path: Path = field(compare=False)
    digest: str

    @classmethod
    def of(cls, path: Path) -> RealImage:
        """Return the file's image. Raises ValueError where it cannot be read as one."""
        _, _, changed = _open(path)
        content = path.read_bytes() + "; ".join(changed).encode()
        return cls(path, hashlib.sha256(content).hexdigest())

    def read(self, size: tuple[int, int]) -> Tensor:
        """Return the picture (3, height, width), float32 in [0, 1] with 8-bit values, in this size."""
        return to_tensor(fit(_open(self.path)[0], size, Image.Resampling.LANCZOS))

    def fitted(self, size: tuple[int, int], name: str = "image") -> str:
        """Say, after a name, what was done to the picture for this size; "" where nothing was."""
        picture, told, changed = _open(self.path)
        told = [*told, *changed]
        height, width = size
        if picture.size != (width, height):
            left, top, right, bottom = _centre(picture, size)
            kept = f"{right - left}x{bottom - top}"
            told += [f"{picture.width}x{picture.height}, centre {kept} kept, resized to {width}x{height}"]
        return f"{name}: {'; '.join(told)}" if told else ""


def read_rgb(path: Path) -> tuple[Image.Image, list[str]]:
    """Return a picture file as RGB, upright, and a word on each thing that was done for that.

    Raises ValueError, naming the file, where it cannot be read.
    """
    picture, told, changed = _open(path)
    return picture, [*told, *changed]


def fit(picture: Image.Image, size: tuple[int, int], resample: Image.Resampling) -> Image.Image:
    """Return the centre of a picture, as much as has the shape of `size` (height, width), in that size."""
    height, width = size
    if picture.size == (width, height):
        return picture
    # Cropped first: given a box, Pillow's filter also looks at what is outside.
    return picture.crop(_centre(picture, size)).resize((width, height), resample)


def picture_size(path: Path) -> tuple[int, int]:
    """Return a picture file's height and width, as it is read. Raises ValueError where it cannot be."""
    picture, _, _ = _open(path)
    return picture.height, picture.width


def _centre(picture: Image.Image, size: tuple[int, int]) -> tuple[int, int, int, int]:
    """Return the box of the largest centred rectangle that has the shape of `size` (height, width)."""
    height, width = size
    scale = min(picture.width / width, picture.height / height)
    kept_width, kept_height = max(1, round(width * scale)), max(1, round(height * scale))
    left, top = (picture.width - kept_width) // 2, (picture.height - kept_height) // 2
    return left, top, left + kept_width, top + kept_height


def _open(path: Path) -> tuple[Image.Image, list[str], list[str]]:
    """Return a file as RGB, what was done to the file's grid of pixels, and what to their values."""
    try:
        image, told = open_picture(path)
        picture, changed = to_rgb(image)
    except ValueError as error:
        raise ValueError(f"image = {str(path)!r}: {error}") from error
    return picture, told, changed
