"""The embedded pipeline's tokenizer: CLIP's byte-level BPE, with a vocabulary learnt from the world's
captions.

Every word of the world is one token; any other text is spelt out in smaller pieces, never an unknown token.
"""

import json
from pathlib import Path

from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import CLIPTokenizer

from experiments.embedded.world import COLOURS, HEADGEAR, OBJECTS, PATTERNS, PLACES, SIZES, STYLES, TIMES

MAX_LENGTH = 36  # the longest caption has 33 tokens
BOS, EOS = "<|startoftext|>", "<|endoftext|>"


def world_words() -> list[str]:
    """Return every word a caption can hold."""
    phrases = (
        *OBJECTS,
        *PLACES.values(),
        *TIMES.values(),
        *STYLES,
        *COLOURS,
        *PATTERNS,
        *SIZES,
        *HEADGEAR,
        "a an and of with in the fog",
    )
    return sorted({word for phrase in phrases for word in phrase.split()})


def build_tokenizer() -> CLIPTokenizer:
    """Learn the merges and return the tokenizer (36 tokens, padded with the end token like CLIP's)."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    letters += [letter + "</w>" for letter in letters]
    bpe = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    bpe.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    bpe.train_from_iterator(
        [" ".join(world_words())] * 2,
        trainers.BpeTrainer(
            vocab_size=10_000,
            min_frequency=2,
            end_of_word_suffix="</w>",
            special_tokens=letters,  # numbered first: numbers rank equally frequent pairs
            show_progress=False,
        ),
    )
    merges = [tuple(m) for m in json.loads(bpe.to_str())["model"]["merges"]]
    pieces = [*letters, *("".join(m) for m in merges), BOS, EOS]
    vocab = {piece: i for i, piece in enumerate(dict.fromkeys(pieces))}
    return CLIPTokenizer(vocab=vocab, merges=merges, model_max_length=MAX_LENGTH)


def save_tokenizer(folder: Path) -> CLIPTokenizer:
    """Write the tokenizer's files to a folder and return it."""
    tokenizer = build_tokenizer()
    tokenizer.save_pretrained(folder)
    return tokenizer
