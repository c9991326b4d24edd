"""Whether an edit of the embedded world was made, as its judge sees it: a metric like any other.

The judge knows objects and places. What else a caption may change (colours, sizes, styles) it cannot tell.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path

import torch

from evaluation.edits import Edits
from evaluation.metric import Scores
from evaluation.weights import require_files, weights_folder
from experiments.embedded.judge import FILE, Judge
from experiments.embedded.worlds.scenes.definition import WORLD
from experiments.embedded.worlds.scenes.world import OBJECTS, PLACES

CANNOT_TELL = "neither an object nor a place changes"
SHOWN = 0.5  # evidence from which an object that should be gone is still there


class EditSuccess:
    """1 where the judge sees what the target prompt says, else 0; missing where it cannot tell.

    The target prompt's objects must be the most probable ones, those it dropped less probable than SHOWN,
    and its place, where that changes, the most probable place.
    """

    def __init__(self, folder: str | Path = "experiments/embedded/weights/judge") -> None:
        self.folder = weights_folder(folder)
        self.name = "judge@1"
        self.names = ("judge/edit_success@1",)
        self.higher_is_better: Mapping[str, bool] = {self.names[0]: True}

    def check(self) -> None:
        """Raise in one line if the weights cannot be had."""
        require_files(self.name, self.folder, (FILE,))

    @cached_property
    def judge(self) -> Judge:
        """The loaded judge."""
        return Judge.load(self.folder, WORLD)

    def __call__(self, edits: Edits) -> dict[str, Scores]:
        """Score every edit."""
        objects, places = self.judge.things(edits.images), self.judge.settings(edits.images)
        values, reasons = torch.zeros(len(edits), dtype=torch.float64), []
        prompts = zip(edits.source_prompts, edits.target_prompts, strict=True)
        for row, (source, target) in enumerate(prompts):
            wanted, before = objects_in(target), objects_in(source)
            place, moved = place_in(target), place_in(target) != place_in(source)
            tells = bool(wanted) and (set(wanted) != set(before) or (moved and place is not None))
            reasons.append("" if tells else CANNOT_TELL)
            if tells:
                seen = objects[row].argsort(descending=True)[: len(wanted)].tolist()
                gone = [name for name in before if name not in wanted]
                made = {OBJECTS[i] for i in seen} == set(wanted)
                made &= all(objects[row, OBJECTS.index(name)] < SHOWN for name in gone)
                made &= not moved or place is None or tuple(PLACES)[int(places[row].argmax())] == place
                values[row] = float(made)
        return {self.names[0]: Scores.of(values, tuple(reasons))}


def objects_in(prompt: str) -> list[str]:
    """Return the world's objects that a caption names, in its order."""
    return [word for word in prompt.split() if word in OBJECTS]


def place_in(prompt: str) -> str | None:
    """Return the place that a caption names, None where it names none."""
    padded = f" {prompt} "
    return next((place for place, words in PLACES.items() if f" {words} " in padded), None)
