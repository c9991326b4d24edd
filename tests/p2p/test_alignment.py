"""Mappers between prompts: golden vectors, properties, and a literal form of the reference."""

import pytest
import torch
from torch.testing import assert_close

from p2p.alignment import refinement_mapper, replacement_mapper, word_tokens
from p2p.operators import alignment_matrix, resolve_operator
from tests.p2p.prompts import SQUIRREL, length, random_refinements, random_swaps
from tests.p2p.reference import Reference


@pytest.mark.parametrize("operator", ["replace", "refine", "identity"])
def test_a_prompt_that_is_too_long_is_an_error(short_clip_tokenizer, operator):
    fits, too_long = " ".join(["cat"] * 14), " ".join(["cat"] * 15)
    alignment_matrix(operator, fits, fits, short_clip_tokenizer)
    with pytest.raises(ValueError, match="has 17 tokens, allowed are 16"):
        alignment_matrix(operator, too_long, too_long, short_clip_tokenizer)


def nonzero(mapper):
    return {(i, j): mapper[i, j].item() for i, j in mapper.nonzero().tolist()}


def identity_on(indices):
    return {(i, i): 1.0 for i in indices}


def test_replacement_golden_one_to_one(clip_tokenizer):
    for tail in ("google", "by_position"):
        mapper = replacement_mapper(SQUIRREL, SQUIRREL.replace("squirrel", "lion"), clip_tokenizer, tail)
        assert_close(mapper, torch.eye(77), rtol=0, atol=0)


def test_replacement_golden_one_to_two_in_last_place(clip_tokenizer):
    target = SQUIRREL.replace("burger", "lasagne")
    mapper = replacement_mapper(SQUIRREL, target, clip_tokenizer, "google")
    halves = {(8, 8): 0.5, (8, 9): 0.5}
    assert nonzero(mapper) == identity_on(range(8)) | halves | identity_on(range(10, 77))
    mapper = replacement_mapper(SQUIRREL, target, clip_tokenizer)
    end, first_padding = (
        {(9, 10): 1.0},
        {(10, 11): 1.0},
    )  # the target's 10 is its end, so that its padding is 11
    assert nonzero(mapper) == identity_on(range(8)) | halves | end | first_padding | identity_on(
        range(11, 77)
    )


def test_replacement_golden_one_to_three(clip_tokenizer):
    target = SQUIRREL.replace("squirrel", "chinchilla")
    mapper = replacement_mapper(SQUIRREL, target, clip_tokenizer, "google")
    assert_close(mapper[5, 5:8], torch.full((3,), 1 / 3))
    assert mapper[6:8].count_nonzero() == 0
    assert mapper[8, 8] == 1  # target "eating" reads source "burger"
    mapper = replacement_mapper(SQUIRREL, target, clip_tokenizer)
    assert mapper[6, 8] == 1  # "eating" reads "eating"
    assert mapper[9, 11] == 1  # the end token
    assert nonzero(mapper[10:]) == {(0, 12): 1.0, (1, 12): 1.0} | {(i - 10, i): 1.0 for i in range(12, 77)}


def test_replacement_golden_three_to_one(clip_tokenizer):
    source, target = SQUIRREL.replace("squirrel", "chinchilla"), SQUIRREL.replace("squirrel", "lion")
    mapper = replacement_mapper(source, target, clip_tokenizer, "google")
    assert mapper[:, 5].tolist() == [0] * 5 + [1] * 3 + [0] * 69
    assert mapper.sum(0)[5] == 3
    assert mapper[:, 75:].count_nonzero() == 0
    mapper = replacement_mapper(source, target, clip_tokenizer)
    assert mapper[8, 6] == 1  # "eating" reads "eating"
    assert mapper[11, 9] == 1  # the end token
    assert (
        mapper[:, 10:12].count_nonzero() == 0
    )  # padding of the target, where the source has a word and an end
    assert_close(mapper[12:, 12:], torch.eye(65), rtol=0, atol=0)
    assert_close(mapper.sum(1), torch.ones(77), rtol=0, atol=0)


@pytest.mark.parametrize("tail", ["google", "by_position"])
def test_replacement_golden_two_words(clip_tokenizer, tail):
    source, target = "a chinchilla and a cat here", "a dog and a capybara here"
    mapper = replacement_mapper(source, target, clip_tokenizer, tail)
    third = torch.tensor(1 / 3).item()
    assert nonzero(mapper) == (
        identity_on(range(2))
        | {(2, 2): 1.0, (3, 2): 1.0, (4, 2): 1.0, (5, 3): 1.0, (6, 4): 1.0}
        | {(7, 5): third, (7, 6): third, (7, 7): third}
        | identity_on(range(8, 77))
    )


def test_replacement_equals_the_reference(clip_tokenizer, short_clip_tokenizer):
    compared = 0
    for tokenizer, count in ((clip_tokenizer, 200), (short_clip_tokenizer, 200)):
        reference = Reference(tokenizer)
        for source, target in random_swaps(count, seed=0):
            if max(length(source, tokenizer), length(target, tokenizer)) <= tokenizer.model_max_length:
                mapper = replacement_mapper(source, target, tokenizer, "google")
                assert_close(mapper, reference.replacement(source, target), rtol=0, atol=0)
                compared += 1
    assert compared > 250


def test_replacement_is_word_by_word(clip_tokenizer):
    for source, target in random_swaps(100, seed=2):
        mapper = replacement_mapper(source, target, clip_tokenizer)
        rows, columns = word_tokens(source, clip_tokenizer), word_tokens(target, clip_tokenizer)
        for k, row in enumerate(rows):
            weight_inside = mapper[row][:, columns[k]].sum()
            assert_close(weight_inside, torch.tensor(float(len(row))))


def test_unequal_word_counts_name_both_prompts_and_counts(clip_tokenizer):
    message = "needs equally many words, got 2 in 'a cat' and 3 in 'a red cat'"
    with pytest.raises(ValueError, match=message):
        replacement_mapper("a cat", "a red cat", clip_tokenizer)
    with pytest.raises(ValueError, match=message):
        resolve_operator("replace", "a cat", "a red cat")


@pytest.mark.parametrize("mapper", [replacement_mapper, refinement_mapper])
def test_an_unknown_tail_is_an_error(clip_tokenizer, mapper):
    with pytest.raises(ValueError, match="tail must be one of by_position, google, got 'fixed'"):
        mapper("a cat", "a dog", clip_tokenizer, "fixed")


@pytest.mark.parametrize(
    ("source", "target", "leading"),
    [
        (SQUIRREL, SQUIRREL.replace("squirrel", "lion"), [0, 1, 2, 3, 4, -1, 6, 7, 8, 9, 10]),
        ("soup", "pea soup", [0, -1, 1, 2, 4, 5]),
        ("soup", "pea soup with croutons", [0, -1, 1, -1, -1, -1, -1, 2, 8]),
        ("a cat", "a cat and a cat", [0, 1, 2, -1, -1, -1, 3, 7]),
        (
            "a photo of a house on a mountain",
            "a photo of a house on a mountain at fall",
            [*range(9), -1, -1, 9, 12],
        ),
    ],
)
def test_refinement_golden(clip_tokenizer, source, target, leading):
    mapper, alphas = refinement_mapper(source, target, clip_tokenizer, "google")
    assert mapper[: len(leading)].tolist() == leading
    assert mapper[len(leading) :].tolist() == list(range(len(leading), 77))
    assert alphas.tolist() == [float(index != -1) for index in mapper.tolist()]


def test_refinement_equals_the_reference(clip_tokenizer):
    reference = Reference(clip_tokenizer)
    for source, target in [*random_refinements(150, seed=3), *random_swaps(50, seed=4)]:
        mapper, alphas = refinement_mapper(source, target, clip_tokenizer, "google")
        expected_mapper, expected_alphas = reference.refinement(source, target)
        assert_close(mapper, expected_mapper, msg=f"{source} -> {target}")
        assert_close(alphas, expected_alphas)


@pytest.mark.parametrize("tail", ["google", "by_position"])
def test_refinement_aligns_equal_tokens_in_order(clip_tokenizer, tail):
    for source, target in random_refinements(100, seed=5):
        mapper, alphas = refinement_mapper(source, target, clip_tokenizer, tail)
        x, y = clip_tokenizer(source)["input_ids"], clip_tokenizer(target)["input_ids"]
        aligned = [(i, j) for j, i in enumerate(mapper[: len(y)].tolist()) if i >= 0]
        assert all(x[i] == y[j] for i, j in aligned)
        assert [i for i, _ in aligned] == sorted({i for i, _ in aligned})
        assert aligned[0] == (0, 0)
        assert aligned[-1] == (len(x) - 1, len(y) - 1)
        assert mapper.dtype == torch.int64
        assert alphas.dtype == torch.float32
        assert mapper.shape == alphas.shape == (77,)


def test_tails_agree_where_lengths_agree(clip_tokenizer):
    by_position, _ = refinement_mapper("a red cat", "a red dog", clip_tokenizer, "by_position")
    google, _ = refinement_mapper("a red cat", "a red dog", clip_tokenizer, "google")
    assert_close(by_position, google)


@pytest.mark.parametrize("tail", ["google", "by_position"])
def test_alignment_matrix_is_the_reference_application(clip_tokenizer, tail):
    maps = torch.rand(2, 5, 77, generator=torch.Generator().manual_seed(0))
    for source, target in random_refinements(30, seed=7):
        matrix, a = alignment_matrix("refine", source, target, clip_tokenizer, tail)
        mapper, alphas = refinement_mapper(source, target, clip_tokenizer, tail)
        expected = maps[0][:, mapper] * alphas + maps[1] * (1 - alphas)
        assert_close(maps[0] @ matrix * a + maps[1] * (1 - a), expected)
    for source, target in random_swaps(30, seed=8):
        matrix, a = alignment_matrix("replace", source, target, clip_tokenizer, tail)
        assert_close(matrix, replacement_mapper(source, target, clip_tokenizer, tail))
        assert_close(a, torch.ones(77))


def test_refine_has_zero_columns_exactly_at_tokens_without_a_source(clip_tokenizer):
    matrix, a = alignment_matrix("refine", "a soup", "a pea soup with croutons", clip_tokenizer)
    assert_close(matrix.sum(0), a, rtol=0, atol=0)
    assert (a == 0).sum() == 5


def test_equal_prompts_give_the_identity_whatever_the_operator(clip_tokenizer):
    for operator in ("replace", "refine", "identity"):
        matrix, a = alignment_matrix(operator, SQUIRREL, SQUIRREL, clip_tokenizer)
        assert_close(matrix, torch.eye(77), rtol=0, atol=0)
        assert_close(a, torch.ones(77), rtol=0, atol=0)


def test_identity_needs_equal_prompts(clip_tokenizer):
    with pytest.raises(ValueError, match="'a cat' and 'a dog'"):
        alignment_matrix("identity", "a cat", "a dog", clip_tokenizer)


def test_resolve_operator():
    assert resolve_operator("auto", "a cat", "a dog") == "replace"
    assert resolve_operator("auto", "a cat", "a red cat") == "refine"
    assert resolve_operator("refine", "a cat", "a dog") == "refine"
    assert resolve_operator("replace", "a cat", "a dog") == "replace"
    with pytest.raises(ValueError, match="operator: 'swap' is not one of 'auto', 'replace', 'refine'"):
        resolve_operator("swap", "a cat", "a dog")
