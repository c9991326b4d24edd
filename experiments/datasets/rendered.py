"""The `rendered` data set: rendered scenes as real images, each with the ideal result of its edit.

The ideal is the target's scene in the source's layout. An added object may stand anywhere, so that its ideal
is a folder of pictures, one for each of a grid of the renderer's placements.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from experiments.datasets.dataset import Dataset
from experiments.datasets.embedded_pairs import scene_pairs
from experiments.datasets.pair import Pair, slug
from experiments.datasets.tabular import read_pairs
from experiments.datasets.world_pairs import WorldPair, render_pair
from results.store.whole_files import whole_folder

VERSION = 1  # of what is drawn: a change here is another data set
EDIT_TYPES = ("swap", "attribute", "place", "time", "style", "remove", "wear", "add object")


@dataclass(frozen=True, kw_only=True)
class Rendered(Dataset):
    """`per_edit` pairs of each of EDIT_TYPES, written at the first reading to an own folder in `path`."""

    name: str = "rendered"
    path: str | Path = "runs/data/rendered"
    per_edit: int = 8
    seed: int = 0

    def draw(self) -> Sequence[WorldPair]:
        """Draw the pairs, always the same."""
        # Not the seeds of the data set `embedded`, whose prompts the weights' own figures were measured on.
        return scene_pairs(dict.fromkeys(EDIT_TYPES, self.per_edit), seed=1000 + self.seed)

    def read(self) -> list[Pair]:
        """Give the pairs, edit types in a fixed order. ValueError where `per_edit` is below 1."""
        folder = Path(self.path).expanduser() / f"v{VERSION}-{self.per_edit}-{self.seed}"
        if not (folder / "pairs.jsonl").exists():
            if self.per_edit < 1:
                raise ValueError(f"per_edit = {self.per_edit}: must be at least 1")
            write(folder, self.draw(), self.seed)
        return read_pairs(folder / "pairs.jsonl")


def write(folder: Path, pairs: Sequence[WorldPair], seed: int) -> None:
    """Write pictures and `pairs.jsonl`, whole or not at all; the same on every call."""
    try:
        with whole_folder(folder) as partial:
            rows = [
                _write_pair(pair, np.random.default_rng((seed, n)), partial) for n, pair in enumerate(pairs)
            ]
            (partial / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    except FileExistsError:  # another process was faster, and wrote the same
        if not (folder / "pairs.jsonl").exists():
            raise


def _write_pair(pair: WorldPair, rng: np.random.Generator, folder: Path) -> dict[str, str]:
    layout = pair.draw_layout(rng)
    rendered, name = render_pair(pair, layout), slug(pair.id)
    files = {"image": f"images/{name}.png", "ideal": f"ideals/{name}.png"}
    _write(rendered.source, folder / files["image"])
    if placed := list(pair.placements(layout)):
        files["ideal"] = f"ideals/{name}"
        for number, placement in enumerate(placed):
            _write(pair.paint(pair.target, placement), folder / files["ideal"] / f"{number:03d}.png")
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
