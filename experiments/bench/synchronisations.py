"""How often a call makes the processor wait for the GPU, as CUDA itself tells."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import torch

MESSAGE = "called a synchronizing CUDA operation"  # of c10's warn_or_error_on_sync


def count_synchronisations(run: Callable[[], object]) -> int:
    """Return how many times a call waits for the GPU: reads of a tensor's value, copies from or to pageable
    memory, indices by a mask.

    A step's own are the difference between a run of 2 T and a run of T steps, divided by T: encoding prompts,
    decoding and the last check of the latents come once. Explicit `torch.cuda.synchronize` and
    `Event.synchronize` are not counted, so a clock that waits for the device may run inside. torch calls its
    own gauge a prototype that does not yet see every synchronising operation. Raises ValueError where torch
    sees no CUDA device.
    """
    if not torch.cuda.is_available():
        raise ValueError(
            "device: torch sees no CUDA device, allowed is to count synchronisations on CUDA alone"
        )
    before = torch.cuda.get_sync_debug_mode()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")  # one and the same line warns each time
        torch.cuda.set_sync_debug_mode("warn")
        try:
            run()
        finally:
            torch.cuda.set_sync_debug_mode(before)
    return sum(MESSAGE in str(warning.message) for warning in caught)
