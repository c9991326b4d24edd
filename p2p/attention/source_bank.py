"""The sources' tensors of one step, for rows that come in later calls of the denoiser."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor


@dataclass
class SourceBank:
    """The sources' tensors of one step, by layer, kept for the later chunks of a batch."""

    layers: dict[str, tuple[Tensor, ...]] = field(default_factory=dict)
    keep: bool = True  # whether a later chunk will ask; the last one's own are not held

    def add(self, layer: str, *tensors: Tensor) -> tuple[Tensor, ...]:
        """Append this chunk's rows of each tensor (queries, keys, a mask, ...), return all so far.

        A row's position is its group's slot.
        """
        if layer in self.layers:
            if not len(tensors[0]):
                return self.layers[layer]
            tensors = tuple(torch.cat(pair) for pair in zip(self.layers[layer], tensors, strict=True))
        if self.keep:
            self.layers[layer] = tensors
        return tensors
