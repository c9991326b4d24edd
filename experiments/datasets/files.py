"""Pictures of published sets: found inside their folder, or unpacked from a table, under safe names.

Whatever names a file there is untrusted text, and no path is made from it unchecked. What is unpacked goes to
a cache folder, `.p2p-bench` beside the data, under the hash of its content, so that it is never stale.
"""

import hashlib
import io
from collections.abc import Callable
from pathlib import Path, PurePosixPath

import numpy as np
from PIL import Image

from experiments.datasets.pair import slug
from p2p.pictures import open_picture
from results.store.whole_files import whole_file

CACHE = ".p2p-bench"
SUFFIXES = {"PNG": ".png", "JPEG": ".jpg", "WEBP": ".webp"}
MPO = "MPO"  # what Pillow calls a JPEG of several pictures, as some phones take; read by the JPEG plugin


def inside(folder: Path, name: str) -> Path:
    """Return the file `name` (with `/`) of a folder. ValueError where there is none or it lies outside."""
    relative = PurePosixPath(name)
    if not name or relative.is_absolute() or ".." in relative.parts or "\\" in name or "\0" in name:
        raise ValueError(f"{name!r}: must be a path inside {folder}")
    path = folder / relative
    if not path.is_file():
        raise ValueError(f"{name!r}: there is no such file in {folder}")
    if not path.resolve().is_relative_to(folder.resolve()):
        raise ValueError(f"{name!r}: leads out of {folder}")
    return path


def check_folder(path: str | Path, name: str = "path") -> Path:
    """Return the folder. ValueError where there is none."""
    folder = Path(path).expanduser()
    if not folder.is_dir():
        raise ValueError(f"{name} = {str(path)!r}: there is no such folder")
    return folder


def cache_folder(path: str | Path, cache: str | Path | None) -> Path:
    """Return the folder to unpack to: in `cache`, or else beside the data."""
    data = Path(path).expanduser()
    return (
        Path(cache).expanduser() if cache is not None else data.parent if data.is_file() else data
    ) / CACHE


def keep_image(content: bytes, folder: Path, pair_id: str) -> Path:
    """Write an encoded PNG, JPEG or WebP as it is; return its path. ValueError where it is none."""
    image, _ = open_picture(io.BytesIO(content), formats=tuple(SUFFIXES))
    suffix = SUFFIXES["JPEG" if image.format == MPO else str(image.format)]
    return _keep(content, suffix, folder, pair_id, lambda: content)


def keep_mask(mask: np.ndarray, folder: Path, pair_id: str) -> Path:
    """Write a mask (height, width) bool as a PNG, white = True; return its path."""

    def encode() -> bytes:
        file = io.BytesIO()
        Image.fromarray(np.where(mask, 255, 0).astype(np.uint8)).save(file, "PNG")
        return file.getvalue()

    return _keep(repr(mask.shape).encode() + np.packbits(mask).tobytes(), ".png", folder, pair_id, encode)


def _keep(content: bytes, suffix: str, folder: Path, pair_id: str, encode: Callable[[], bytes]) -> Path:
    path = folder / f"{slug(pair_id)}-{hashlib.sha256(content).hexdigest()[:16]}{suffix}"
    if not path.exists():
        with whole_file(path) as partial:  # another worker may be unpacking the same picture
            partial.write_bytes(encode())
    return path
