"""The data sets `phantoms` and `phantoms_rendered`: edits of medical phantoms, generated or with ideals.

Every edit has, in its target or, where a lesion is removed, in its source, a lesion in a place and modality
that training never showed together (worlds/phantoms/world.py).
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from experiments.datasets.rendered import Rendered
from experiments.datasets.world_pairs import GeneratedPairs, Weights, WorldPair, drawn_edits
from experiments.embedded.worlds.phantoms.layout import Layout, draw_layout
from experiments.embedded.worlds.phantoms.render import render
from experiments.embedded.worlds.phantoms.world import (
    CONTRASTS,
    KINDS,
    MODALITIES,
    PLACES,
    REGIONS,
    SIZES,
    Lesion,
    Phantom,
    region_of,
    reserved,
)

COUNTS = {
    "swap": 16,
    "add": 14,
    "remove": 14,
    "attribute": 16,
    "place": 16,
    "style": 12,
    "reweight": 16,
}
ACROSS, DOWN, STEPS = 5, 5, 3  # placements of a lesion, those in its organ: 63
RENDERED_TYPES = tuple(name for name in COUNTS if name != "reweight")


@dataclass(frozen=True)
class PhantomPair(WorldPair):
    """An edit of a phantom."""

    source: Phantom
    target: Phantom

    @property
    def difficulty(self) -> str:
        """Easy, medium or hard: the target says nothing, one thing or more beside region, kind and place."""
        lesion = self.target.lesion
        said = sum(map(bool, (self.target.quality, lesion and lesion.size, lesion and lesion.contrast)))
        return ("easy", "medium", "hard")[min(said, 2)]

    @property
    def blend_words(self) -> tuple[str | None, str | None] | None:
        """The kinds of the lesions, None where there is none; None alone for a change of modality."""
        if self.source.modality != self.target.modality:
            return None
        source, target = (phantom.lesion and phantom.lesion.kind for phantom in (self.source, self.target))
        return source or None, target or None

    def draw_layout(self, rng: np.random.Generator) -> Layout:
        """Draw what the captions leave open."""
        return draw_layout(rng)

    def paint(self, scene: Phantom, layout: Layout) -> np.ndarray:
        """Return the picture of a phantom, (64, 64, 3) uint8."""
        return render(scene, layout).image

    def placements(self, layout: Layout) -> Iterator[Layout]:
        """Yield the placements of a lesion that is added or moved, none for any other edit.

        A grid over what `draw_layout` draws: where in its organ the lesion lies, and its size.
        """
        if self.edit_type not in ("add", "place"):
            return
        grid = itertools.product(
            np.linspace(-1, 1, ACROSS), np.linspace(-1, 1, DOWN), np.linspace(0, 1, STEPS)
        )
        for x, y, size in grid:
            if np.hypot(x, y) <= 1.2:  # the corners are outside of the organ
                yield replace(layout, spot=(float(x), float(y)), size=float(size))


@dataclass(frozen=True, kw_only=True)
class Phantoms(GeneratedPairs):
    """104 pairs. Their source images are generated; what is rendered is `RenderedPhantoms`."""

    def draw(self) -> list[PhantomPair]:
        """Draw the pairs, always the same."""
        return phantom_pairs()


@dataclass(frozen=True, kw_only=True)
class ReweightedPhantoms(GeneratedPairs):
    """24 pairs: 12 add "large" to a prompt, 12 have a tumor in both; weights are of that word."""

    def draw(self) -> list[PhantomPair]:
        """Draw the pairs, always the same; others than those of `phantoms`."""
        return phantom_pairs({"reweight large": 12, "reweight tumor": 12}, seed=2)


@dataclass(frozen=True, kw_only=True)
class RenderedPhantoms(Rendered):
    """`per_edit` pairs of each of RENDERED_TYPES, written at the first reading to an own folder in `path`."""

    name: str = "phantoms_rendered"
    path: str | Path = "runs/data/phantoms_rendered"

    def draw(self) -> list[PhantomPair]:
        """Draw the pairs, always the same; others than those of `phantoms`."""
        return phantom_pairs(dict.fromkeys(RENDERED_TYPES, self.per_edit), seed=1000 + self.seed)


def phantom_pairs(counts: dict[str, int] | None = None, seed: int = 0) -> list[PhantomPair]:
    """Draw the data set's pairs: `counts` of each edit type, by default COUNTS.

    Two more may be asked for by name: `reweight large` and `reweight tumor`.
    """
    return [PhantomPair(*edit) for edit in drawn_edits(_EDITS, counts or COUNTS, seed)]


Edit = tuple[Phantom, Phantom, Weights]


def _base(rng: np.random.Generator) -> Phantom:
    """Draw a target: a lesion in a place and modality that training never showed together."""
    while True:
        modality, kind, place = (str(rng.choice(names)) for names in (MODALITIES, KINDS, PLACES))
        if reserved(modality, kind, place):
            region = region_of(place) if rng.random() < 0.6 else ""
            return Phantom(modality, region, Lesion(kind, place))


def _with(phantom: Phantom, **changed: str) -> Phantom:
    assert phantom.lesion
    return replace(phantom, lesion=replace(phantom.lesion, **changed))


def _lesion(phantom: Phantom) -> Lesion:
    assert phantom.lesion
    return phantom.lesion


def _other(rng: np.random.Generator, names: tuple[str, ...], name: str) -> str:
    return str(rng.choice([other for other in names if other != name]))


def _swap(rng: np.random.Generator) -> Edit:
    target = _sized(rng, _base(rng), 0.4)
    return _with(target, kind=_other(rng, KINDS, _lesion(target).kind)), target, ()


def _add(rng: np.random.Generator) -> Edit:
    target = _sized(rng, _base(rng), 0.5)
    target = replace(target, region=target.shown_region())
    return replace(target, lesion=None), target, ()


def _remove(rng: np.random.Generator) -> Edit:
    source, target, weights = _add(rng)
    return target, source, weights


def _attribute(rng: np.random.Generator) -> Edit:
    source = _base(rng)
    if rng.random() < 0.5:  # a word for the size
        return source, _with(source, size=str(rng.choice(SIZES))), ()
    if rng.random() < 0.5:
        return source, _with(source, contrast=str(rng.choice(CONTRASTS))), ()
    first, second = rng.permutation(SIZES)
    return _with(source, size=str(first)), _with(source, size=str(second)), ()


def _place(rng: np.random.Generator) -> Edit:
    target = _sized(rng, _base(rng), 0.4)
    place = _lesion(target).place
    return _with(target, place=_other(rng, REGIONS[region_of(place)], place)), target, ()


def _style(rng: np.random.Generator) -> Edit:
    target = _sized(rng, _base(rng), 0.4)
    return replace(target, modality=_other(rng, MODALITIES, target.modality)), target, ()


def _reweight(rng: np.random.Generator) -> Edit:
    phantom = _sized(rng, _base(rng), 0.6)
    lesion = _lesion(phantom)
    word = lesion.size if lesion.size and rng.random() < 0.7 else lesion.kind
    return phantom, phantom, ((word, float(rng.choice((0.0, 0.5, 2.0)))),)


def _reweight_large(rng: np.random.Generator) -> Edit:
    source = _base(rng)
    return source, _with(source, size="large"), (("large", 2.0),)


def _reweight_tumor(rng: np.random.Generator) -> Edit:
    phantom = _sized(rng, _base(rng), 0.4)
    while _lesion(phantom).kind != "tumor":
        phantom = _sized(rng, _base(rng), 0.4)
    return phantom, phantom, (("tumor", 2.0),)


def _sized(rng: np.random.Generator, phantom: Phantom, share: float) -> Phantom:
    """Say a size in so many of the captions."""
    return _with(phantom, size=str(rng.choice(SIZES))) if rng.random() < share else phantom


_EDITS: dict[str, Callable[[np.random.Generator], Edit]] = {
    "swap": _swap,
    "add": _add,
    "remove": _remove,
    "attribute": _attribute,
    "place": _place,
    "style": _style,
    "reweight": _reweight,
    "reweight large": _reweight_large,
    "reweight tumor": _reweight_tumor,
}
