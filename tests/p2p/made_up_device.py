"""A GPU that is not there: its tensors have shapes and a device but no values, and what would wait for it is
noted.

Tensors of the CPU stay real, so that a scheduler's arithmetic and a tokenizer's ids are what they are. Those
of the device are torch's fake tensors, which refuse an operation over two devices.
"""

from __future__ import annotations

import os
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode, unset_fake_temporarily
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

ROOT = Path(__file__).parents[2]
ATEN = torch.ops.aten
INDEXED = (ATEN.index.Tensor, ATEN.index_put.default, ATEN.index_put_.default, ATEN._unsafe_index.Tensor)
READ_AS = {torch.bool: True, torch.float32: 1.0, torch.float64: 1.0, torch.float16: 1.0, torch.bfloat16: 1.0}
SKIPPED = (str(Path(torch.__file__).parent), __file__)


@dataclass(frozen=True)
class Wait:
    """One operation that makes the processor wait for the device."""

    operation: str
    place: str  # file and line of the innermost frame outside torch
    calls: int  # of the denoiser so far

    def __str__(self) -> str:
        return f"{self.place}: {self.operation}"


@dataclass
class Waits:
    """What waited for the device, and after how many calls of the denoiser."""

    all: list[Wait] = field(default_factory=list)
    calls: int = 0  # of the denoiser

    def between(self, first: int, last: int) -> list[str]:
        """Return those from the beginning of one call to the beginning of another, counted from 1.

        A loop's steps are between its first and its last call: what one step does before its call, and what
        it does after it, other steps do between these two.
        """
        return [str(wait) for wait in self.all if first <= wait.calls < last]


class MadeUpDevice(TorchDispatchMode):
    """A device of a kind ("cuda"), which torch need not know how to reach. Enter it by `running`."""

    def __init__(self, kind: str = "cuda") -> None:
        super().__init__()
        self.kind, self.waits = kind, Waits()
        self.fake = FakeTensorMode(allow_non_fake_inputs=True)

    @contextmanager
    def running(self) -> Iterator[Waits]:
        """Let there be such a device; give what waits for it from now on."""
        self.waits = Waits()
        with self.fake, self:  # under torch's own mode naming the device does not look for a driver
            yield self.waits

    def put(self, pipeline: Any, denoiser: nn.Module) -> None:
        """Move a pipeline's networks there, in place, and count the denoiser's calls from then on.

        `Module.to` cannot: it keeps a parameter and changes its data, which may not become a fake tensor.
        """
        networks = [part for part in pipeline.components.values() if isinstance(part, nn.Module)]
        with self.running():
            for module in (module for network in networks for module in network.modules()):
                for own in (module._parameters, module._buffers):
                    own.update({name: self._moved(tensor) for name, tensor in own.items()})
        denoiser.register_forward_pre_hook(self._count)

    def _moved(self, tensor: Tensor | None) -> Tensor | None:
        if tensor is None:
            return None
        moved = torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device=self.kind)
        return nn.Parameter(moved, False) if isinstance(tensor, nn.Parameter) else moved

    def _count(self, module: nn.Module, arguments: Any) -> None:
        self.waits.calls += 1

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.prim.device.default:  # half of all that is dispatched
            return args[0].fake_device
        kwargs = kwargs or {}
        leaves = tree_leaves((args, kwargs))
        asked = any(isinstance(leaf, torch.device) and leaf.type == self.kind for leaf in leaves)
        if not asked and not any(isinstance(leaf, FakeTensor) for leaf in leaves):
            with unset_fake_temporarily():  # of the CPU alone: really computed
                return func(*args, **kwargs)
        if func in INDEXED and args[0].device.type == "cpu":  # as on CUDA; torch's fake tensors let it pass
            raise RuntimeError("Expected indices on the CPU or on the same device as what they index")
        if (why := _why(func, args, kwargs, leaves)) is not None:
            self.waits.all.append(Wait(f"{func} {why}", _place(), self.waits.calls))
        if func is ATEN._local_scalar_dense.default:
            return READ_AS.get(args[0].dtype, 1)
        if func is ATEN.equal.default:
            return True
        result = func(*args, **kwargs)
        if isinstance(result, FakeTensor) and result.device.type == "cpu":
            with unset_fake_temporarily():
                return torch.zeros(result.shape, dtype=result.dtype)
        return result


def _why(func: Any, args: Any, kwargs: Any, leaves: list[Any]) -> str | None:
    """Return why CUDA's own operation would wait, None where it does not."""
    tensors = [leaf for leaf in leaves if isinstance(leaf, Tensor)]
    here = [tensor for tensor in tensors if tensor.device.type == "cpu"]
    if func is ATEN._to_copy.default:
        source, target = args[0].device, torch.device(kwargs.get("device") or args[0].device)
        if source.type != target.type and not kwargs.get("non_blocking"):
            return f"copies from {source.type} to {target.type}"
    elif func is ATEN.copy_.default:
        if args[0].device.type != args[1].device.type and not (len(args) > 2 and args[2]):
            return f"copies from {args[1].device.type} to {args[0].device.type}"
    elif func in INDEXED:
        if here:  # indices are copied there, and so is a value, even a single number
            return "copies indices or values from the CPU"
        if any(index is not None and index.dtype in (torch.bool, torch.uint8) for index in args[1]):
            return "counts a mask"
    elif torch.Tag.data_dependent_output in func.tags or torch.Tag.dynamic_output_shape in func.tags:
        return "reads values"
    return None


def _place() -> str:
    """Return the file and line of the innermost frame outside torch and this file."""
    for frame in reversed(traceback.extract_stack()):
        if not frame.filename.startswith(SKIPPED):
            _, installed, inside = frame.filename.rpartition("site-packages/")
            place = inside if installed else os.path.relpath(frame.filename, ROOT)
            return f"{place}:{frame.lineno}"
    return "?"
