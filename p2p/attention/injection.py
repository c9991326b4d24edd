"""Attention processors that inject the source's attention, without forming a probability matrix for it.

Every edit of Hertz et al. 2022 is linear in the attention probabilities of source and target. With alignment
M, its shares a, word weights c (1 by default) and the step's gate g (1 = injected), a target row's output is

    softmax(Q_s K_s^T) (W V_t) + softmax(Q_t K_t^T) (w * V_t)
    W = M diag(a c g)        w = (1 - a) c g + (1 - g)

so that it takes one or two calls of `scaled_dot_product_attention` with mixed values. Nothing is
renormalised. Maps that a LocalBlend or a heat-map reads come from a call with a few columns of words as
values. The columns are narrower than the keys, so that PyTorch's plain kernel takes the call and forms the
matrix, in layers that are read.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from p2p.attention.dense import DenseInjection
from p2p.attention.source_bank import SourceBank, Sources
from p2p.attention.taking import Taking

if TYPE_CHECKING:
    from diffusers.models.attention_processor import Attention


@dataclass(frozen=True)
class BatchInjection:
    """What each row of one UNet call takes from a source; rows and slots are int64 tensors."""

    source_rows: Tensor  # the rows of this call that are sources, in the order of their slots
    replaced_rows: Tensor  # cross-attention wholly from the source
    replaced_slots: Tensor
    replaced_mix: Tensor  # W, (rows, source tokens, target tokens)
    mixed_rows: Tensor  # cross-attention partly from the source
    mixed_slots: Tensor
    mixed_mix: Tensor
    mixed_own: Tensor  # w, (rows, target tokens)
    self_rows: Tensor
    self_slots: Tensor
    self_max_pixels: tuple[int, ...]  # of each of `self_rows`, largest first
    edited_rows: Tensor  # replaced, mixed and self rows, each once
    edited_slots: Tensor
    any_cross: bool  # of this step, in whichever chunk
    largest_self: int  # of self_max_pixels, in whichever chunk of this step; 0 for none
    bank: SourceBank
    words: Tensor | None = None  # (rows, tokens, columns): sums of tokens whose maps are asked for
    words_layers: frozenset[str] = frozenset()  # the cross-attention layers whose maps are asked for
    words_heads: Mapping[int, Tensor] = field(default_factory=dict)
    """By a layer's number of heads, each head's share of what is read, (rows, heads, columns); {} for equal
    shares of all."""
    heads: Mapping[int, Tensor] = field(default_factory=dict)
    """By a layer's number of heads, which are edited, bool (rows, heads, 1, 1); {} where all are, in all
    rows. Rows of some heads alone are not among the replaced ones."""
    scores: tuple[Tensor, Tensor, Tensor] | None = None
    """Rows, their text tokens, and by what these tokens' scores of the image are scaled; (entries,) each."""
    maps: dict[str, Tensor] = field(default_factory=dict)  # (rows, pixels, columns), mean over heads
    visited: list[str] = field(default_factory=list)
    taking: Taking | None = None  # what rows take in single layers
    parts: Mapping[str, BatchInjection] = field(default_factory=dict)
    """What rows take in each layer, where some rows take in some layers alone; {} where all are alike."""

    def at(self, layer: str) -> BatchInjection:
        """Return what rows take in a layer."""
        return self.parts[layer] if self.parts else self

    def heads_of(self, rows: Tensor, count: int) -> Tensor | None:
        """Return which of a layer's `count` heads are edited in each of these rows; None: all, in all."""
        return self.heads[count][rows] if self.heads else None

    def over_heads(self, attended: Tensor, columns: slice = slice(None)) -> Tensor:
        """Return maps (rows, pixels, columns): the mean of (rows, heads, pixels, columns) over heads read.

        `columns` says which of the words' columns these are.
        """
        if not self.words_heads:
            return attended.mean(1)
        shares = self.words_heads[attended.shape[1]][..., columns]
        return torch.einsum("nhpc,nhc->npc", attended, shares)

    def self_count(self, pixels: int) -> int:
        """Return how many of `self_rows`, from the first, are edited in layers of so many pixels.

        Profiles with different limits share a call. As rows are sorted by limit, a slice does, and no indices
        have to be copied to the device in every layer.
        """
        return sum(pixels <= limit for limit in self.self_max_pixels)


AnyInjection = BatchInjection | DenseInjection
"""Of a call of the denoiser as it is, and of a call of the compiled one."""


class LayerAttention(NamedTuple):
    """What one layer attends with, in one call: tensors (rows, heads, pixels or tokens, channels).

    `mask`, (rows, 1, 1, tokens), is added before the softmax; it belongs to its own row's keys.
    """

    layer: str
    query: Tensor
    key: Tensor
    value: Tensor
    scale: float
    mask: Tensor | None = None

    def attend(self) -> Tensor:
        """Return what the queries read of the values, shaped as the queries."""
        return scaled_dot_product_attention(
            self.query, self.key, self.value, attn_mask=self.mask, scale=self.scale
        )

    def bank_sources(self, injection: BatchInjection) -> Sources:
        """Return the sources' queries, keys and, where there is one, mask: this call's and those before."""
        banked = (self.query, self.key) if self.mask is None else (self.query, self.key, self.mask)
        return injection.bank.add(self.layer, injection.source_rows, *banked)


class InjectionProcessor:
    """diffusers' SDPA processor, plus injection where `injection` is given in `cross_attention_kwargs`."""

    def __init__(self, layer: str) -> None:
        self.layer = layer

    def __call__(
        self,
        attn: Attention,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        temb: Tensor | None = None,
        injection: AnyInjection | None = None,
    ) -> Tensor:
        """Attend from (rows, pixels, channels), or (rows, channels, height, width), to text or to itself."""
        residual = hidden_states
        is_cross = encoder_hidden_states is not None
        if attn.spatial_norm is not None:
            hidden_states = attn.spatial_norm(hidden_states, temb)
        if residual.ndim == 4:
            hidden_states = hidden_states.flatten(2).transpose(1, 2)
        if attn.group_norm is not None:
            hidden_states = attn.group_norm(hidden_states.transpose(1, 2)).transpose(1, 2)
        if encoder_hidden_states is None:
            encoder_hidden_states = hidden_states
        elif attn.norm_cross:
            encoder_hidden_states = attn.norm_encoder_hidden_states(encoder_hidden_states)
        if attention_mask is not None:
            attention_mask = attention_mask[:, None]  # (rows, 1, 1, tokens), added to every head's logits
            if not is_cross:
                raise ValueError(f"attention_mask: given at {self.layer}, allowed is one of text tokens")

        query, key, value = (
            projected.unflatten(-1, (attn.heads, -1)).transpose(
                1, 2
            )  # (rows, heads, pixels or tokens, channels)
            for projected in (
                attn.to_q(hidden_states),
                attn.to_k(encoder_hidden_states),
                attn.to_v(encoder_hidden_states),
            )
        )
        if attn.norm_q is not None:
            query = attn.norm_q(query)
        if attn.norm_k is not None:
            key = attn.norm_k(key)

        attention = LayerAttention(self.layer, query, key, value, attn.scale, attention_mask)
        if injection is None:
            output = attention.attend()
        else:
            injection.visited.append(self.layer)
            output = (inject_cross if is_cross else inject_self)(attention, injection)

        output = output.transpose(1, 2).flatten(2).to(query.dtype)
        output = attn.to_out[1](attn.to_out[0](output))
        if residual.ndim == 4:
            output = output.transpose(1, 2).reshape(residual.shape)
        if attn.residual_connection:
            output = output + residual
        return output / attn.rescale_output_factor


def inject_cross(attention: LayerAttention, injection: AnyInjection) -> Tensor:
    """Return cross-attention (rows, heads, pixels, channels) in which edited rows use their source's maps.

    The layer's mask (rows, 1, 1, tokens) is added before the softmax; each row's mask stays with that row's
    keys. Maps of words are computed as the output is, with the words' columns in place of the values.
    """
    if isinstance(injection, DenseInjection):
        return injection.cross(attention)
    injection = injection.at(attention.layer)
    source = attention.bank_sources(injection) if injection.any_cross else None
    if injection.words is not None and attention.layer in injection.words_layers:
        columns = injection.words[:, None].expand(-1, attention.query.shape[1], -1, -1)
        attended = _attend_edited(attention._replace(value=columns), source, injection)
        injection.maps[attention.layer] = injection.over_heads(attended)
    return _attend_edited(attention, source, injection)


def _attend_edited(attention: LayerAttention, source: Sources | None, injection: BatchInjection) -> Tensor:
    """Return `softmax(Q_s K_s^T) (W V_t) + softmax(Q_t K_t^T) (w * V_t)` in edited rows.

    For replaced rows, whose w is 0 throughout, one call of attention is enough.
    """
    if source is None:
        return attention.attend()
    _, query, key, value, scale, mask = attention
    if len(injection.replaced_rows):
        rows, slots = injection.replaced_rows, injection.replaced_slots
        mixed = torch.einsum("nst,nhtd->nhsd", injection.replaced_mix, value[rows])
        # Writing in place is safe: `query` is this layer's projection and is not used again. On the second
        # call (word maps, then values) the same rows get the same contents.
        source_query, source_key, *source_mask = source.of(slots)
        query = query.index_copy_(0, rows, source_query)
        key = key.index_copy_(0, rows, source_key)
        value = value.index_copy(0, rows, mixed)  # may be an expanded view
        if mask is not None:  # not in place: other layers read this mask too
            mask = mask.index_copy(0, rows, source_mask[0])
    if not len(injection.mixed_rows):
        return scaled_dot_product_attention(query, key, value, attn_mask=mask, scale=scale)
    rows, slots = injection.mixed_rows, injection.mixed_slots
    target_value = value[rows]
    own_share, mixed = mixed_shares(injection, target_value)
    value = value.index_copy(0, rows, target_value * own_share)
    output = scaled_dot_product_attention(query, key, value, attn_mask=mask, scale=scale)
    source_query, source_key, *source_mask = source.of(slots)
    from_source = scaled_dot_product_attention(
        source_query, source_key, mixed, attn_mask=source_mask[0] if source_mask else None, scale=scale
    )
    return output.index_add(0, rows, from_source)


def mixed_shares(injection: BatchInjection, values: Tensor) -> tuple[Tensor, Tensor]:
    """Return, of the mixed rows, the share of their own maps and the values under their source's maps.

    `values` are the rows' own of text, (rows, heads, tokens, channels). In heads that are not edited the
    share is 1, and the source's maps give nothing.
    """
    own = injection.mixed_own[:, None, :, None]
    mixed = torch.einsum("nst,nhtd->nhsd", injection.mixed_mix, values)
    heads = injection.heads_of(injection.mixed_rows, values.shape[1])
    if heads is None:
        return own, mixed
    return own.expand(-1, values.shape[1], -1, -1).masked_fill(~heads, 1), mixed.masked_fill(~heads, 0)


def inject_self(attention: LayerAttention, injection: AnyInjection) -> Tensor:
    """Return self-attention: `softmax(Q_s K_s^T) V_t` in edited rows, in layers within a row's limit.

    Rows that take tensors from their source in this layer (`injection.taking`) have them. There is no mask.
    """
    if isinstance(injection, DenseInjection):
        return injection.itself(attention)
    layer, query, key, value, scale, _ = attention
    injection = injection.at(layer)
    if query.shape[2] <= injection.largest_self:
        source = attention.bank_sources(injection)
        count = injection.self_count(query.shape[2])
        rows, slots = injection.self_rows[:count], injection.self_slots[:count]
        if len(rows):
            taken = source.of(slots)
            heads = injection.heads_of(rows, query.shape[1])
            if heads is not None:
                own = query[rows], key[rows]
                taken = torch.where(heads, taken[0], own[0]), torch.where(heads, taken[1], own[1])
            query = query.index_copy_(0, rows, taken[0])
            key = key.index_copy_(0, rows, taken[1])
    if injection.taking is not None:
        query, key, value = injection.taking.attention(layer, query, key, value)
    return scaled_dot_product_attention(query, key, value, scale=scale)


@contextmanager
def injection_processors(
    denoiser: Any,
    processor: Callable[[str], Any] = InjectionProcessor,
    replaced: tuple[type, ...] = (),
    layers: Iterable[str] | None = None,
) -> Iterator[tuple[str, ...]]:
    """Install a processor, made from its layer's name, on every attention layer in place of the default one.

    `replaced` are the classes that may be replaced, () diffusers' plain ones; `layers` those that have one,
    None all. Gives the layers' names; the old processors are restored. Raises ValueError where a layer has a
    processor whose computation would be lost (an IP-Adapter, say).
    """
    from diffusers.models.attention_processor import AttnProcessor, AttnProcessor2_0  # only where one is run

    names = denoiser.attn_processors if layers is None else layers
    modules = {layer: denoiser.get_submodule(layer.removesuffix(".processor")) for layer in names}
    original = {layer: module.processor for layer, module in modules.items()}
    for layer, present in original.items():
        if type(present) not in (replaced or (AttnProcessor, AttnProcessor2_0)):
            raise ValueError(
                f"{layer}: processor {type(present).__name__} cannot be combined with injection, "
                "allowed are the default ones"
            )
    for layer, module in modules.items():
        module.set_processor(processor(layer))
    try:
        yield tuple(original)
    finally:
        for layer, module in modules.items():
            module.set_processor(original[layer])
