"""Grids of parameters that are mappings of their own, such as the arguments of another pipeline's call.

`call: {skip: [0.1, 0.2]}` is the axis `call.skip`; what it leaves out stays as the method's file has it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

Axes = Mapping[str, Any] | Sequence[Mapping[str, Any]] | None


def spelled_out(axes: Axes, defaults: Mapping[str, Any]) -> Axes:
    """Return a method's axes, where an axis inside of a mapping is named by its path, as in `call.skip`.

    A mapping is taken apart only where the method's own value is one: elsewhere it is a value of the axis,
    such as a tau for each word.
    """
    if isinstance(axes, Mapping):
        return _spelled(axes, defaults)
    return axes if axes is None else [_spelled(part, defaults) for part in axes]


def _spelled(axes: Mapping[str, Any], defaults: Mapping[str, Any]) -> dict[str, Any]:
    return dict(pair for name, value in axes.items() for pair in _paths(str(name), value, defaults))


def _paths(name: str, value: Any, defaults: Mapping[str, Any]) -> list[tuple[str, Any]]:
    own = defaults.get(name)
    if not (isinstance(own, Mapping) and isinstance(value, Mapping)):
        return [(name, value)]
    inner = [pair for key, part in value.items() for pair in _paths(str(key), part, own)]
    return [(f"{name}.{path}", part) for path, part in inner]


def merged(defaults: Mapping[str, Any], params: Mapping[str, Any]) -> dict[str, Any]:
    """Return a method's parameters with those of one cell of its grid in their places.

    Raises ValueError for a path through what is no mapping.
    """
    whole = dict(defaults)
    for name, value in params.items():
        head, _, rest = name.partition(".")
        if not rest:
            whole[head] = value
            continue
        inner = whole.get(head)
        if not isinstance(inner, Mapping):
            raise ValueError(f"{name}: {head} has no parameters of its own, allowed is to give it a value")
        whole[head] = merged(inner, {rest: value})
    return whole
