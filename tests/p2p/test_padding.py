"""Padding where two prompts differ in length: words move with words, padding keeps its place."""

import pytest
import torch
from torch.testing import assert_close
from transformers import PreTrainedTokenizerBase

from p2p.alignment import NoText, refinement_mapper, replacement_mapper, word_tokens
from p2p.operators import alignment_matrix, block_alignment
from tests.p2p.prompts import length
from tests.tiny_text import tiny_bert_tokenizer, tiny_t5_tokenizer

N = 16
SHORT, LONG = "a cat on a bench", "a red chinchilla on the red bench with a hat"
PAIRS = [  # of equally many words: the target longer, shorter and equal in tokens
    ("a cat on a bench", "a chinchilla on a bench"),
    ("a chinchilla and a capybara", "a cat and a dog"),
    ("a chinchilla and a cat", "a cat and a capybara"),
    ("a dog on a bench", "a cat on a bench"),
]
UNEQUAL = [(SHORT, LONG), (LONG, SHORT), ("a red cat with a hat", "a cat with a red hat on"), ("a cat", LONG)]


@pytest.fixture(params=["clip", "t5", "bert"])
def tokenizer(
    request: pytest.FixtureRequest, short_clip_tokenizer: PreTrainedTokenizerBase
) -> PreTrainedTokenizerBase:
    """Sixteen positions: CLIP begins, ends and pads with its end token, T5 only ends, BERT does all three."""
    if request.param == "clip":
        return short_clip_tokenizer
    if request.param == "bert":
        return tiny_bert_tokenizer(N)
    t5 = tiny_t5_tokenizer()
    t5.model_max_length = N
    return t5


def filling(start: str, tokenizer: PreTrainedTokenizerBase) -> str:
    """Return a prompt that takes up all positions: `start` and as many words as fit."""
    prompt = " ".join([start] + ["hat"] * (N - length(start, tokenizer)))
    assert length(prompt, tokenizer) == N
    return prompt


@pytest.mark.parametrize(("source", "target"), PAIRS)
def test_replaced_words_move_and_padding_stays(
    tokenizer: PreTrainedTokenizerBase, source: str, target: str
) -> None:
    mapper = replacement_mapper(source, target, tokenizer)
    x, y = length(source, tokenizer), length(target, tokenizer)
    assert_close(mapper.sum(1), torch.ones(N))
    assert mapper[:x, y:].count_nonzero() == 0
    assert mapper[x:, :y].count_nonzero() == 0
    assert mapper[x - 1, y - 1] == 1  # the end token, though CLIP's padding looks like it
    both = max(x, y)
    assert_close(mapper[both:, both:], torch.eye(N - both), rtol=0, atol=0)
    assert mapper[x:both, y].tolist() == [1.0] * (both - x)  # to the target's first padding
    assert mapper[:, y:both].count_nonzero() == 0  # where the source has words


@pytest.mark.parametrize(("source", "target"), [*PAIRS, *UNEQUAL])
def test_refined_padding_reads_padding_of_its_own_place(
    tokenizer: PreTrainedTokenizerBase, source: str, target: str
) -> None:
    mapper, alphas = refinement_mapper(source, target, tokenizer)
    x, y = length(source, tokenizer), length(target, tokenizer)
    assert mapper[y:].tolist() == [max(j, x) for j in range(y, N)]
    assert_close(alphas[y:], torch.ones(N - y))
    assert mapper[y - 1] == x - 1


def test_a_sink_on_one_padding_position_keeps_its_value(tokenizer: PreTrainedTokenizerBase) -> None:
    """All attention on the last position stays there, whatever the prompts' lengths."""
    for operator, pairs in (("replace", PAIRS), ("refine", [*PAIRS, *UNEQUAL])):
        for source, target in pairs:
            matrix, aligned = alignment_matrix(operator, source, target, tokenizer)
            maps = torch.eye(N)[N - 1]
            assert_close((maps @ matrix) * aligned, maps, msg=f"{operator}: {source} -> {target}")


def test_a_source_that_fills_its_block_has_no_padding_to_read(tokenizer: PreTrainedTokenizerBase) -> None:
    """Refined, the target's padding then keeps its own map; replaced, it takes nothing."""
    source, target = filling("a chinchilla", tokenizer), filling("a cat", tokenizer).removesuffix(" hat")
    target = target.replace("cat", "dog", 1)
    y = length(target, tokenizer)
    mapper, alphas = refinement_mapper(source, target, tokenizer)
    assert y < N
    assert mapper[y:].tolist() == [-1] * (N - y)
    assert alphas[y:].count_nonzero() == 0
    matrix, aligned = alignment_matrix("refine", source, target, tokenizer)
    assert_close(matrix.sum(0), aligned)
    words = len(source.split(" "))
    target = " ".join(["a", "dog", *source.split(" ")[2:]])
    assert len(target.split(" ")) == words
    y = length(target, tokenizer)
    mapper = replacement_mapper(source, target, tokenizer)
    assert y < N
    assert mapper[:, y:].count_nonzero() == 0
    assert mapper[N - 1, y - 1] == 1
    assert_close(mapper.sum(1), torch.ones(N))


def test_a_target_that_fills_its_block_takes_the_padding_at_its_end(
    tokenizer: PreTrainedTokenizerBase,
) -> None:
    target = filling("a chinchilla", tokenizer)
    source = " ".join(["a", "dog", *target.split(" ")[2:]])
    x = length(source, tokenizer)
    assert x < N
    mapper = replacement_mapper(source, target, tokenizer)
    assert_close(mapper.sum(1), torch.ones(N))
    assert mapper[x - 1 :, N - 1].tolist() == [1.0] * (N - x + 1)
    assert mapper[x:, : N - 1].count_nonzero() == 0
    mapper, alphas = refinement_mapper(source, target, tokenizer)
    assert mapper[N - 1] == x - 1
    assert (mapper < x).all()
    assert alphas[N - 1] == 1


def test_two_prompts_that_fill_their_block_have_words_alone(tokenizer: PreTrainedTokenizerBase) -> None:
    source = filling("a cat", tokenizer)
    target = source.replace("a cat", "a dog")
    assert_close(replacement_mapper(source, target, tokenizer), torch.eye(N), rtol=0, atol=0)
    changed = word_tokens(target, tokenizer)[1]
    mapper, _ = refinement_mapper(source, target, tokenizer)
    assert mapper.tolist() == [-1 if j in changed else j for j in range(N)]


def test_every_block_has_padding_of_its_own(
    short_clip_tokenizer: PreTrainedTokenizerBase, tokenizer: PreTrainedTokenizerBase
) -> None:
    """Where a text encoder is left out, its block takes the source's position by position."""
    blocks = (short_clip_tokenizer, NoText(5), tokenizer)
    for operator, (source, target) in (("replace", PAIRS[0]), ("refine", UNEQUAL[0])):
        whole = block_alignment(operator, source, target, blocks)
        first, last = (alignment_matrix(operator, source, target, t) for t in (blocks[0], blocks[2]))
        assert_close(whole.matrix, torch.block_diag(first[0], torch.eye(5), last[0]), rtol=0, atol=0)
        assert_close(whole.aligned, torch.cat([first[1], torch.ones(5), last[1]]), rtol=0, atol=0)
