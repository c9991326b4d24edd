"""What diffusers answers by walking through a network's modules is asked once a run, not at every step."""

from dataclasses import replace
from unittest.mock import PropertyMock

import pytest
import torch

from p2p import FixedSeed, PromptToPrompt, Sampling, StableDiffusion, edit
from p2p.families.model import KEPT_TEXTS


@pytest.mark.parametrize("question", ["dtype", "device"])
def test_it_is_asked_as_often_whatever_the_number_of_steps(
    tiny_model: StableDiffusion, question: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer = PropertyMock(return_value=getattr(tiny_model, question))
    monkeypatch.setattr(type(tiny_model), question, answer)
    asked = []
    for steps in (2, 7):
        answer.reset_mock()
        edits = [("a dog", PromptToPrompt(tau=0.2)), ("a dog", FixedSeed())]
        edit(tiny_model, "a cat", edits, sampling=Sampling(steps))
        asked.append(answer.call_count)
    assert asked[0] == asked[1] > 0


def test_while_nothing_changes_a_model_a_prompt_is_encoded_once(
    tiny_model: StableDiffusion, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoded = []
    encode = tiny_model.pipeline.encode_prompt

    def told(prompt: list[str], *others: object) -> object:
        encoded.append(prompt[0])
        return encode(prompt, *others)

    monkeypatch.setattr(tiny_model.pipeline, "encode_prompt", told)
    alone = [edit(tiny_model, "a cat", [("a dog", PromptToPrompt())], seed, Sampling(2)) for seed in (0, 1)]
    assert sorted(encoded) == ["", "", "a cat", "a cat", "a dog", "a dog"]
    encoded.clear()
    with tiny_model.unchanged():
        kept = [
            edit(tiny_model, "a cat", [("a dog", PromptToPrompt())], seed, Sampling(2)) for seed in (0, 1)
        ]
        assert sorted(encoded) == ["", "a cat", "a dog"]
        assert tiny_model.encode_prompt("a cat") is tiny_model.encode_prompt("a cat")
        assert tiny_model == replace(tiny_model)  # what is kept makes no other model
    for one, other in zip(alone, kept, strict=True):
        assert torch.equal(one.images[0], other.images[0])
    tiny_model.encode_prompt("a cat")
    assert encoded[3:] == ["a cat"]


def test_a_model_that_is_unchanged_keeps_so_many_prompts(tiny_model: StableDiffusion) -> None:
    with tiny_model.unchanged():
        first = tiny_model.encode_prompt("a cat")
        for number in range(KEPT_TEXTS - 1):
            tiny_model.encode_prompt(f"{number}")
        assert tiny_model.encode_prompt("a cat") is first
        for number in range(KEPT_TEXTS):
            tiny_model.encode_prompt(f"{number} more")
        assert tiny_model.encode_prompt("a cat") is not first


def test_after_an_error_a_model_may_change_again(tiny_model: StableDiffusion) -> None:
    with pytest.raises(RuntimeError, match="stopped"), tiny_model.unchanged():
        raise RuntimeError("stopped")
    own = tiny_model.dtype
    try:
        tiny_model.denoiser.to(torch.bfloat16)
        assert tiny_model.dtype == torch.bfloat16 != own
    finally:
        tiny_model.denoiser.to(own)
