"""Batches of a metric on its device: halved where memory runs out, and float64 where the device has it."""

from collections.abc import Callable

import torch
from torch import Tensor

# Of errors that have no class of their own: Apple's MPS and the driver; the CPU; CUDA's libraries.
_MESSAGES = ("out of memory", "can't allocate memory", "STATUS_ALLOC_FAILED")


def in_batches(call: Callable[[Tensor], Tensor], rows: Tensor, batch_size: int) -> Tensor:
    """Return a call's values for all rows (N,), at most `batch_size` in a call.

    Where memory runs out, the batches are halved, down to one row. Raises torch.OutOfMemoryError, in one
    line, where that is too much.
    """
    values: list[Tensor] = []
    begin = 0
    while begin < len(rows):
        part = rows[begin : begin + batch_size]
        try:
            values.append(call(part))
            begin += len(part)
            continue
        except RuntimeError as error:
            if not (isinstance(error, torch.OutOfMemoryError) or any(m in str(error) for m in _MESSAGES)):
                raise
            if len(part) == 1:
                cause = (str(error).strip() or type(error).__name__).splitlines()[0]
                raise torch.OutOfMemoryError(f"metric: memory ran out at one image ({cause})") from error
        # Here the error is gone, and with it the tensors that its traceback held.
        batch_size = len(part) // 2
        torch.cuda.empty_cache()  # does nothing where CUDA was not used
        if torch.backends.mps.is_available():  # else its call raises
            torch.mps.empty_cache()
    return torch.cat(values)


def double(values: Tensor) -> Tensor:
    """Return values in float64: where they are, or on the CPU where their device, Apple's MPS, has none."""
    return (values.cpu() if values.device.type == "mps" else values).double()
