"""Whether the values of a configuration are of the kinds that its class says: a text where a text is meant.

Read from type hints, so that a class says it once. A class whose hints cannot be read is not checked.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from pkgutil import resolve_name
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from experiments.datasets.pair import is_whole_text
from p2p.numbers import is_finite

ANSWERS = {
    "model": "identity",
    "dataset": "load",
    "tracking": "log_run",
    "executor": "start",
    "sampling": "rows_per_state",
    "auto_tau": "taus",
    "tables": "columns",
    "study": "checks",
    "inversion": "check",
    "inversions": "check",
    "metrics": "higher_is_better",
    "method": "trajectory",
    "grid": "trajectory",
}
"""What an object has that is made of a node of the configuration."""


def misfits(target: Callable[..., Any], node: Mapping[str, Any]) -> Iterator[tuple[Any, str]]:
    """Yield each value of a node that is of another kind than its class takes, and what is wrong with it."""
    hints = _hints(target)
    for key, value in node.items():
        hint = hints.get(key, Any)
        if isinstance(value, Mapping) and "_target_" in value:
            inner = misfits(named(str(value["_target_"])) or dict, value)
            yield from ((part, f"{key}: {problem}") for part, problem in inner)
        elif not _fits(value, hint):
            number = isinstance(value, bool | int | float) and _fits("", hint)
            quoted = f'; in quotes it is one: {key}="{value}"' if number else ""
            yield value, f"{key}: {value!r} is not {_told(hint)}{quoted}"


def named(target: str) -> Callable[..., Any] | None:
    """Return the class or function of an import path, or None where there is none."""
    try:
        found = resolve_name(target)
    except Exception:  # whatever an import raises
        return None
    return found if callable(found) else None


def _hints(target: Callable[..., Any]) -> dict[str, Any]:
    fields = inspect.isclass(target) and "__dataclass_fields__" in vars(target)
    try:
        return get_type_hints(target if fields or not inspect.isclass(target) else target.__init__)
    except (NameError, TypeError, AttributeError):
        return {}


def _fits(value: Any, hint: Any) -> bool:
    origin, inner = get_origin(hint), get_args(hint)
    if isinstance(value, Mapping) and "_target_" in value:
        return True  # an object by now
    if origin in (Union, UnionType):
        return any(_fits(value, one) for one in inner)
    if origin is Literal:
        return isinstance(value, tuple({type(one) for one in inner}))  # which one, the class says
    kind = origin or hint
    if hint is Any or not isinstance(kind, type):
        return True
    if kind is float:
        return is_finite(value)
    if kind is int:
        return isinstance(value, int) and not isinstance(value, bool)
    if kind is str or issubclass(kind, Path):
        return isinstance(value, str | kind) and is_whole_text(str(value))
    if issubclass(kind, Mapping):
        keys, values = inner or (Any, Any)
        return isinstance(value, Mapping) and all(
            _fits(k, keys) and _fits(v, values) for k, v in value.items()
        )
    if issubclass(kind, Collection) or kind.__name__ == "Iterable":
        return isinstance(value, list | tuple) and _items_fit(value, kind, inner)
    return isinstance(value, kind)


def _items_fit(value: Collection[Any], kind: type, inner: tuple[Any, ...]) -> bool:
    if kind is tuple and inner and inner[-1] is not Ellipsis:
        return len(value) == len(inner) and all(map(_fits, value, inner))
    return not inner or all(_fits(item, inner[0]) for item in value)


def _told(hint: Any) -> str:
    """Return what a hint takes, in words."""
    origin, inner = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType):
        return ", or ".join(dict.fromkeys(map(_told, inner)))
    kind = origin or hint
    if kind is Any or not isinstance(kind, type):
        return "a value"
    plain = {bool: "true or false", int: "a whole number", float: "a finite number", NoneType: "null"}
    if kind in plain:
        return plain[kind]
    if kind is str or origin is Literal or issubclass(kind, Path):
        return "a text"
    if issubclass(kind, Mapping):
        return f"a mapping from {_told(inner[0])} to {_told(inner[1])}" if inner else "a mapping"
    if issubclass(kind, Collection) or kind.__name__ == "Iterable":
        each = "" if not inner or inner[0] is Any else f", each {_told(inner[0])}"
        fixed = kind is tuple and inner and inner[-1] is not Ellipsis
        return (f"a list of {len(inner)}" if fixed else "a list") + each
    return f"a configuration of {kind.__name__}, with its `_target_`"
