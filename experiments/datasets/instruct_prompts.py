"""Prompts of InstructPix2Pix (Brooks et al. 2023): JSON Lines of both captions and the edit between them.

The first caption stands under `input` in the released files and under `caption` in the generator's own; both
are read. No images: the sources are generated.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from experiments.datasets.dataset import Dataset
from experiments.datasets.pair import Pair, checked, single_spaced


@dataclass(frozen=True, kw_only=True)
class InstructPrompts(Dataset):
    """The prompts of one `.jsonl` file; an id is the line's number from 0, as in its folders of images."""

    name: str = "instruct_prompts"
    path: str | Path

    def read(self) -> list[Pair]:
        file = Path(self.path).expanduser()
        if not file.is_file():
            raise ValueError(f"path = {str(self.path)!r}: there is no such file")
        pairs, problems = [], []
        try:
            lines = file.read_text(encoding="utf-8-sig").split("\n")
        except UnicodeDecodeError as error:
            raise ValueError(f"path = {str(self.path)!r}: is not UTF-8 ({error})") from error
        for number, line in enumerate(lines[:-1] if lines[-1] == "" else lines):
            try:
                pairs.append(_pair(f"{number:07d}", json.loads(line)))
            except ValueError as error:
                problems.append(f"line {number + 1}: {error}")
        return checked(pairs, problems, str(file))


def _pair(pair_id: str, row: Any) -> Pair:
    if not isinstance(row, dict):
        raise ValueError("must be an object with input (or caption), edit and output")
    given = {
        "input": row.get("input", row.get("caption")),
        "output": row.get("output"),
        "edit": row.get("edit"),
    }
    texts = {name: single_spaced(value) for name, value in given.items() if isinstance(value, str)}
    if wrong := [name for name in given if name not in texts]:
        raise ValueError(f"{', '.join(wrong)}: must be a text; the keys are input (or caption), edit, output")
    return Pair(pair_id, texts["input"], texts["output"], instruction=texts["edit"])
