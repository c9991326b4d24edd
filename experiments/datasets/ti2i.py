"""The TI2I sets of Plug-and-Play (Tumanyan et al. 2023), from its YAML files or from PIE-Bench's own mapping.

A YAML file (`imnetr-ti2i.yaml`, `wild-ti2i-real.yaml`) is a list of images, `init_img`, with `target_prompts`
and at times a `source_prompt`; the mapping (`mapping_file_ti2i_benchmark.json`) is PIE-Bench's without masks.
Most images have no source prompt, which Prompt-to-Prompt needs: it is given by hand.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import yaml

from experiments.datasets.dataset import Dataset
from experiments.datasets.files import check_folder, inside
from experiments.datasets.pair import Pair, checked, single_spaced
from experiments.datasets.pie_bench import strip_brackets
from experiments.datasets.source_prompts import check_source_prompts, read_source_prompts


@dataclass(frozen=True, kw_only=True)
class Ti2i(Dataset):
    """A pair per image and target prompt of one YAML file or mapping, `path`.

    `images`: the folder with the images, by default the file's own (`annotation_images` in it for a mapping).
    `source_prompts`: a CSV `id,source_prompt`; an image's id is its path in that folder without the suffix,
    such as `panda/cartoon_30`, and for a mapping its key.
    """

    name: str = "ti2i"
    path: str | Path
    images: str | Path | None = None
    source_prompts: str | Path | None = None

    def read(self) -> list[Pair]:
        file = Path(self.path).expanduser()
        if not file.is_file():
            raise ValueError(f"path = {str(self.path)!r}: there is no such file")
        of_mapping = file.suffix == ".json"
        default = file.parent / "annotation_images" if of_mapping else file.parent
        images = check_folder(default if self.images is None else self.images, "images")
        entries = list((_mapping_images if of_mapping else _yaml_images)(_load(file), images))
        problems = [entry for entry in entries if isinstance(entry, str)]
        read = [entry for entry in entries if isinstance(entry, _Image)]
        given = read_source_prompts(self.source_prompts)
        if not problems:
            unknown = [image.id for image in read if not image.source_prompt]
            check_source_prompts(self.name, given, unknown, (image.id for image in read))
        pairs = [
            Pair(
                pair_id, given.get(image.id, image.source_prompt), target, image=image.path,
                instruction=image.instruction,
            )
            for image in read
            for pair_id, target in image.edits
            if not problems
        ]  # fmt: skip
        return checked(pairs, problems, str(file))


@dataclass(frozen=True)
class _Image:
    id: str
    path: Path
    source_prompt: str  # "" = not known
    edits: tuple[tuple[str, str], ...]  # ids and target prompts
    instruction: str = ""


def _load(file: Path) -> Any:
    try:
        content = file.read_text(encoding="utf-8-sig")
        return json.loads(content) if file.suffix == ".json" else yaml.safe_load(content)
    except (ValueError, yaml.YAMLError) as error:
        raise ValueError(f"{file}: cannot be read ({str(error).splitlines()[0]})") from error


def _yaml_images(entries: Any, images: Path) -> Iterator[_Image | str]:
    if not isinstance(entries, list):
        raise ValueError("a TI2I file must be a list of images")
    for number, entry in enumerate(entries, start=1):
        try:
            yield _yaml_image(entry, images)
        except ValueError as error:
            yield f"entry {number}: {error}"


def _yaml_image(entry: Any, images: Path) -> _Image:
    if not isinstance(entry, dict) or not isinstance(entry.get("init_img"), str):
        raise ValueError("init_img is missing: name the image in the file")
    targets = entry.get("target_prompts")
    if not isinstance(targets, list) or not all(isinstance(target, str) for target in targets):
        raise ValueError("target_prompts: must be a list of texts")
    path = _find(images, entry["init_img"])
    image_id = path.relative_to(images).with_suffix("").as_posix()
    edits = tuple((f"{image_id}-{n}", single_spaced(target)) for n, target in enumerate(targets))
    return _Image(image_id, path, single_spaced(entry.get("source_prompt") or ""), edits)


def _find(images: Path, name: str) -> Path:
    """Return the file for a name like `/ImageNetR-TI2I/panda/cartoon_30.jpg`: the longest end that exists.

    Ends are looked for under `images`, as written and in small letters, as the archives have them.
    """
    parts = PurePosixPath(name.lstrip("/")).parts
    ends = ["/".join(parts[start:]) for start in range(len(parts))]
    for spelled in [spelled for end in ends for spelled in (end, end.lower())]:
        try:
            return inside(images, spelled)
        except ValueError:
            continue
    raise ValueError(f"init_img = {name!r}: no end of it is an image in {images}")


def _mapping_images(mapping: Any, images: Path) -> Iterator[_Image | str]:
    if not isinstance(mapping, dict):
        raise ValueError("a mapping must be an object of ids")
    for key, fields in mapping.items():
        names = ("image_path", "original_prompt", "editing_prompt")
        if not isinstance(fields, dict) or not all(isinstance(fields.get(name), str) for name in names):
            yield f"id {key!r}: must be an object with the texts {', '.join(names)}"
            continue
        try:
            path = inside(images, fields["image_path"])
        except ValueError as error:
            yield f"id {key!r}: {error}"
            continue
        edits = ((key, strip_brackets(fields["editing_prompt"])),)
        instruction = single_spaced(str(fields.get("editing_instruction") or ""))
        yield _Image(key, path, strip_brackets(fields["original_prompt"]), edits, instruction)
