"""How values are spelled where people read them: two values are never spelled alike."""

import json
import re

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
    return json.dumps(value, sort_keys=True, ensure_ascii=False)
