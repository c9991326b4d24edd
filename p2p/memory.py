"""What is done where memory runs out: the call is made again with half as many rows, down to one."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TypeVar

import torch
from torch import Tensor

Given = TypeVar("Given")

# Of errors that have no class of their own: Apple's MPS and the driver; the CPU; CUDA's libraries.
_MESSAGES = ("out of memory", "can't allocate memory", "STATUS_ALLOC_FAILED")


def attempt(call: Callable[[], Given], smallest: str | None = None) -> Given | None:
    """Return what a call gives, or None where memory runs out; then less may be asked for.

    `smallest` names what the call is for where nothing less can be asked for: then it raises
    torch.OutOfMemoryError, in one line. None comes back only when the error is gone, and with it the tensors
    that its traceback holds, so that their memory is free.
    """
    try:
        return call()
    except RuntimeError as error:
        if not ran_out(error):
            raise
        if smallest is not None:
            cause = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise torch.OutOfMemoryError(f"{smallest}: memory ran out ({cause})") from error
    torch.cuda.empty_cache()  # does nothing where CUDA was not used; MPS has a cache, and a call, of its own
    if torch.backends.mps.is_available():  # else its call raises
        torch.mps.empty_cache()
    return None


def ran_out(error: RuntimeError) -> bool:
    """Say whether an error means that memory ran out."""
    return isinstance(error, torch.OutOfMemoryError) or any(text in str(error) for text in _MESSAGES)


def in_calls(call: Callable[[Tensor], Tensor], rows: Tensor, most: int, what: str) -> Tensor:
    """Return a call's output for all rows, at most `most` in a call, halved where memory runs out.

    Raises torch.OutOfMemoryError, in one line that begins with `what`, where one row is too much.
    """
    outputs: list[Tensor] = []
    begin = 0
    while begin < len(rows):
        part = rows[begin : begin + most]
        output = attempt(partial(call, part), what if len(part) == 1 else None)
        if output is None:
            most = len(part) // 2
        else:
            outputs.append(output)
            begin += len(part)
    return torch.cat(outputs)
