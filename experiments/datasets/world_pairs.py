"""Pairs of a rendered world's scenes, whichever world it is: what an edit says, and its ideal result."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from experiments.datasets.dataset import Dataset
from experiments.datasets.pair import Pair

Weights = tuple[tuple[str, float], ...]


@dataclass(frozen=True)
class WorldPair(ABC):
    """An edit of a scene: what the source and the target caption say. A child knows its world's scenes."""

    id: str
    edit_type: str
    source: Any
    target: Any
    weights: Weights = ()

    @property
    @abstractmethod
    def difficulty(self) -> str:
        """Easy, medium or hard: the more the target says, the harder."""

    @property
    @abstractmethod
    def blend_words(self) -> tuple[str | None, str | None] | None:
        """What the edit is bounded by, a word of either caption; None for an edit of the whole picture."""

    @abstractmethod
    def draw_layout(self, rng: np.random.Generator) -> Any:
        """Draw what source and target leave open."""

    @abstractmethod
    def paint(self, scene: Any, layout: Any) -> np.ndarray:
        """Return the picture of the source or the target scene, (64, 64, 3) uint8."""

    @abstractmethod
    def placements(self, layout: Any) -> Iterator[Any]:
        """Yield layouts of the target that are as good as this one, none where it is the only one.

        Where the target shows a thing that the source does not, or elsewhere, it may stand anywhere.
        """

    def pair(self, blend_words: bool = False) -> Pair:
        """Return the pair as every data set gives it, with or without what bounds a local edit."""
        return Pair(
            self.id,
            self.source.caption(),
            self.target.caption(),
            self.edit_type,
            self.difficulty,
            dict(self.weights),
            self.blend_words if blend_words else None,
        )


@dataclass(frozen=True)
class RenderedPair:
    """A rendered edit: source and ideal result (64, 64, 3) uint8, where they differ (64, 64) bool."""

    source: np.ndarray
    ideal: np.ndarray
    mask: np.ndarray


def render_pair(pair: WorldPair, layout: Any) -> RenderedPair:
    """Render source and ideal edit with the same free factors.

    The mask is where the two differ: the things concerned and their shadows, or everything for a global edit.
    Raises ValueError for a re-weighting: its ideal is not a scene.
    """
    if pair.weights:
        raise ValueError(f"pair {pair.id}: a re-weighting has no ideal image")
    source, ideal = pair.paint(pair.source, layout), pair.paint(pair.target, layout)
    return RenderedPair(source, ideal, (source != ideal).any(-1))


def drawn_edits(
    edits: Mapping[str, Callable[[np.random.Generator], tuple[Any, Any, Weights]]],
    counts: Mapping[str, int],
    seed: int,
) -> Iterator[tuple[str, str, Any, Any, Weights]]:
    """Yield so many edits of each type, no two of a type with the same captions.

    Each is the fields of a `WorldPair`: id, edit type, source, target, weights.
    """
    for number, (edit_type, count) in enumerate(counts.items()):
        rng = np.random.default_rng((seed, number))
        seen: set[tuple[str, str]] = set()
        while len(seen) < count:
            source, target, weights = edits[edit_type](rng)
            captions = source.caption(), target.caption()
            if captions not in seen:
                seen.add(captions)
                yield f"{edit_type}-{len(seen):02d}", edit_type, source, target, weights


@dataclass(frozen=True, kw_only=True)
class GeneratedPairs(Dataset):
    """A world's pairs, whose source images are generated; what is rendered, ideals included, is another set.

    With `blend_words`, pairs of a local edit have the words that bound it, so that `local_blend` of
    Prompt-to-Prompt acts; without, no pair has any.
    """

    blend_words: bool = False

    @abstractmethod
    def draw(self) -> Sequence[WorldPair]:
        """Draw the pairs, always the same."""

    def read(self) -> Iterable[Pair]:
        """Give the pairs, edit types in a fixed order.

        ValueError where `blend_words` is not true or false: the words themselves are the pairs' own.
        """
        if not isinstance(self.blend_words, bool):
            raise ValueError(f"blend_words = {self.blend_words!r}: must be true or false")
        return [pair.pair(self.blend_words) for pair in self.draw()]
