"""What the rows of one call take from their source in single layers, tensor by tensor.

`p2p.attention.single_layers` names the layers of a UNet, `p2p.attention.joint_blocks` those of a transformer.
Attention processors ask for queries, keys and values; a hook takes a residual block's features.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor

from p2p.attention.source_bank import SourceBank


@dataclass(frozen=True)
class Taking:
    """Which rows of one call take which tensors from a source; indices are int64 tensors.

    A source has one or two sides: its unconditional row, where guidance needs one, and its conditional row.
    """

    source_rows: Tensor  # (sources of this call, sides), in the order of their slots
    rows: Mapping[str, Tensor]
    """By the name of a tensor that any chunk of this step takes: (3, rows) of target row, the source's slot,
    and the source's side."""
    bank: SourceBank
    heads: Mapping[str, Tensor] = field(default_factory=dict)
    """By the name of a tensor that some rows take in some heads alone: for each of its `rows` which heads,
    bool (rows, heads, 1, 1)."""
    own_values: Tensor | None = None
    """Where rows keep their own values of the image, bool (rows of the call, 1, pixels, 1); None: nowhere."""
    asked: list[str] = field(default_factory=list)

    def __call__(self, name: str, tensor: Tensor) -> Tensor:
        """Return a layer's tensor (rows, ...) with the source's values in rows that take them, in place."""
        if name not in self.rows:
            return tensor
        self.asked.append(name)
        source = self.bank.add(name, self.source_rows, tensor)
        rows, slots, sides = self.rows[name]
        if not len(rows):
            return tensor
        [taken] = source.of(slots, sides)
        if name in self.heads:
            taken = torch.where(self.heads[name], taken, tensor[rows])
        if self.own_values is not None and name.endswith("/value"):
            taken = torch.where(self.own_values[rows], tensor[rows], taken)
        return tensor.index_copy_(0, rows, taken)

    def attention(
        self, layer: str, query: Tensor, key: Tensor, value: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return a self-attention layer's tensors with what is taken from the sources."""
        return self(f"{layer}/query", query), self(f"{layer}/key", key), self(f"{layer}/value", value)

    def check(self) -> None:
        """Raise RuntimeError where the call skipped a layer that rows take from: the edit would lack it."""
        if missed := set(self.rows) - set(self.asked):
            raise RuntimeError(f"layers: {', '.join(sorted(missed))} did not ask for their source's")


@contextmanager
def feature_hooks(denoiser: Any, taking: Taking | None) -> Iterator[None]:
    """Install, for one call, a hook on every module whose output is taken; None installs nothing."""
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
