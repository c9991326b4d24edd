"""The embedded world's language: what a scene may contain, and the caption that says so.

A `Scene` is everything a caption tells; everything it leaves open (position, palette, clouds, ...) is a
`Layout` (layout.py).
"""

from dataclasses import dataclass, replace

import numpy as np

OBJECTS = (
    *("cat", "dog", "fox", "panda", "frog", "pig", "owl", "octopus", "crab", "lion", "car", "bus", "boat"),
    *(
        "pizza",
        "burger",
        "apple",
        "lemon",
        "watermelon",
        "donut",
        "cake",
        "tree",
        "cactus",
        "house",
        "flower",
    ),
    *("mushroom", "pumpkin", "snowman", "robot", "ghost", "ball", "balloon", "castle"),
)
PLACES = {
    "beach": "on the beach",
    "snow": "in the snow",
    "field": "in a field",
    "desert": "in the desert",
    "city": "in the city",
    "room": "in a room",
    "under water": "under water",
}
TIMES = {"night": "at night", "sunset": "at sunset"}
STYLES = ("photo", "sketch", "watercolor", "pixel art", "black and white photo")
COLOURS = ("red", "blue", "green", "yellow", "purple")
PATTERNS = ("spotted", "striped")
SIZES = ("big", "small")
HEADGEAR = ("hat", "crown")
ATTRIBUTES = (*OBJECTS, *COLOURS, *PATTERNS, *SIZES, *HEADGEAR, *TIMES, *STYLES, "fog", *PLACES)


@dataclass(frozen=True)
class Thing:
    """One object of a scene. Empty strings are things the caption does not say."""

    name: str
    size: str = ""
    colour: str = ""
    pattern: str = ""
    wearing: str = ""

    def __post_init__(self) -> None:
        for field, allowed in (
            ("name", OBJECTS),
            ("size", ("", *SIZES)),
            ("colour", ("", *COLOURS)),
            ("pattern", ("", *PATTERNS)),
            ("wearing", ("", *HEADGEAR)),
        ):
            _check(field, getattr(self, field), allowed)

    def words(self) -> str:
        """Return e.g. `a small red striped cat with a hat`."""
        phrase = " ".join(w for w in (self.size, self.colour, self.pattern, self.name) if w)
        article = "an" if phrase[0] in "aeiou" else "a"
        return f"{article} {phrase}" + (f" with a {self.wearing}" if self.wearing else "")


@dataclass(frozen=True)
class Scene:
    """What a caption says: one or two things, and perhaps place, time of day, fog and style."""

    things: tuple[Thing, ...]
    place: str = ""
    time: str = ""
    fog: bool = False
    style: str = ""

    def __post_init__(self) -> None:
        if not 1 <= len(self.things) <= 2:
            raise ValueError(f"things: {len(self.things)} given, allowed are 1 or 2")
        _check("place", self.place, ("", *PLACES))
        _check("time", self.time, ("", *TIMES))
        _check("style", self.style, ("", *STYLES))

    def caption(self) -> str:
        """Return the scene's only caption, e.g. `a sketch of a cat and a dog in the snow at night`."""
        style = f"a {self.style} of " if self.style else ""
        things = " and ".join(thing.words() for thing in self.things)
        tail = (PLACES.get(self.place, ""), TIMES.get(self.time, ""), "in the fog" if self.fog else "")
        return style + " ".join(part for part in (things, *tail) if part)

    def reserved(self) -> bool:
        """Say whether this scene is kept out of all training: an object in a place it is never trained in.

        Four objects per place, 28 of the 224 combinations, so that a test prompt is a new combination of
        known words.
        """
        return bool(self.place) and any(reserved(thing.name, self.place) for thing in self.things)

    def named(self) -> tuple[tuple[str, tuple[int, ...]], ...]:
        """Return each thing's name with the label of its pixels."""
        return tuple((thing.name, (1 + OBJECTS.index(thing.name),)) for thing in self.things)

    def setting(self) -> str:
        """Return the place, "" where the caption names none."""
        return self.place

    def attributes(self) -> tuple[float, ...]:
        """Return 1 for each of ATTRIBUTES that holds, 0 for each that does not, -1 for what is left open."""
        things = [(t.name, t.size, t.colour, t.pattern, t.wearing) for t in self.things]
        said = {word for thing in things for word in thing}
        said |= {self.time, self.style, self.place, "fog" if self.fog else ""}
        return tuple(
            -1.0 if word in PLACES and not self.place else float(word in said) for word in ATTRIBUTES
        )


def reserved(name: str, place: str) -> bool:
    """Say whether the object is never shown in this place during training."""
    return (OBJECTS.index(name) - tuple(PLACES).index(place)) % 8 == 0


def _check(field: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise ValueError(f"{field}: {value!r} is not one of {', '.join(repr(a) for a in allowed)}")


def draw_thing(rng: np.random.Generator, name: str) -> Thing:
    """Draw what the caption says of one object."""
    thing = Thing(name)
    if rng.random() < 0.25:
        thing = replace(thing, size=str(rng.choice(SIZES)))
    if rng.random() < 0.25:
        thing = replace(thing, colour=str(rng.choice(COLOURS)))
    if rng.random() < 0.08:
        thing = replace(thing, pattern=str(rng.choice(PATTERNS)))
    if rng.random() < 0.12:
        thing = replace(thing, wearing=str(rng.choice(HEADGEAR)))
    return thing


def draw_scene(rng: np.random.Generator, held_out: bool = False) -> Scene:
    """Draw a scene from the training distribution, or (`held_out`) one of the reserved combinations."""
    while True:
        names = rng.choice(OBJECTS, size=2 if rng.random() < 0.4 else 1, replace=False)
        scene = Scene(
            things=tuple(draw_thing(rng, str(name)) for name in names),
            place=str(rng.choice(tuple(PLACES))) if rng.random() < 0.92 else "",
            time=str(rng.choice(tuple(TIMES))) if rng.random() < 0.35 else "",
            fog=bool(rng.random() < 0.08),
            style=str(rng.choice(STYLES)) if rng.random() < 0.35 else "",
        )
        if scene.reserved() == held_out:
            return scene
