"""A miniature of PIE-Bench in its exact layout, of rendered scenes: real masks, all ten categories, 64x64.

`python -m experiments.datasets.pie_miniature FOLDER` writes it; the data set `pie_miniature` does so itself.
Target scenes are combinations that training never showed (world.py). The world has no poses and no materials:
how large a thing stands is its pose here, and its pattern the material.
"""

import argparse
import io
import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from experiments.datasets.embedded_pairs import ScenePair
from experiments.datasets.pair import Pair
from experiments.datasets.pie_bench import PieBench
from experiments.datasets.world_pairs import render_pair
from experiments.embedded.worlds.scenes.layout import draw_layout
from experiments.embedded.worlds.scenes.world import (
    COLOURS,
    OBJECTS,
    PATTERNS,
    PLACES,
    STYLES,
    Scene,
    Thing,
    reserved,
)
from results.store.whole_files import whole_folder

VERSION = 1  # of what is drawn: a change here is another data set
FOLDERS = (
    "0_random_140", "1_change_object_80", "2_add_object_80", "3_delete_object_80",
    "4_change_attribute_content_40", "5_change_attribute_pose_40", "6_change_attribute_color_40",
    "7_change_attribute_material_40", "8_change_background_80", "9_change_style_80",
)  # fmt: skip
ANIMALS = OBJECTS[: OBJECTS.index("car")]


@dataclass(frozen=True, kw_only=True)
class PieMiniature(PieBench):
    """The miniature, written at the first reading to a folder of its own inside `path`."""

    name: str = "pie_miniature"
    path: str | Path = "runs/data/pie_miniature"
    per_category: int = 3
    seed: int = 0

    def read(self) -> list[Pair]:
        folder = Path(self.path).expanduser() / f"v{VERSION}-{self.per_category}-{self.seed}"
        if not (folder / "mapping_file.json").exists():
            write(folder, self.per_category, self.seed)
        return PieBench(
            name=self.name,
            path=folder,
            cache=self.cache,
            unusable_blend_words=self.unusable_blend_words,
        ).read()


def write(folder: Path, per_category: int = 3, seed: int = 0) -> None:
    """Write `annotation_images/` and `mapping_file.json` into a new folder, whole or not at all.

    The same on every call. ValueError where the folder is there already, or `per_category` is below 1.
    """
    if per_category < 1:
        raise ValueError(f"per_category = {per_category}: must be at least 1")
    if folder.exists():
        raise ValueError(f"{folder}: is there already, the miniature needs a new folder")
    try:
        with whole_folder(folder) as partial:
            mapping = _draw(partial, per_category, seed)
            (partial / "mapping_file.json").write_text(json.dumps(mapping, indent=1))
    except FileExistsError:  # another process was faster, and wrote the same
        if not (folder / "mapping_file.json").exists():
            raise


def _draw(folder: Path, per_category: int, seed: int) -> dict[str, dict[str, Any]]:
    """Write the pictures of all categories; return the rows of the mapping file by their ids."""
    mapping = {}
    for category, edit in enumerate(EDITS):
        rng = np.random.default_rng((seed, category))
        seen: set[tuple[str, str]] = set()
        while len(seen) < per_category:
            drawn = edit(rng)
            prompts = drawn.source.caption(), drawn.target.caption()
            if prompts in seen:
                continue
            pair_id, image_path = _place_of(category, drawn.source, len(seen))
            seen.add(prompts)
            mapping[pair_id] = _row(category, drawn, pair_id, image_path, folder, rng)
    return mapping


@dataclass(frozen=True)
class Drawn:
    """An edit of a scene as PIE-Bench describes it; `blended` is "source target" or empty."""

    source: Scene
    target: Scene
    blended: str
    instruction: str


def encode_mask(mask: np.ndarray) -> list[int]:
    """Encode (height, width) bool as `[start, length, ...]` over rows."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], mask.ravel(), [False]]).astype(np.int8)))
    return [int(n) for start, end in zip(edges[::2], edges[1::2], strict=True) for n in (start, end - start)]


def _row(
    category: int, drawn: Drawn, pair_id: str, image_path: str, folder: Path, rng: np.random.Generator
) -> dict[str, Any]:
    layout = draw_layout(rng, max(len(drawn.source.things), len(drawn.target.things)))
    rendered = render_pair(ScenePair(pair_id, "", drawn.source, drawn.target), layout)
    file = folder / "annotation_images" / image_path
    file.parent.mkdir(parents=True, exist_ok=True)
    picture = io.BytesIO()
    Image.fromarray(rendered.source).save(picture, "JPEG", quality=95, subsampling=0)
    file.write_bytes(picture.getvalue())
    source, target = _bracketed(drawn.source.caption(), drawn.target.caption())
    return {
        "image_path": image_path,
        "original_prompt": source,
        "editing_prompt": target,
        "editing_instruction": drawn.instruction,
        "editing_type_id": str(category),
        "blended_word": drawn.blended,
        "mask": encode_mask(rendered.mask),
    }


def _place_of(category: int, scene: Scene, number: int) -> tuple[str, str]:
    """Return id and path as PIE-Bench forms them: category, artificial, kind of picture, number."""
    if category == 0:
        return f"{number:012d}", f"{FOLDERS[0]}/{number:012d}.jpg"
    kind = 1 if scene.things[0].name in ANIMALS else 3 if scene.place == "room" else 4
    folder = {1: "1_animal", 3: "3_indoor", 4: "4_outdoor"}[kind]
    pair_id = f"{category}1{kind}{number:09d}"
    return pair_id, f"{FOLDERS[category]}/1_artificial/{folder}/{pair_id}.jpg"


def _bracketed(source: str, target: str) -> tuple[str, str]:
    """Put brackets around the words, from the first to the last, by which the two prompts differ."""
    a, b = source.split(), target.split()
    most = min(len(a), len(b))
    start = next((i for i in range(most) if a[i] != b[i]), most)
    end = next((i for i in range(most - start) if a[-1 - i] != b[-1 - i]), most - start)

    def mark(words: list[str]) -> str:
        inner = words[start : len(words) - end]
        marked = [f"[{' '.join(inner)}]"] if inner else []
        return " ".join([*words[:start], *marked, *words[len(words) - end :]])

    return mark(a), mark(b)


def _base(rng: np.random.Generator) -> Scene:
    """Draw a scene of one thing in a place where training never showed it."""
    place = str(rng.choice(tuple(PLACES)))
    return Scene((Thing(str(rng.choice([name for name in OBJECTS if reserved(name, place)]))),), place)


def _random(rng: np.random.Generator) -> Drawn:
    edit = EDITS[1 + int(rng.integers(len(EDITS) - 1))]
    if rng.random() < 0.5:
        return edit(rng)
    scene = _base(rng)
    return Drawn(scene, replace(scene, time="night"), "", "make it night")


def _object(rng: np.random.Generator) -> Drawn:
    target = _base(rng)
    new = target.things[0].name
    old = str(rng.choice([name for name in OBJECTS if name != new]))
    return Drawn(
        replace(target, things=(Thing(old),)), target, f"{old} {new}", f"change the {old} to a {new}"
    )


def _add(rng: np.random.Generator) -> Drawn:
    source = _base(rng)
    thing = source.things[0]
    new = str(rng.choice([name for name in OBJECTS if name != thing.name]))
    return Drawn(source, replace(source, things=(thing, Thing(new))), "", f"add a {new}")


def _delete(rng: np.random.Generator) -> Drawn:
    added = _add(rng)
    gone = added.target.things[1].name
    return Drawn(added.target, added.source, "", f"remove the {gone}")


def _attribute(field: str, values: tuple[str, ...], verb: str) -> Callable[[np.random.Generator], Drawn]:
    def edit(rng: np.random.Generator) -> Drawn:
        scene = _base(rng)
        thing = scene.things[0]
        old, new = (str(value) for value in rng.permutation(values)[:2])
        source, target = (replace(scene, things=(replace(thing, **{field: v}),)) for v in (old, new))
        said = verb.format(name=thing.name, old=old, new=new)
        return Drawn(source, target, f"{thing.name} {thing.name}", said)

    return edit


def _background(rng: np.random.Generator) -> Drawn:
    target = _base(rng)
    place = str(rng.choice([place for place in PLACES if place != target.place]))
    return Drawn(replace(target, place=place), target, "", f"put it {PLACES[target.place]}")


def _style(rng: np.random.Generator) -> Drawn:
    source = _base(rng)
    style = str(rng.choice([style for style in STYLES if style != "photo"]))
    return Drawn(source, replace(source, style=style), "", f"make it a {style}")


EDITS: tuple[Callable[[np.random.Generator], Drawn], ...] = (
    _random,
    _object,
    _add,
    _delete,
    _attribute("wearing", ("hat", "crown"), "change the {old} to a {new}"),
    _attribute("size", ("big", "small"), "make the {name} {new}"),
    _attribute("colour", COLOURS, "make the {name} {new}"),
    _attribute("pattern", PATTERNS, "make the {name} {new}"),
    _background,
    _style,
)


def main() -> None:
    """Write the miniature into a new folder."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--per-category", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    try:
        write(given.folder, given.per_category, given.seed)
    except ValueError as error:
        parser.error(str(error))
    print(given.folder)


if __name__ == "__main__":
    main()
