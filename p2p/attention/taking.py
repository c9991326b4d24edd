"""What the rows of one call take from their source in single layers (single_layers.py), tensor by tensor.

Attention processors ask for queries, keys and values; a hook takes a residual block's features.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from torch import Tensor

from p2p.attention.source_bank import SourceBank


@dataclass(frozen=True)
class Taking:
    """Which rows of one call take which tensors from a source; indices are int64 tensors.

    A source's sides are its rows: the unconditional one, where there is one, and the conditional one.
    """

    source_rows: Tensor  # (sources of this call, sides), in the order of their slots
    rows: Mapping[str, Tensor]
    """By tensor, of this step, in whichever chunk: (3, rows), the row, and its source's slot and side."""
    bank: SourceBank
    asked: list[str] = field(default_factory=list)

    def __call__(self, name: str, tensor: Tensor) -> Tensor:
        """Return a tensor (rows, ...) in which, in place, rows that take it have their source's."""
        if name not in self.rows:
            return tensor
        self.asked.append(name)
        [source] = self.bank.add(name, tensor[self.source_rows])
        rows, slots, sides = self.rows[name]
        return tensor.index_copy_(0, rows, source[slots, sides]) if len(rows) else tensor

    def attention(
        self, layer: str, query: Tensor, key: Tensor, value: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return a self-attention layer's tensors with what is taken from the sources."""
        return self(f"{layer}/query", query), self(f"{layer}/key", key), self(f"{layer}/value", value)

    def check(self) -> None:
        """Raise RuntimeError where the call passed a layer by, so that it edited less than was asked for."""
        if missed := set(self.rows) - set(self.asked):
            raise RuntimeError(f"layers: {', '.join(sorted(missed))} did not ask for their source's")


@contextmanager
def feature_hooks(denoiser: Any, taking: Taking | None) -> Iterator[None]:
    """Let the modules whose output is taken ask for it, for one call; without any, nothing is installed."""
    handles = []
    if taking is not None:
        for name in (name for name in taking.rows if "/" not in name):
            hook = partial(_take_output, taking, name)
            handles.append(denoiser.get_submodule(name).register_forward_hook(hook))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _take_output(taking: Taking, name: str, module: Any, arguments: Any, output: Tensor) -> Tensor:
    return taking(name, output)
