"""The Emu Edit test set (Sheynin et al. 2024): its two captions make Prompt-to-Prompt possible."""

from dataclasses import dataclass
from pathlib import Path

from experiments.datasets.dataset import Dataset
from experiments.datasets.files import cache_folder, keep_image
from experiments.datasets.pair import Pair, checked
from experiments.datasets.parquet import picture, read_rows, text

COLUMNS = ("instruction", "image", "task", "split", "idx", "input_caption", "output_caption")


@dataclass(frozen=True, kw_only=True)
class EmuEdit(Dataset):
    """The rows of a local copy of `facebook/emu_edit_test_set`; `edit_type` is the task.

    Rows whose two captions are equal ask for no edit by prompt: they are left out, and counted in a printed
    line. Published figures differ by whether they are (River-Zhang/ICEdit, issue 69).
    """

    name: str = "emu_edit"
    path: str | Path
    cache: str | Path | None = None

    def read(self) -> list[Pair]:
        cache = cache_folder(self.path, self.cache)
        pairs, problems, equal = [], [], 0
        for _, row in read_rows(self.path, COLUMNS):
            pair_id = f"{row['split']}-{row['idx']}"
            try:
                source, target = text(row, "input_caption"), text(row, "output_caption")
                if source == target:
                    equal += 1
                    continue
                image = keep_image(picture(row["image"]), cache / "images", pair_id)
                pairs.append(
                    Pair(
                        pair_id, source, target, text(row, "task"), image=image,
                        instruction=text(row, "instruction"),
                    )
                )  # fmt: skip
            except ValueError as error:
                problems.append(f"id {pair_id!r}: {error}")
        if equal:
            print(f"{self.name}: {equal} of {equal + len(pairs)} rows left out, their two captions are equal")
        return checked(pairs, problems, str(self.path))
