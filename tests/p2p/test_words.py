"""Word positions and equalizer: golden values, properties, and a literal form of the reference."""

import math
import re

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from torch.testing import assert_close
from transformers import PreTrainedTokenizerFast

from p2p.alignment import (
    equalizer,
    replacement_mapper,
    word_indices,
    word_tokens,
)
from tests.p2p.prompts import PROMPTS, SQUIRREL
from tests.p2p.reference import Reference


class SlowTokenizer:
    """A fast tokenizer seen through the interface of a slow one, which has no offsets."""

    is_fast = False

    def __init__(self, tokenizer):
        self.fast = tokenizer
        self.model_max_length = tokenizer.model_max_length

    def __call__(self, text, return_offsets_mapping=False, **options):
        assert not return_offsets_mapping
        return self.fast(text, **options)

    def decode(self, ids):
        return self.fast.decode(ids)


def test_clip_tokenizer_is_the_one_of_the_golden_values(clip_tokenizer):
    ids = clip_tokenizer("A painting of a squirrel, dog's ice-cream")["input_ids"]
    assert ids == [49406, 320, 3086, 539, 320, 14004, 267, 1929, 568, 733, 268, 3867, 49407]


@pytest.mark.parametrize(
    ("prompt", "word", "expected"),
    [
        (SQUIRREL, "squirrel", [5]),
        (SQUIRREL, "a", [4, 7]),
        (SQUIRREL, "A", [1]),
        (SQUIRREL, 4, [5]),
        (SQUIRREL, "a squirrel", [4, 5]),
        ("a chinchilla and a chinchilla", "chinchilla", [2, 3, 4, 7, 8, 9]),
        ("a chinchilla and a cat", "and a", [5, 6]),
        ("a cat, a cat", "cat", [5]),
        ("a cat, a cat", "cat,", [2, 3]),
        ("a cat a cat a", "a cat a", [1, 2, 3, 4, 5]),
        ("the dog's ice-cream", "ice-cream", [4, 5, 6]),
        ("in 1984 a cat", "1984", [2, 3, 4, 5]),
    ],
)
def test_word_indices(clip_tokenizer, prompt, word, expected):
    assert word_indices(prompt, word, clip_tokenizer) == expected


@pytest.mark.parametrize("prompt", PROMPTS)
def test_word_tokens_equal_the_reference_with_and_without_offsets(clip_tokenizer, prompt):
    reference = Reference(clip_tokenizer)
    expected = [reference.word_tokens(prompt, k) for k in range(len(prompt.split(" ")))]
    assert word_tokens(prompt, clip_tokenizer) == expected
    assert word_tokens(prompt, SlowTokenizer(clip_tokenizer)) == expected


def test_word_tokens_are_right_where_the_reference_goes_astray(clip_tokenizer):
    assert word_tokens("日本 #cat 🦊 toy", clip_tokenizer) == [[1, 2, 3], [4, 5], [6, 7], [8]]
    with pytest.raises(ValueError, match="日本 #cat 🦊 toy"):
        word_tokens("日本 #cat 🦊 toy", SlowTokenizer(clip_tokenizer))


def test_word_tokens_without_bos_and_with_spaces_inside_tokens():
    pieces = [
        ("<unk>", 0.0),
        ("▁a", -1.0),
        ("▁re", -1.0),
        ("d", -1.0),
        ("▁", -1.0),
        ("cat", -1.0),
        ("</s>", 0.0),
    ]
    backend = Tokenizer(models.Unigram(pieces, unk_id=0))
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    backend.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 6)])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="</s>", model_max_length=12)
    assert word_tokens("a red cat", tokenizer) == [[0], [1, 2], [3, 4]]
    mapper = replacement_mapper("a red cat", "a cat a", tokenizer)
    assert_close(mapper.sum(1), torch.ones(12))


@pytest.mark.parametrize(
    ("word", "hint"),
    [
        ("cat", "did you mean 'Cat,'?"),
        ("squirel", "did you mean 'squirrel'?"),
        ("Squirrel here", "did you mean 'squirrel here'?"),
        ("zebra", ""),
    ],
)
def test_an_absent_word_is_named_with_a_near_match(clip_tokenizer, word, hint):
    prompt = "a Cat, a squirrel here"
    message = f"word {word!r} is not in prompt {prompt!r}" + (f"; {hint}" if hint else "")
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        word_indices(prompt, word, clip_tokenizer)


def test_words_that_look_alike_are_told_apart(clip_tokenizer):
    composed, apart = "a caf\u00e9", "cafe\u0301"
    with pytest.raises(ValueError, match="which has its accents in another Unicode form"):
        word_indices(composed, apart, clip_tokenizer)
    # CLIP's tokenizer composes accents, so that only words, which are compared as typed, part the two.
    ids = [clip_tokenizer(prompt)["input_ids"] for prompt in (composed, f"a {apart}")]
    assert ids[0] == ids[1]


@pytest.mark.parametrize("prompt", ["a  cat", " a cat", "a cat ", "a\tcat", ""])
def test_white_space_that_would_shift_positions_is_an_error(clip_tokenizer, prompt):
    with pytest.raises(ValueError, match=re.escape(repr(prompt))):
        word_indices(prompt, "cat", clip_tokenizer)


@pytest.mark.parametrize("word", [2, -1, True])
def test_a_word_position_that_is_none_is_an_error(clip_tokenizer, word):
    with pytest.raises(ValueError, match="'a cat'"):
        word_indices("a cat", word, clip_tokenizer)


def test_equalizer_sets_each_word(clip_tokenizer):
    weights = {"chinchilla": 2, "a": -1.5, "a chinchilla": 0.5, "cat,": np.float32(3)}
    factors = equalizer("a chinchilla and a cat, too", weights, clip_tokenizer)
    expected = torch.ones(77, dtype=torch.float64)
    expected[[1, 2, 3, 4]] = 0.5
    expected[6] = -1.5
    expected[[7, 8]] = 3
    assert_close(factors, expected, rtol=0, atol=0)


def test_weights_are_not_rounded_to_single_precision(short_clip_tokenizer):
    assert equalizer("a cat", {"cat": 0.3}, short_clip_tokenizer)[2].item() == 0.3


def test_equalizer_without_weights_is_one(short_clip_tokenizer):
    factors = equalizer("a cat", {}, short_clip_tokenizer)
    assert_close(factors, torch.ones(16, dtype=torch.float64), rtol=0, atol=0)


@pytest.mark.parametrize("weight", [math.nan, math.inf, -math.inf, "2", True, None])
def test_a_weight_that_is_no_finite_number_is_an_error(clip_tokenizer, weight):
    with pytest.raises(ValueError, match="weight of 'cat' in 'a cat' must be a finite number"):
        equalizer("a cat", {"cat": weight}, clip_tokenizer)


def test_a_weighted_word_must_be_in_the_prompt(clip_tokenizer):
    with pytest.raises(ValueError, match="word 'dog' is not in prompt 'a cat'"):
        equalizer("a cat", {"dog": 2.0}, clip_tokenizer)
    with pytest.raises(ValueError, match="keyed by words, got 1"):
        equalizer("a cat", {1: 2.0}, clip_tokenizer)


def test_the_tiny_model_reads_all_of_clip_s_words(tiny_model):
    """Also where tests of the command line, whose tokenizer is a smaller one, ran in this process before."""
    assert len(tiny_model.pipeline.tokenizer) == 49408
