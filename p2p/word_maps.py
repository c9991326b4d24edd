"""The cross-attention maps of asked-for words, summed over the steps for every state of a tree.

google/prompt-to-prompt keeps every map (AttentionStore). Here only the columns that a LocalBlend or a
heat-map reads are formed, only in the layers and at the steps that it reads.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from p2p.attention.injection import AnyInjection
from p2p.attention.places import Places
from p2p.families.model import Model
from p2p.local_blend import LocalBlend
from p2p.tree import Node, Watched
from p2p.value_area import ValueArea
from p2p.word_readings import Reading


@dataclass(frozen=True)
class LayerGroup:
    """Cross-attention layers of one height in tokens."""

    side: int
    layers: tuple[str, ...]


def layer_groups(model: Model) -> dict[str, LayerGroup]:
    """Return the groups of cross-attention layers by name: a height in tokens, "16", or its part, "up-16"."""
    groups: dict[str, LayerGroup] = {}
    for layer, (part, side) in model.cross_layers().items():
        for name in (f"{side}", f"{part}-{side}"):
            before = groups[name].layers if name in groups else ()
            groups[name] = LayerGroup(side, (*before, layer))
    return groups


def layer_group(name: str, model: Model) -> LayerGroup:
    """Return the group of this name, or of several apart by a space; blocks of a transformer are names too.

    Raises ValueError, with the names there are, for any other, and for layers of several heights.
    """
    groups = layer_groups(model)
    if name in groups:
        return groups[name]
    try:
        places = Places.named("layers", name.split(" "))
        chosen = model.layers_at(places) if places else frozenset()
    except ValueError:
        if model.joint_blocks:
            raise
        raise ValueError(
            f"layers: no cross-attention layer is in {name!r}, allowed are {', '.join(groups)}"
        ) from None
    heights = {layer: side for layer, (_, side) in model.cross_layers().items() if layer in chosen}
    if len(set(heights.values())) != 1:
        told = ", ".join(map(str, sorted(set(heights.values())))) or "no"
        raise ValueError(
            f"layers: {name} has cross-attention of {told} tokens in height, allowed are layers of one "
            f"height, as in {', '.join(groups)}"
        )
    return LayerGroup(next(iter(heights.values())), tuple(heights))


@dataclass
class WordMaps:
    """For each reading, sums (states, pixels, columns) of the maps of words, over the steps so far.

    A reader (LocalBlend, Watch or ValueArea) has two runs of columns: the words of the source prompt, filled
    by the state that carries the source, then the words of the branch's prompt, filled by the state that
    carries the branch.
    """

    model: Model
    groups: dict[Reading, LayerGroup]
    places: dict[tuple[int, str], int]  # the first column of a reader, by group and the reader's key
    width: int
    kinds: Tensor  # (kinds of states, tokens, columns): which words a state adds to its sums
    kinds_of: Sequence[Tensor]  # for each step, the kind of every state
    heads: Mapping[int, Tensor] = field(default_factory=dict)
    """By a layer's number of heads, each head's share of what a kind of state reads, (kinds, heads, columns);
    {} where every reader reads the mean of all."""
    start: int = 0
    step: int = -1
    sums: dict[Reading, Tensor] = field(default_factory=dict)
    columns: Tensor | None = None  # (states, tokens, columns) of the current step

    @classmethod
    def of(
        cls,
        levels: Sequence[Sequence[Node]],
        model: Model,
        index: Callable[[Sequence[int]], Tensor],
        start: int = 0,
    ) -> WordMaps:
        """Return empty sums for the nodes of `build_tree`; `levels[0]` is step `start`.

        `index` makes an int64 tensor on the model's device.
        """
        places: dict[tuple[int, str], int] = {}
        used: dict[int, int] = {}
        groups: dict[Reading, LayerGroup] = {}
        known: dict[tuple[int, str], Watched] = {}
        for node in levels[0]:
            for watched in node.watched:
                name = (node.group, watched.key)
                if name not in places:
                    known[name] = watched
                    places[name] = used.get(node.group, 0)
                    columns = watched.source_words.shape[1] + watched.target_words.shape[1]
                    used[node.group] = used.get(node.group, 0) + columns
                for reading in watched.readings:
                    if reading not in groups:
                        groups[reading] = layer_group(reading.layers or f"{model.blend_side}", model)
        width = max(used.values(), default=0)
        if not width:
            return cls(model, groups, places, 0, torch.empty(0), (), start=start, step=start - 1)
        kinds: dict[tuple[int, bool, tuple[str, ...]], int] = {}
        kinds_of = []
        for level in levels:
            own = [(n.group, 0 in n.branches, tuple(watched.key for watched in n.watched)) for n in level]
            kinds_of.append(index([kinds.setdefault(kind, len(kinds)) for kind in own]))
        tokens = len(next(iter(known.values())).source_words)
        columns_of = torch.zeros(len(kinds), tokens, width)
        for row, (group, is_source, keys) in zip(columns_of, kinds, strict=True):
            for (of_group, key), watched in known.items():
                place = places[of_group, key]
                if of_group == group and is_source:
                    _fill(row, place, watched.source_words)
                if of_group == group and key in keys:
                    _fill(row, place + watched.source_words.shape[1], watched.target_words)
        on_device = columns_of.to(model.device, model.dtype)
        heads = {}
        if any(watched.heads for watched in known.values()):
            of_kind = [group for group, _, _ in kinds]
            for count in _head_counts(known.values(), groups, model):
                shares = torch.full((max(of_kind) + 1, count, width), 1 / count, dtype=torch.float64)
                for (group, key), watched in known.items():
                    _share_heads(shares[group], places[group, key], watched)
                heads[count] = shares[of_kind].to(model.device, model.dtype)
        return cls(model, groups, places, width, on_device, kinds_of, heads, start, start - 1)

    @property
    def active(self) -> list[Reading]:
        """The readings that the current step belongs to."""
        return [r for r in self.groups if r.steps is None or r.steps[0] <= self.step < r.steps[1]]

    @property
    def active_layers(self) -> frozenset[str]:
        """The layers that are read at the current step."""
        return frozenset(layer for reading in self.active for layer in self.groups[reading].layers)

    def fork(self, parents: Tensor) -> None:
        """Begin the next step: copy to every state the sums of its parent (`parents`, positions)."""
        self.step += 1
        if not self.width:
            return
        self.columns = self.kinds[self.kinds_of[self.step - self.start]]
        if self.sums:
            self.sums = {reading: sums[parents] for reading, sums in self.sums.items()}
            return
        dtype = torch.promote_types(self.model.dtype, torch.float32)
        for reading, layers in self.groups.items():
            pixels = self.model.pixels(layers.side)
            self.sums[reading] = torch.zeros(
                len(parents), pixels, self.width, device=parents.device, dtype=dtype
            )

    def words(self, begin: int, nodes: int, per_node: int) -> Tensor | None:
        """Return (rows, tokens, columns) of one call, 0 in unconditional rows; None where nothing is read."""
        if self.columns is None or not self.active:
            return None
        own = self.columns[begin : begin + nodes]
        return torch.cat([torch.zeros_like(own)] * (per_node - 1) + [own])

    def read_heads(self, begin: int, nodes: int, per_node: int) -> Mapping[int, Tensor]:
        """Return each head's share of what one call reads, (rows, heads, columns), by a layer's heads.

        Empty where it is the same for all heads, and where nothing is read.
        """
        if not self.heads or not self.active:
            return {}
        kinds = self.kinds_of[self.step - self.start][begin : begin + nodes].repeat(per_node)
        return {count: shares[kinds] for count, shares in self.heads.items()}

    def add(self, begin: int, nodes: int, injection: AnyInjection) -> None:
        """Add the maps of one call's nodes to the sums of every active reading: the mean over its layers."""
        for reading in self.active:
            maps = torch.stack([injection.maps[layer] for layer in self.groups[reading].layers]).mean(0)
            maps = maps[-nodes:]  # the conditional rows
            self.sums[reading][begin : begin + nodes] += maps.to(self.sums[reading].dtype)

    def read(self, row: int, node: Node, watched: Watched, reading: Reading) -> tuple[Tensor, Tensor]:
        """Return a reader's sums so far: of the source's words, and of the words of the state at `row`.

        Both are (columns, height, width).
        """
        source, own = watched.source_words.shape[1], watched.target_words.shape[1]
        place = self.places[node.group, watched.key]
        maps = self.sums[reading].transpose(1, 2).unflatten(2, (self.groups[reading].side, -1))
        # Node i < groups carries the source of group i.
        return maps[node.group, place : place + source], maps[row, place + source : place + source + own]

    def own_values(self, level: Sequence[Node]) -> Tensor | None:
        """Return where states keep their own values, bool (states, pixels); None where none takes any.

        That is inside of their `ValueArea`, by the maps of the steps before; at the first step everywhere.
        """
        wanted = [n.injection.layers.outside if n.injection and n.injection.layers else "" for n in level]
        if not any(wanted):
            return None
        known: dict[tuple[int, str], Tensor] = {}
        pixels = self.model.pixels(self.model.attention_sides()[0])
        nowhere = torch.zeros(pixels, dtype=torch.bool, device=self.model.device)
        for node, key in zip(level, wanted, strict=True):
            if key and (node.group, key) not in known:
                known[node.group, key] = ~nowhere if self.step == self.start else self._inside(node, key)
        return torch.stack([known.get((n.group, key), nowhere) for n, key in zip(level, wanted, strict=True)])

    def _inside(self, node: Node, key: str) -> Tensor:
        [area] = [one for one in node.watched if isinstance(one, ValueArea) and one.key == key]
        [reading] = area.readings
        return area.inside(self.read(node.group, node, area, reading)[0])

    def blend(self, level: Sequence[Node], latents: Tensor) -> Tensor:
        """Return the latents (states, channels, height, width) after this step's LocalBlends.

        Outside the area of its blend a state has its source's latents.
        """
        if not any(node.blend for node in level):
            return latents
        blended = latents.clone()
        for row, node in enumerate(level):
            if node.blend:
                source = latents[node.group]
                mask = self._mask(row, node, node.blend, latents.shape[-2:])
                blended[row] = torch.where(mask, latents[row], source)
        return blended

    def _mask(self, row: int, node: Node, blend: LocalBlend, size: Sequence[int]) -> Tensor:
        [reading] = blend.readings
        source, target = self.read(row, node, blend, reading)
        return blend.mask(source, target, (size[0], size[1]))


def _head_counts(readers: Iterable[Watched], groups: Mapping[Reading, LayerGroup], model: Model) -> set[int]:
    """Return how many heads the layers have that are read. Raises ValueError for heads that one has not."""
    counts: set[int] = set()
    for watched in readers:
        layers = [layer for reading in watched.readings for layer in groups[reading].layers]
        counts |= {model.layer_heads[layer] for layer in layers}
        if watched.heads:
            model.check_heads(watched.heads, layers)
    return counts


def _share_heads(shares: Tensor, place: int, watched: Watched) -> None:
    """Give a reader's columns, from `place` on, to its heads alone; `shares` are (heads, columns)."""
    if watched.heads:
        end = place + watched.source_words.shape[1] + watched.target_words.shape[1]
        chosen = torch.tensor(watched.heads.chosen(len(shares)), dtype=shares.dtype)
        shares[:, place:end] = (chosen / chosen.sum())[:, None]


def _fill(columns: Tensor, place: int, words: Tensor) -> None:
    columns[:, place : place + words.shape[1]] = words
