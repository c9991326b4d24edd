"""The sources' tensors of one step, for rows of this call of the denoiser, and of later ones."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor


@dataclass(frozen=True)
class Sources:
    """Tensors of a step's sources so far; a source's slot is its place among them."""

    tensors: tuple[Tensor, ...]
    rows: Tensor | None = None  # where each slot's source stands in these; None: at its own place

    def of(self, *slots: Tensor) -> tuple[Tensor, ...]:
        """Return copies of the sources' rows of each tensor, in the order of the slots."""
        places = slots if self.rows is None else (self.rows[slots],)
        return tuple(tensor[places] for tensor in self.tensors)


@dataclass
class SourceBank:
    """Queries, keys and other tensors of the sources at one step, by layer, kept for later chunks."""

    layers: dict[str, tuple[Tensor, ...]] = field(default_factory=dict)
    keep: bool = True  # whether a later chunk will ask; False for the last chunk, whose tensors are not held

    def add(self, layer: str, rows: Tensor, *tensors: Tensor) -> Sources:
        """Append this chunk's source rows of each tensor (queries, keys, a mask); return all sources so far.

        Where neither an earlier chunk has any nor a later one asks, nothing is copied.
        """
        if layer not in self.layers and not self.keep:
            return Sources(tensors, rows)
        if layer in self.layers and not len(rows):
            return Sources(self.layers[layer])
        own = tuple(tensor[rows] for tensor in tensors)
        if layer in self.layers:
            own = tuple(torch.cat(pair) for pair in zip(self.layers[layer], own, strict=True))
        if self.keep:
            self.layers[layer] = own
        return Sources(own)
