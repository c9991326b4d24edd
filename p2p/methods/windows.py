"""When attention is injected: shares of the denoising to step windows and per-word gates; tau.

Hertz et al. 2022, Sec. 3.2 and Alg. 1; both roundings are as in google/prompt-to-prompt.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from p2p.alignment import Tokenizer, Tokenizers, token_limit, word_indices

Steps = float | Sequence[float]
"""A share b of the denoising steps, meaning (0, b), or a window (start, end) of shares; all in [0, 1]."""

DEFAULT_WORD = "default_"


def cross_window(steps: Steps, num_inference_steps: int) -> tuple[int, int]:
    """Return the steps [start, end) of cross-attention injection, rounded as `int(b * (T + 1))`.

    The table has T + 1 rows because PNDM makes T + 1 UNet calls for T steps, so the end may be T + 1.
    Truncation acts on binary floats, as in the reference: 0.58 of 50 rows are 28.
    """
    return _cross_rows("cross_replace_steps", steps, num_inference_steps)


def self_window(steps: Steps, num_inference_steps: int) -> tuple[int, int]:
    """Return the steps [start, end) of self-attention injection, rounded as `int(T * b)`."""
    total = _step_count(num_inference_steps)
    start, end = window("self_replace_steps", steps)
    return int(total * start), int(total * end)


def cross_gate(
    cross_replace_steps: Steps | Mapping[str, Steps],
    target_prompt: str,
    tokenizer: Tokenizer,
    num_inference_steps: int,
) -> Tensor:
    """Return at which step (rows, T + 1) which target token (columns) takes the source's map; bool.

    A mapping gives words of the target prompt their own windows, "default_" all other tokens (missing: every
    step). A later entry overwrites an earlier one that has the same word. Raises ValueError for words that
    are not in the prompt; the reference skips them.
    """
    rows = torch.arange(_step_count(num_inference_steps) + 1)

    def column(name: str, steps: Steps) -> Tensor:
        start, end = _cross_rows(name, steps, num_inference_steps)
        return ((rows >= start) & (rows < end))[:, None]

    name = "cross_replace_steps"
    if not isinstance(cross_replace_steps, Mapping):
        return column(name, cross_replace_steps).repeat(1, token_limit(tokenizer))
    default = column(f"{name}[{DEFAULT_WORD!r}]", cross_replace_steps.get(DEFAULT_WORD, (0.0, 1.0)))
    gate = default.repeat(1, token_limit(tokenizer))
    for word, steps in cross_replace_steps.items():
        if not isinstance(word, str):  # YAML reads `2: 0.4` as a position where the word "2" may be meant
            raise ValueError(f"{name} must be keyed by words, got {word!r} for prompt {target_prompt!r}")
        if word != DEFAULT_WORD:
            gate[:, word_indices(target_prompt, word, tokenizer)] = column(f"{name}[{word!r}]", steps)
    return gate


def gate_rows(
    cross_replace_steps: Steps | Mapping[str, Steps],
    target_prompt: str,
    tokenizers: Tokenizers,
    num_inference_steps: int,
) -> list[bytes]:
    """Return the rows of `cross_gate` over all tokenizers' tokens, T + 1 of them, a byte 0 or 1 a token."""
    if isinstance(cross_replace_steps, Mapping):
        gates = [cross_gate(cross_replace_steps, target_prompt, t, num_inference_steps) for t in tokenizers]
        return [row.tobytes() for row in torch.cat(gates, dim=1).numpy()]
    start, end = cross_window(cross_replace_steps, num_inference_steps)
    tokens = sum(token_limit(tokenizer) for tokenizer in tokenizers)
    opened, closed = bytes([1]) * tokens, bytes(tokens)
    return [opened if start <= row < end else closed for row in range(num_inference_steps + 1)]


def windows_from_tau(
    tau: float | Mapping[str, float], self_replace_steps: Steps = 0.4
) -> tuple[float | dict[str, float], float | tuple[float, float]]:
    """Return (cross_replace_steps, self_replace_steps) of the paper's threshold tau in [0, 1].

    The target's own maps are used for t < tau, the last share of the steps: cross_replace_steps = 1 - tau,
    which also caps self_replace_steps (a window at both ends), so tau = 1 injects nothing. For a per-word
    mapping its "default_" sets the cap; without one the other words have tau 0 and nothing is capped.
    """
    start, end = window("self_replace_steps", self_replace_steps)
    cross: float | dict[str, float]
    if isinstance(tau, Mapping):
        cross = {word: _complement(f"tau[{word!r}]", value) for word, value in tau.items()}
        cap = cross.get(DEFAULT_WORD, 1.0)
    else:
        cross = cap = _complement("tau", tau)
    if isinstance(self_replace_steps, Sequence):
        return cross, (min(start, cap), min(end, cap))
    return cross, min(end, cap)


def check_windows(
    cross_replace_steps: Steps | Mapping[str, Steps], self_replace_steps: Steps, num_inference_steps: int
) -> None:
    """Raise ValueError for a window that was asked for and comes to no step, where nothing is injected.

    0, or a window whose ends are equal, asks for none.
    """
    total = _step_count(num_inference_steps)
    by_word = cross_replace_steps if isinstance(cross_replace_steps, Mapping) else {None: cross_replace_steps}
    for word, steps in by_word.items():
        name = "cross_replace_steps" if word is None else f"cross_replace_steps[{word!r}]"
        _check_window(name, steps, total, total + 1)
    _check_window("self_replace_steps", self_replace_steps, total, total)


def check_tau(tau: float | Mapping[str, float], num_inference_steps: int) -> None:
    """Raise ValueError for a tau below 1 that leaves no step to inject in: it would be the fixed seed.

    A tau above 0 that frees no step is no error: it comes to the steps of tau 0.
    """
    rows = _step_count(num_inference_steps) + 1
    for word, value in (tau if isinstance(tau, Mapping) else {None: tau}).items():
        name = "tau" if word is None else f"tau[{word!r}]"
        if value < 1 and not int(_complement(name, value) * rows):
            raise ValueError(
                f"{name}: {value} of {num_inference_steps} steps injects in no step, allowed are 0 to "
                f"{rows - 1}/{rows}, and 1 (nothing is injected)"
            )


def _check_window(name: str, steps: Steps, total: int, rows: int) -> None:
    start, end = window(name, steps)
    if start < end and int(start * rows) >= min(int(end * rows), total):
        given = f"{name}: {steps} of {total} steps is no step, allowed are 0 (none) and "
        if isinstance(steps, Sequence):
            raise ValueError(f"{given}windows that hold k/{rows} to (k + 1)/{rows}, k from 0 to {total - 1}")
        raise ValueError(f"{given}1/{rows} or more")


def _cross_rows(name: str, steps: Steps, num_inference_steps: int) -> tuple[int, int]:
    rows = _step_count(num_inference_steps) + 1
    start, end = window(name, steps)
    return int(start * rows), int(end * rows)


def _complement(name: str, tau: Any) -> float:
    return round(1 - _share(name, tau), 9)  # 1 - 0.8 is 0.19999999999999996, which truncates one step short


def window(name: str, steps: Any) -> tuple[float, float]:
    """Return a window's shares (start, end), in [0, 1]. Raises ValueError for what is none, by its name."""
    if isinstance(steps, Sequence) and not isinstance(steps, str):
        if len(steps) != 2:
            raise ValueError(f"{name} must be a number or a pair (start, end) in [0, 1], got {steps!r}")
        start, end = _share(f"{name} start", steps[0]), _share(f"{name} end", steps[1])
        if start > end:
            raise ValueError(f"{name} must have start <= end, got {steps!r}")
        return start, end
    return 0.0, _share(name, steps)


def _share(name: str, value: Any) -> float:
    number = isinstance(value, (int, float, np.integer, np.floating)) and not isinstance(value, bool)
    if not number or not 0 <= value <= 1:
        raise ValueError(f"{name} must be a number in [0, 1], got {value!r}")
    # Through its digits: np.float32(0.7) is 0.69999999, which truncates one step short.
    return float(str(value)) if isinstance(value, np.floating) else float(value)


def _step_count(num_inference_steps: Any) -> int:
    steps = num_inference_steps
    if not isinstance(steps, (int, np.integer)) or isinstance(steps, bool) or steps < 1:
        raise ValueError(f"num_inference_steps must be an integer of at least 1, got {steps!r}")
    return int(steps)
