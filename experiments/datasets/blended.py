"""Blended words of published sets: texts such as "cat dog", and what to do where they do not fit the prompts.

They bound the edited area (LocalBlend). The published sets name words that stand in no prompt ("puppy" for
"a golden retriever"); the code they were made with then bounds the edit by the other word alone, or, where
neither is there, silently keeps the source image.
"""

import ast
from collections.abc import Sequence
from typing import Any

from experiments.datasets.pair import has_words

Words = tuple[str | None, str | None]
POLICIES = ("error", "drop", "published")


def blended_words(
    text: str, source_prompt: str, target_prompt: str, policy: str
) -> tuple[Words | None, bool]:
    """Return the words that a text names, and whether they differ from what `parse_blended` would read.

    Words that do not fit are the policy's: "error" raises ValueError, "drop" gives None, "published" does as
    PnP Inversion's `run_editing_p2p.py`. That takes the first two words: "white", "cat" of "white cat dog".
    A word that is not in its prompt, here None, bounds no area and has no weight; where neither is there, the
    edit is its source. A text of one word fails there, and is a ValueError here.
    """
    try:
        words = parse_blended(text, source_prompt, target_prompt)
        if policy != "published" or words is None:
            return words, False
    except ValueError as error:
        if policy == "error":
            raise ValueError(
                f"{error}; dataset.unusable_blend_words=drop leaves them out, published does as published"
            ) from error
        if policy == "drop":
            return None, True
        words = None
    published = _published(text)
    there = tuple(
        word if has_words(prompt, word) else None
        for word, prompt in zip(published, (source_prompt, target_prompt), strict=True)
    )
    return (there[0], there[1]), there != words


def _published(text: str) -> Sequence[str]:
    """Return the two words that published code takes. Raises ValueError where it has none."""
    bracketed = text.strip()[0] in "[("
    pairs = _literal(text.strip()) if bracketed else [text.split(" ")[:2]]  # at single blanks, as published
    if [len(pair) for pair in pairs] != [2]:
        raise ValueError(f"blended words {text!r} are not two, without which the published code fails")
    return [str(word).strip() for word in pairs[0]]


def parse_blended(text: str, source_prompt: str, target_prompt: str) -> tuple[str, str] | None:
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
        raise ValueError(f"{name} = {policy!r}: must be one of {', '.join(POLICIES)}")


def report_unusable(name: str, policy: str, ids: Sequence[str], total: int) -> None:
    """Print in one line which pairs are edited otherwise than by the blended words they came with."""
    how = "bounded as published" if policy == "published" else "without their blended words"
    if ids:
        print(f"{name}: {len(ids)} of {total} pairs {how}: {', '.join(ids)}")


def _stand_in(words: tuple[str, str], source_prompt: str, target_prompt: str) -> bool:
    return has_words(source_prompt, words[0]) and has_words(target_prompt, words[1])


def _candidates(text: str) -> list[tuple[str, str]]:
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
