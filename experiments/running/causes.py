"""What went wrong, in one line: for the terminal, the records and the summary."""

import traceback
from pathlib import Path

_LONGEST = 500  # letters


def told(error: BaseException) -> str:
    """Return an error in one line; one without a text names the line of code that raised it."""
    text = " ".join(str(error).split())
    if not text:
        last = traceback.extract_tb(error.__traceback__)[-1]
        text = f"{last.line} ({Path(last.filename).name}, line {last.lineno}, in {last.name})"
    name = type(error).__name__
    return f"{name}: {text[:_LONGEST]}" + "…" * (len(text) > _LONGEST)
