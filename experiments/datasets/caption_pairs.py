"""Caption pairs as invertible-cd (Starodubcev et al. 2024) publishes them: COCO and PIE-Bench prompts as CSV.

Columns `file_name, old_caption, edited_caption, blended_words`; others are not read.
"""

import csv
from dataclasses import dataclass
from pathlib import Path

from experiments.datasets.blended import blended_words, check_policy, report_unusable
from experiments.datasets.dataset import Dataset
from experiments.datasets.files import check_folder, inside
from experiments.datasets.pair import Pair, checked, single_spaced

COLUMNS = ("file_name", "old_caption", "edited_caption", "blended_words")


@dataclass(frozen=True, kw_only=True)
class CaptionPairs(Dataset):
    """The pairs of one CSV, `path`, with their images in the folder `images`; ids are row number and file.

    `unusable_blend_words`: see `PieBench`.
    """

    name: str = "caption_pairs"
    path: str | Path
    images: str | Path
    unusable_blend_words: str = "error"

    def __post_init__(self) -> None:
        check_policy("unusable_blend_words", self.unusable_blend_words)

    def read(self) -> list[Pair]:
        file, images = Path(self.path).expanduser(), check_folder(self.images, "images")
        if not file.is_file():
            raise ValueError(f"path = {str(self.path)!r}: there is no such file")
        pairs, problems, unusable = [], [], []
        with file.open(encoding="utf-8-sig", newline="") as lines:
            reader = csv.DictReader(lines)
            there = list(reader.fieldnames or ())
            if missing := set(COLUMNS) - set(there):
                lacks = ", ".join(sorted(missing))
                raise ValueError(f"{file}: has no column {lacks}; parted by commas they are {there}")
            for number, row in enumerate(reader):
                name, source, target = (single_spaced(row[column] or "") for column in COLUMNS[:3])
                pair_id = f"{number:04d}-{Path(name).stem}"
                if None in row or None in row.values():
                    problems.append(
                        f"{pair_id}: has not one cell a column; put a caption with a comma in quotes"
                    )
                    continue
                words = None
                try:
                    blended = row["blended_words"] or ""
                    words, otherwise = blended_words(blended, source, target, self.unusable_blend_words)
                    unusable += [pair_id] if otherwise else []
                except ValueError as error:
                    problems.append(f"{pair_id}: {error}")
                try:
                    image = inside(images, name)
                except ValueError as error:
                    problems.append(f"{pair_id}: {error}")
                    continue
                pairs.append(Pair(pair_id, source, target, blend_words=words, image=image))
        report_unusable(self.name, self.unusable_blend_words, unusable, len(pairs))
        return checked(pairs, problems, str(file))
