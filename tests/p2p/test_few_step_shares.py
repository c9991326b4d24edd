"""A share of few steps that comes to no step is one line; a share of 0 asks for none."""

import re

import pytest

from p2p import EditRequest, MasaCtrl, PlugAndPlay, PromptSwitch, PromptToPrompt, SDEdit
from p2p.alignment import Tokenizer
from p2p.trajectory import Method, Trajectory
from tests.p2p.prompts import SQUIRREL

LION = "A painting of a lion eating a burger"
STEPS = 4
NONE = [
    (PromptToPrompt(tau=0.9), "tau: 0.9 of 4 steps injects in no step, allowed are 0 to 4/5, and 1"),
    (PromptToPrompt(tau={"lion": 0.9}), "tau['lion']: 0.9 of 4 steps injects in no step"),
    (
        PromptToPrompt(cross_replace_steps=0.19),
        "cross_replace_steps: 0.19 of 4 steps is no step, allowed are 0 (none) and 1/5 or more",
    ),
    (
        PromptToPrompt(cross_replace_steps={"default_": 0.5, "lion": 0.1}),
        "cross_replace_steps['lion']: 0.1 of 4 steps is no step",
    ),
    (
        PromptToPrompt(cross_replace_steps=(0.45, 0.55)),
        "(0.45, 0.55) of 4 steps is no step, allowed are 0 (none) and windows that hold k/5 to (k + 1)/5, k "
        "from 0 to 3",
    ),
    (PromptToPrompt(cross_replace_steps=(0.8, 1.0)), "(0.8, 1.0) of 4 steps is no step"),  # PNDM's extra call
    (
        PromptToPrompt(self_replace_steps=0.2),
        "self_replace_steps: 0.2 of 4 steps is no step, allowed are 0 (none) and 1/4 or more",
    ),
    (PromptToPrompt(tau=0, self_replace_steps=(0.3, 0.4)), "self_replace_steps: (0.3, 0.4) of 4 steps is no"),
    (
        PromptToPrompt(blend_start=0.2),
        "blend_start: 0.2 of 4 steps is no step, allowed are 0, 1/4 or more, and null",
    ),
    (SDEdit(0.2), "strength: 0.2 of 4 steps is no step, allowed is 1/4 or more"),
    (PromptSwitch(0.2), "switch_after: 0.2 of 4 steps is no step, allowed are 0 and 1/4 or more"),
    (
        PlugAndPlay(attention_steps=0.2),
        "attention_steps: 0.2 of 4 steps is no step, allowed are 0 (none) and",
    ),
    (
        PlugAndPlay(feature_steps=0.2),
        "feature_steps: 0.2 of 4 steps is no step, allowed are 0 (none) and 1/4",
    ),
    (MasaCtrl(start_step=5), "start_step: 5 of 4 steps, allowed are 0 to 4 (never)"),
]


def made(method: Method, tokenizer: Tokenizer, steps: int = STEPS) -> Trajectory:
    return method.trajectory(EditRequest(SQUIRREL, LION), (tokenizer,), steps)


@pytest.mark.parametrize(("method", "message"), NONE, ids=[message[:30] for _, message in NONE])
def test_a_share_that_comes_to_no_step_is_an_error(
    method: Method, message: str, clip_tokenizer: Tokenizer
) -> None:
    with pytest.raises(ValueError, match=re.escape(message)) as error:
        made(method, clip_tokenizer)
    assert "\n" not in str(error.value)


def test_five_times_the_steps_make_the_shares_whole_steps(clip_tokenizer: Tokenizer) -> None:
    for method, _ in NONE[:-1]:
        made(method, clip_tokenizer, 5 * STEPS)


@pytest.mark.parametrize(
    ("method", "windows"),
    [
        (PromptToPrompt(cross_replace_steps=0, self_replace_steps=0), (0, 0)),
        (PromptToPrompt(cross_replace_steps=(0.5, 0.5), self_replace_steps=0), (0, 0)),
        (PromptToPrompt(cross_replace_steps=0, self_replace_steps=0.25), (0, 1)),
        (PromptToPrompt(tau=1), (0, 0)),
        (PromptToPrompt(tau=1, self_replace_steps=0.1), (0, 0)),  # tau 1 is the fixed seed whatever is given
        (PromptToPrompt(tau=0.8), (1, 0)),  # 0.4 of the steps is one, which tau caps to none
        (PromptToPrompt(tau=0), (4, 1)),
        (PromptToPrompt(tau=0.1), (4, 1)),  # frees no step: tau 0, as plans say
        (PromptToPrompt(tau=0.4), (3, 1)),
    ],
)
def test_a_share_of_0_asks_for_none_and_others_keep_their_steps(
    method: Method, windows: tuple[int, int], clip_tokenizer: Tokenizer
) -> None:
    record = made(method, clip_tokenizer).record
    assert (record["cross_end"], record["self_end"]) == windows
    injected = [step for step, one in enumerate(made(method, clip_tokenizer).injections[:STEPS]) if one]
    assert injected == list(range(max(windows)))


@pytest.mark.parametrize("steps", [1, 2, 3, 4, 8, 20, 50])
def test_the_bounds_that_are_told_are_allowed_and_what_is_beyond_is_not(
    steps: int, clip_tokenizer: Tokenizer
) -> None:
    nearly = steps / (steps + 1) - 1e-6  # 1 - tau is rounded to nine digits, so 50/51 is a hair too much
    for allowed, beyond in (
        (PromptToPrompt(tau=nearly, self_replace_steps=0), {"tau": (steps + 0.5) / (steps + 1)}),
        (
            PromptToPrompt(cross_replace_steps=1 / (steps + 1), self_replace_steps=0),
            {"cross_replace_steps": 0.5 / (steps + 1)},
        ),
        (PromptToPrompt(self_replace_steps=1 / steps), {"self_replace_steps": 0.5 / steps}),
    ):
        made(allowed, clip_tokenizer, steps)
        with pytest.raises(ValueError, match=f" of {steps} steps "):
            made(PromptToPrompt(**beyond), clip_tokenizer, steps)  # type: ignore[arg-type]


def test_the_default_self_attention_window_may_come_to_no_step(clip_tokenizer: Tokenizer) -> None:
    assert made(PromptToPrompt(tau=0), clip_tokenizer, 2).record["self_end"] == 0
    with pytest.raises(ValueError, match=re.escape("self_replace_steps: 0.41 of 2 steps is no step")):
        made(PromptToPrompt(tau=0, self_replace_steps=0.41), clip_tokenizer, 2)


def test_a_profiles_blend_start_may_come_to_the_first_step(clip_tokenizer: Tokenizer) -> None:
    """It was not asked for, and blending from the first step on is what is left of 0.2 of four."""
    request = EditRequest(SQUIRREL, LION, blend_words=("squirrel", "lion"))
    blend = PromptToPrompt().trajectory(request, (clip_tokenizer,), STEPS).blend
    assert blend is not None
    assert blend.start == 0
