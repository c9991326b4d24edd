"""The `rendered` data set: rendered scenes as real images, each with the ideal result of its edit.

The ideal is the target's scene in the source's layout. An added object may stand anywhere, so that its ideal
is a folder of pictures, one for each of a grid of the renderer's placements.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from PIL import Image

from experiments.datasets.dataset import Dataset
from experiments.datasets.embedded_pairs import ScenePair, render_pair, scene_pairs
from experiments.datasets.pair import Pair, slug
from experiments.datasets.tabular import read_pairs
from experiments.embedded.worlds.scenes.layout import Layout, Slot, draw_layout
from experiments.embedded.worlds.scenes.render import render
from results.store.whole_files import whole_folder

VERSION = 1  # of what is drawn: a change here is another data set
EDIT_TYPES = ("swap", "attribute", "place", "time", "style", "remove", "wear", "add object")
ACROSS, DOWN, SIZES = 5, 5, 3  # placements of an added object, each mirrored or not: 150


@dataclass(frozen=True, kw_only=True)
class Rendered(Dataset):
    """`per_edit` pairs of each of EDIT_TYPES, written at the first reading to an own folder in `path`."""

    name: str = "rendered"
    path: str | Path = "runs/data/rendered"
    per_edit: int = 8
    seed: int = 0

    def read(self) -> list[Pair]:
        """Give the pairs, edit types in a fixed order."""
        folder = Path(self.path).expanduser() / f"v{VERSION}-{self.per_edit}-{self.seed}"
        if not (folder / "pairs.jsonl").exists():
            write(folder, self.per_edit, self.seed)
        return read_pairs(folder / "pairs.jsonl")


def write(folder: Path, per_edit: int, seed: int) -> None:
    """Write pictures and `pairs.jsonl`, whole or not at all; the same on every call.

    ValueError where `per_edit` is below 1.
    """
    if per_edit < 1:
        raise ValueError(f"per_edit = {per_edit}: must be at least 1")
    # Not the seeds of the data set `embedded`, whose prompts the weights' own figures were measured on.
    pairs = scene_pairs(dict.fromkeys(EDIT_TYPES, per_edit), seed=1000 + seed)
    try:
        with whole_folder(folder) as partial:
            rows = [
                _write_pair(pair, np.random.default_rng((seed, n)), partial) for n, pair in enumerate(pairs)
            ]
            (partial / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    except FileExistsError:  # another process was faster, and wrote the same
        if not (folder / "pairs.jsonl").exists():
            raise


def placements(layout: Layout) -> Iterator[Layout]:
    """Yield layouts of a scene of two things in which the second stands elsewhere in its own half.

    A grid over what `draw_layout` draws: place, size and mirroring; upright, as a small tilt hardly shows.
    """
    first, second = layout.slots
    half = 0.75 * (second.x >= 0.5)
    grid = itertools.product(
        np.linspace(0, 0.25, ACROSS), np.linspace(0, 1, DOWN), np.linspace(0, 1, SIZES), (False, True)
    )
    for x, y, size, mirror in grid:
        yield replace(layout, slots=(first, Slot(half + float(x), float(y), float(size), mirror, 0.0)))


def _write_pair(pair: ScenePair, rng: np.random.Generator, folder: Path) -> dict[str, str]:
    layout = draw_layout(rng, max(len(pair.source.things), len(pair.target.things)))
    rendered, name = render_pair(pair, layout), slug(pair.id)
    files = {"image": f"images/{name}.png", "ideal": f"ideals/{name}.png"}
    _write(rendered.source, folder / files["image"])
    if pair.edit_type == "add object":
        files["ideal"] = f"ideals/{name}"
        for number, placed in enumerate(placements(layout)):
            _write(render(pair.target, placed).image, folder / files["ideal"] / f"{number:03d}.png")
    else:
        _write(rendered.ideal, folder / files["ideal"])
        files["mask"] = f"masks/{name}.png"
        _write(rendered.mask.astype(np.uint8) * 255, folder / files["mask"])
    return {
        "id": pair.id,
        "source_prompt": pair.source.caption(),
        "target_prompt": pair.target.caption(),
        "edit_type": pair.edit_type,
        "difficulty": pair.difficulty,
        **files,
    }


def _write(pixels: np.ndarray, file: Path) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(file)
