"""The worlds that models are trained on here, by name: folders whose `definition.py` holds a WORLD."""

from argparse import ArgumentParser
from collections.abc import Sequence
from importlib import import_module
from typing import Any

from experiments.embedded.worlds.contract import World

NAMES = ("scenes", "phantoms")
HELP = f"{', '.join(NAMES)}, or a module of yours that holds WORLD"


def load_world(name: str) -> World:
    """Return the world of that name, or the one that a module of yours holds as WORLD (`my_package.world`).

    Raises ValueError where there is none.
    """
    if name not in NAMES and "." not in name:
        raise ValueError(f"world: {name!r}, allowed are {HELP}, as in my_package.world")
    try:
        module = import_module(f"{__name__}.{name}.definition" if name in NAMES else name)
    except ModuleNotFoundError as error:
        raise ValueError(f"world: {name!r} cannot be imported ({error})") from None
    world = getattr(module, "WORLD", None)
    if not isinstance(world, World):
        raise ValueError(f"world: the module {name!r} holds no World as WORLD")
    return world


def parse_world(
    parser: ArgumentParser, arguments: Sequence[str] | None = None
) -> tuple[World, dict[str, Any]]:
    """Read a script's options and --world; what is wrong with that ends the program with one line."""
    parser.add_argument("--world", default=NAMES[0], help=HELP)
    given = vars(parser.parse_args(arguments))
    try:
        return load_world(given.pop("world")), given
    except (ValueError, OSError) as error:
        parser.error(str(error))
