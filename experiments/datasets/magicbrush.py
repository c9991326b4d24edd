"""MagicBrush (Zhang et al. 2023): instruction edits of real images, made pairs by captions from its JSON."""

import io
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from experiments.datasets.dataset import Dataset
from experiments.datasets.files import cache_folder, keep_image, keep_mask
from experiments.datasets.pair import Pair, checked, single_spaced
from experiments.datasets.parquet import picture, read_rows, text
from p2p.pictures import open_picture, to_rgb

COLUMNS = ("img_id", "turn_index", "source_img", "mask_img", "instruction", "target_img")


@dataclass(frozen=True, kw_only=True)
class MagicBrush(Dataset):
    """The turns of a local copy of `osunlp/MagicBrush`, each from the true result of the turn before.

    `captions`: `global_descriptions.json`, which comes with the dev and the test archive, an object of image
    ids, each an object of file names (`7-input.png`, `7-output1.png`) and captions. The target image is the
    ideal; what is white in the mask image is the area to edit.
    """

    name: str = "magicbrush"
    path: str | Path
    captions: str | Path
    cache: str | Path | None = None

    def read(self) -> list[Pair]:
        captions = _captions(Path(self.captions).expanduser())
        cache = cache_folder(self.path, self.cache)
        pairs, problems = [], []
        for _, row in read_rows(self.path, COLUMNS):
            image_id, turn = str(row["img_id"]), int(row["turn_index"])
            pair_id = f"{image_id}-{turn}"
            before = f"{image_id}-output{turn - 1}.png" if turn > 1 else f"{image_id}-input.png"
            names = (before, f"{image_id}-output{turn}.png")
            try:
                if missing := [name for name in names if name not in captions]:
                    raise ValueError(f"captions: {self.captions} has none for {', '.join(missing)}")
                source, ideal, mask = (
                    picture(row[name]) for name in ("source_img", "target_img", "mask_img")
                )
                pair = Pair(
                    pair_id, captions[names[0]], captions[names[1]],
                    image=keep_image(source, cache / "images", pair_id),
                    mask=keep_mask(_white(mask), cache / "masks", pair_id),
                    ideal=keep_image(ideal, cache / "ideals", pair_id),
                    instruction=text(row, "instruction"),
                )  # fmt: skip
                pairs.append(pair)
            except (ValueError, OSError) as error:
                problems.append(f"id {pair_id!r}: {error}")
        return checked(pairs, problems, str(self.path))


def _captions(file: Path) -> dict[str, str]:
    needed = "MagicBrush needs captions, its global_descriptions.json of the same split"
    if not file.is_file():
        raise ValueError(f"captions = {str(file)!r}: there is no such file; {needed}")
    try:
        captions = json.loads(file.read_text(encoding="utf-8-sig"))
        return {name: single_spaced(said) for of in captions.values() for name, said in of.items()}
    except (ValueError, AttributeError) as error:
        raise ValueError(f"captions = {str(file)!r}: cannot be read ({error}); {needed}") from error


def _white(content: bytes) -> np.ndarray:
    """Return where a picture is white or lets white through, (height, width) bool."""
    return (np.asarray(to_rgb(open_picture(io.BytesIO(content))[0])[0]) == 255).all(-1)
