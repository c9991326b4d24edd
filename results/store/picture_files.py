"""The pictures of a run as files: written once, told apart by a digest of their bytes, never half read.

Whether a picture looks whole costs microseconds (its size, its first and last bytes) and is asked of all
pictures when a run is resumed; its digest is compared wherever a picture is read.
"""

from __future__ import annotations

import hashlib
import io
import os
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from results.store.whole_files import framed_size, write_once

FORMATS = ("png", "jpeg")
"""How the pictures that a run makes can be saved."""
SUFFIXES = {"png": ".png", "jpeg": ".jpg"}
_SAVED: dict[str, dict[str, Any]] = {
    ".png": {"format": "PNG"},
    # Pillow's defaults, with which the published edits of PIE-Bench were saved.
    ".jpg": {"format": "JPEG", "quality": 75, "subsampling": "4:2:0"},
}
_FRAMES = {
    ".png": (b"\x89PNG\r\n\x1a\n", b"\0\0\0\0IEND\xaeB`\x82"),  # the last chunk of every PNG
    ".jpg": (b"\xff\xd8\xff", b"\xff\xd9"),
}
# What Pillow raises for bytes that are no picture or break off.
_UNREADABLE = (
    OSError, ValueError, SyntaxError, EOFError, struct.error, zlib.error, Image.DecompressionBombError,
)  # fmt: skip


class DamagedPicture(ValueError):
    """A picture of a run that cannot be read, or whose bytes are not those of its record."""

    def __init__(self, path: Path, cause: str) -> None:
        super().__init__(f"{path}: {cause}; delete it, and the next `run` makes it again")
        self.path, self.cause = path, cause


@dataclass(frozen=True)
class Digest:
    """What a record tells of its picture's file: SHA-256 in hexadecimal ("" unknown), size (0 unknown)."""

    sha256: str = ""
    size: int = 0  # bytes


def digest(content: bytes) -> Digest:
    """Return the digest of a file's bytes."""
    return Digest(hashlib.sha256(content).hexdigest(), len(content))


def write_picture(path: Path, image: Image.Image, before: Digest | None = None) -> Digest:
    """Write a picture, whole or not at all, unless it is there; return the digest of what is there.

    The path's suffix says how: `.png`, or `.jpg` for JPEG at quality 75, whose pixels are not the ones given.
    Two workers may make one picture, and their roundings differ: the first one to finish is kept, so that
    both record the same bytes. `before` is what a record tells of the picture. A file that is no picture, or
    not that one, gives way.
    """
    if path.exists():
        try:
            return digest(_bytes(path, before))
        except DamagedPicture:
            path.unlink(missing_ok=True)
    content = io.BytesIO()
    image.save(content, **_SAVED[path.suffix])
    return digest(write_once(path, content.getvalue()))


def read_picture(path: Path, told: Digest | None = None) -> Image.Image:
    """Return a picture as RGB.

    FileNotFoundError where there is none, DamagedPicture where it cannot be read or is not the one that
    `told` is of.
    """
    with Image.open(io.BytesIO(_bytes(path, told))) as image:
        return image.convert("RGB")


def looks_whole(path: Path | str, size: int = 0) -> bool:
    """Say whether a file begins and ends as one of its suffix does and has that size in bytes (0: any)."""
    found = framed_size(path, *_FRAMES[os.path.splitext(path)[1]])
    return found > 0 and size in (0, found)


def _bytes(path: Path, told: Digest | None) -> bytes:
    """Return the bytes of a picture that can be decoded and is the one that was told of."""
    content = path.read_bytes()
    if told is not None and told.sha256 and digest(content) != told:
        raise DamagedPicture(path, "is not the picture that its record tells of")
    try:
        with Image.open(io.BytesIO(content)) as image:
            image.load()
    except _UNREADABLE as error:
        raise DamagedPicture(path, f"is no whole picture ({str(error) or type(error).__name__})") from error
    return content
