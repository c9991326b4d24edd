"""The cross-attention maps of asked-for words, summed over the steps for every state of a tree.

google/prompt-to-prompt keeps every map (AttentionStore); here only the columns that a LocalBlend reads are
formed, in the layers of the model's `blend_side`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from p2p.attention import BatchInjection
from p2p.blend import COLUMNS, LocalBlend
from p2p.families.model import Model
from p2p.tree import Node


@dataclass
class WordMaps:
    """Sums (states, pixels, columns); for each blend of a group 2 columns of its source and 2 of its target.

    A state that carries the source fills the source's columns, one that carries a branch the branch's.
    """

    model: Model
    places: dict[tuple[int, str], int]  # of (group, blend): its first column
    width: int
    sums: Tensor | None = None
    columns: Tensor | None = None  # (states, tokens, columns) of the current step

    @classmethod
    def of(cls, level: Sequence[Node], model: Model) -> WordMaps:
        """Return empty sums for a tree that begins with these nodes."""
        places: dict[tuple[int, str], int] = {}
        used: dict[int, int] = {}
        for node in level:
            for blend in node.watched:
                if (node.group, blend.key) not in places:
                    places[node.group, blend.key] = used.get(node.group, 0)
                    used[node.group] = used.get(node.group, 0) + 2 * COLUMNS
        return cls(model, places, max(used.values(), default=0))

    def fork(self, level: Sequence[Node], parents: Tensor) -> None:
        """Give every node its parent's sums, and note which words it adds to them."""
        if not self.width:
            return
        blends = {(node.group, blend.key): blend for node in level for blend in node.watched}
        tokens = len(next(iter(blends.values())).source_words)
        columns = torch.zeros(len(level), tokens, self.width)
        for row, node in enumerate(level):
            if 0 in node.branches:
                for (group, key), blend in blends.items():
                    if group == node.group:
                        self._fill(columns[row], self.places[group, key], blend.source_words)
            for blend in node.watched:
                self._fill(columns[row], self.places[node.group, blend.key] + COLUMNS, blend.target_words)
        self.columns = columns.to(parents.device, self.model.dtype)
        if self.sums is None:
            pixels = self.model.pixels(self.model.blend_side)
            dtype = torch.promote_types(self.model.dtype, torch.float32)
            self.sums = torch.zeros(len(level), pixels, self.width, device=parents.device, dtype=dtype)
        else:
            self.sums = self.sums[parents]

    def words(self, begin: int, nodes: int, per_node: int) -> Tensor | None:
        """Return the columns of one call's rows, zero for unconditional ones; None where nobody asks."""
        if self.columns is None:
            return None
        own = self.columns[begin : begin + nodes]
        return torch.cat([torch.zeros_like(own)] * (per_node - 1) + [own])

    def add(self, begin: int, nodes: int, injection: BatchInjection) -> None:
        """Add the maps of one call, mean over its layers."""
        if self.sums is not None:
            maps = torch.stack(injection.maps).mean(0)[-nodes:]
            self.sums[begin : begin + nodes] += maps.to(self.sums.dtype)

    def blend(self, level: Sequence[Node], latents: Tensor) -> Tensor:
        """Return the latents after this step's blends; node i < groups carries the source of group i."""
        if self.sums is None or not any(node.blend for node in level):
            return latents
        blended = latents.clone()
        for row, node in enumerate(level):
            if node.blend:
                source = latents[node.group]
                mask = self._mask(row, node, node.blend, latents.shape[-2:])
                blended[row] = torch.where(mask, latents[row], source)
        return blended

    def _mask(self, row: int, node: Node, blend: LocalBlend, size: Sequence[int]) -> Tensor:
        assert self.sums is not None
        place, side = self.places[node.group, blend.key], self.model.blend_side
        maps = self.sums.transpose(1, 2).unflatten(2, (side, -1))
        source = maps[node.group, place : place + COLUMNS]
        target = maps[row, place + COLUMNS : place + 2 * COLUMNS]
        return blend.mask(source, target, (size[0], size[1]))

    @staticmethod
    def _fill(columns: Tensor, place: int, words: Tensor) -> None:
        columns[:, place : place + COLUMNS] = words
