"""TEdBench (Kawar et al. 2023): 100 images with a target text each; the source prompts are given by hand."""

from dataclasses import dataclass
from pathlib import Path

from experiments.datasets.dataset import Dataset
from experiments.datasets.files import cache_folder, keep_image
from experiments.datasets.pair import Pair, checked
from experiments.datasets.parquet import picture, read_rows, text
from experiments.datasets.source_prompts import check_source_prompts, read_source_prompts

COLUMNS = ("original_image", "caption")


@dataclass(frozen=True, kw_only=True)
class TEdBench(Dataset):
    """The rows of a local copy of `bahjat-kawar/tedbench`; an id is the row's number, `000` to `099`.

    `source_prompts`: a CSV `id,source_prompt`, which Prompt-to-Prompt needs. The set's `edited_image` is
    Imagic's result and no ground truth: it is not read.
    """

    name: str = "tedbench"
    path: str | Path
    source_prompts: str | Path | None = None
    cache: str | Path | None = None

    def read(self) -> list[Pair]:
        rows = list(enumerate(row for _, row in read_rows(self.path, COLUMNS)))
        ids = [f"{number:03d}" for number, _ in rows]
        given = read_source_prompts(self.source_prompts)
        check_source_prompts(self.name, given, ids, ids)
        cache = cache_folder(self.path, self.cache)
        pairs, problems = [], []
        for pair_id, (_, row) in zip(ids, rows, strict=True):
            try:
                image = keep_image(picture(row["original_image"]), cache / "images", pair_id)
                pairs.append(Pair(pair_id, given[pair_id], text(row, "caption"), image=image))
            except ValueError as error:
                problems.append(f"id {pair_id!r}: {error}")
        return checked(pairs, problems, str(self.path))
