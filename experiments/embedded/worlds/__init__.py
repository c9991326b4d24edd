"""The worlds that models are trained on here, by name: folders whose `definition.py` holds a WORLD."""

from importlib import import_module

from experiments.embedded.worlds.contract import World

NAMES = ("scenes", "phantoms")


def load_world(name: str) -> World:
    """Return the world of that name. Raises ValueError where there is none."""
    if name not in NAMES:
        raise ValueError(f"world: {name!r} is not one of {', '.join(NAMES)}")
    world: World = import_module(f"{__name__}.{name}.definition").WORLD
    return world
