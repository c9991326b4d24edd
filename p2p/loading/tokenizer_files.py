"""Tokenizers read from a pipeline's folder, once per process; and CLIP's own, from open_clip's vocabulary."""

from __future__ import annotations

import gzip
import hashlib
import importlib.util
import pickle
from functools import cache, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import CLIPTokenizer, PreTrainedTokenizerBase


def read_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    """Return the tokenizer of a folder, a new object at each call; the files are read once per process.

    CLIP's takes 0.5 s to read from disk and 0.15 s to copy. Files that have changed are read again.
    """
    digest = hashlib.sha256()
    for file in sorted(file for file in folder.iterdir() if file.is_file()):
        digest.update(f"{file.name}:{hashlib.sha256(file.read_bytes()).hexdigest()}\n".encode())
    tokenizer: PreTrainedTokenizerBase = pickle.loads(_pickled_tokenizer(folder, digest.hexdigest()))
    return tokenizer


@lru_cache(maxsize=16)
def _pickled_tokenizer(folder: Path, digest: str) -> bytes:
    from transformers import AutoTokenizer  # takes a second

    return pickle.dumps(AutoTokenizer.from_pretrained(folder))


def clip_tokenizer() -> CLIPTokenizer:
    """Return CLIP's tokenizer from the vocabulary file that ships with open_clip (merges; 49,408 tokens)."""
    from transformers import CLIPTokenizer

    vocab, merges = _clip_vocabulary()
    return CLIPTokenizer(vocab=dict(vocab), merges=list(merges), model_max_length=77)


@cache
def _clip_vocabulary() -> tuple[dict[str, int], list[tuple[str, str]]]:
    """Return CLIP's tokens by their text, and its merges; to read them takes a tenth of a second."""
    spec = importlib.util.find_spec("open_clip")
    assert spec is not None
    assert spec.origin is not None
    with gzip.open(
        Path(spec.origin).with_name("bpe_simple_vocab_16e6.txt.gz"), "rt", encoding="utf-8"
    ) as file:
        lines = file.read().split("\n")[1 : 49152 - 256 - 2 + 1]
    merges = [(left, right) for left, right in (line.split() for line in lines)]
    letters = list(_byte_letters().values())
    pieces = [*letters, *(letter + "</w>" for letter in letters), *("".join(merge) for merge in merges)]
    vocab = {piece: i for i, piece in enumerate([*pieces, "<|startoftext|>", "<|endoftext|>"])}
    return vocab, merges


def _byte_letters() -> dict[int, str]:
    """Return GPT-2's printable letter for each byte, in CLIP's order."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    rest = [byte for byte in range(256) if byte not in printable]
    return {byte: chr(byte) for byte in printable} | {byte: chr(256 + i) for i, byte in enumerate(rest)}
