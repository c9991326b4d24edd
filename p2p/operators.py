"""How the maps of two prompts' tokens are aligned: replace, refine, or a function of your own.

An operator gives a matrix M and shares a, so that the edited map is
`source_map @ M * a + target_map * (1 - a)` (Hertz et al. 2022, Sec. 3.2). Whatever can be said so, the engine
injects without forming a map.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from importlib import import_module

import torch
from torch import Tensor

from p2p.alignment import (
    NoText,
    Tail,
    Tokenizer,
    Tokenizers,
    check_word_counts,
    encode,
    refinement_mapper,
    replacement_mapper,
    split_words,
    token_limit,
)

Operator = Callable[[str, str, Tokenizer, Tail], tuple[Tensor, Tensor]]
"""From source prompt, target prompt, tokenizer and the rule for padding to M (source tokens, target tokens)
and a (target tokens,), both float32 and as long as the tokenizer's limit. Where a target token has no source,
a and its column of M are 0. Raises ValueError for prompts that it cannot align."""


def replace(
    source_prompt: str, target_prompt: str, tokenizer: Tokenizer, tail: Tail
) -> tuple[Tensor, Tensor]:
    """Align word by word, for prompts of equally many words: no target token keeps its own map."""
    mapper = replacement_mapper(source_prompt, target_prompt, tokenizer, tail)
    return mapper, torch.ones(token_limit(tokenizer))


def refine(source_prompt: str, target_prompt: str, tokenizer: Tokenizer, tail: Tail) -> tuple[Tensor, Tensor]:
    """Align the tokens that both prompts have; a new token keeps its own map."""
    n = token_limit(tokenizer)
    mapper, alphas = refinement_mapper(source_prompt, target_prompt, tokenizer, tail)
    matrix = torch.zeros(n, n)
    matrix[mapper.clamp(min=0), torch.arange(n)] = alphas
    return matrix, alphas


def identity(
    source_prompt: str, target_prompt: str, tokenizer: Tokenizer, tail: Tail
) -> tuple[Tensor, Tensor]:
    """Align every token with itself, for equal prompts, as re-weighting alone has them."""
    if source_prompt != target_prompt:
        raise ValueError(f"'identity' needs equal prompts, got {source_prompt!r} and {target_prompt!r}")
    encode(source_prompt, tokenizer)
    n = token_limit(tokenizer)
    return torch.eye(n), torch.ones(n)


OPERATORS: Mapping[str, Operator] = {"replace": replace, "refine": refine, "identity": identity}


def find_operator(name: str) -> Operator:
    """Return the operator of a name: one of OPERATORS, or a function by its import path, `my_package.mine`.

    Raises ValueError where there is none.
    """
    if name in OPERATORS:
        return OPERATORS[name]
    module, _, function = str(name).rpartition(".")
    if module:
        try:
            found: Operator = getattr(import_module(module), function)
            return found
        except (ImportError, AttributeError) as error:
            raise ValueError(f"operator: {name!r} cannot be imported ({error})") from error
    known = ", ".join(map(repr, ("auto", *OPERATORS)))
    raise ValueError(f"operator: {name!r} is not one of {known}, nor a function's import path")


def resolve_operator(operator: str, source_prompt: str, target_prompt: str) -> str:
    """Turn "auto" into "replace" where the prompts have equally many words, else into "refine".

    Raises ValueError for "replace" on prompts that differ in their number of words, and for no operator.
    """
    if operator == "auto":
        same = len(split_words(source_prompt)) == len(split_words(target_prompt))
        return "replace" if same else "refine"
    if operator == "replace":
        check_word_counts(source_prompt, target_prompt)
    find_operator(operator)
    return operator


def alignment_matrix(
    operator: str,
    source_prompt: str,
    target_prompt: str,
    tokenizer: Tokenizer,
    tail: Tail = "by_position",
) -> tuple[Tensor, Tensor]:
    """Return an operator's M (source tokens, target tokens) and a (target tokens,), float32.

    Raises ValueError for prompts that cannot be aligned, and for an operator that gives other shapes.
    """
    n = token_limit(tokenizer)
    if isinstance(tokenizer, NoText):
        return torch.eye(n), torch.ones(n)
    try:
        matrix, aligned = find_operator(operator)(source_prompt, target_prompt, tokenizer, tail)
    except (TypeError, AttributeError) as error:  # any function may be named, and few are operators
        raise ValueError(f"operator {operator!r}: cannot align the prompts ({error})") from error
    if not (isinstance(matrix, Tensor) and isinstance(aligned, Tensor)):
        raise ValueError(f"operator {operator!r}: gives {matrix!r} and {aligned!r}, allowed are two tensors")
    if matrix.shape != (n, n) or aligned.shape != (n,):
        shapes = f"{tuple(matrix.shape)} and {tuple(aligned.shape)}"
        raise ValueError(f"operator {operator!r}: gives shapes {shapes}, allowed are {(n, n)} and {(n,)}")
    return matrix, aligned


@dataclass(frozen=True, eq=False)
class Alignment:
    """An operator's M and a over all tokenizers' tokens, block after block; not to be written to."""

    matrix: Tensor  # M, (source tokens, target tokens), block-diagonal
    aligned: Tensor  # a, (target tokens,)


def block_alignment(
    operator: str, source_prompt: str, target_prompt: str, tokenizers: Tokenizers, tail: Tail = "by_position"
) -> Alignment:
    """Return what `alignment_matrix` gives over all tokenizers' tokens: each block has its own alignment.

    It is kept for the last few prompts, as a sweep asks for one pair's many times. A tokenizer that has got
    more tokens since (textual inversion adds some) is asked anew.
    """
    sizes = tuple(0 if isinstance(t, NoText) else len(t) for t in tokenizers)
    return _block_alignment(operator, (source_prompt, target_prompt), tuple(tokenizers), sizes, tail)


@lru_cache(maxsize=8)
def _block_alignment(
    operator: str,
    prompts: tuple[str, str],
    tokenizers: tuple[Tokenizer, ...],
    sizes: tuple[int, ...],
    tail: Tail,
) -> Alignment:
    blocks = [alignment_matrix(operator, *prompts, t, tail) for t in tokenizers]
    return Alignment(
        torch.block_diag(*(matrix for matrix, _ in blocks)), torch.cat([aligned for _, aligned in blocks])
    )
