"""Metrics where memory is short, and on a device without float64: the same values as otherwise."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from evaluation import Edits, pixel
from evaluation.batches import in_batches
from evaluation.clip import Clip
from evaluation.metric import Metric
from evaluation.perceptual import Lpips
from evaluation.pie import PieClip, UneditedLpips, UneditedPixel
from evaluation.pixel import Pixel
from evaluation.structure import StructureDistance

Make = Callable[..., Metric]


@pytest.fixture(params=["pixel", "pie_pixel", "lpips", "pie_lpips", "structure", "clip", "pie_clip"])
def make(request: pytest.FixtureRequest, clip_folder: Path, lpips_folder: Path, vit_folder: Path) -> Make:
    """Make one metric, of a device and a batch size."""
    makers: dict[str, Make] = {
        "pixel": Pixel,
        "pie_pixel": UneditedPixel,
        "lpips": lambda **given: Lpips("tiny", folder=lpips_folder, **given),
        "pie_lpips": lambda **given: UneditedLpips("tiny", folder=lpips_folder, **given),
        "structure": lambda **given: StructureDistance("tiny", folder=vit_folder, **given),
        "clip": lambda **given: Clip("tiny", folder=clip_folder, **given),
        "pie_clip": lambda **given: PieClip("tiny", folder=clip_folder, **given),
    }
    return makers[request.param]


def limited(call: Any, rows: int) -> Any:
    """Let a function run out of memory above a number of rows of its first argument, late in the call."""

    def late(some: Tensor, *rest: Any, **options: Any) -> Any:
        output = call(some, *rest, **options)
        if len(some) > rows:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return output

    return late


def shorten(metric: Any, rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let what a metric does on its device fail above a number of rows."""
    if isinstance(metric, (Pixel, UneditedPixel)):
        monkeypatch.setattr(pixel, "_factors", limited(pixel._factors, rows))
    elif isinstance(metric, (Clip, PieClip)):
        for name in ("encode_image", "encode_text"):
            model = metric.encoder.model
            monkeypatch.setattr(model, name, limited(getattr(model, name), rows))
    else:
        inner = getattr(metric, "lpips", metric)
        name = "_keys" if isinstance(metric, StructureDistance) else "_features"
        monkeypatch.setattr(inner, name, limited(getattr(inner, name), rows))


def same(one: dict[str, Any], other: dict[str, Any], rtol: float = 0) -> None:
    assert list(one) == list(other)
    for name in one:
        torch.testing.assert_close(one[name].values, other[name].values, rtol=rtol, atol=0, equal_nan=True)
        assert one[name].reasons == other[name].reasons


def test_where_memory_runs_out_values_are_those_of_the_smaller_batch(
    make: Make, masked: Edits, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = make(batch_size=2)(masked)
    metric = make(batch_size=5)
    shorten(metric, 2, monkeypatch)
    same(metric(masked), wanted)  # 5 rows do not fit, 2 do


def test_where_one_image_is_too_much_it_is_said_in_one_line(
    make: Make, masked: Edits, monkeypatch: pytest.MonkeyPatch
) -> None:
    metric = make(batch_size=5)
    shorten(metric, 0, monkeypatch)
    with pytest.raises(torch.OutOfMemoryError) as error:
        metric(masked)
    cause = "CUDA out of memory. Tried to allocate 2.00 GiB."
    assert str(error.value) == f"metric: memory ran out at one image ({cause})"


def test_any_other_error_is_not_kept_from_the_caller() -> None:
    def broken(rows: Tensor) -> Tensor:
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    with pytest.raises(RuntimeError, match="^mat1 and mat2 shapes cannot be multiplied$"):
        in_batches(broken, torch.arange(4), 4)


class OnMps(torch.Tensor):
    """A tensor that says it is on Apple's MPS, and as there can be no float64 until it is on the CPU."""

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func == torch.Tensor.device.__get__:
            return torch.device("mps")
        if func == torch.Tensor.cpu:
            return args[0].as_subclass(torch.Tensor)
        output = super().__torch_function__(func, types, args, kwargs or {})
        if isinstance(output, OnMps) and output.dtype == torch.float64:
            raise TypeError("Cannot convert a MPS Tensor to float64 dtype")
        return output


class Pretended(TorchFunctionMode):
    """What is moved to MPS or made there is such a tensor; counts what was moved."""

    def __init__(self) -> None:
        super().__init__()
        self.moved = 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func == torch.Tensor.to and "mps" in map(str, args[1:]):
            self.moved += 1
            return args[0].as_subclass(OnMps)
        if str(kwargs.get("device")) == "mps":
            return func(*args, **{**kwargs, "device": "cpu"}).as_subclass(OnMps)
        return func(*args, **kwargs)


def test_float64_is_left_to_the_cpu_where_the_device_has_none(make: Make, masked: Edits) -> None:
    wanted = make(device="cpu")(masked)
    with Pretended() as there:
        found = make(device="mps")(masked)
    # torch's fast path of whole encoder layers, which rounds otherwise, does not take such tensors.
    same(found, wanted, rtol=2e-5)
    assert there.moved
