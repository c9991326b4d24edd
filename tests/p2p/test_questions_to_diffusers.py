"""What diffusers answers by walking through a network's modules is asked once a run, not at every step."""

from unittest.mock import PropertyMock

import pytest

from p2p import FixedSeed, PromptToPrompt, Sampling, StableDiffusion, edit


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
