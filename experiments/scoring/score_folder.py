"""Score images that any other tool made, so that they get the same records, metrics and tables as a run.

An image belongs to the pair whose id it is named after, else to the pair whose own image has the same name
(`Pair.image`), suffix of the format and folders aside: `000000000000.jpg`, `out/1_change/111000000000.png`,
with `--suffix _fake_B` `horse_7_fake_B.png`. An id may hold folders and a picture's suffix, `a/b.png`; one
with characters that no file has is matched by its slug. Masks of pairs are of the size of their sources.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import logging
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import pandas as pd
import torch
from PIL import Image

from evaluation.metric import Metric
from experiments.datasets.dataset import Dataset
from experiments.datasets.files import check_folder
from experiments.datasets.pair import Pair, raise_problems, slug
from experiments.datasets.tabular import Table
from experiments.inputs.ideals import ideal_digest, ideal_warnings, read_ideals
from experiments.inputs.masks import mask_digest, mask_warnings, read_mask
from experiments.inputs.real_images import read_rgb
from experiments.running.png_files import write_mask, write_png
from experiments.running.provenance import read_provenance
from experiments.scoring.score_run import check_metrics, evaluate_run
from results.store.picture_files import Digest
from results.store.records import (
    NOTHING,
    RECORD_IDENTITY,
    forget_records,
    has_records,
    load_records,
    merge_rows,
    write_records,
)
from results.store.run_folder import ideal_path, ideals_folder, pair_folder, picture_path
from results.store.upkeep import make_ready
from results.tables.cells import GIVEN

_log = logging.getLogger(__name__)
SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff")
MODEL = "given images"
MISSING = ("error", "skip")
_GIVEN_IMAGE = {**NOTHING, "guidance_rescale": 0.0, "seconds": 0.0, "model": MODEL, "status": "ok"}


@dataclass(frozen=True)
class Folder:
    """The command: edited images, their sources (None = each pair's own `image`), where results go."""

    edits: Path
    source: Path | None
    run_dir: Path
    method: str
    suffix: str = ""
    source_suffix: str = ""
    resize: bool = False  # edits to the size of their source, bicubic
    panel: bool = False  # edits are sheets of several images, themselves in the corner at the bottom right
    uses_mask: bool = False  # whether the tool was given the pairs' masks
    missing: str = "error"  # what becomes of pairs without an image or a source, one of MISSING

    @property
    def params(self) -> dict[str, str]:
        """What was done to the edits, as parameters of the method."""
        resized = {"resize": "bicubic"} if self.resize else {}
        return resized | ({"panel": "bottom right"} if self.panel else {})


def score_folder(given: Folder, dataset: Dataset, metrics: Sequence[Metric]) -> int:
    """Copy images and write records and metrics to `run_dir`; return the number of groups that failed.

    ValueError lists every image that is missing, ambiguous, unreadable or of another size than its source.
    With `missing` "skip" pairs that miss an image are failed records, counted in tables, and told on stderr.
    """
    if given.method in GIVEN:
        raise ValueError(f"method {given.method!r}: means no edit in tables, --method gives it another name")
    _check_folder_is_the_same(given)
    check_metrics(metrics, given.run_dir)
    matches, missing = _match(given, dataset.load())
    for line in make_ready(given.run_dir):
        _log.warning(line)
    rows = _rows(given, dataset.name, matches)
    rows += [_missing_row(given, dataset.name, pair, error.cause) for pair, error in missing]
    frame = pd.DataFrame(rows)
    _check_sources_are_of_one_data_set(given, dataset.name, frame)
    write_records(given.run_dir, rows)  # as the table of pairs now labels them
    kept = pd.MultiIndex.from_frame(frame[RECORD_IDENTITY])

    def outdated(records: pd.DataFrame) -> pd.Series:  # what this method had before gives way
        told = pd.MultiIndex.from_frame(records[RECORD_IDENTITY])
        return _are_of(given.method, records) & ~told.isin(kept)

    forget_records(given.run_dir, outdated)
    _tell(rows)
    failed = evaluate_run(given.run_dir, metrics, {row["key"] for row in rows})
    merge_rows(given.run_dir)
    return failed


def _check_folder_is_the_same(given: Folder) -> None:
    """Raise ValueError where the run has images of another folder under the name of this method."""
    for call in read_provenance(given.run_dir):
        before = call["config"].get("evaluate", {})
        if before.get("method") == given.method and Path(before["edits"]) != given.edits.resolve():
            raise ValueError(
                f"{given.run_dir}: has images of {before['edits']} as method {given.method!r}; give --method "
                "or --run-dir another name"
            )


def _check_sources_are_of_one_data_set(given: Folder, dataset: str, rows: pd.DataFrame) -> None:
    """Raise ValueError where another method's sources are the same pictures of another data set.

    A picture is recorded once, so it would be missing from the tables of one of the two.
    """
    if not has_records(given.run_dir):
        return
    records = load_records(given.run_dir)
    others = records["method"].eq("source") & ~_are_of(given.method, records)
    sources = records[others & records["dataset"].ne(dataset)]
    told = pd.MultiIndex.from_frame(sources[RECORD_IDENTITY])
    shared = sources[told.isin(pd.MultiIndex.from_frame(rows[RECORD_IDENTITY]))]
    if len(shared):
        other = shared["dataset"].iloc[0]
        raise ValueError(
            f"{given.run_dir}: has sources of these pairs as data set {other!r}, now they are "
            f"of {dataset!r}; give --run-dir another name"
        )


def _are_of(method: str, records: pd.DataFrame) -> pd.Series:
    """Mark the records of the groups that a method's folder made."""
    return records["group"].str.fullmatch(rf"{re.escape(slug(method))}-(\d+x\d+|missing)")


Match = tuple[Pair, Path, Path]
"""A pair with its source and its edited image."""


class _NotThere(ValueError):
    """A pair has no image, or no source."""

    def __init__(self, names: Iterable[str], folder: Path) -> None:
        super().__init__(f"{' or '.join(map(repr, names))} is no image in {folder}")
        self.cause = f"no image in {folder}"


def _match(given: Folder, pairs: Sequence[Pair]) -> tuple[list[Match], list[tuple[Pair, _NotThere]]]:
    """Find the images of every pair and look at them; return also the pairs to leave out, and why.

    ValueError lists everything that is wrong.
    """
    edits = _index(check_folder(given.edits, "folder"), given.suffix)
    sources = _index(check_folder(given.source, "source"), given.source_suffix) if given.source else None
    matches, missing, problems = [], [], []
    taken: dict[Path, str] = {}
    for pair in pairs:
        try:
            file, source = _find(edits, pair, given.edits, given.suffix), pair.image
            if (other := taken.setdefault(file, pair.id)) != pair.id:
                raise ValueError(f"{file} is the image of id {other!r} already")
            if given.source is not None and sources is not None:
                source = _find(sources, pair, given.source, given.source_suffix)
            if source is None:
                raise ValueError("has no image of its own, so --source must be given")
            before, _ = read_rgb(source)
            _edit(given, file, before.size)
            if pair.mask is not None:
                read_mask(pair.mask, pair.id, (before.height, before.width))
            matches.append((pair, source, file))
        except _NotThere as error:
            missing.append((pair, error))
        except (ValueError, OSError) as error:
            problems.append(f"id {pair.id!r}: {error}")
    if given.missing == "error" or not matches:
        hint = "; --missing=skip leaves it out" if matches else ""
        problems += [f"id {pair.id!r}: {error}{hint}" for pair, error in missing]
    raise_problems(problems, str(given.edits))
    return matches, missing


def _index(folder: Path, suffix: str) -> dict[str, list[Path]]:
    """Map the name of every picture under a folder, without format and `suffix`, to its files.

    One in a subfolder has two names, `b` and `a/b`.
    """
    index: dict[str, list[Path]] = {}
    for file in sorted(folder.rglob("*")):
        if file.suffix.lower() in SUFFIXES and file.stem.endswith(suffix):
            name = file.stem.removesuffix(suffix)
            for key in dict.fromkeys((name, (file.relative_to(folder).parent / name).as_posix())):
                index.setdefault(key, []).append(file)
    return index


def _find(index: Mapping[str, list[Path]], pair: Pair, folder: Path, suffix: str) -> Path:
    names = [pair.id, slug(pair.id), *([pair.image.stem] if pair.image else [])]
    if (path := PurePosixPath(pair.id)).suffix.lower() in SUFFIXES:
        names.insert(1, str(path.with_suffix("")))
    files = next((index[name] for name in names if name in index), [])
    if len(files) != 1:
        looked = dict.fromkeys(name + suffix for name in names)
        if not files:
            raise _NotThere(looked, folder)
        told = ", ".join(map(str, files))
        raise ValueError(f"{' or '.join(map(repr, looked))} stands for {told} in {folder}")
    return files[0]


def _edit(given: Folder, file: Path, size: tuple[int, int]) -> tuple[Image.Image, list[str]]:
    """Return an edited image in its source's size (width, height), and what was done to read it.

    Raises ValueError for any other size.
    """
    image, told = read_rgb(file)
    sizes = f"{file} is {image.width} x {image.height}, its source {size[0]} x {size[1]}"
    if given.panel:  # as PIE-Bench's own code crops what its editors write
        left, top = image.width - size[0], image.height - size[1]
        if left < 0 or top < 0:
            raise ValueError(f"{sizes}, which is no panel of it")
        image = image.crop((left, top, image.width, image.height))
    if image.size != size and not given.resize:
        raise ValueError(
            f"{sizes}; --resize scales it to the source's size, --panel takes its bottom right corner"
        )
    return image.resize(size, Image.Resampling.BICUBIC), told  # the same, if it has the size


def _rows(given: Folder, dataset: str, matches: Sequence[Match]) -> list[dict[str, Any]]:
    rows = []
    for pair, source, file in matches:
        opened, told_source = read_rgb(source)
        edited, told_edit = _edit(given, file, opened.size)
        before, after = np.asarray(opened), np.asarray(edited)
        height, width = before.shape[:2]
        folder = pair_folder(slug(pair.id), seed=0)
        masks: list[np.ndarray] = []
        mask_path = told_mask = ideals = of_mask = of_ideal = ""
        if pair.mask is not None:
            masks = [read_mask(pair.mask, pair.id, (height, width))]
            of_mask = mask_warnings(pair.mask, pair.id)
            told_mask = mask_digest(masks[0])
            mask_path = picture_path(folder, "mask", told_mask)
            write_mask(masks[0], given.run_dir / mask_path)
        if pair.ideal is not None:
            ideals = ideals_folder(folder, ideal_digest(pair.ideal))
            of_ideal = ideal_warnings(pair.ideal, (height, width))
            for number, ideal in enumerate(read_ideals(pair.ideal, (height, width))):
                write_png(ideal, given.run_dir / ideal_path(ideals, number))
        source_key, key = (
            _key(pair, ideals, before, *masks),
            _key(pair, ideals, before, after, *masks),
        )
        source_path = picture_path(folder, "source", source_key)
        path = picture_path(folder, slug(given.method), key)
        source_digest = _write(before, given.run_dir / source_path)
        digest = _write(after, given.run_dir / path)
        common = {
            # Images of one size are scored together.
            **_common(dataset, pair, f"{slug(given.method)}-{width}x{height}"),
            "source_image": source_path,
            "mask": mask_path,
            "mask_digest": told_mask,
            "ideal": ideals,
        }
        rows += [
            {
                **common, "key": source_key, "method": "source", "image": source_path,
                "image_sha256": source_digest.sha256, "image_bytes": source_digest.size,
                "target_prompt": pair.source_prompt,
                "warnings": _warnings(f"image: {'; '.join(told_source)}" if told_source else "", of_mask),
            },
            {
                **common, **_of_tool(given), "key": key, "image": path, "target_prompt": pair.target_prompt,
                "image_sha256": digest.sha256, "image_bytes": digest.size,
                "warnings": _warnings("; ".join([f"image of {file.name}", *told_edit]), of_mask, of_ideal),
            },
        ]  # fmt: skip
    return rows


def _missing_row(given: Folder, dataset: str, pair: Pair, cause: str) -> dict[str, Any]:
    """Return the record of a pair whose edit or source is not there."""
    return {
        **_common(dataset, pair, f"{slug(given.method)}-missing"),
        **_of_tool(given),
        "key": _key(pair, "missing"),
        "target_prompt": pair.target_prompt,
        "status": "failed",
        "error": cause,
    }


def _common(dataset: str, pair: Pair, group: str) -> dict[str, Any]:
    """Return what all records of a pair hold."""
    return _GIVEN_IMAGE | {
        "group": group,
        "dataset": dataset,
        "pair_id": pair.id,
        "edit_type": pair.edit_type,
        "difficulty": pair.difficulty,
        "source_prompt": pair.source_prompt,
        "instruction": pair.instruction,
    }


def _of_tool(given: Folder) -> dict[str, Any]:
    return {"method": given.method, "params": json.dumps(given.params), "uses_mask": given.uses_mask}


def _warnings(*told: str) -> str:
    return "; ".join(filter(None, told))


def _tell(rows: Iterable[Mapping[str, Any]]) -> None:
    """Say on stderr which pairs are left out, and of which pictures were changed when they were read."""
    ids: dict[str, dict[str, None]] = {}
    for row in rows:
        for what in str(row["error"] or row["warnings"]).split("; "):
            if what and not what.startswith("image of "):
                ids.setdefault(what, {})[str(row["pair_id"])] = None
    for what, those in ids.items():
        print(f"{what}: {', '.join(those)} ({len(those)} in all)", file=sys.stderr)


def _key(pair: Pair, ideal: str, *images: np.ndarray) -> str:
    told = [pair.source_prompt, pair.target_prompt, ideal, len(images)]
    digest = hashlib.sha256(json.dumps(told).encode())
    for image in images:
        digest.update(repr(image.shape).encode() + image.tobytes())
    return digest.hexdigest()


def _write(image: np.ndarray, path: Path) -> Digest:
    return write_png(torch.from_numpy(image.transpose(2, 0, 1).copy()).float() / 255, path)


def parse(arguments: Sequence[str]) -> tuple[Folder, Table | None, list[str]]:
    """Read the arguments of `p2p-bench evaluate`: folder, table of pairs if given, Hydra's overrides."""
    parser = argparse.ArgumentParser("p2p-bench evaluate", description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="the edited images")
    parser.add_argument("overrides", nargs="*", help="of the configuration: metrics=pixel dataset=pie_bench")
    parser.add_argument("--pairs", type=Path, help="a .csv or .jsonl of pairs; default: those of dataset=...")
    parser.add_argument("--source", type=Path, help="the source images; default: each pair's own `image`")
    parser.add_argument("--run-dir", type=Path, help="where results go; default: runs/evaluate-FOLDER")
    parser.add_argument("--method", help="what tables call it; default: the folder's name")
    parser.add_argument("--suffix", default="", help="end of the edited images' names, such as _fake_B")
    parser.add_argument("--source-suffix", default="", help="end of the source images' names")
    parser.add_argument("--resize", action="store_true", help="scale edits to their source's size (bicubic)")
    parser.add_argument(
        "--panel", action="store_true", help="edits are sheets; take their bottom right corner"
    )
    parser.add_argument("--uses-mask", action="store_true", help="the tool was given the pairs' masks")
    parser.add_argument(
        "--missing", choices=MISSING, default="error", help="skip: score what is there; default: an error"
    )
    given = parser.parse_intermixed_args(arguments)
    name = given.folder.resolve().name
    run_dir = given.run_dir or Path("runs") / f"evaluate-{slug(name)}"
    folder = Folder(
        given.folder, given.source, run_dir, given.method or name, given.suffix, given.source_suffix,
        given.resize, given.panel, given.uses_mask, given.missing,
    )  # fmt: skip
    table = None if given.pairs is None else Table(name=given.pairs.stem, path=given.pairs)
    return folder, table, given.overrides
