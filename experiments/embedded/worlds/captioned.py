"""A world from a folder of captioned pictures: nothing is rendered, nothing is known but the captions.

The folder holds `captions.csv` with the columns `file` and `caption`, and the pictures. Without labels of
pixels there is neither judge nor LPIPS, and attention is not taught where to look.
"""

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from experiments.embedded.input_errors import InputError, reading
from experiments.embedded.worlds.contract import SIDE, Scenes, Sizes, World

KEPT = 10  # one picture in so many is kept for measuring


@dataclass(frozen=True)
class Captioned:
    """A picture and its caption."""

    file: str
    text: str
    kept: bool

    def caption(self) -> str:
        """Return the caption."""
        return self.text

    def reserved(self) -> bool:
        """Say whether the picture is kept for measuring."""
        return self.kept

    def named(self) -> tuple[tuple[str, tuple[int, ...]], ...]:
        """Return nothing: what is where is not known."""
        return ()

    def setting(self) -> str:
        """Return nothing: no settings are known."""
        return ""

    def attributes(self) -> tuple[float, ...]:
        """Return nothing: no attributes are known."""
        return ()


def captioned_world(name: str, folder: str | Path, weights: str | Path, sizes: Sizes) -> World:
    """Return the world of a folder's pictures; `name` is the module that holds it as WORLD.

    Raises InputError where the table or a file that it names cannot be used.
    """
    folder = Path(folder)
    rows = read_captions(folder)
    return World(
        name=name,
        title=f"the pictures of {folder.name}",
        model=folder.name,
        words=tuple(sorted({word for row in rows for word in row.text.split()})),
        max_length=2 + max(len(row.text.split()) for row in rows),
        labels=(),
        things=0,
        empty=True,
        smallest=1,
        settings=(),
        phrases=(),
        attributes=(),
        slots=1,
        subjects=1,
        mirrored=False,
        judged_all=False,
        draw=partial(draw_pictures, folder),
        read=read_row,
        other=partial(other_picture, folder),
        views=no_views,
        small_changes=(),
        growing_changes=(),
        quality="",
        sizes=sizes,
        facts={"pictures": f"{len(rows)} of the folder {folder.name}"},
        weights=Path(weights),
        checkpoints=Path("checkpoints") / folder.name,
    )


@cache
def read_captions(folder: Path) -> tuple[Captioned, ...]:
    """Return the rows of `captions.csv`, captions in lower case with single spaces between words.

    Raises InputError, with the line where a row names no picture or has no caption.
    """
    table = folder / "captions.csv"
    try:
        # The signature that some editors write at the start is dropped.
        with reading(str(table)), table.open(encoding="utf-8-sig", newline="") as lines:
            rows = list(csv.DictReader(lines))
    except (UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{table}: is no CSV in UTF-8 ({error})") from None
    captioned = []
    for number, row in enumerate(rows):
        file, text = row.get("file") or "", " ".join((row.get("caption") or "").lower().split())
        if not text or not (folder / file).is_file():
            what = f"file {file!r}, caption {text!r}"
            raise InputError(
                f"{table}, line {number + 2}: {what}; needed are a picture that exists and a caption"
            )
        captioned.append(Captioned(file, text, number % KEPT == KEPT - 1))
    if len({row.text for row in captioned if not row.kept}) < 2 or not any(row.kept for row in captioned):
        raise InputError(f"{table}: {len(captioned)} rows; needed are {KEPT} and two different captions")
    return tuple(captioned)


def draw_pictures(folder: Path, n: int, seed: Sequence[int], held_out: bool) -> Scenes:
    """Draw n pictures with their captions, cut to squares and scaled; the same one may come again."""
    rows = [row for row in read_captions(folder) if row.kept == held_out]
    chosen = [rows[i] for i in np.random.default_rng(seed).integers(len(rows), size=n)]
    images = np.stack([_picture(folder / row.file) for row in chosen])
    return Scenes(images, np.zeros((n, SIDE, SIDE), np.uint8), tuple(chosen))


def read_row(row: dict[str, Any]) -> Captioned:
    """Return the picture whose fields JSON gives."""
    return Captioned(**row)


def other_picture(folder: Path, scene: Captioned, rng: np.random.Generator) -> Captioned:
    """Return another picture of training, with another caption."""
    rows = [row for row in read_captions(folder) if not row.kept]
    while True:
        other = rows[int(rng.integers(len(rows)))]
        if other.text != scene.text:
            return other


def no_views(n: int, seed: Sequence[int], held_out: bool) -> dict[str, Any]:
    """Raise InputError: pictures that are not rendered cannot be changed on purpose."""
    raise InputError("views: pictures of a folder have none, so no LPIPS can be trained on them")


@cache
def _picture(file: Path) -> np.ndarray:
    with reading(str(file)), Image.open(file) as picture:
        return np.asarray(ImageOps.fit(picture.convert("RGB"), (SIDE, SIDE), Image.Resampling.LANCZOS))
