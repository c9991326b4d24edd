"""A CLIP tokenizer's files read by `tokenizers` alone: importing transformers takes a second.

Of any other tokenizer, and of one whose files do more, only transformers' own object can tell.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, ClassVar

from tokenizers import Tokenizer

BOS, EOS = "<|startoftext|>", "<|endoftext|>"
CONFIG = {
    "backend": "tokenizers",  # written by transformers 5
    "bos_token": BOS,
    "eos_token": EOS,
    "pad_token": EOS,
    "tokenizer_class": "CLIPTokenizer",
    "unk_token": EOS,
}
PARTS = {
    "version": "1.0",
    "truncation": None,
    "normalizer": {
        "type": "Sequence",
        "normalizers": [
            {"type": "NFC"},
            {"type": "Replace", "pattern": {"Regex": r"\s+"}, "content": " "},
            {"type": "Lowercase"},
        ],
    },
    "pre_tokenizer": {
        "type": "Sequence",
        "pretokenizers": [
            {
                "type": "Split",
                "pattern": {
                    "Regex": r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|"
                    r"[^\s\p{L}\p{N}]+"
                },
                "behavior": "Removed",
                "invert": True,
            },
            {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True},
        ],
    },
}
"""What transformers' CLIPTokenizer is made of, whatever its file says; beside the vocabulary."""
MODEL = {
    "type": "BPE",
    "dropout": None,
    "unk_token": EOS,
    "continuing_subword_prefix": "",
    "end_of_word_suffix": "</w>",
    "fuse_unk": False,
    "byte_fallback": False,
    "ignore_merges": False,
}
ADDED = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}


@dataclass(frozen=True, eq=False)
class PlainTokenizer:
    """CLIP's tokenizer, as far as a plan asks: a prompt's tokens, the special ones, and where each stands."""

    tokenizer: Tokenizer
    model_max_length: int
    is_fast: ClassVar[bool] = True

    @classmethod
    def of(cls, folder: Path) -> PlainTokenizer | None:
        """Return the tokenizer of a folder, None where only transformers can tell."""
        config, file = folder / "tokenizer_config.json", folder / "tokenizer.json"
        if not folder.is_dir() or {config, file} != set(folder.iterdir()):
            return None
        return _read(config.read_bytes(), file.read_bytes())

    def __call__(self, prompt: str, **_: Any) -> Mapping[str, Any]:
        """Return a prompt's tokens, begin and end among them, of whatever number."""
        encoded = _encoded(self.tokenizer, prompt)
        return {
            "input_ids": encoded.ids,
            "special_tokens_mask": encoded.special_tokens_mask,
            "offset_mapping": encoded.offsets,
        }

    def __len__(self) -> int:
        return int(self.tokenizer.get_vocab_size())

    def tokenize(self, prompt: str) -> list[str]:
        """Return a prompt's tokens as texts, without begin and end."""
        return list(_encoded(self.tokenizer, prompt).tokens[1:-1])

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of token ids, the marks of ends of words included."""
        return str(self.tokenizer.decode(list(ids), skip_special_tokens=False))

    @cached_property
    def added_tokens_encoder(self) -> Mapping[str, int]:
        """The ids of the tokens that are no pieces of words."""
        return {token.content: i for i, token in self.tokenizer.get_added_tokens_decoder().items()}


@lru_cache(maxsize=16)  # a pair's prompts are asked for several times
def _encoded(tokenizer: Tokenizer, prompt: str) -> Any:
    """Encode a prompt. Kept here and not by the tokenizer, which plans carry to other processes."""
    return tokenizer.encode(prompt)


@lru_cache(maxsize=4)  # by content, as a file may change
def _read(config: bytes, file: bytes) -> PlainTokenizer | None:
    try:
        told, stated = json.loads(config), json.loads(file)
        limit = told.pop("model_max_length")
        if type(limit) is not int or not 0 < limit < 1_000_000 or told != CONFIG or not _is_clip(stated):
            return None
        tokenizer = Tokenizer.from_buffer(file)
    except Exception:  # of whatever kind: transformers will say what is wrong with the files
        return None
    tokenizer.no_padding()
    return PlainTokenizer(tokenizer, limit)


def _is_clip(stated: Mapping[str, Any]) -> bool:
    """Say whether a tokenizer.json holds what CLIPTokenizer makes of its vocabulary, and no more."""
    model = dict(stated["model"])
    vocab, _ = model.pop("vocab"), model.pop("merges")
    ids = {BOS: vocab[BOS], EOS: vocab[EOS]}
    processor = {"type": "RobertaProcessing", "trim_offsets": False, "add_prefix_space": False}
    processor |= {"cls": [BOS, ids[BOS]], "sep": [EOS, ids[EOS]]}
    added = [{"id": i, "content": token, **ADDED} for token, i in ids.items()]
    return (
        {name: stated[name] for name in PARTS} == PARTS
        and stated.keys() == {*PARTS, "padding", "added_tokens", "post_processor", "decoder", "model"}
        and model == MODEL
        and stated["post_processor"] == processor
        and stated["added_tokens"] == added
        and [*ids.values()] == [*range(len(vocab) - 2, len(vocab))]
    )
