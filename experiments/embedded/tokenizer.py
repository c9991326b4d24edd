"""A world's tokenizer: CLIP's byte-level BPE, with a vocabulary learnt from the world's
captions.

Every word of the world is one token; any other text is spelt out in smaller pieces, never an unknown token.
"""

import json
from pathlib import Path

from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import CLIPTokenizer

from experiments.embedded.worlds.contract import World

BOS, EOS = "<|startoftext|>", "<|endoftext|>"


def build_tokenizer(world: World) -> CLIPTokenizer:
    """Learn the merges and return the tokenizer (padded with the end token like CLIP's)."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    letters += [letter + "</w>" for letter in letters]
    bpe = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    bpe.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    bpe.train_from_iterator(
        [" ".join(world.words)] * 2,
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
    return CLIPTokenizer(vocab=vocab, merges=merges, model_max_length=world.max_length)


def save_tokenizer(world: World, folder: Path) -> CLIPTokenizer:
    """Write the tokenizer's files to a folder and return it."""
    tokenizer = build_tokenizer(world)
    tokenizer.save_pretrained(folder)
    return tokenizer
