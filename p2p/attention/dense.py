"""Injection for a compiled denoiser: every row of a call does the same, and what differs is in tensors.

The rows of `p2p.attention.injection` are lists whose lengths change from step to step, and a compiled graph
has fixed shapes. Here gates, sources and mixes have an entry for every conditional row; a row that takes
nothing has the gate, the mix or the share that leaves it as it is.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

Attended = tuple[str, Tensor, Tensor, Tensor, float, Tensor | None]
"""A layer's name, query, key, value, scale and mask, as `p2p.attention.injection.LayerAttention` has them."""


@dataclass(frozen=True)
class DenseInjection:
    """What the rows of one call of a compiled denoiser take from their sources.

    Numbers, names and what is None are part of a graph: another value is another graph. Tensors' values are
    not, their shapes are. Conditional rows come after the unconditional ones.
    """

    first: int  # the first conditional row
    injecting: bool  # whether any row of this step takes anything; else all that follows is left aside
    sources: Tensor  # (conditional rows,): each one's source, among the banked rows and then this call's own
    self_gates: tuple[tuple[int, Tensor], ...]  # by largest pixels of a layer, smallest first: (rows,) bool
    source_mix: Tensor | None = None  # W, (conditional rows, source tokens, target tokens); None: no cross
    own_share: Tensor | None = None  # w, (rows, target tokens), 1 in unconditional rows
    keep: Tensor | None = None  # conditional rows whose tensors later calls ask for; None: no call follows
    bank: Mapping[str, tuple[Tensor, ...]] = field(default_factory=dict)  # sources of earlier calls, by layer
    words: Tensor | None = None  # (rows, tokens, columns): sums of tokens whose maps are asked for
    words_layers: frozenset[str] = frozenset()  # the cross-attention layers whose maps are asked for
    kept: dict[str, tuple[Tensor, ...]] = field(default_factory=dict)  # of the rows `keep`, by layer
    maps: dict[str, Tensor] = field(default_factory=dict)  # (conditional rows, pixels, columns)
    visited: list[str] = field(default_factory=list)
    taking: None = None  # single layers are taken from in calls that are not compiled

    def itself(self, attention: Attended) -> Tensor:
        """Return self-attention: `softmax(Q_s K_s^T) V_t` in rows whose gate is open at its size."""
        layer, query, key, value, scale, _ = attention
        gate = self._gate(query.shape[2])
        if gate is not None:
            *pools, banked = *self._pools(layer, query, key), self._banked(layer)
            rows = torch.where(gate, self.sources, banked + torch.arange(len(gate), device=gate.device))
            taken = [pool[rows] for pool in pools]
            query, key = (torch.cat([t[: self.first], s]) for t, s in zip((query, key), taken, strict=True))
        return scaled_dot_product_attention(query, key, value, scale=scale)

    def cross(self, attention: Attended) -> Tensor:
        """Return cross-attention, edited as the mixes say. Masks stay with the keys that they belong to."""
        layer, query, key, value, scale, mask = attention
        taken = None
        if self.injecting and self.source_mix is not None:
            taken = self._pools(layer, query, key, *(() if mask is None else (mask,)))

        def edited(values: Tensor) -> Tensor:
            if taken is None or self.source_mix is None or self.own_share is None:
                return scaled_dot_product_attention(query, key, values, attn_mask=mask, scale=scale)
            own = values * self.own_share[:, None, :, None]
            return self._sum((query, key, own, mask), taken, self._mixed(values), scale)

        if self.words is not None and layer in self.words_layers:
            columns = self.words[:, None].expand(-1, query.shape[1], -1, -1)
            self.maps[layer] = edited(columns)[self.first :].mean(1)
        return edited(value)

    def joint(self, attention: Attended, text_tokens: slice) -> Tensor:
        """Return attention of image queries to text and image; see `p2p.attention.joint.inject_joint`."""
        layer, query, key, value, scale, mask = attention
        gate = self._gate(query.shape[2])
        begin, end, _ = text_tokens.indices(value.shape[2])
        taken = None
        if gate is not None or (self.injecting and self.source_mix is not None):
            taken = self._pools(layer, query, key, *(() if mask is None else (mask,)))

        def edited(values: Tensor) -> Tensor:
            if taken is None:
                return scaled_dot_product_attention(query, key, values, attn_mask=mask, scale=scale)
            own, from_source = self._shared_out(values, begin, end, gate)
            return self._sum((query, key, own, mask), taken, from_source, scale)

        if self.words is not None and layer in self.words_layers:
            maps = []
            for words in self.words.split(value.shape[-1], dim=2):
                # Columns are padded to the values' width: kernels that form no map want both alike.
                columns, width = torch.zeros_like(value), words.shape[2]
                columns[:, :, begin:end, :width] = words[:, None]
                maps.append(edited(columns)[self.first :, :, :, :width].mean(1))
            self.maps[layer] = torch.cat(maps, 2)
        return edited(value)

    def _gate(self, pixels: int) -> Tensor | None:
        """Return which conditional rows take self-attention in layers of so many pixels; None: no row may."""
        return next((g for limit, g in self.self_gates if pixels <= limit), None) if self.injecting else None

    def _banked(self, layer: str) -> int:
        return len(self.bank[layer][0]) if layer in self.bank else 0

    def _pools(self, layer: str, *tensors: Tensor) -> tuple[Tensor, ...]:
        """Return what sources are found in: the banked rows, then this call's own; keep what is asked for."""
        own = tuple(tensor[self.first :] for tensor in tensors)
        if self.keep is not None:
            self.kept[layer] = tuple(tensor[self.keep] for tensor in own)
        if layer not in self.bank:
            return own
        return tuple(torch.cat(pair) for pair in zip(self.bank[layer], own, strict=True))

    def _mixed(self, text: Tensor) -> Tensor:
        assert self.source_mix is not None
        return torch.einsum("nst,nhtd->nhsd", self.source_mix, text[self.first :])

    def _sum(
        self,
        own: tuple[Tensor, Tensor, Tensor, Tensor | None],
        pools: tuple[Tensor, ...],
        from_source: Tensor,
        scale: float,
    ) -> Tensor:
        """Return attention to a row's own query, key, value, mask, plus attention under its source's map."""
        query, key, value, mask = own
        output = scaled_dot_product_attention(query, key, value, attn_mask=mask, scale=scale)
        source_query, source_key, *source_mask = (pool[self.sources] for pool in pools)
        added = scaled_dot_product_attention(
            source_query,
            source_key,
            from_source,
            attn_mask=source_mask[0] if source_mask else None,
            scale=scale,
        )
        return torch.cat([output[: self.first], output[self.first :] + added])

    def _shared_out(self, values: Tensor, begin: int, end: int, gate: Tensor | None) -> tuple[Tensor, Tensor]:
        """Return the values for rows' own maps, and those of conditional rows for their sources' maps.

        `begin` and `end` are of the text's tokens.
        """
        rows, first, tokens = len(values), self.first, values.shape[2]
        closed = torch.zeros(rows - first, device=values.device, dtype=torch.bool)
        taken = (closed if gate is None else gate).to(values.dtype)[:, None]
        image = torch.cat([values.new_ones(first, 1), 1 - taken])
        share = values.new_ones(rows, end - begin) if self.own_share is None else self.own_share
        share = torch.cat([image.expand(-1, begin), share, image.expand(-1, tokens - end)], 1)
        of_image = values[first:] * taken[:, :, None, None]
        text = values[:, :, begin:end]
        mixed = torch.zeros_like(text[first:]) if self.source_mix is None else self._mixed(text)
        from_source = torch.cat([of_image[:, :, :begin], mixed, of_image[:, :, end:]], 2)
        return values * share[:, None, :, None], from_source
