"""How values are spelled where people read them: two values are never spelled alike."""

import json
import re
from collections import Counter
from collections.abc import Mapping
from typing import Any

_READS_OTHERWISE = re.compile(r"[+-]?[\d.]+(e[+-]?\d+)?|true|false|null|nan|[+-]?inf", re.IGNORECASE)


def spell_number(value: int | float) -> str:
    """Return a number in as few digits as tell it from any other; 1 and 1.0 are one number."""
    if isinstance(value, int):
        return str(value)
    if value.is_integer() and abs(value) < 1e15:
        return str(int(value))
    short = f"{value:g}"
    return short if float(short) == value else repr(value)


def spell(value: object) -> str:
    """Return a parameter's value as text; a text that would read as a number or a constant is in quotes."""
    if isinstance(value, str):
        return json.dumps(value) if _READS_OTHERWISE.fullmatch(value) else value
    if isinstance(value, int | float) and not isinstance(value, bool):
        return spell_number(value)
    return spell_json(value, ensure_ascii=False)


def spell_json(value: Any, ensure_ascii: bool = True) -> str:
    """Return plain values as JSON, equal for equal ones: names are sorted; those that share a word come last.

    Of words of a prompt that overlap, as in `{"the snow": 2, "snow": 3}`, the later entry counts, so that
    their order is a part of the value, and stays.
    """
    return json.dumps(_in_order(value), ensure_ascii=ensure_ascii)


def _in_order(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return [_in_order(entry) for entry in value]
    if not isinstance(value, Mapping):
        return value
    count = Counter(word for name in value for word in set(str(name).split()))
    shared = [name for name in value if any(count[word] > 1 for word in str(name).split())]
    alone = sorted((name for name in value if name not in shared), key=str)
    return {name: _in_order(value[name]) for name in (*alone, *shared)}
