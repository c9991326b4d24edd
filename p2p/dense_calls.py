"""What the rows of every call of a compiled denoiser take from their sources: shapes that seldom change."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn.functional import pad

from p2p.attention.dense import DenseInjection
from p2p.attention.source_bank import SourceBank
from p2p.compiling import power_of_two
from p2p.families.model import Model
from p2p.prepared import Indices, Mixes, Preparation
from p2p.tree import Node


@dataclass(frozen=True)
class Part:
    """The nodes of a level that one call takes, and to how many they are padded."""

    level: Sequence[Node]
    begin: int
    count: int
    size: int

    @property
    def nodes(self) -> list[Node]:
        """The nodes, the last of them again and again in place of what lacks; its rows are thrown away."""
        own = list(self.level[self.begin : self.begin + self.count])
        return own + own[-1:] * (self.size - self.count)

    @property
    def sources(self) -> range:
        """The groups whose source is in this call: node i of a level carries the source of group i."""
        groups = sum(0 in node.branches for node in self.level)
        return range(min(self.begin, groups), min(self.begin + self.count, groups))

    def filled(self, rows: Tensor) -> Tensor:
        """Return rows, one per node, with rows for the padding: the last one again."""
        lack = self.size - self.count
        return torch.cat([rows, rows[-1:].expand(lack, *rows.shape[1:])]) if lack else rows

    def take_in(self, injection: DenseInjection, bank: SourceBank, columns: int) -> None:
        """Keep the call's sources for later calls, and take the padding off its maps of `columns` words."""
        for layer, tensors in injection.kept.items():
            bank.add(layer, torch.arange(len(self.sources), device=tensors[0].device), *tensors)
        for layer, maps in injection.maps.items():
            injection.maps[layer] = maps[: self.count, :, :columns]


@dataclass(frozen=True)
class DenseCalls:
    """What is the same in all calls of a run, so that a step's gates change no graph."""

    per_node: int  # rows
    model: Model
    index: Indices
    places: Mapping[str, int]  # by `CrossInjection.key`, among the mixes; the last mix leaves a row as it is
    mixes: Mixes | None  # None where no node of the run takes cross-attention
    limits: tuple[int, ...]  # of self-attention, in pixels, smallest first

    @classmethod
    def of(cls, prepared: Preparation) -> DenseCalls:
        """Return the calls of a tree."""
        model, mixes = prepared.model, prepared.mixes
        own_limit = model.pixels(model.self_max_side)
        injections = [node.injection for level in prepared.levels for node in level if node.injection]
        limits = {i.self_max_pixels or own_limit for i in injections if i.self_attention}
        whole = None
        if mixes.places:
            nothing, all_own = mixes.source_mix[:1] * 0, mixes.own_share[:1] * 0 + 1
            mix, share = torch.cat([mixes.source_mix, nothing]), torch.cat([mixes.own_share, all_own])
            whole = replace(mixes, source_mix=mix, own_share=share)
        return cls(prepared.per_node, model, prepared.index, mixes.places, whole, tuple(sorted(limits)))

    def injection(
        self, part: Part, bank: SourceBank, words: Tensor | None, words_layers: frozenset[str]
    ) -> DenseInjection:
        """Return the injection of one call; `words` are of its nodes without padding."""
        injections = [node.injection for node in part.level]
        first, nodes = (self.per_node - 1) * part.size, part.nodes
        before = part.sources.start
        banked = power_of_two(before)
        found = [n.group if n.group < before else banked + n.group - part.begin for n in nodes]
        own_limit = self.model.pixels(self.model.self_max_side)
        own = [_limit(node, own_limit) for node in nodes]
        injecting = any(i and (i.cross or i.self_attention) for i in injections)
        follows = injecting and part.begin + part.count < len(part.level)
        keep = [group - part.begin for group in part.sources]
        keep += keep[-1:] * (power_of_two(len(keep)) - len(keep))
        made = DenseInjection(
            first=first,
            injecting=injecting,
            sources=self.index(found),
            self_gates=tuple((m, self.index([int(one >= m) for one in own]) > 0) for m in self.limits),
            keep=self.index(keep) if follows and keep else None,
            bank={name: tuple(_padded(t, banked) for t in kept) for name, kept in bank.layers.items()},
            words=None if words is None else self._whole(words, part),
            words_layers=words_layers if words is not None else frozenset(),
        )
        if self.mixes is None or not made.injecting:
            return made
        last = len(self.places)
        places = [
            self.places[n.injection.cross.key] if n.injection and n.injection.cross else last for n in nodes
        ]
        share = self.mixes.own_share[self.index([last] * first + places)]
        return replace(made, source_mix=self.mixes.source_mix[self.index(places)], own_share=share)

    def _whole(self, words: Tensor, part: Part) -> Tensor:
        """Return words (rows, tokens, columns) with rows for the padding, and a power of two of columns."""
        own = words.unflatten(0, (self.per_node, part.count))
        columns = power_of_two(words.shape[2]) - words.shape[2]
        return pad(own, (0, columns, 0, 0, 0, part.size - part.count)).flatten(0, 1)


def _limit(node: Node, own: int) -> int:
    """Return the pixels of the largest layers in which a node takes self-attention, 0 where it takes none.

    `own` is the model's limit.
    """
    injection = node.injection
    return (injection.self_max_pixels or own) if injection and injection.self_attention else 0


def _padded(tensor: Tensor, rows: int) -> Tensor:
    """Return a tensor with rows of zeros after its own, which no index points at."""
    lack = rows - len(tensor)
    return torch.cat([tensor, tensor.new_zeros(lack, *tensor.shape[1:])]) if lack else tensor
