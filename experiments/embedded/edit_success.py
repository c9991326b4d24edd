"""Whether an edit of a rendered world was made, as the world's judge sees it: a metric like any other.

The judge knows things (objects, lesions), what surrounds them (organs) and settings (places, modalities).
What else a caption may change (colours, sizes, styles) it cannot tell.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor

from evaluation.edits import Edits
from evaluation.metric import Scores
from evaluation.weights import require_files, weights_folder
from experiments.embedded.judge import FILE, Judge
from experiments.embedded.worlds import load_world
from experiments.embedded.worlds.contract import World

CANNOT_TELL = {
    "scenes": "neither an object nor a place changes",
    "phantoms": "neither a lesion nor its place nor the modality changes",
}
OTHERWISE = "neither a thing nor what surrounds it nor the setting changes"  # of a world of somebody's own
SHOWN = 0.5  # evidence from which a thing that should be gone is still there


class EditSuccess:
    """1 where the judge sees what the target prompt says, else 0; missing where it cannot tell.

    The target prompt's things must be the most probable ones, those it dropped less probable than SHOWN, its
    setting, where that changes, the most probable setting, and what surrounds its thing, where that changes,
    what has most of itself close to it. Where a picture may show no thing at all, the target's have to be
    more probable than SHOWN too.
    """

    def __init__(self, world: str = "scenes", folder: str | Path | None = None) -> None:
        self.world = load_world(world)
        self.folder = self.world.weights / "judge" if folder is None else weights_folder(folder)
        label = judge_label(self.world)
        self.name = f"judge{label}@1"
        self.names = (f"judge/edit_success{label}@1",)
        self.higher_is_better: Mapping[str, bool] = {self.names[0]: True}

    def check(self) -> None:
        """Raise in one line if the weights cannot be had."""
        require_files(self.name, self.folder, (FILE,))

    @cached_property
    def judge(self) -> Judge:
        """The loaded judge."""
        return Judge.load(self.folder, self.world)

    def __call__(self, edits: Edits) -> dict[str, Scores]:
        """Score every edit."""
        seen = self.judge.look(edits.images)
        around = self.judge.surroundings(seen.classes)
        values, reasons = torch.zeros(len(edits), dtype=torch.float64), []
        prompts = zip(edits.source_prompts, edits.target_prompts, strict=True)
        for row, (source, target) in enumerate(prompts):
            wanted, before = (things_in(prompt, self.world) for prompt in (target, source))
            setting, organ = setting_in(target, self.world), surrounding_in(target, self.world)
            new = setting is not None and setting != setting_in(source, self.world)
            moved = organ is not None and organ != surrounding_in(source, self.world)
            tells = bool(wanted or self.world.empty) and (set(wanted) != set(before) or new or moved)
            reasons.append("" if tells else CANNOT_TELL.get(self.world.name, OTHERWISE))
            if tells:
                made = self._things_made(seen.things[row], wanted, before)
                made &= not new or _most(seen.settings[row], self.world.settings) == setting
                made &= not moved or _most(around[row], self.world.labels[self.world.things :]) == organ
                values[row] = float(made)
        return {self.names[0]: Scores.of(values, tuple(reasons))}

    def _things_made(self, evidence: Tensor, wanted: Sequence[str], before: Sequence[str]) -> bool:
        labels = self.world.labels
        seen = evidence.argsort(descending=True)[: len(wanted)].tolist()
        made = {labels[i] for i in seen} == set(wanted)
        made &= all(evidence[labels.index(name)] < SHOWN for name in before if name not in wanted)
        return made and not (
            self.world.empty and any(evidence[labels.index(name)] < SHOWN for name in wanted)
        )


def judge_label(world: World) -> str:
    """Return what a column of a world's judge has before its version; the first world's have nothing."""
    return "" if world.name == "scenes" else f"_{world.model}"


def things_in(prompt: str, world: World) -> list[str]:
    """Return the world's things that a caption names, in its order."""
    return [word for word in prompt.split() if word in world.labels[: world.things]]


def setting_in(prompt: str, world: World) -> str | None:
    """Return the setting that a caption names, None where it names none."""
    said = zip(world.settings, world.phrases, strict=True)
    return next((setting for setting, words in said if f" {words} " in f" {prompt} "), None)


def surrounding_in(prompt: str, world: World) -> str | None:
    """Return what a caption says surrounds its thing (an organ), None where it says nothing."""
    organs = world.labels[world.things :]
    return next((organ for organ in organs if f" {organ} " in f" {prompt} "), None)


def _most(values: Tensor, names: Sequence[str]) -> str | None:
    """Return the name of the largest value, None where all are 0."""
    return names[int(values.argmax())] if values.any() else None
