"""What is wrong with a training's input is told in one line; any other error shows where it was raised."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class InputError(ValueError):
    """What was supplied cannot be used: a recipe's field, a world, a folder, a state to go on from."""


@contextmanager
def reading(what: str) -> Iterator[None]:
    """Raise InputError, naming what is read inside, where a file of it is missing or cannot be read."""
    try:
        yield
    except OSError as error:
        cause = " ".join(str(error).split())
        raise InputError(f"{what} cannot be read ({cause})") from error


@contextmanager
def told_in_one_line() -> Iterator[None]:
    """End the program with the script's name and the cause where an InputError is raised inside."""
    try:
        yield
    except InputError as error:
        sys.exit(f"{Path(sys.argv[0]).stem}: {error}")
