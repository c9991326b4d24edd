"""The phantoms' language: what a slice may show, and the caption that says so.

A `Phantom` is everything a caption tells; everything it leaves open (pose, shapes of organs, where in its
organ a lesion lies, texture, noise, window, ...) is a `Layout` (layout.py). Left and right are the patient's:
as radiologists look at slices, the patient's left is on the picture's right.
"""

from dataclasses import dataclass, replace

import numpy as np

MODALITIES = ("ct", "mri", "pet")
REGIONS = {
    "chest": ("left lung", "right lung"),
    "abdomen": ("liver", "spleen", "left kidney", "right kidney"),
    "head": ("left hemisphere", "right hemisphere"),
}
PLACES = tuple(place for places in REGIONS.values() for place in places)
KINDS = ("tumor", "cyst", "abscess", "bleed")
SIZES = ("small", "large")
CONTRASTS = ("faint", "clear")
QUALITIES = ("noisy", "blurred")
WORDS = tuple(
    sorted(
        {
            word
            for phrase in (*MODALITIES, *REGIONS, *PLACES, *KINDS, *SIZES, *CONTRASTS, *QUALITIES)
            for word in phrase.split()
        }
        | {"a", "an", "slice", "of", "the", "with", "in"}
    )
)


@dataclass(frozen=True)
class Lesion:
    """What a caption says of a lesion. Empty strings are things that it does not say."""

    kind: str
    place: str = ""
    size: str = ""
    contrast: str = ""

    def __post_init__(self) -> None:
        for field, allowed in (
            ("kind", KINDS),
            ("place", ("", *PLACES)),
            ("size", ("", *SIZES)),
            ("contrast", ("", *CONTRASTS)),
        ):
            _check(field, getattr(self, field), allowed)

    def words(self) -> str:
        """Return e.g. `a large faint tumor in the left lung`."""
        phrase = " ".join(word for word in (self.size, self.contrast, self.kind) if word)
        article = "an" if phrase[0] in "aeiou" else "a"
        return f"{article} {phrase}" + (f" in the {self.place}" if self.place else "")


@dataclass(frozen=True)
class Phantom:
    """What a caption says: modality, perhaps the region of the body, a lesion, and how well it is imaged.

    Where it says no region, it says the lesion's place.
    """

    modality: str
    region: str = ""
    lesion: Lesion | None = None
    quality: str = ""

    def __post_init__(self) -> None:
        _check("modality", self.modality, MODALITIES)
        _check("region", self.region, ("", *REGIONS))
        _check("quality", self.quality, ("", *QUALITIES))
        place = self.lesion.place if self.lesion else ""
        if self.region and place:
            _check(f"place in the {self.region}", place, REGIONS[self.region])
        if not (self.region or place):
            raise ValueError("region: '' is allowed only where the lesion has a place")

    def caption(self) -> str:
        """Return the only caption, e.g. `a noisy ct slice of the chest with a tumor in the left lung`."""
        article = "an" if self.modality == "mri" and not self.quality else "a"
        picture = " ".join(word for word in (article, self.quality, self.modality, "slice") if word)
        region = f" of the {self.region}" if self.region else ""
        return picture + region + (f" with {self.lesion.words()}" if self.lesion else "")

    def reserved(self) -> bool:
        """Say whether this phantom is kept out of all training: a lesion in a place, in this modality.

        16 of the 96 combinations, some of every place, so that a test prompt is a new combination of known
        words.
        """
        lesion = self.lesion
        if lesion is None or not lesion.place:
            return False
        return reserved(self.modality, lesion.kind, lesion.place)

    def shown_region(self) -> str:
        """Return the region of the body, said or known from the lesion's place."""
        return self.region or region_of(self.lesion.place if self.lesion else "")

    def setting(self) -> str:
        """Return the modality."""
        return self.modality

    def named(self) -> tuple[tuple[str, tuple[int, ...]], ...]:
        """Return the lesion's kind, size and contrast, its organ and its side, each with labels of pixels.

        Labels are those of `LABELS`: 1 + index. An organ's pixels are its own and the lesion's in it.
        """
        lesion = self.lesion
        if not lesion:
            return (("", ()),) * 5
        own = 1 + LABELS.index(lesion.kind)
        said = [(word, (own,) if word else ()) for word in (lesion.kind, lesion.size, lesion.contrast)]
        side, _, organ = lesion.place.rpartition(" ")
        there = (own, 1 + LABELS.index(lesion.place)) if lesion.place else ()
        return (*said, (organ, there), (side, there if side else ()))

    def attributes(self) -> tuple[float, ...]:
        """Return 1 for each of ATTRIBUTES that holds, 0 if it does not, -1 where it is left open."""
        lesion = self.lesion
        said = {
            **_said(MODALITIES, self.modality),
            **_said(REGIONS, self.shown_region()),
            **_said(KINDS, lesion.kind if lesion else None),
            **_said(PLACES, lesion.place if lesion else None),
            **_said(SIZES, lesion.size if lesion else None),
            **_said(CONTRASTS, lesion.contrast if lesion else None),
            **_said(QUALITIES, self.quality or None),
        }
        return tuple(said[name] for name in ATTRIBUTES)


LABELS = (*KINDS, *PLACES)
ATTRIBUTES = (*MODALITIES, *REGIONS, *KINDS, *PLACES, *SIZES, *CONTRASTS, *QUALITIES)


def reserved(modality: str, kind: str, place: str) -> bool:
    """Say whether the kind of lesion is never shown in this place and modality during training."""
    return (MODALITIES.index(modality) + 2 * KINDS.index(kind) + PLACES.index(place)) % 6 == 0


def region_of(place: str) -> str:
    """Return the region that a place lies in. Raises ValueError for no place."""
    _check("place", place, PLACES)
    return next(region for region, places in REGIONS.items() if place in places)


def _said(names: tuple[str, ...] | dict[str, tuple[str, ...]], said: str | None) -> dict[str, float]:
    """Return 1 for what is said, else 0; -1 for all where "" leaves it open; None: none holds."""
    return {name: -1.0 if said == "" else float(name == said) for name in names}


def _check(field: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise ValueError(f"{field}: {value!r} is not one of {', '.join(repr(a) for a in allowed)}")


def draw_lesion(rng: np.random.Generator, region: str) -> Lesion:
    """Draw what the caption says of a lesion in this region."""
    return Lesion(
        kind=str(rng.choice(KINDS)),
        place=str(rng.choice(REGIONS[region])) if rng.random() < 0.85 else "",
        size=str(rng.choice(SIZES)) if rng.random() < 0.55 else "",
        contrast=str(rng.choice(CONTRASTS)) if rng.random() < 0.25 else "",
    )


def draw_phantom(rng: np.random.Generator, held_out: bool = False) -> Phantom:
    """Draw a phantom from the training distribution, or (`held_out`) one of the reserved combinations."""
    while True:
        region = str(rng.choice(tuple(REGIONS)))
        phantom = Phantom(
            modality=str(rng.choice(MODALITIES, p=(0.45, 0.35, 0.2))),
            region=region,
            lesion=draw_lesion(rng, region) if rng.random() < 0.85 else None,
            quality=str(rng.choice(QUALITIES)) if rng.random() < 0.15 else "",
        )
        if phantom.lesion and phantom.lesion.place and rng.random() < 0.3:
            phantom = replace(phantom, region="")
        if phantom.reserved() == held_out:
            return phantom


def other_phantom(phantom: Phantom, rng: np.random.Generator) -> Phantom:
    """Return a phantom of the same region that differs by one edit: a word swapped, added or taken away.

    It is no reserved combination: those are seen in no caption of the training, not even this one.
    """
    region = phantom.shown_region()
    while True:
        drawn = draw_lesion(rng, region)
        lesion, changed = phantom.lesion, str(rng.choice(("lesion", *_FIELDS), p=_SHARES))
        if changed == "modality":
            other = replace(phantom, modality=str(rng.choice(MODALITIES)))
        elif changed == "quality":
            other = replace(phantom, quality=str(rng.choice(("", *QUALITIES))))
        elif lesion is None or changed == "lesion":
            other = replace(phantom, region=region, lesion=None if lesion else drawn)
        else:
            place = changed == "place" and not drawn.place
            shown = region if place else phantom.region
            other = replace(
                phantom, region=shown, lesion=replace(lesion, **{changed: getattr(drawn, changed)})
            )
        if other != phantom and not other.reserved():
            return other


_FIELDS = ("kind", "place", "size", "contrast", "modality", "quality")
_SHARES = (0.22, 0.18, 0.18, 0.24, 0.05, 0.1, 0.03)  # about those of the data set's edits
