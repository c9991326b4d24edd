"""PIE-Bench (Ju et al. 2024): 700 images with two prompts, a mask and an instruction each; and PIE-Bench++.

Layout: `mapping_file.json` and `annotation_images/`. PIE-Bench++ has the same images under other prompts, so
its scores are not PIE-Bench's, and it has a name of its own.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from experiments.datasets.blended import blended_words, check_policy, report_unusable
from experiments.datasets.dataset import Dataset
from experiments.datasets.files import cache_folder, check_folder, inside, keep_image, keep_mask
from experiments.datasets.pair import Pair, checked, single_spaced
from experiments.datasets.parquet import picture, read_rows, text
from p2p.pictures import stored_grid, turn

CATEGORIES = (
    "random", "change object", "add object", "delete object", "change attribute content",
    "change attribute pose", "change attribute color", "change attribute material", "change background",
    "change style",
)  # fmt: skip
FIELDS = (
    "image_path", "original_prompt", "editing_prompt", "editing_instruction", "editing_type_id",
    "blended_word", "mask",
)  # fmt: skip
COLUMNS = ("image", "id", "source_prompt", "target_prompt", "blended_words", "mask")


def strip_brackets(prompt: str) -> str:
    """Drop the `[` and `]` around what changes, as PIE-Bench's own code does, and close up white space."""
    return single_spaced(prompt.replace("[", "").replace("]", ""))


def decode_mask(runs: Sequence[int], height: int, width: int) -> np.ndarray:
    """Decode `[start, length, start, length, ...]` over rows into (height, width) bool; True = to edit.

    Rows are those that the picture's file has, as PIE-Bench's own code reads it.

    A run is clipped at the end; one that starts beyond it is an error: the mask is of a larger image. First
    and last row and column are True, as in PIE-Bench's own code, whose annotations err there.
    """
    if len(runs) % 2 or not all(type(number) is int and number >= 0 for number in runs):
        raise ValueError("mask: must be pairs of start and length, whole numbers from 0")
    if max(runs[::2], default=0) >= height * width:
        raise ValueError(f"mask: starts a run at {max(runs[::2])}, the image has {width} x {height} pixels")
    flat = np.zeros(height * width, bool)
    for start, length in zip(runs[::2], runs[1::2], strict=True):
        flat[start : start + length] = True
    mask = flat.reshape(height, width)
    mask[[0, -1]] = mask[:, [0, -1]] = True
    return mask


@dataclass(frozen=True, kw_only=True)
class PieBench(Dataset):
    """The pairs of one folder; `edit_type` is the category that `editing_type_id` names.

    The decoded masks are kept in `cache`, by default a folder in `path`. `unusable_blend_words`: what becomes
    of pairs whose blended words are not in their prompts, "error", "drop" (the words, told in one line), or
    "published", what the published run made of them.
    """

    name: str = "pie_bench"
    path: str | Path
    cache: str | Path | None = None
    unusable_blend_words: str = "error"

    def __post_init__(self) -> None:
        check_policy("unusable_blend_words", self.unusable_blend_words)

    def read(self) -> list[Pair]:
        folder = check_folder(self.path)
        file = folder / "mapping_file.json"
        if not file.is_file():
            raise ValueError(f"path = {str(self.path)!r}: holds no mapping_file.json")
        return _pairs(self, _mapping_rows(file, folder / "annotation_images"), str(file))


@dataclass(frozen=True, kw_only=True)
class PieBenchPlusPlus(PieBench):
    """The pairs of a local copy of `UB-CVML-Group/PIE_Bench_pp`: a folder per category, named as in PIE."""

    name: str = "pie_bench_pp"

    def read(self) -> list[Pair]:
        return _pairs(self, _table_rows(Path(self.path), cache_folder(self.path, self.cache)), str(self.path))


@dataclass(frozen=True)
class _Row:
    id: str
    image: Path
    source: str
    target: str
    category: str
    blended: str
    runs: Sequence[int]
    instruction: str


def _pairs(dataset: PieBench, rows: Iterator[_Row | str], where: str) -> list[Pair]:
    """Make the pairs of all rows; a row that is a text is the problem that it has."""
    pairs, problems, unusable = [], [], []
    cache = cache_folder(dataset.path, dataset.cache)
    for row in rows:
        if isinstance(row, str):
            problems.append(row)
            continue
        source, target = strip_brackets(row.source), strip_brackets(row.target)
        words = None
        try:
            words, otherwise = blended_words(row.blended, source, target, dataset.unusable_blend_words)
            unusable += [row.id] if otherwise else []
        except ValueError as error:
            problems.append(f"id {row.id!r}: {error}")
        try:
            mask = keep_mask(_mask(row), cache / "masks", row.id)
        except (ValueError, OSError) as error:
            problems.append(f"id {row.id!r}: {error}")
            continue
        pairs.append(
            Pair(
                row.id, source, target, row.category, blend_words=words, image=row.image, mask=mask,
                instruction=row.instruction,
            )
        )  # fmt: skip
    report_unusable(dataset.name, dataset.unusable_blend_words, unusable, len(pairs))
    return checked(pairs, problems, where)


def _mask(row: _Row) -> np.ndarray:
    """Return a row's mask, turned as its picture is where EXIF says that it is turned."""
    try:
        height, width, orientation = stored_grid(row.image)
    except ValueError as error:
        raise ValueError(f"image = {str(row.image)!r}: {error}") from error
    return np.asarray(turn(Image.fromarray(decode_mask(row.runs, height, width)), orientation))


def _mapping_rows(file: Path, images: Path) -> Iterator[_Row | str]:
    try:
        mapping = json.loads(file.read_text(encoding="utf-8-sig"))
    except ValueError as error:
        raise ValueError(f"{file}: is not JSON ({error})") from error
    if not isinstance(mapping, dict):
        raise ValueError(f"{file}: must be an object of ids")
    for pair_id, fields in mapping.items():
        try:
            yield _mapping_row(pair_id, fields, images)
        except ValueError as error:
            yield f"id {pair_id!r}: {error}"


def _mapping_row(pair_id: str, fields: Any, images: Path) -> _Row:
    if not isinstance(fields, dict) or (missing := [name for name in FIELDS if name not in fields]):
        lacks = "all" if not isinstance(fields, dict) else ", ".join(missing)
        raise ValueError(f"must be an object with {', '.join(FIELDS)}; lacks {lacks}")
    fields = {**fields, "blended_word": "" if fields["blended_word"] is None else fields["blended_word"]}
    if type(fields["editing_type_id"]) is int:
        fields["editing_type_id"] = str(fields["editing_type_id"])
    for name in FIELDS[:-1]:
        if not isinstance(fields[name], str):
            raise ValueError(f"{name} = {fields[name]!r}: must be a text")
    if not isinstance(fields["mask"], list):
        raise ValueError(f"mask: must be a list of numbers, is {type(fields['mask']).__name__}")
    return _Row(
        pair_id,
        inside(images, fields["image_path"]),
        fields["original_prompt"],
        fields["editing_prompt"],
        _category(fields["editing_type_id"]),
        fields["blended_word"],
        fields["mask"],
        single_spaced(fields["editing_instruction"]),
    )


def _category(type_id: str) -> str:
    names = {str(number): name for number, name in enumerate(CATEGORIES)}
    if type_id not in names:
        raise ValueError(f"editing_type_id = {type_id!r}: must be one of {', '.join(names)}")
    return names[type_id]


def _table_rows(path: Path, cache: Path) -> Iterator[_Row | str]:
    for file, fields in read_rows(path, COLUMNS):
        try:
            # The folder of a category, or a file that bears its name: "1_change_object_80".
            name = file.parent.name if file.parent.name[:1].isdigit() else file.name
            yield _Row(
                str(fields["id"]),
                keep_image(picture(fields["image"]), cache / "images", str(fields["id"])),
                text(fields, "source_prompt"),
                text(fields, "target_prompt"),
                _category(name.split("_")[0]),
                str(fields["blended_words"] or ""),
                _runs(str(fields["mask"] or "")),
                "",
            )
        except ValueError as error:
            yield f"{file}, id {fields['id']!r}: {error}"


def _runs(text: str) -> list[int]:
    """Read the numbers of a mask, with or without brackets and commas."""
    numbers = text.replace("[", " ").replace("]", " ").replace(",", " ").split()
    if not all(number.isdecimal() for number in numbers):
        raise ValueError(f"mask = {text[:40]!r}: must be whole numbers")
    return [int(number) for number in numbers]
