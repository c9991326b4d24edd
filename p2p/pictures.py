"""Pictures in any mode of Pillow's, made upright and RGB of 8 bits, with a word on what that changed.

`experiments/README.md` has a table of what becomes of each mode.
"""

from __future__ import annotations

from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor

WHOLE = {"F": 1.0, "I": 65535.0, "I;16": 65535.0, "I;16B": 65535.0, "I;16L": 65535.0, "I;16N": 65535.0}
"""What is white in the modes of one channel that have more than 8 bits; black is 0."""
ORIENTATION = 0x0112  # EXIF's tag
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""What makes a picture of an EXIF orientation upright; any other value is upright."""


def open_picture(
    file: Path | BinaryIO, formats: tuple[str, ...] | None = None
) -> tuple[Image.Image, list[str]]:
    """Return a file's first frame, upright but in its own mode, and a word on each thing that was done to it.

    Raises ValueError, in one line, for what cannot be read as a picture.
    """
    try:
        with Image.open(file, formats=formats) as image:
            frames = getattr(image, "n_frames", 1)
            image.load()
            _check_tiff(image)
            turned, notes = upright(image)
            turned.format = image.format
    except Exception as error:  # decoders raise what their parsing meets: SyntaxError, struct.error, ...
        raise _unreadable(error) from error
    return turned, [*([f"first of {frames} frames"] if frames > 1 else []), *notes]


def stored_grid(file: Path) -> tuple[int, int, int]:
    """Return a file's height, width and EXIF orientation as they are stored, its pixels not decoded.

    Raises ValueError, in one line, for what cannot be read as a picture.
    """
    try:
        with Image.open(file) as image:
            return image.height, image.width, image.getexif().get(ORIENTATION, 1)
    except Exception as error:
        raise _unreadable(error) from error


def upright(image: Image.Image) -> tuple[Image.Image, list[str]]:
    """Return a picture turned and mirrored as its EXIF orientation says, and a word on it where it was."""
    orientation = image.getexif().get(ORIENTATION, 1)
    return turn(image, orientation), ["turned as its EXIF says"] if orientation in TURNS else []


def turn(image: Image.Image, orientation: int) -> Image.Image:
    """Return a picture of an EXIF orientation upright."""
    return image.transpose(TURNS[orientation]) if orientation in TURNS else image.copy()


def to_rgb(image: Image.Image) -> tuple[Image.Image, list[str]]:
    """Return a picture as RGB, and a word on each thing that changed its values.

    Wide values are scaled to 8 bits, transparency is composited on white, and colour spaces are converted.
    Raises ValueError, in one line, where wide values are outside their range.
    """
    if image.mode in WHOLE:
        values, whole = wide_values(image), WHOLE[image.mode]
        if whole > 255 and 0 < values.max() <= 255:
            raise ValueError(
                f"is black but for values up to {values.max():g} of {whole:g}; save values of 8 bits as such"
            )
        notes = [f"values of 0 to {whole:g} scaled to 8 bits"]
        if image.mode != "F" and (key := image.info.get("transparency")) is not None:
            notes += ["transparency composited on white"] if (values == key).any() else []
            values = np.where(values == key, whole, values)
        return Image.fromarray(np.uint8(np.rint(values / whole * 255))).convert("RGB"), notes
    colour, alpha = colour_and_alpha(image)
    if alpha is None or alpha.getextrema() == (255, 255):
        return colour, []
    white = Image.new("RGBA", image.size, "white")
    white.alpha_composite(Image.merge("RGBA", (*colour.split(), alpha)))
    return white.convert("RGB"), ["transparency composited on white"]


def wide_values(image: Image.Image) -> np.ndarray:
    """Return the values (height, width) of a picture whose mode is in `WHOLE`, 0 to that, as float64.

    Raises ValueError where any is outside.
    """
    values = np.asarray(image).astype(np.float64)
    low, high = values.min(), values.max()
    if not (low >= 0 and high <= WHOLE[image.mode]):  # nor where one is not a number
        raise ValueError(f"has values from {low:g} to {high:g}, allowed are 0 to {WHOLE[image.mode]:g}")
    return values


def colour_and_alpha(image: Image.Image) -> tuple[Image.Image, Image.Image | None]:
    """Return a picture of 8 bits as RGB, also where it is transparent, and its alpha or None."""
    if not image.has_transparency_data:
        return image.convert("RGB"), None
    straight = image.convert("LA") if image.mode == "La" else image  # Pillow converts La to nothing else
    rgba = straight.convert("RGBA")
    return rgba.convert("RGB"), rgba.getchannel("A")


def to_tensor(image: Image.Image) -> Tensor:
    """Return an RGB picture as (3, height, width), float32 in [0, 1] with 8-bit values."""
    return torch.from_numpy(np.asarray(image, np.float32).transpose(2, 0, 1) / 255)


def to_pil(image: Tensor) -> Image.Image:
    """Return an image (3, height, width) in [0, 1] as an RGB picture, rounded to 8 bits."""
    return Image.fromarray((image * 255).round().byte().permute(1, 2, 0).cpu().numpy())


def _check_tiff(image: Image.Image) -> None:
    """Raise ValueError for a wide TIFF that Pillow (13.0) reads too dark, or as its negative."""
    bits, photometric = 258, 262
    tags = getattr(image, "tag_v2", {})
    if image.mode in WHOLE and (tags.get(bits) == (12,) or tags.get(photometric) == 0):
        raise ValueError("a TIFF of 12 bits, or of more than 8 whose white is 0, which Pillow does not scale")


def _unreadable(error: Exception) -> ValueError:
    cause = (str(error) or type(error).__name__).splitlines()[0]
    if isinstance(error, UnidentifiedImageError):  # whose own text names an object in memory
        cause = "damaged, or of no known format"
    return ValueError(f"cannot be read as a picture ({cause})")
