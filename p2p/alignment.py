"""Align the tokens of a source and a target prompt: words to tokens, mappers between prompts, word weights.

Hertz et al. 2022, Sec. 3.2; "the reference" below is google/prompt-to-prompt (seq_aligner.py, ptp_utils.py).

Padding is what follows a prompt's own tokens up to the tokenizer's limit. The end token is one of the
prompt's own, also where padding repeats it (CLIP of Stable Diffusion 1.x).
"""

from __future__ import annotations

import unicodedata
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from itertools import accumulate
from typing import TYPE_CHECKING, Any, ClassVar, Literal, TypeAlias, get_args

import torch
from torch import Tensor

from p2p.numbers import is_finite

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from p2p.loading.plain_tokenizer import PlainTokenizer
    from p2p.templated_tokenizer import TemplatedTokenizer

Tail = Literal["by_position", "google"]
"""What follows the last changed word: "by_position" aligns words and end token with each other and leaves
padding at its absolute position, "google" keeps the reference's positions for words too."""


Encoding: TypeAlias = Mapping[str, Any]
"""A prompt's `input_ids`, `special_tokens_mask` and, of a fast tokenizer, `offset_mapping`; in a template
`left_padding`, how many of its first tokens are padding, and `padded`, how many there are with padding."""


@dataclass(frozen=True)
class NoText:
    """In place of a tokenizer: a block of tokens that stand for no words, as its text encoder is left out."""

    model_max_length: int
    is_fast: ClassVar[bool] = True

    def __call__(self, prompt: str, **_: Any) -> Encoding:
        """Return no tokens."""
        return {"input_ids": [], "special_tokens_mask": [], "offset_mapping": []}


@dataclass(frozen=True)
class ExpandingTokenizer:
    """The tokenizer of a pipeline that writes a token of several vectors out before it encodes a prompt.

    A token that textual inversion added with three vectors, `<frog>`, is encoded as `<frog> <frog>_1
    <frog>_2` (diffusers' `maybe_convert_prompt`, in `encode_prompt` of the pipelines that load such tokens).
    The tokenizer may get more tokens at any time.
    """

    tokenizer: PreTrainedTokenizerBase | PlainTokenizer

    @property
    def model_max_length(self) -> int:
        """The number of tokens that prompts are padded to."""
        limit: int = self.tokenizer.model_max_length
        return limit

    @property
    def is_fast(self) -> bool:
        """Whether it gives offsets."""
        return bool(self.tokenizer.is_fast)

    def __call__(self, prompt: str, **options: Any) -> Encoding:
        """Return the encoding of the text that the pipeline encodes; offsets are places in that text."""
        return self.tokenizer(self.expanded(prompt), **options)

    def __len__(self) -> int:
        return len(self.tokenizer)

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of token ids."""
        return str(self.tokenizer.decode(ids))

    def expanded(self, prompt: str) -> str:
        """Return the text that the pipeline encodes."""
        if self.tokenizer.added_tokens_encoder.keys().isdisjoint(self.tokenizer.tokenize(prompt)):
            return prompt
        from diffusers.loaders import TextualInversionLoaderMixin  # of all diffusers only here

        text: str = TextualInversionLoaderMixin().maybe_convert_prompt(prompt, self.tokenizer)
        return text

    def expanded_words(self, words: Sequence[str]) -> list[str]:
        """Return the words as the pipeline encodes them; a token of several vectors has spaces in it.

        Raises ValueError where tokens overlap, so that it cannot be said which word a piece belongs to.
        """
        prompt, expanded = " ".join(words), list(words)
        for token in set(self.tokenizer.tokenize(prompt)):  # diffusers' own order
            if token in self.tokenizer.added_tokens_encoder:
                expanded = [word.replace(token, self.expanded(token)) for word in expanded]
        if " ".join(expanded) != (text := self.expanded(prompt)):
            raise ValueError(f"prompt {prompt!r} is encoded as {text!r}, which does not fall into its words")
        return expanded


Tokenizer: TypeAlias = (
    "PreTrainedTokenizerBase | PlainTokenizer | NoText | ExpandingTokenizer | TemplatedTokenizer"
)
Tokenizers: TypeAlias = Sequence[Tokenizer]
"""Those whose tokens, padded to each one's limit, stand one block after the other in a denoiser's text."""


def word_indices(prompt: str, word: str | int, tokenizer: Tokenizer) -> list[int]:
    """Return the token positions of every occurrence of a word, of a phrase, or of the word at a position.

    Words are what single spaces separate and must be equal in case and punctuation, as in the reference:
    "cat," is not "cat". A phrase is several consecutive words. Positions count special tokens (BOS is 0).
    Raises ValueError if there is no such word, where the reference silently edits nothing.
    """
    words = split_words(prompt)
    if isinstance(word, bool):  # an unquoted `yes` or `no` in YAML
        raise ValueError(f"word must be a string or a position, got {word!r} for prompt {prompt!r}")
    if isinstance(word, int):
        if not 0 <= word < len(words):
            raise ValueError(f"word position {word} is outside 0..{len(words) - 1} of prompt {prompt!r}")
        chosen = {word}
    else:
        phrase = split_words(word, name="word")
        starts = [k for k in range(len(words)) if words[k : k + len(phrase)] == phrase]
        chosen = {k + offset for k in starts for offset in range(len(phrase))}
    if not chosen:
        raise ValueError(f"word {word!r} is not in prompt {prompt!r}{_near_match(str(word), words)}")
    tokens = word_tokens(prompt, tokenizer)
    return [token for k in sorted(chosen) for token in tokens[k]]


def word_tokens(prompt: str, tokenizer: Tokenizer) -> list[list[int]]:
    """Return, for each word of the prompt, the positions of its tokens.

    The pieces of a token of several vectors (textual inversion) are the one word's. Uses the offsets of fast
    tokenizers, else the reference's walk over decoded pieces. The two agree wherever that walk is right: it
    goes astray at "#" and at characters of several tokens, which here is a ValueError.
    """
    words = encoded = split_words(prompt)
    if isinstance(tokenizer, NoText):
        return [[] for _ in words]
    encoding = encode(prompt, tokenizer)
    if isinstance(tokenizer, ExpandingTokenizer):
        encoded = tokenizer.expanded_words(words)
    own = [i for i, special in enumerate(encoding["special_tokens_mask"]) if not special]
    if tokenizer.is_fast:
        owners = _owners_by_offset([encoding["offset_mapping"][i] for i in own], encoded)
    else:
        pieces = [str(tokenizer.decode([encoding["input_ids"][i]])) for i in own]
        owners = _owners_by_length(pieces, [word.replace(" ", "") for word in encoded])
    tokens: list[list[int]] = [[] for _ in words]
    for i, owner in zip(own, owners, strict=True):
        tokens[owner].append(i)
    for word, positions in zip(words, tokens, strict=True):
        if not positions:
            raise ValueError(f"word {word!r} of prompt {prompt!r} has no token of its own")
    return tokens


def split_words(text: str, name: str = "prompt") -> list[str]:
    """Split at single spaces. Any other white space would shift word positions, so it is a ValueError."""
    words = text.split(" ")
    if words != text.split():
        raise ValueError(f"{name} {text!r} must be words separated by single spaces, with none at the ends")
    return words


def token_limit(tokenizer: Tokenizer) -> int:
    """Return the number of tokens that prompts are padded to."""
    limit = tokenizer.model_max_length
    if limit > 1_000_000:  # transformers' stand-in for "not set"
        raise ValueError(f"model_max_length of {type(tokenizer).__name__} is not set (it is {limit})")
    return int(limit)


def replacement_mapper(
    source_prompt: str, target_prompt: str, tokenizer: Tokenizer, tail: Tail = "by_position"
) -> Tensor:
    """Map attention from source tokens (rows) to target tokens (columns) for a word swap; float32, square.

    A word of as many tokens as its replacement maps 1:1; otherwise each of its tokens gives
    1 / len(target tokens) to each target token; words after the last replaced one, and the end token, map
    1:1. Source padding i goes to target position i where that is padding too, else to the target's first
    padding, and in a target without padding to the last token, so that every row sums to 1. Target padding
    where a longer source has words takes nothing. Of padding on the left all this is mirrored. tail="google"
    keeps the reference's diagonal after the last replaced word. Raises ValueError if the prompts differ in
    their number of words.
    """
    _check_tail(tail)
    check_word_counts(source_prompt, target_prompt)
    source, target = word_tokens(source_prompt, tokenizer), word_tokens(target_prompt, tokenizer)
    pairs = zip(split_words(source_prompt), split_words(target_prompt), strict=True)
    replaced = [k for k, (source_word, target_word) in enumerate(pairs) if source_word != target_word]
    n = token_limit(tokenizer)
    if not replaced:
        return torch.eye(n)

    mapper = torch.zeros(n, n)
    left, left_of_target = (_left_padding(one, tokenizer) for one in (source_prompt, target_prompt))
    before = torch.arange(left, source[0][0])  # BOS or a template, where there is one
    mapper[before, before + target[0][0] - source[0][0]] = 1
    mapper[torch.arange(left), torch.arange(left).clamp(max=max(left_of_target - 1, 0))] = 1
    last = replaced[-1]
    for rows, columns in zip(source[: last + 1], target[: last + 1], strict=True):
        if len(rows) == len(columns):
            mapper[rows, columns] = 1
        else:
            mapper[rows[0] : rows[-1] + 1, columns] = 1 / len(columns)
    i, j = source[last][-1] + 1, target[last][-1] + 1
    if tail == "by_position":
        end = len(encode(source_prompt, tokenizer)["input_ids"])
        rest = torch.arange(i, end)
        mapper[rest, rest + j - i] = 1
        padding = torch.arange(end, n)
        first = min(
            len(encode(target_prompt, tokenizer)["input_ids"]), padded_length(target_prompt, tokenizer) - 1
        )
        mapper[padding, padding.clamp(min=first)] = 1
    else:
        rest = torch.arange(j, j + n - max(i, j))
        mapper[rest, rest] = 1
    return mapper


def refinement_mapper(
    source_prompt: str, target_prompt: str, tokenizer: Tokenizer, tail: Tail = "by_position"
) -> tuple[Tensor, Tensor]:
    """Return mapper, each target token's source token (int64, -1: none), and alphas, 1.0 where there is one.

    Both are (tokens,). Needleman-Wunsch on token ids as in the reference: gap 0, match 1, mismatch -1. Target
    padding j reads source position j where that is padding too, else the source's first padding, so that no
    padding reads a word; where the source has no padding, the target's keeps its own map as a new token does.
    Of padding on the left all this is mirrored.
    tail="google" reads the source's position j, word or not.
    """
    _check_tail(tail)
    source = encode(source_prompt, tokenizer)["input_ids"]
    target = encode(target_prompt, tokenizer)["input_ids"]
    n = token_limit(tokenizer)
    padding = torch.arange(len(target), n)
    if tail == "by_position":
        full = len(source) == padded_length(source_prompt, tokenizer)
        padding = torch.full_like(padding, -1) if full else padding.clamp(min=len(source))
    left, left_of_target = (_left_padding(one, tokenizer) for one in (source_prompt, target_prompt))
    before = torch.arange(left_of_target).clamp(max=left - 1)  # -1 where the source has none
    own = torch.tensor(_needleman_wunsch(source[left:], target[left_of_target:]), dtype=torch.int64)
    mapper = torch.cat([before, torch.where(own >= 0, own + left, own), padding])
    return mapper, (mapper >= 0).float()


def word_column(prompt: str, word: str | None, tokenizers: Tokenizers) -> Tensor:
    """Return 1 at the word's tokens in every block and 0 elsewhere, (tokens,) float32; None: 0 throughout."""
    blocks = []
    for tokenizer in tokenizers:
        block = torch.zeros(token_limit(tokenizer))
        if word is not None:
            block[word_indices(prompt, word, tokenizer)] = 1
        blocks.append(block)
    return torch.cat(blocks)


def check_prompt(prompt: str, tokenizers: Tokenizers) -> None:
    """Raise ValueError for a prompt that is too long or does not fall into words."""
    for tokenizer in tokenizers:
        word_tokens(prompt, tokenizer)


def equalizer(prompt: str, weights: Mapping[str, float], tokenizer: Tokenizer) -> Tensor:
    """Return one factor per token (tokens,), float64: each word's weight on its tokens, 1 elsewhere.

    Hertz et al. 2022, Sec. 3.2, "Attention re-weighting". Weights are finite (the paper uses [-2, 2]); a
    later entry overwrites an earlier one that has the same word. Raises ValueError for an absent word.
    """
    factors = torch.ones(token_limit(tokenizer), dtype=torch.float64)  # single precision has no 0.3
    for word, weight in weights.items():
        _check_weight(prompt, word, weight)
        factors[word_indices(prompt, word, tokenizer)] = float(weight)
    return factors


def encode(prompt: str, tokenizer: Tokenizer) -> Encoding:
    encoding: Encoding = tokenizer(
        prompt,
        return_special_tokens_mask=True,
        return_offsets_mapping=tokenizer.is_fast,
        verbose=False,  # its warning about the length is the error below
    )
    count, limit = len(encoding["input_ids"]), token_limit(tokenizer)
    if count > limit:
        raise ValueError(f"prompt {prompt!r} has {count} tokens, allowed are {limit}")
    return encoding


def padded_length(prompt: str, tokenizer: Tokenizer) -> int:
    """Return how many tokens a prompt has with its padding: the limit, but where that is to a multiple."""
    return int(encode(prompt, tokenizer).get("padded", token_limit(tokenizer)))


def check_equal_padding(source_prompt: str, target_prompt: str, tokenizers: Tokenizers) -> None:
    """Raise ValueError for prompts that are padded to unlike lengths, between which no maps can be taken."""
    for tokenizer in tokenizers:
        if not getattr(tokenizer, "multiple", None):
            continue
        source, target = (padded_length(one, tokenizer) for one in (source_prompt, target_prompt))
        if source != target:
            raise ValueError(
                f"prompt {target_prompt!r} is padded to {target} tokens and its source to {source}, so that "
                "this model has their images at unlike positions and maps of unlike size; allowed are "
                "prompts that are padded alike, and edits that take nothing of the source's attention"
            )


def _left_padding(prompt: str, tokenizer: Tokenizer) -> int:
    """Return how many of a prompt's first tokens are padding."""
    return int(encode(prompt, tokenizer).get("left_padding", 0))


def _owners_by_offset(offsets: Sequence[tuple[int, int]], words: Sequence[str]) -> list[int]:
    ends = [end - 1 for end in accumulate(len(word) + 1 for word in words)]
    # A token that starts at a space (sentencepiece's may) is the next word's.
    return [bisect_right(ends, start) for start, _ in offsets]


def _owners_by_length(pieces: Sequence[str], words: Sequence[str]) -> list[int]:
    owners: list[int] = []
    word, length = 0, 0
    for piece in pieces:
        owners.append(word)
        length += len(piece.strip("#"))  # WordPiece marks continuations by ##
        if word == len(words) or length > len(words[word]):
            break
        if length == len(words[word]):
            word, length = word + 1, 0
    if word != len(words) or len(owners) != len(pieces):
        raise ValueError(f"prompt {' '.join(words)!r} does not fall into words by its tokens {list(pieces)}")
    return owners


def _needleman_wunsch(source: Sequence[int], target: Sequence[int]) -> list[int]:
    scores = [[0] * (len(target) + 1) for _ in range(len(source) + 1)]
    for i, x in enumerate(source, start=1):
        for j, y in enumerate(target, start=1):
            diagonal = scores[i - 1][j - 1] + (1 if x == y else -1)
            scores[i][j] = max(scores[i][j - 1], scores[i - 1][j], diagonal)
    aligned = [-1] * len(target)
    i, j = len(source), len(target)
    while i > 0 and j > 0:
        # The order decides between equally good alignments; it is the reference's.
        if scores[i][j] == scores[i][j - 1]:
            j -= 1
        elif scores[i][j] == scores[i - 1][j]:
            i -= 1
        else:
            i, j = i - 1, j - 1
            aligned[j] = i
    return aligned


def _near_match(word: str, words: Sequence[str]) -> str:
    size = len(word.split(" "))
    phrases = [" ".join(words[k : k + size]) for k in range(len(words) - size + 1)]
    same = [phrase for phrase in phrases if _bare(phrase) == _bare(word)]
    near = same or get_close_matches(word, phrases, n=1)
    if not near:
        return ""
    alike = unicodedata.normalize("NFC", near[0]) == unicodedata.normalize("NFC", word)
    form = ", which has its accents in another Unicode form" if alike else ""
    return f"; did you mean {near[0]!r}{form}?"


def _bare(phrase: str) -> str:
    return "".join(c for c in phrase.casefold() if c.isalnum() or c == " ")


def _check_tail(tail: str) -> None:
    if tail not in get_args(Tail):
        raise ValueError(f"tail must be one of {', '.join(get_args(Tail))}, got {tail!r}")


def _check_weight(prompt: str, word: object, weight: object) -> None:
    if not isinstance(word, str):  # YAML reads `2: 1.5` as a position where the word "2" may be meant
        raise ValueError(f"weights must be keyed by words, got {word!r} for prompt {prompt!r}")
    if not is_finite(weight):
        raise ValueError(f"weight of {word!r} in {prompt!r} must be a finite number, got {weight!r}")


def check_word_counts(source_prompt: str, target_prompt: str) -> None:
    """Raise ValueError where the prompts differ in their number of words."""
    source, target = len(split_words(source_prompt)), len(split_words(target_prompt))
    if source != target:
        raise ValueError(
            f"operator 'replace' needs equally many words, got {source} in {source_prompt!r} "
            f"and {target} in {target_prompt!r}"
        )
