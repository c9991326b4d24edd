"""What the rows of one call take from their source in single layers (layers.py), tensor by tensor.

Attention processors ask for queries, keys and values; a hook takes a residual block's features.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from itertools import chain
from typing import TYPE_CHECKING, Any

from torch import Tensor

if TYPE_CHECKING:
    from p2p.attention.injection import BatchInjection, SourceBank
    from p2p.attention.single_layers import LayerInjection
    from p2p.families.model import Model
    from p2p.tree import Node


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

    @classmethod
    def of(
        cls,
        level: Sequence[Node],
        nodes: Sequence[Node],
        per_node: int,
        bank: SourceBank,
        model: Model,
        index: Callable[[Sequence[int]], Tensor],
    ) -> Taking | None:
        """Return what a chunk's `nodes` take, or None where nobody of the `level` takes anything.

        `index` puts row numbers on the model's device.
        """
        wanted = {n.injection.layers for n in level if n.injection and n.injection.layers}
        if not wanted:
            return None
        names = {one: model.unet_layers.taken(one) for one in wanted}
        entries: dict[str, list[tuple[int, int, int]]] = {n: [] for own in names.values() for n in own}
        for i, node in enumerate(nodes):
            if node.injection and node.injection.layers:
                for name in names[node.injection.layers]:
                    entries[name] += [(side * len(nodes) + i, node.group, side) for side in range(per_node)]
        sources = [i for i, node in enumerate(nodes) if 0 in node.branches]
        source_rows = [side * len(nodes) + i for i in sources for side in range(per_node)]
        rows = {name: index(list(chain(*own))).reshape(-1, 3).T for name, own in entries.items()}
        return cls(index(source_rows).reshape(-1, per_node), rows, bank)

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


def check_layers(model: Model, wanted: Iterable[LayerInjection]) -> None:
    """Raise ValueError where the model has not the layers that edits take from."""
    for one in dict.fromkeys(wanted):
        model.unet_layers.taken(one)


@contextmanager
def feature_hooks(denoiser: Any, injection: BatchInjection | None) -> Iterator[None]:
    """Let the modules whose output is taken ask for it, for one call; without any, nothing is installed."""
    handles = []
    if injection is not None and (taking := injection.taking) is not None:
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
