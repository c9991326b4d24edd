"""The sources' tensors of one step, for rows that come in later calls of the denoiser."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor


@dataclass
class SourceBank:
    """Queries, keys and other tensors of the sources at one step, by layer, kept for later chunks."""

    layers: dict[str, tuple[Tensor, ...]] = field(default_factory=dict)
    keep: bool = True  # whether a later chunk will ask; False for the last chunk, whose tensors are not held

    def add(self, layer: str, *tensors: Tensor) -> tuple[Tensor, ...]:
        """Append this chunk's source rows of each tensor (queries, keys, a mask); return all rows so far.

        A source row's position in what is returned is its group's slot.
        """
        if layer in self.layers:
            if not len(tensors[0]):
                return self.layers[layer]
            tensors = tuple(torch.cat(pair) for pair in zip(self.layers[layer], tensors, strict=True))
        if self.keep:
            self.layers[layer] = tensors
        return tensors
