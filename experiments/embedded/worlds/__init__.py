"""The worlds that models are trained on here, by name: folders whose `definition.py` holds a WORLD."""

from argparse import ArgumentParser
from collections.abc import Callable, Sequence
from importlib import import_module

from experiments.embedded.input_errors import InputError, told_in_one_line
from experiments.embedded.worlds.contract import World

NAMES = ("scenes", "phantoms")
HELP = f"{', '.join(NAMES)}, or a module of yours that holds WORLD"


def load_world(name: str) -> World:
    """Return the world of that name, or the one that a module of yours holds as WORLD (`my_package.world`).

    Raises InputError where there is none, whatever keeps a module of yours from being imported.
    """
    if name not in NAMES and "." not in name:
        raise InputError(f"world: {name!r}, allowed are {HELP}, as in my_package.world")
    try:
        module = import_module(f"{__name__}.{name}.definition" if name in NAMES else name)
    except Exception as error:
        cause = " ".join(f"{type(error).__name__}: {error}".split())
        raise InputError(f"world: {name!r} cannot be imported ({cause})") from error
    world = getattr(module, "WORLD", None)
    if not isinstance(world, World):
        raise InputError(f"world: the module {name!r} holds no World as WORLD")
    return world


def start(main: Callable[..., None], parser: ArgumentParser, arguments: Sequence[str] | None = None) -> None:
    """Call `main(world, **options)` as the command line says.

    Input that cannot be used ends the program with one line.
    """
    parser.add_argument("--world", default=NAMES[0], help=HELP)
    given = vars(parser.parse_args(arguments))
    try:
        world = load_world(given.pop("world"))
    except InputError as error:
        parser.error(str(error))
    with told_in_one_line():
        main(world, **given)
