"""Operators of one's own: a function by its import path, from the alignment to latents."""

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close
from transformers import PreTrainedTokenizerBase

from p2p import EditRequest, Group, PromptToPrompt, Sampling, StableDiffusion, generate
from p2p.alignment import Tokenizer
from p2p.operators import alignment_matrix, find_operator, refine

SOURCE, TARGET = "a cat on a bench", "a dog on a bench"
HERE = "tests.p2p.test_operators"


def mirrored(
    source_prompt: str, target_prompt: str, tokenizer: Tokenizer, tail: str
) -> tuple[Tensor, Tensor]:
    """Read the source's maps from the last token to the first."""
    n = tokenizer.model_max_length
    return torch.eye(n).flip(0), torch.ones(n)


def no_tensors(*_: object) -> tuple[int, int]:
    return 1, 2


def as_refine(
    source_prompt: str, target_prompt: str, tokenizer: Tokenizer, tail: str
) -> tuple[Tensor, Tensor]:
    return refine(source_prompt, target_prompt, tokenizer, tail)


def too_short(
    source_prompt: str, target_prompt: str, tokenizer: Tokenizer, tail: str
) -> tuple[Tensor, Tensor]:
    return torch.eye(3), torch.ones(3)


def test_a_function_is_found_by_its_import_path(clip_tokenizer: PreTrainedTokenizerBase) -> None:
    matrix, aligned = alignment_matrix(f"{HERE}.mirrored", SOURCE, TARGET, clip_tokenizer)
    assert_close(matrix, torch.eye(77).flip(0))
    assert_close(aligned, torch.ones(77))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("mine", "operator: 'mine' is not one of 'auto', 'replace', 'refine', 'identity', nor a function's"),
        ("no_such_package.mine", "operator: 'no_such_package.mine' cannot be imported"),
        (f"{HERE}.absent", f"operator: '{HERE}.absent' cannot be imported"),
    ],
)
def test_what_is_no_operator_is_one_line(name: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        find_operator(name)
    with pytest.raises(ValueError, match=message):
        PromptToPrompt(operator=name)


def test_an_operator_of_other_shapes_is_refused(clip_tokenizer: PreTrainedTokenizerBase) -> None:
    with pytest.raises(ValueError, match=r"gives shapes \(3, 3\) and \(3,\), allowed are \(77, 77\)"):
        alignment_matrix(f"{HERE}.too_short", SOURCE, TARGET, clip_tokenizer)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("os.path.join", "cannot align the prompts .join"),
        ("math.pi", "cannot align the prompts .'float' object is not callable"),
        (f"{HERE}.no_tensors", "gives 1 and 2, allowed are two tensors"),
    ],
)
def test_a_function_that_is_no_operator_is_one_line(
    name: str, message: str, clip_tokenizer: PreTrainedTokenizerBase
) -> None:
    with pytest.raises(ValueError, match=f"operator '{name}': {message}"):
        alignment_matrix(name, SOURCE, TARGET, clip_tokenizer)


def image(model: StableDiffusion, operator: str) -> Tensor:
    method = PromptToPrompt(operator=operator, tau=0.2)
    edit = method.trajectory(EditRequest(SOURCE, TARGET), model.tokenizers, 4)
    assert edit.record["operator"] == operator
    return generate(model, [Group(SOURCE, 0, (edit,))], Sampling(4))[0].images[0]


def test_an_own_operator_makes_its_own_image(tiny_model: StableDiffusion) -> None:
    refined = image(tiny_model, "refine")
    assert_close(image(tiny_model, f"{HERE}.as_refine"), refined, rtol=0, atol=0)
    assert not torch.equal(image(tiny_model, f"{HERE}.mirrored"), refined)
