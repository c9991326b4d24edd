"""torch.compile of the denoiser: the sizes of its calls, and whether this machine can compile at all."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

BACKEND = "inductor"
MOST_GRAPHS = 256  # of one denoiser; torch's own limit of 8 would end a run that has more sizes of calls
EAGER = "allowed is model.compile=false"


def call_size(left: int, most: int) -> tuple[int, int]:
    """Return how many of the `left` states the next call takes, and how many it is padded to.

    Sizes are powers of two, and `most`. At most a quarter of a call is padding: rather than more, it takes
    fewer states, and another call the rest.
    """
    size = min(most, 1 << (left - 1).bit_length())
    if 4 * min(left, size) >= 3 * size:
        return min(left, size), size
    size = 1 << (left.bit_length() - 1)
    return size, size


def power_of_two(number: int) -> int:
    """Return the smallest power of two that is not below a number; 0 for 0."""
    return 1 << (number - 1).bit_length() if number else 0


def check_compiler(device: torch.device) -> None:
    """Raise ValueError, in one line, where torch.compile gives no working code on a device: it is tried out.

    A CPU needs a C++ compiler, CUDA Triton.
    """
    if device.type not in ("cpu", "cuda"):
        raise ValueError(f"compile: is not offered on {device.type}, {EAGER}")
    try:
        torch.compile(_tried, fullgraph=True, dynamic=False, backend=BACKEND)(torch.ones(2, device=device))
    except Exception as error:  # of torch, of the compiler that it calls, of the system
        raise ValueError(f"compile: does not work on this machine ({_cause(error)}), {EAGER}") from error


def compiled(network: Any, backend: str | None = None) -> Callable[..., Any]:
    """Return a network's call, compiled at its first use for each size of call.

    Raises ValueError, in one line, where it cannot be compiled in one piece.
    """
    if any(hasattr(part, "_hf_hook") for part in network.modules()):
        raise ValueError(f"compile: the denoiser is offloaded by accelerate, {EAGER}")
    # A size that is not fixed would be a symbol in the graph, and one graph slow at all sizes.
    call = torch.compile(network, fullgraph=True, dynamic=False, backend=backend or BACKEND)
    # torch 2.6 renamed it.
    limit = "recompile_limit" if hasattr(torch._dynamo.config, "recompile_limit") else "cache_size_limit"

    def run(*arguments: Any, **named: Any) -> Any:
        try:
            with torch._dynamo.config.patch({limit: MOST_GRAPHS}):
                return call(*arguments, **named)
        except torch._dynamo.exc.TorchDynamoException as error:
            raise ValueError(f"compile: {type(network).__name__} ({_cause(error)}), {EAGER}") from error

    return run


def _tried(rows: torch.Tensor) -> torch.Tensor:
    return rows.sin() + 1


def _cause(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
