"""Thumbnails of a run's pictures, as WebP files that are made once.

A thumbnail is named after the digest of its picture's file, so that it never shows another picture than its
own, and a picture that serves several rows has one.
"""

import hashlib
import io
import os
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pandas as pd
from PIL import Image

from results.store.picture_files import DamagedPicture, Digest, read_picture
from results.store.run_folder import RunFolder
from results.store.whole_files import write_once

SIDE = 160  # pixels of the longer side, at most: cards are 150 wide, and the page shows full pictures itself
ONLY_THUMBNAIL = "the file is gone; its thumbnail is left"
QUALITY = 80  # 2 to 3 kB for a photograph


def thumbnail_path(image: str, sha256: str) -> str:
    """Return a thumbnail's path in the report's folder, given its picture's path and digest ("" unknown)."""
    name = sha256 or hashlib.sha256(image.encode("utf-8", "surrogatepass")).hexdigest()
    return f"thumbnails/{name[:1]}/{name[1:18]}.webp"


def make_thumbnails(run_dir: Path, pictures: pd.DataFrame) -> dict[str, str]:
    """Make the thumbnails that are missing; return for each picture that has none why, by its path.

    `pictures` has the columns `image`, `image_sha256` and `image_bytes` of records. Pillow releases the
    interpreter while it works, so that threads use every core.
    """
    rows = pictures.drop_duplicates("image")[["image", "image_sha256", "image_bytes"]]
    told = [(str(image), Digest(str(digest), int(size))) for image, digest, size in rows.to_numpy() if image]
    with ThreadPoolExecutor(os.cpu_count()) as threads:
        causes = threads.map(lambda one: _make(run_dir, *one), told)
        return {image: cause for (image, _), cause in zip(told, causes, strict=True) if cause}


def sweep(run_dir: Path, kept: Iterable[str]) -> None:
    """Remove thumbnails that no picture of the run has any more; `kept` are paths in the report's folder."""
    folder = RunFolder(run_dir).report
    names = {folder / path for path in kept}
    for file in folder.glob("thumbnails/*/*.webp"):
        if file not in names:
            file.unlink(missing_ok=True)


def _make(run_dir: Path, image: str, digest: Digest) -> str:
    """Make one thumbnail unless it is there; return why it cannot be made, "" where it is there."""
    target = RunFolder(run_dir).report / thumbnail_path(image, digest.sha256)
    if target.exists():
        return "" if (run_dir / image).exists() else ONLY_THUMBNAIL
    try:
        picture = read_picture(run_dir / image, digest)
    except FileNotFoundError:
        return "the file is gone"
    except DamagedPicture as error:
        return str(error).removeprefix(f"{error.path}: ")
    picture.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
    content = io.BytesIO()
    picture.save(content, format="WEBP", quality=QUALITY, method=4)
    write_once(target, content.getvalue())
    return ""
