"""Tiny tokenizers and text encoders of the families' real classes, made offline.

CLIP's own vocabulary comes from `p2p.loading.tokenizer_files.clip_tokenizer`; these are of T5 and BERT.
"""

import string
from functools import cache

import torch
from transformers import BertTokenizer, CLIPTextConfig, T5Config, T5EncoderModel, T5TokenizerFast

from p2p.loading.tokenizer_files import clip_tokenizer

_read_only = cache(clip_tokenizer)  # takes a twentieth of a second each time
WORDS = ["a", "with", "on", "and", "the", "cat", "dog", "hat", "bench", "red", "sitting"]
WORDS += ["chin", "chilla", "capy", "bara"]


def tiny_t5_tokenizer() -> T5TokenizerFast:
    """Return a Unigram tokenizer of whole words, pieces and letters: "chinchilla" is two tokens."""
    pieces = [(f"▁{word}", -2.0) for word in WORDS] + [(word, -3.0) for word in WORDS if len(word) > 1]
    letters = [(letter, -9.0) for letter in ["▁", *string.ascii_letters, *string.digits, *",.'-"]]
    known = {piece for piece, _ in pieces}
    special = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0)]
    return T5TokenizerFast(
        vocab=[*special, *pieces, *(pair for pair in letters if pair[0] not in known)], extra_ids=0
    )


def tiny_t5_encoder(tokenizer: T5TokenizerFast, width: int = 32) -> T5EncoderModel:
    """Return a random encoder of two layers (rows, tokens, width)."""
    config = T5Config(
        vocab_size=len(tokenizer), d_model=width, d_kv=width // 4, d_ff=2 * width, num_layers=2, num_heads=4
    )
    encoder = T5EncoderModel(config)
    with torch.no_grad():  # at its initialisation of 1 / width its tokens hardly know of each other
        for parameter in encoder.encoder.block.parameters():
            parameter.mul_(2)
    return encoder.eval()


def tiny_bert_tokenizer(tokens: int = 77) -> BertTokenizer:
    """Return a WordPiece tokenizer of words and letters, padded to `tokens`."""
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS, *(f"##{w}" for w in WORDS)]
    pieces += [*string.ascii_lowercase, *(f"##{letter}" for letter in string.ascii_lowercase)]
    vocab = {piece: i for i, piece in enumerate(dict.fromkeys(pieces))}
    return BertTokenizer(vocab=vocab, model_max_length=tokens)


def tiny_clip_config(width: int = 32, act: str = "quick_gelu", projection: int = 16) -> CLIPTextConfig:
    """Return the configuration of a text encoder of two layers for CLIP's own vocabulary."""
    tokenizer = _read_only()
    return CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=2 * width,
        num_hidden_layers=2,
        num_attention_heads=2,
        hidden_act=act,
        projection_dim=projection,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
