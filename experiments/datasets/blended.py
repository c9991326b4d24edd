"""Blended words of published sets: texts such as "cat dog", and what to do where they do not fit the prompts.

They bound the edited area (LocalBlend). The published sets name words that stand in no prompt ("puppy" for
"a golden retriever"); the code they were made with then silently keeps the source image, or fails.
"""

import ast
from collections.abc import Sequence
from typing import Any

from experiments.datasets.pair import has_words

Words = tuple[str, str]
POLICIES = ("error", "drop")


def parse_blended(text: str, source_prompt: str, target_prompt: str) -> Words | None:
    """Return the words of the source and of the target prompt that a text names; None where it names none.

    Formats: "src tgt" (PIE-Bench), "('src', 'tgt')" (invertible-cd), '["src,tgt"]' (PIE-Bench++). More than
    two words are parted where both sides stand in their prompts. ValueError says what does not fit.
    """
    stripped = text.strip()
    if stripped in ("", "[]", "()"):
        return None
    fits = [words for words in _candidates(stripped) if _stand_in(words, source_prompt, target_prompt)]
    if len(fits) == 1:
        return fits[0]
    why = "part in several ways into" if fits else "are not"
    raise ValueError(
        f"blended words {text!r} {why} words of the source prompt {source_prompt!r} and of the target prompt "
        f"{target_prompt!r} (whole words, case and punctuation count)"
    )


def check_policy(name: str, policy: str) -> None:
    """Raise ValueError unless this is one of POLICIES."""
    if policy not in POLICIES:
        raise ValueError(f"{name} = {policy!r}: must be {' or '.join(POLICIES)}")


def report_dropped(name: str, dropped: Sequence[str], total: int) -> None:
    """Print in one line which pairs are edited without the blended words they came with."""
    if dropped:
        print(f"{name}: {len(dropped)} of {total} pairs without their blended words: {', '.join(dropped)}")


def _stand_in(words: Words, source_prompt: str, target_prompt: str) -> bool:
    return has_words(source_prompt, words[0]) and has_words(target_prompt, words[1])


def _candidates(text: str) -> list[Words]:
    if text[0] not in "[(":
        words = text.split()
        return [(" ".join(words[:n]), " ".join(words[n:])) for n in range(1, len(words))]
    pairs = _literal(text)
    if len(pairs) > 1:
        raise ValueError(f"blended words {text!r} are {len(pairs)} pairs; one pair bounds an edit")
    return [(str(pair[0]).strip(), str(pair[1]).strip()) for pair in pairs if len(pair) == 2]


def _literal(text: str) -> list[list[Any]]:
    """Read `["a,b", ...]`, `[["a", "b"], ...]` or `('a', 'b')` as a list of pairs; else it is empty."""
    try:
        items = ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return []
    if isinstance(items, tuple):
        return [list(items)]
    if not isinstance(items, list):
        return []
    pairs = [item.split(",") if isinstance(item, str) else item for item in items]
    return [list(pair) for pair in pairs if isinstance(pair, list | tuple)]
