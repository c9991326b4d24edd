"""One edit, a source and a target prompt with what belongs to them; its checks, filters and file-safe name.

Words are found as in the reference code (Hertz et al. 2022, `get_word_inds`): prompts split at single spaces.
"""

import difflib
import hashlib
import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from p2p.numbers import is_finite

_PAIR = re.compile(r"""^pair ('[^']*'|"[^"]*")""")  # of a problem of the plan


@dataclass(frozen=True)
class Pair:
    """`source_prompt` edited into `target_prompt`; what an optional field lacks is simply not used.

    weights: factor of each re-weighted word or phrase of the target prompt.
    blend_words: (words of the source prompt, words of the target prompt) whose maps bound the edited area;
    None bounds no area, and of both keeps the source image.
    image: the real image to edit; None = the source image is generated.
    mask: white = the area to edit.
    ideal: the ground truth of the edit, a picture or a folder of pictures any of which would do.
    instruction: the edit as a command ("make the cat a dog"), for what learns from instructions.
    """

    id: str
    source_prompt: str
    target_prompt: str
    edit_type: str = ""
    difficulty: str = ""
    weights: Mapping[str, float] = field(default_factory=dict)
    blend_words: tuple[str | None, str | None] | None = None
    image: Path | None = None
    mask: Path | None = None
    ideal: Path | None = None
    instruction: str = ""


def slug(pair_id: str) -> str:
    """Name files after a pair: at most 40 readable ASCII characters, a hyphen and 10 hex digits.

    The digits hash the whole id, so that distinct ids keep distinct names, on case-blind file systems too.
    """
    ascii_id = unicodedata.normalize("NFKD", pair_id).encode("ascii", "ignore").decode()
    readable = re.sub(r"[^A-Za-z0-9]+", "-", ascii_id)[:40].strip("-") or "pair"
    return f"{readable}-{hashlib.sha256(pair_id.encode()).hexdigest()[:10]}"


def has_words(prompt: str, words: str) -> bool:
    """Tell whether `words`, consecutive and whole, stand in `prompt`: "cat" does not stand in "cat, dog"."""
    return bool(words) and f" {words} " in f" {prompt} "


def filter_pairs(
    pairs: Sequence[Pair],
    limit: int | None = None,
    ids: Iterable[str | int] | str | None = None,
    edit_types: Iterable[str] | str | None = None,
    per_type: int | None = None,
) -> tuple[Pair, ...]:
    """Keep the pairs with these ids and these edit types, in their own order, and of them the first `limit`.

    `per_type` keeps the first so many of each edit type before that.

    A single string stands for a list of one. Raises ValueError on an id or edit type that no pair has, and if
    nothing is left.
    """
    for name, count in (("limit", limit), ("per_type", per_type)):
        if count is not None and (isinstance(count, bool) or not isinstance(count, int) or count < 1):
            raise ValueError(f"{name} = {count!r}: must be a whole number from 1, or null for all pairs")
    kept = list(pairs)
    if ids is not None:
        wanted = _known("ids", ids, [pair.id for pair in pairs])
        kept = [pair for pair in kept if pair.id in wanted]
    if edit_types is not None:
        wanted = _known("edit_types", edit_types, [pair.edit_type for pair in pairs])
        kept = [pair for pair in kept if pair.edit_type in wanted]
    if not kept:
        raise ValueError(f"no pair is left: ids = {ids!r}, edit_types = {edit_types!r} of {len(pairs)} pairs")
    if per_type is not None:
        types = dict.fromkeys(pair.edit_type for pair in kept)
        first = {id(p) for t in types for p in [p for p in kept if p.edit_type == t][:per_type]}
        kept = [pair for pair in kept if id(pair) in first]
    return tuple(kept[:limit])


def _known(name: str, wanted: Iterable[str | int] | str, present: Sequence[str]) -> set[str]:
    # Numbers, because Hydra reads `dataset.ids=[1,2]` as such.
    names = [wanted] if isinstance(wanted, str | int) else list(wanted)
    names = [str(item) for item in names]
    unknown = [item for item in names if item not in present]
    if unknown or not names:
        there = list(dict.fromkeys(present))
        near = [near for item in unknown for near in difflib.get_close_matches(item, there)]
        listed = list(dict.fromkeys(near + there))[:20]
        more = f", ... ({len(there)} in all)" if len(there) > len(listed) else ""
        raise ValueError(f"{name} = {unknown or names!r}: there are {', '.join(map(repr, listed))}{more}")
    return set(names)


def validate_pairs(pairs: Sequence[Pair]) -> None:
    """Raise one ValueError that lists everything wrong with any of the pairs."""
    raise_problems(f"row {row + 1}, {problem}" for row, problem in find_problems(pairs))


def raise_problems(problems: Iterable[str], where: str = "the data set") -> None:
    """Raise one ValueError with a line per problem, if any; what many pairs have is told once."""
    if found := list(problems):
        count = f"{len(found)} problem{'s' if len(found) > 1 else ''}"
        raise ValueError(f"{where} has {count}:\n" + "\n".join(f"  {line}" for line in _grouped(found)))


def _grouped(problems: Iterable[str]) -> list[str]:
    """Return problems; of more than three that say the same of several pairs the first, with their number."""
    alike: dict[str, list[str]] = {}
    for problem in problems:
        alike.setdefault(_PAIR.sub("", problem, count=1), []).append(problem)
    told = []
    for same in alike.values():
        told += same if len(same) <= 3 else [f"{same[0]} (and so of {len(same) - 1} other pairs)"]
    return told


def checked(pairs: Sequence[Pair], problems: Iterable[str], where: str) -> list[Pair]:
    """Return the pairs; ValueError lists these problems of rows that gave none, and all of the pairs' own."""
    raise_problems([*problems, *(problem for _, problem in find_problems(pairs))], where)
    return list(pairs)


def single_spaced(text: str) -> str:
    """Close up white space: tokenizers do so too, but words of a prompt are counted by its single spaces."""
    return " ".join(text.split())


def find_problems(pairs: Sequence[Pair]) -> Iterator[tuple[int, str]]:
    """Yield (position of the pair, what is wrong with it) for every field that cannot be used."""
    first: dict[str, int] = {}
    for position, pair in enumerate(pairs):
        for problem in _pair_problems(pair):
            yield position, f"id {pair.id!r}: {problem}"
        if (earlier := first.setdefault(str(pair.id), position)) != position:
            yield position, f"id {pair.id!r}: must be unique, pair {earlier + 1} of {len(pairs)} has it too"


TEXTS = ("id", "source_prompt", "target_prompt", "edit_type", "difficulty", "instruction")


def _pair_problems(pair: Pair) -> Iterator[str]:
    if problems := list(_kind_problems(pair)):
        yield from problems  # the other checks take the kinds for granted
        return
    for name in ("id", "edit_type", "difficulty"):
        if (value := getattr(pair, name)) != value.strip():
            yield f"{name} = {value!r}: no spaces before or after it"
    if not pair.id:
        yield "id must not be empty"
    for name in ("source_prompt", "target_prompt"):
        yield from _prompt_problems(name, getattr(pair, name))
    for words, factor in pair.weights.items():
        yield from _word_problems("weights", words, "target_prompt", pair.target_prompt)
        if not is_finite(factor):
            yield f"weights[{words!r}] = {factor!r}: must be a finite number"
    if pair.blend_words is not None:
        source_words, target_words = pair.blend_words
        if source_words is not None:
            yield from _word_problems("blend_words", source_words, "source_prompt", pair.source_prompt)
        if target_words is not None:
            yield from _word_problems("blend_words", target_words, "target_prompt", pair.target_prompt)
    for name in ("image", "mask", "ideal"):
        path = getattr(pair, name)
        try:
            found = path is None or path.is_file() or (name == "ideal" and path.is_dir())
            problem = "there is no such file"
        except OSError as error:  # a name that is too long
            found, problem = False, str(error.strerror)
        if not found:
            yield f"{name} = {str(path)!r}: {problem}"
    if pair.ideal is not None and pair.image is None:
        yield "ideal: is the edit of a picture, so that the pair needs an image too"


def _kind_problems(pair: Pair) -> Iterator[str]:
    """Yield a problem for each field of another kind than `Pair` says, and for a text that is not whole."""
    for name in TEXTS:
        yield from _text_problems(name, getattr(pair, name))
    if not isinstance(pair.weights, Mapping):
        yield f"weights = {pair.weights!r}: must map words to numbers"
    else:
        for words in pair.weights:
            yield from _text_problems("weights", words)
    blended = pair.blend_words
    if not (blended is None or (isinstance(blended, tuple | list) and len(blended) == 2)):
        yield f"blend_words = {blended!r}: must be two, of the source and of the target prompt"
    else:
        for blend in blended or ():
            yield from _text_problems("blend_words", blend) if blend is not None else ()
    for name in ("image", "mask", "ideal"):
        if not isinstance(getattr(pair, name), Path | None):
            yield f"{name} = {getattr(pair, name)!r}: must be a path"


def _text_problems(name: str, value: object) -> Iterator[str]:
    if not isinstance(value, str):
        yield f"{name} = {value!r}: must be a text; a number is one in quotes"
    elif not is_whole_text(value):
        yield f"{name} = {value!r}: holds half of a character"


def is_whole_text(text: str) -> bool:
    """Say whether a text can be written as UTF-8: half of a surrogate pair ("\\ud83d") is no character."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _prompt_problems(name: str, prompt: str) -> Iterator[str]:
    # Any other white space makes empty or glued words and shifts the positions of all that follow.
    if not (closed := single_spaced(prompt)):
        yield f"{name} = {prompt!r}: must not be empty"
    elif prompt != closed:
        yield f"{name} = {prompt!r}: words must be separated by single spaces, as in {closed!r}"


def _word_problems(name: str, words: str, prompt_name: str, prompt: str) -> Iterator[str]:
    if not has_words(prompt, words):
        near = _nearest(words, prompt)
        hint = f"; did you mean {near!r}{_other_form(words, near)}?" if near else ""
        rule = "whole words, case and punctuation count"
        yield f"{name}: {words!r} is not in {prompt_name} {prompt!r} ({rule}{hint})"


def _other_form(typed: str, near: str) -> str:
    """Say of two texts that look alike why they differ: accents may be composed with their letters or not."""
    alike = unicodedata.normalize("NFC", typed) == unicodedata.normalize("NFC", near)
    return ", which has its accents in another Unicode form" if alike else ""


def _nearest(words: str, prompt: str) -> str | None:
    tokens, length = prompt.split(), len(words.split())
    runs = [" ".join(tokens[i : i + length]) for i in range(len(tokens) - length + 1)] if length else []
    by_folded = {run.casefold(): run for run in runs}
    close = difflib.get_close_matches(words.casefold(), by_folded, n=1)
    return by_folded[close[0]] if close else None
