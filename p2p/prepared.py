"""What the rows of every call take from their sources, put on the device before the first step.

A copy of the processor's memory makes it wait for the device; inside the loop there is none.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain

import torch
from torch import Tensor

from p2p.alignment import check_equal_padding
from p2p.attention.heads import Heads
from p2p.attention.injection import BatchInjection
from p2p.attention.places import Places
from p2p.attention.source_bank import SourceBank
from p2p.attention.taking import Taking
from p2p.families.model import Model
from p2p.trajectory import NO_TEXT_QUERIES, CrossInjection, Injection
from p2p.tree import Node


def check_injections(injections: Collection[Injection], model: Model) -> None:
    """Raise ValueError where the model has not the layers that injections take from, or these not the heads.

    Those are single ones, or, of a profile that bounds self-attention, any that are small enough.
    """
    smallest = model.pixels(model.attention_sides()[-1])
    limits = [i.self_max_pixels for i in injections if i.self_attention and i.self_max_pixels]
    if min(limits, default=smallest) < smallest:
        raise ValueError(
            f"profile: self-attention would be injected in layers of at most {min(limits)} tokens, but the "
            f"smallest of this model has {smallest}; allowed are a profile without a limit (fixed) and "
            "self_replace_steps 0"
        )
    if any(injection.scores for injection in injections) and not model.joint_blocks:
        raise ValueError(NO_TEXT_QUERIES)
    model.check_layers(injection.layers for injection in injections if injection.layers)
    for places, heads in {(i.places, i.heads) for i in injections if i.places or i.heads}:
        layers = model.layers_at(places) if places else None
        if heads:
            model.check_heads(heads, layers)


def check_prompts(levels: Sequence[Sequence[Node]], model: Model) -> None:
    """Raise ValueError where nodes take from a source whose prompt is padded to another length."""
    for level in levels:
        prompts = {node.group: node.prompt for node in level if 0 in node.branches}
        taking = [node for node in level if node.injection and node.injection.takes]
        for source, target in {(prompts[node.group], node.prompt) for node in taking}:
            check_equal_padding(source, target, model.tokenizers)


@dataclass
class Indices:
    """Index tensors (int64) on a device. Equal numbers are copied there once and share one tensor."""

    device: torch.device
    known: dict[tuple[int, ...], Tensor] = field(default_factory=dict)

    def __call__(self, values: Sequence[int]) -> Tensor:
        """Return the numbers as a tensor, which must not be written to."""
        key = tuple(values)
        if key not in self.known:
            self.known[key] = torch.tensor(key, dtype=torch.int64, device=self.device)
        return self.known[key]


@dataclass(frozen=True)
class Mixes:
    """Every distinct cross-attention edit of a tree, in the denoiser's precision."""

    places: Mapping[str, int]  # by `CrossInjection.key`
    source_mix: Tensor  # (edits, source tokens, target tokens)
    own_share: Tensor  # (edits, target tokens)

    @classmethod
    def of(cls, levels: Sequence[Sequence[Node]], model: Model) -> Mixes:
        """Return the edits of all levels, on the model's device."""
        distinct: dict[str, CrossInjection] = {}
        for level in levels:
            for node in level:
                if node.injection and (cross := node.injection.cross):
                    distinct.setdefault(cross.key, cross)
        if not distinct:
            none = torch.empty(0, device=model.device, dtype=model.dtype)
            return cls({}, none, none)
        mix = torch.stack([cross.source_mix for cross in distinct.values()])
        own = torch.stack([cross.own_share for cross in distinct.values()])
        places = {key: place for place, key in enumerate(distinct)}
        return cls(places, mix.to(model.device, model.dtype), own.to(model.device, model.dtype))


@dataclass(frozen=True)
class Chunk:
    """What one call's rows take, but for what the step adds: the source's tensors and the words asked for."""

    injection: BatchInjection  # its mixes are empty
    replaced_places: Tensor  # among `Mixes`
    mixed_places: Tensor
    parts: Mapping[str, Chunk] = field(default_factory=dict)
    """What rows take in each layer, where some nodes of the level take in some layers alone."""

    def at_step(
        self,
        mixes: Mixes,
        bank: SourceBank,
        words: Tensor | None,
        words_layers: frozenset[str],
        words_heads: Mapping[int, Tensor],
        own_values: Tensor | None,
    ) -> BatchInjection | None:
        """Return the injection of one call, or None where nobody takes anything this step."""
        injection = self.injection
        taking = injection.taking and replace(injection.taking, bank=bank, own_values=own_values, asked=[])
        takes = injection.any_cross or injection.largest_self or taking or injection.scores
        if not takes and words is None:
            return None
        shared = replace(
            injection,
            bank=bank,
            words=words,
            words_layers=words_layers,
            words_heads=words_heads,
            taking=taking,
            maps={},
            visited=[],
        )
        made = {id(part): part._with(mixes, shared) for part in self.parts.values()}
        return replace(
            self._with(mixes, shared), parts={layer: made[id(part)] for layer, part in self.parts.items()}
        )

    def _with(self, mixes: Mixes, shared: BatchInjection) -> BatchInjection:
        """Return this chunk's rows with their mixes; all else, and what layers add to, is the `shared`."""
        replaced, mixed = self.replaced_places, self.mixed_places
        return replace(
            self.injection,
            replaced_mix=mixes.source_mix[replaced] if len(replaced) else mixes.source_mix,
            mixed_mix=mixes.source_mix[mixed] if len(mixed) else mixes.source_mix,
            mixed_own=mixes.own_share[mixed] if len(mixed) else mixes.own_share,
            bank=shared.bank,
            words=shared.words,
            words_layers=shared.words_layers,
            words_heads=shared.words_heads,
            taking=shared.taking,
            maps=shared.maps,
            visited=shared.visited,
        )


@dataclass
class Preparation:
    """The chunks of every level of a tree."""

    levels: Sequence[Sequence[Node]]
    per_node: int  # rows
    model: Model
    index: Indices
    mixes: Mixes
    chunks: dict[tuple[int, int, int], Chunk] = field(default_factory=dict)
    layers: dict[Places, frozenset[str]] = field(default_factory=dict)  # that stand at places, asked once

    @classmethod
    def of(
        cls,
        levels: Sequence[Sequence[Node]],
        per_node: int,
        model: Model,
        index: Indices,
        nodes_per_call: int,
    ) -> Preparation:
        """Prepare calls of `nodes_per_call` nodes; those of other sizes are prepared when they are made."""
        prepared = cls(levels, per_node, model, index, Mixes.of(levels, model))
        for number, level in enumerate(levels):
            for begin in range(0, len(level), nodes_per_call):
                prepared.chunk(number, begin, len(level[begin : begin + nodes_per_call]))
        return prepared

    def chunk(self, number: int, begin: int, count: int) -> Chunk:
        """Return what `count` nodes of a level from `begin` on take; levels count from the tree's first."""
        key = (number, begin, count)
        if key not in self.chunks:
            level = self.levels[number]
            self.chunks[key] = self._parted(level, level[begin : begin + count])
        return self.chunks[key]

    def _parted(self, level: Sequence[Node], nodes: Sequence[Node]) -> Chunk:
        """Return a chunk, which has parts where nodes of the level take in some layers alone."""
        whole = self._made(level, nodes)
        wanted = {n.injection.places for n in level if n.injection and n.injection.places}
        if not wanted:
            return whole
        for places in wanted - self.layers.keys():
            self.layers[places] = self.model.layers_at(places)
        here = {
            layer: frozenset(places for places in wanted if layer in self.layers[places])
            for layer in self.model.attention_layers
        }
        made = {
            chosen: self._made([_only(n, chosen) for n in level], [_only(n, chosen) for n in nodes])
            for chosen in set(here.values())
        }
        return replace(whole, parts={layer: made[chosen] for layer, chosen in here.items()})

    def _made(self, level: Sequence[Node], nodes: Sequence[Node]) -> Chunk:
        injections = [node.injection for node in level if node.injection]
        own_limit, index = self.model.pixels(self.model.self_max_side), self.index
        first = (self.per_node - 1) * len(nodes)  # conditional rows come after unconditional ones
        cross = [
            (first + i, n.group, n.injection.cross)
            for i, n in enumerate(nodes)
            if n.injection and n.injection.cross
        ]
        partly = {first + i for i, n in enumerate(nodes) if n.injection and n.injection.heads}
        wholly = {row for row, _, edit in cross if not edit.own_share.any()} - partly
        replaced = [entry for entry in cross if entry[0] in wholly]
        mixed = [entry for entry in cross if entry[0] not in wholly]
        itself = [
            (first + i, n.group, n.injection.self_max_pixels or own_limit)
            for i, n in enumerate(nodes)
            if n.injection and n.injection.self_attention
        ]
        itself.sort(key=lambda entry: -entry[2])
        edited = sorted({(row, slot) for row, slot, _ in [*cross, *itself]})
        limits = (i.self_max_pixels or own_limit for i in injections if i.self_attention)
        bank = SourceBank()
        injection = BatchInjection(
            source_rows=index([first + i for i, node in enumerate(nodes) if 0 in node.branches]),
            replaced_rows=index([row for row, _, _ in replaced]),
            replaced_slots=index([slot for _, slot, _ in replaced]),
            replaced_mix=self.mixes.source_mix,
            mixed_rows=index([row for row, _, _ in mixed]),
            mixed_slots=index([slot for _, slot, _ in mixed]),
            mixed_mix=self.mixes.source_mix,
            mixed_own=self.mixes.own_share,
            self_rows=index([row for row, _, _ in itself]),
            self_slots=index([slot for _, slot, _ in itself]),
            self_max_pixels=tuple(limit for _, _, limit in itself),
            edited_rows=index([row for row, _ in edited]),
            edited_slots=index([slot for _, slot in edited]),
            heads=self._heads(nodes) if partly else {},
            scores=self._scores(nodes),
            any_cross=any(i.cross is not None for i in injections),
            largest_self=max(limits, default=0),
            bank=bank,
            taking=self._taking(level, nodes, bank),
        )
        places = self.mixes.places
        return Chunk(
            injection,
            index([places[cross.key] for _, _, cross in replaced]),
            index([places[cross.key] for _, _, cross in mixed]),
        )

    def _scores(self, nodes: Sequence[Node]) -> tuple[Tensor, Tensor, Tensor] | None:
        """Return rows, their tokens, and the factors of these tokens' scores; None where there are none."""
        first = (self.per_node - 1) * len(nodes)
        scaled = [(first + i, n.injection.scores) for i, n in enumerate(nodes) if n.injection]
        found = [(row, *one) for row, scores in scaled if scores for one in scores.factors]
        if not found:
            return None
        factors = torch.tensor([factor for _, _, factor in found], dtype=torch.float64)
        rows, tokens = [row for row, _, _ in found], [token for _, token, _ in found]
        precision = torch.promote_types(self.model.dtype, torch.float32)
        return self.index(rows), self.index(tokens), factors.to(self.model.device, precision)

    def _heads(self, nodes: Sequence[Node]) -> dict[int, Tensor]:
        """Return which heads are edited, bool (rows, heads, 1, 1), by a layer's number of heads."""
        chosen = [node.injection.heads if node.injection else None for node in nodes]
        rows = [None] * ((self.per_node - 1) * len(nodes)) + chosen
        return {count: self._which(rows, count) for count in set(self.model.layer_heads.values())}

    def _which(self, chosen: Sequence[Heads | None], count: int) -> Tensor:
        """Return which of `count` heads each entry has, bool (entries, heads, 1, 1); None has all."""
        which = [one.chosen(count) if one else [True] * count for one in chosen]
        return self.index([int(head) for heads in which for head in heads]).reshape(-1, count, 1, 1) > 0

    def _taking(self, level: Sequence[Node], nodes: Sequence[Node], bank: SourceBank) -> Taking | None:
        """Return what some nodes of a level take in single layers, None where nobody of the level does."""
        wanted = {n.injection.layers for n in level if n.injection and n.injection.layers}
        if not wanted:
            return None
        per_node, index = self.per_node, self.index
        names = {one: self.model.taken(one) for one in wanted}
        entries: dict[str, list[tuple[int, int, int]]] = {n: [] for taken in names.values() for n in taken}
        heads: dict[str, list[Heads | None]] = {name: [] for name in entries}
        for i, node in enumerate(nodes):
            if node.injection and (own := node.injection.layers):
                sides = range(per_node) if own.projections is None else [per_node - 1]
                for name in names[own]:
                    entries[name] += [(side * len(nodes) + i, node.group, side) for side in sides]
                    heads[name] += [own.heads] * len(sides)
        sources = [i for i, node in enumerate(nodes) if 0 in node.branches]
        source_rows = [side * len(nodes) + i for i in sources for side in range(per_node)]
        rows = {name: index(list(chain(*found))).reshape(-1, 3).T for name, found in entries.items()}
        counts = self.model.layer_heads if any(one.heads for one in wanted) else {}
        which = {
            name: self._which(chosen, counts[name.split("/")[0]])
            for name, chosen in heads.items()
            if any(chosen)
        }
        return Taking(index(source_rows).reshape(-1, per_node), rows, bank, which)


def _only(node: Node, chosen: Collection[Places]) -> Node:
    """Return a node as it is in layers that stand at the chosen places: elsewhere its maps are its own."""
    if node.injection is None or node.injection.places is None or node.injection.places in chosen:
        return node
    return replace(node, injection=replace(node.injection, cross=None, self_attention=False, scores=None))
