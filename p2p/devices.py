"""Which device a name means on this machine, what precision a model gets there, and how exact float32 is."""

from __future__ import annotations

from typing import Any

import torch

KINDS = ("cuda", "mps", "cpu")  # in the order in which "auto" looks for them


def resolve_device(name: str, elsewhere: bool = False) -> torch.device:
    """Return the device that a name means: "auto" is CUDA where there is one, else Apple's MPS, else the CPU.

    Raises ValueError for a device that this machine has not, naming those it has. With `elsewhere`, as a plan
    for another machine has it, a device that is not here will do too.
    """
    there = {
        "cuda": torch.cuda.device_count() if torch.cuda.is_available() else 0,
        "mps": int(torch.backends.mps.is_available()),
        "cpu": 1,
    }
    if name == "auto":
        return torch.device(next(kind for kind in KINDS if there[kind]))
    try:
        device = torch.device(str(name))
    except RuntimeError:
        device = torch.device("meta")  # which no run can take either
    if device.type in KINDS and (elsewhere or (device.index or 0) < there[device.type]):
        return device
    cuda = ["cuda", *(f"cuda:{number}" for number in range(there["cuda"]))] if there["cuda"] else []
    here = ", ".join(["auto", *cuda, *(["mps"] if there["mps"] else []), "cpu"])
    if elsewhere:
        raise ValueError(
            f"device: {name!r} is not one of auto, {', '.join(KINDS)}; on this machine there are {here}"
        )
    raise ValueError(f"device: {name!r} is not on this machine, allowed are {here}")


def default_dtype(device: torch.device, half_precision: str) -> str:
    """Return what a model computes in where nothing is said: float32 on the CPU, else half precision.

    `half_precision` is the one that the model's family is run in. A CPU mostly emulates it.
    """
    return "float32" if device.type == "cpu" else half_precision


def overflow_advice(dtype: torch.dtype) -> str:
    """Return what to try where values stopped being finite in that precision, "" where nothing is known."""
    return "; half precision may overflow, try dtype=float32" if dtype.itemsize < 4 else ""


def exact_float32() -> None:
    """Let CUDA compute float32 in full, and the same way each time.

    TF32, which keeps 10 of 23 bits, is off for matrix products and for convolutions, where torch allows it by
    default: a float32 that was asked for means exactness, and half precision is the faster choice anyhow.
    `cudnn.benchmark` is off: it picks the fastest algorithm by trying, so that two runs may differ in their
    last digits, and tries anew for each number of rows, of which a tree of edits has many.
    """
    cuda, cudnn = torch.backends.cuda, torch.backends.cudnn
    # The old switches first: the new ones alone (torch 2.9 and later) leave a state in which reading the old
    # ones, as libraries do, raises RuntimeError. `torch.backends.fp32_precision` alone does not reach
    # convolutions in torch 2.11.
    cuda.matmul.allow_tf32 = cudnn.allow_tf32 = False
    for switch in _switches().values():
        switch.fp32_precision = "ieee"
    cudnn.benchmark = False


def float32_modes() -> dict[str, Any]:
    """Return how CUDA computes float32, for the record of a run: "ieee" is in full, "tf32" with 10 bits."""
    modes = {name: switch.fp32_precision for name, switch in _switches().items()}
    if not modes:
        modes = {
            "matmul": "tf32" if torch.backends.cuda.matmul.allow_tf32 else "ieee",
            "conv": "tf32" if torch.backends.cudnn.allow_tf32 else "ieee",
        }
    return {**modes, "cudnn_benchmark": torch.backends.cudnn.benchmark}


def _switches() -> dict[str, Any]:
    """Return what has a `fp32_precision`: nothing before torch 2.9."""
    cudnn: Any = torch.backends.cudnn
    if not hasattr(torch.backends.cuda.matmul, "fp32_precision"):
        return {}
    return {"matmul": torch.backends.cuda.matmul, "conv": cudnn.conv, "rnn": cudnn.rnn}
