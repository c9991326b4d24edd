"""One device for all tests here, CUDA or what `P2P_TEST_DEVICE` names, and models on it and on the CPU.

With `P2P_TEST_DEVICE=cpu` every test runs on the CPU against the CPU: that shows that the tests run, and
nothing of a device.
"""

import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest
import torch
from torch import Tensor

from experiments.embedded.training import WEIGHTS
from p2p import Model, ModelSpec, Sampling, edit

Load = Callable[[str, str], Model]


@pytest.fixture(scope="session")
def device() -> str:
    """The device that is compared with the CPU, float32 on it not rounded to TF32."""
    name = os.environ.get("P2P_TEST_DEVICE", "cuda")
    if torch.device(name).type == "cuda" and not torch.cuda.is_available():
        pytest.skip(f"torch sees no CUDA device for {name!r}; P2P_TEST_DEVICE=cpu runs the tests without one")
    torch.backends.cudnn.allow_tf32 = False
    return name


@pytest.fixture(scope="session")
def embedded() -> Load:
    """Give the embedded model in a precision, on a device."""

    @cache
    def load(dtype: str, device: str) -> Model:
        path = str(WEIGHTS / "pipeline")
        return ModelSpec("embedded", path, self_max_side=16, blend_side=16, dtype=dtype, device=device).load()

    return load


@dataclass(frozen=True)
class Sides:
    """One model on the CPU and on the device, and the share of 8-bit values that may differ by one level."""

    cpu: Model
    device: Model
    share: float


@pytest.fixture(scope="session", params=["embedded float32", "tiny float64"])
def sides(request: pytest.FixtureRequest, device: str, embedded: Load, tiny_folder: Path) -> Sides:
    """The trained model in single precision; a random one in double, where hardly a value may differ.

    On the CPU single precision has at most 0.04 % of the values one level off double precision's, in any of
    the methods and inversions here; kernels of a GPU may sum in a worse order.
    """
    if request.param == "embedded float32":
        return Sides(embedded("float32", "cpu"), embedded("float32", device), share=0.01)
    cpu, there = (
        ModelSpec(
            "tiny", str(tiny_folder), self_max_side=16, blend_side=16, dtype="float64", device=name
        ).load()
        for name in ("cpu", device)
    )
    return Sides(cpu, there, share=1e-3)


@pytest.fixture(scope="session")
def pictures(sides: Sides) -> Tensor:
    """Two pictures (2, 3, height, width) to invert, which the model itself has drawn on the CPU."""
    drawn = [edit(sides.cpu, "a cat on the beach", [], seed, Sampling(10)).source for seed in (3, 4)]
    return torch.stack(drawn)
