"""Placeholders in the arguments of a pipeline's call: `{source_image}`, `{target_prompt}`, ... for what an
edit brings.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

TEXTS = ("source_prompt", "target_prompt", "instruction")
PLACEHOLDERS = (*TEXTS, "source_image", "num_inference_steps", "guidance_scale")
_PLACEHOLDER = re.compile(r"\{(\w+)\}")


def check_placeholders(label: str, arguments: Mapping[str, Any]) -> None:
    """Raise ValueError for a placeholder that there is not, and for an image or a number inside a text."""
    for text in _strings(arguments):
        for name in _PLACEHOLDER.findall(text):
            if name not in PLACEHOLDERS:
                known = ", ".join(f"{{{placeholder}}}" for placeholder in PLACEHOLDERS)
                raise ValueError(f"{label}: {{{name}}} is no placeholder, allowed are {known}")
            if name not in TEXTS and text != f"{{{name}}}":
                raise ValueError(f"{label}: {{{name}}} inside of {text!r}, allowed is to stand alone")


def placeholders(value: Any) -> list[str]:
    """Return the names of all placeholders in an argument, however deep."""
    return [name for text in _strings(value) for name in _PLACEHOLDER.findall(text)]


def filled(value: Any, values: Mapping[str, Any]) -> Any:
    """Return an argument with its placeholders replaced, once: braces in a prompt are text."""
    if isinstance(value, str):
        if alone := _PLACEHOLDER.fullmatch(value):
            return values[alone[1]]
        return _PLACEHOLDER.sub(lambda found: str(values[found[1]]), value)
    if isinstance(value, Mapping):
        return {name: filled(inner, values) for name, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [filled(inner, values) for inner in value]
    return value


def plain(value: Any) -> Any:
    """Return an argument as a plain value, equal for equal ones: 1 and 1.0 are one."""
    if isinstance(value, Mapping):
        return {str(name): plain(inner) for name, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(inner) for inner in value]
    if isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    return value


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for inner in value.values():
            yield from _strings(inner)
    elif isinstance(value, (list, tuple)):
        for inner in value:
            yield from _strings(inner)
