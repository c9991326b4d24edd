"""Step windows, gates and tau: the reference's golden table and what it leaves silent."""

import math
import re

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from p2p.methods.windows import cross_gate, cross_window, gate_rows, self_window, windows_from_tau

SHARES = (0.1, 0.2, 0.25, 0.4, 0.5, 0.75, 0.8, 0.95, 1.0)
GOLDEN = {  # ends of (cross, self) per share
    10: ((1, 1), (2, 2), (2, 2), (4, 4), (5, 5), (8, 7), (8, 8), (10, 9), (11, 10)),
    20: ((2, 2), (4, 4), (5, 5), (8, 8), (10, 10), (15, 15), (16, 16), (19, 19), (21, 20)),
    50: ((5, 5), (10, 10), (12, 12), (20, 20), (25, 25), (38, 37), (40, 40), (48, 47), (51, 50)),
    100: ((10, 10), (20, 20), (25, 25), (40, 40), (50, 50), (75, 75), (80, 80), (95, 95), (101, 100)),
}


@pytest.mark.parametrize("total", GOLDEN)
def test_golden_table(total):
    for share, (cross_end, self_end) in zip(SHARES, GOLDEN[total], strict=True):
        assert cross_window(share, total) == (0, cross_end)
        assert self_window(share, total) == (0, self_end)


def test_truncation_is_on_binary_floats():
    assert self_window(0.58, 50) == (0, 28)  # exact arithmetic: 29
    assert [self_window(share, 100)[1] for share in (0.29, 0.57, 0.58)] == [28, 56, 57]


@pytest.mark.parametrize("window", [cross_window, self_window])
def test_kinds_of_numbers_and_pairs(window):
    assert window(0, 50) == window(0.0, 50) == (0, 0)
    assert window(1, 50) == window(np.int64(1), 50) == window(1.0, np.int64(50))
    assert window(np.float64(0.4), 50) == window(0.4, 50) == window((0, 0.4), 50) == window([0.0, 0.4], 50)
    # float(np.float32(0.7)) is 0.69999999, 34 of 50 steps
    assert window(np.float32(0.7), 50) == (0, 35)


def test_windows_that_start_late():
    assert cross_window((0.5, 1), 50) == (25, 51)
    assert self_window((0.5, 1), 50) == (25, 50)
    assert cross_window((0.3, 0.3), 50) == (15, 15)


@pytest.mark.parametrize("total", [1, 7, 50])
def test_adjoining_windows_partition_the_steps(total):
    for split in np.linspace(0, 1, 21):
        assert cross_window((0, split), total)[1] == cross_window((split, 1), total)[0]
        assert self_window((0, split), total)[1] == self_window((split, 1), total)[0]


@pytest.mark.parametrize(
    "steps", [True, -0.1, 1.1, math.nan, "0.4", None, (0.1,), (0, 0.5, 1), (0.6, 0.4), (0, 2)]
)
def test_bad_steps_name_the_parameter_and_the_value(steps):
    value = re.escape(repr(steps[1] if steps == (0, 2) else steps))
    with pytest.raises(ValueError, match=f"^cross_replace_steps.*got {value}$"):
        cross_window(steps, 50)
    with pytest.raises(ValueError, match=f"^self_replace_steps.*got {value}$"):
        self_window(steps, 50)


@pytest.mark.parametrize("total", [0, -1, 2.5, True, "50"])
def test_bad_step_counts(total):
    for window in (cross_window, self_window):
        with pytest.raises(ValueError, match="num_inference_steps must be an integer of at least 1"):
            window(0.5, total)


def test_gate_of_a_number_is_the_window_for_every_token(clip_tokenizer):
    gate = cross_gate(0.4, "a cat", clip_tokenizer, 50)
    assert gate.shape == (51, 77)
    assert gate.dtype == torch.bool
    assert gate[:20].all()
    assert not gate[20:].any()


def test_gate_of_one_covers_the_extra_call_of_pndm(short_clip_tokenizer):
    gate = cross_gate(1, "a cat", short_clip_tokenizer, 50)
    assert gate.shape == (51, 16)
    assert gate.all()
    assert not cross_gate(0, "a cat", short_clip_tokenizer, 50).any()


@pytest.mark.parametrize("steps", [0, 0.4, 1, (0.2, 0.7), {"cat": 0.2, "default_": 0.6}])
def test_rows_of_gates_are_those_of_every_tokenizer(steps, clip_tokenizer, short_clip_tokenizer):
    tokenizers = (clip_tokenizer, short_clip_tokenizer)
    gate = torch.cat([cross_gate(steps, "a cat", tokenizer, 10) for tokenizer in tokenizers], dim=1)
    assert [list(row) for row in gate_rows(steps, "a cat", tokenizers, 10)] == gate.int().tolist()


def test_gate_per_word(clip_tokenizer):
    prompt = "a chinchilla and a cat"
    steps = {"default_": 1.0, "chinchilla": 0.4, "a cat": (0.2, 0.6)}
    gate = cross_gate(steps, prompt, clip_tokenizer, 10)
    assert gate.sum(0).tolist() == [11, 11, 4, 4, 4, 11, 4, 4, *[11] * 69]
    assert gate[:, 7].tolist() == [2 <= step < 6 for step in range(11)]


def test_later_entries_overwrite(clip_tokenizer):
    gate = cross_gate({"cat": 0.2, "a cat": 0.5, "a": 0.8}, "a cat", clip_tokenizer, 10)
    assert gate.sum(0)[:4].tolist() == [11, 8, 5, 11]


def test_default_may_stand_anywhere_and_be_missing(clip_tokenizer):
    steps = {"cat": 0.4}
    gate = cross_gate(steps, "a cat", clip_tokenizer, 10)
    assert steps == {"cat": 0.4}  # the reference writes its default into the caller's dict
    assert_close(gate, cross_gate({"cat": 0.4, "default_": (0.0, 1.0)}, "a cat", clip_tokenizer, 10))
    assert_close(gate, cross_gate({"default_": 1, "cat": 0.4}, "a cat", clip_tokenizer, 10))


def test_gate_errors_name_word_and_prompt(clip_tokenizer):
    with pytest.raises(ValueError, match="word 'dog' is not in prompt 'a cat'"):
        cross_gate({"dog": 0.4}, "a cat", clip_tokenizer, 10)
    with pytest.raises(
        ValueError, match=re.escape("cross_replace_steps['cat'] must be a number in [0, 1], got 2")
    ):
        cross_gate({"cat": 2}, "a cat", clip_tokenizer, 10)
    with pytest.raises(ValueError, match=re.escape("cross_replace_steps['default_'] must be a number")):
        cross_gate({"default_": "all"}, "a cat", clip_tokenizer, 10)
    with pytest.raises(ValueError, match="keyed by words, got 1"):
        cross_gate({1: 0.4}, "a cat", clip_tokenizer, 10)


@pytest.mark.parametrize(
    ("tau", "cross", "capped"),
    [(0, 1.0, 0.4), (0.2, 0.8, 0.4), (0.6, 0.4, 0.4), (0.7, 0.3, 0.3), (0.8, 0.2, 0.2), (1, 0.0, 0.0)],
)
def test_tau_sets_cross_and_caps_self(tau, cross, capped):
    assert windows_from_tau(tau) == (cross, capped)


@pytest.mark.parametrize("total", [10, 20, 50, 100])
def test_tau_and_its_cross_share_give_the_same_steps(total):
    for k in range(101):
        cross, capped = windows_from_tau(k / 100, self_replace_steps=1)
        assert cross_window(cross, total) == cross_window((100 - k) / 100, total)
        assert self_window(capped, total) == self_window((100 - k) / 100, total)


def test_tau_caps_both_ends_of_a_window():
    assert windows_from_tau(0.5, (0.2, 0.8)) == (0.5, (0.2, 0.5))
    assert windows_from_tau(0.9, [0.2, 0.8]) == (0.1, (0.1, 0.1))
    assert windows_from_tau(1, (0.2, 0.8)) == (0.0, (0.0, 0.0))


def test_tau_per_word_caps_self_by_its_default():
    assert windows_from_tau({"default_": 0.8, "lion": 0}) == ({"default_": 0.2, "lion": 1.0}, 0.2)
    assert windows_from_tau({"lion": 0.8}) == ({"lion": 0.2}, 0.4)


@pytest.mark.parametrize("tau", [-0.1, 1.5, True, "0.2", (0.1, 0.2), None])
def test_bad_tau(tau):
    with pytest.raises(ValueError, match=r"^tau must be a number in \[0, 1\], got"):
        windows_from_tau(tau)
    with pytest.raises(ValueError, match=r"^tau\['lion'\] must be a number in \[0, 1\], got"):
        windows_from_tau({"lion": tau})
