"""What a device's name means, the precision that a model gets there, and float32 without TF32.

No GPU is needed: where only names are told apart, what torch says is there is made up.
"""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

import p2p.loading.model_spec
from p2p import ModelSpec
from p2p.devices import exact_float32, float32_modes, resolve_device
from p2p.families import FAMILIES

Machine = Callable[[int, bool], None]


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    """Make up how many CUDA devices there are, and whether there is Apple's MPS."""

    def make(cuda: int, mps: bool) -> None:
        monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda > 0)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: cuda)
        monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)

    return make


@pytest.mark.parametrize(
    ("cuda", "mps", "found"), [(2, True, "cuda"), (0, True, "mps"), (1, False, "cuda"), (0, False, "cpu")]
)
def test_auto_is_cuda_then_mps_then_the_cpu(machine: Machine, cuda: int, mps: bool, found: str) -> None:
    machine(cuda, mps)
    assert resolve_device("auto") == torch.device(found)


def test_a_device_that_is_here_is_taken_by_its_name(machine: Machine) -> None:
    machine(2, True)
    for name in ("cuda", "cuda:0", "cuda:1", "mps", "cpu"):
        assert resolve_device(name) == torch.device(name)


@pytest.mark.parametrize(
    ("name", "cuda", "mps", "allowed"),
    [
        ("cuda", 0, False, "auto, cpu"),
        ("cuda:2", 2, True, "auto, cuda, cuda:0, cuda:1, mps, cpu"),
        ("mps", 1, False, "auto, cuda, cuda:0, cpu"),
        ("tpu", 0, True, "auto, mps, cpu"),
        ("meta", 0, False, "auto, cpu"),
        ("", 0, False, "auto, cpu"),
        (None, 0, False, "auto, cpu"),
    ],
)
def test_any_other_is_an_error_that_names_those_there_are(
    machine: Machine, name: str, cuda: int, mps: bool, allowed: str
) -> None:
    machine(cuda, mps)
    with pytest.raises(ValueError) as error:
        resolve_device(name)
    assert str(error.value) == f"device: {name!r} is not on this machine, allowed are {allowed}"


def test_a_plan_may_name_a_device_of_another_machine_but_no_unknown_one(machine: Machine) -> None:
    machine(0, False)
    assert resolve_device("cuda:3", elsewhere=True) == torch.device("cuda:3")
    assert resolve_device("mps", elsewhere=True) == torch.device("mps")
    message = "'tpu' is not one of auto, cuda, mps, cpu; on this machine there are auto, cpu"
    with pytest.raises(ValueError, match=message):
        resolve_device("tpu", elsewhere=True)
    with pytest.raises(ValueError, match=message):
        ModelSpec("tiny", "/nowhere", 16, 16, device="tpu")


@pytest.mark.parametrize("pipeline", FAMILIES)
@pytest.mark.parametrize("device", ["cuda", "cuda:1", "mps", "cpu"])
def test_the_family_says_its_half_precision_and_the_cpu_has_float32(pipeline: str, device: str) -> None:
    transformers = (
        "PixArtAlpha",
        "PixArtSigma",
        "StableDiffusion3",
        "Flux",
        "Flux2",
        "Flux2Klein",
        "QwenImage",
        "ZImage",
    )
    half = "bfloat16" if pipeline.removesuffix("Pipeline") in transformers else "float16"
    spec = ModelSpec("any", "/nowhere", 16, 16, pipeline=pipeline, device=device)
    assert spec.dtype == ("float32" if device == "cpu" else half)
    assert ModelSpec("any", "/nowhere", 16, 16, pipeline, "float32", device).dtype == "float32"


def test_auto_gets_the_precision_of_the_device_that_it_is(machine: Machine) -> None:
    found = []
    for cuda, mps in ((1, False), (0, True), (0, False)):
        machine(cuda, mps)
        found.append(ModelSpec("any", "/nowhere", 16, 16).dtype)
    assert found == ["float16", "float16", "float32"]


def test_a_precision_that_was_found_is_the_same_model_as_one_that_was_given(tiny_folder: Path) -> None:
    def identity(dtype: str | None, device: str) -> str:
        return ModelSpec("tiny", str(tiny_folder), 16, 16, dtype=dtype, device=device).identity()

    assert identity(None, "cpu") == identity("float32", "cpu") == identity("float32", "cuda")
    assert identity(None, "cuda") == identity("float16", "cpu") != identity(None, "cpu")


def test_mps_has_no_double_precision() -> None:
    with pytest.raises(ValueError, match="dtype: 'float64' is not on mps, allowed are 'float32', 'float16'"):
        ModelSpec("tiny", "/nowhere", 16, 16, dtype="float64", device="mps")


def test_a_device_that_is_not_here_is_told_before_weights_are_looked_for(machine: Machine) -> None:
    machine(0, False)
    with pytest.raises(ValueError, match="'cuda' is not on this machine"):
        ModelSpec("tiny", "/nowhere", 16, 16, device="cuda").load()


@pytest.mark.parametrize(("device", "switched"), [("cuda", 1), ("cpu", 0)])
def test_a_cuda_model_switches_tf32_off(
    machine: Machine, monkeypatch: pytest.MonkeyPatch, device: str, switched: int
) -> None:
    machine(1, False)
    calls: list[int] = []
    monkeypatch.setattr(p2p.loading.model_spec, "exact_float32", lambda: calls.append(1))
    with pytest.raises(OSError, match="no weights at '/nowhere'"):
        ModelSpec("tiny", "/nowhere", 16, 16, device=device).load()
    assert len(calls) == switched


@pytest.fixture
def torchs_own() -> Iterator[None]:
    """Give the switches back as torch has them at first."""
    yield
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = True
    torch.backends.cudnn.benchmark = False


def allow_by_old_switches() -> None:
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True


def allow_by_new_switches() -> None:
    if hasattr(torch.backends.cuda.matmul, "fp32_precision"):  # torch 2.9 and later
        torch.backends.cuda.matmul.fp32_precision = "tf32"
        torch.backends.cudnn.conv.fp32_precision = "tf32"


@pytest.mark.usefixtures("torchs_own")
@pytest.mark.parametrize("allow", [allow_by_old_switches, allow_by_new_switches])
def test_tf32_goes_off_by_old_switches_and_new_and_both_can_be_read_then(allow: Callable[[], None]) -> None:
    allow()
    torch.backends.cudnn.benchmark = True
    exact_float32()
    assert torch.backends.cuda.matmul.allow_tf32 is False  # each raises where old and new are mixed up
    assert torch.backends.cudnn.allow_tf32 is False
    assert torch.get_float32_matmul_precision() == "highest"
    modes = float32_modes()
    assert modes.pop("cudnn_benchmark") is False
    assert {"matmul", "conv"} <= set(modes)
    assert set(modes.values()) == {"ieee"}


@pytest.mark.usefixtures("torchs_own")
def test_what_is_recorded_is_what_is_switched() -> None:
    allow_by_old_switches()
    assert (float32_modes()["matmul"], float32_modes()["conv"]) == ("tf32", "tf32")
