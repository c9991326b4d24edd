"""Injection where image queries attend to text and image keys in one softmax: from DeepFloyd IF to Z-Image.

Cross injection is the block of image queries and text keys, self injection the block of image queries and
image keys (Hertz et al. 2022, Sec. 3.2, on Imagen's attention). Rows of text queries are never injected.
"""

from __future__ import annotations

import torch
from torch import Tensor

from p2p.attention.dense import DenseInjection
from p2p.attention.injection import AnyInjection, BatchInjection, LayerAttention, mixed_shares
from p2p.attention.source_bank import Sources


def inject_joint(attention: LayerAttention, text_tokens: slice, injection: AnyInjection) -> Tensor:
    """Return attention of image queries in which edited rows use their source's maps.

    The layer's query is (rows, heads, pixels, channels), of the image alone. Its key and value are over text
    and image tokens; `text_tokens` is where the text's tokens stand. Its mask (rows, 1, 1, tokens) is added
    before the softmax; each row's mask stays with that row's keys. With s = 1 where self-attention is
    injected, else 0:

        softmax(Q_s K_s^T) [W V_text, s V_image] + softmax(Q_t K_t^T) [w V_text, (1 - s) V_image]

    Nothing is renormalised, so the shares that text and image take from two softmaxes need not sum to 1. With
    both injected and an identity alignment the map is the source's. The layer's value is changed in place.
    """
    if isinstance(injection, DenseInjection):
        return injection.joint(attention, text_tokens)
    layer, query, _, value, _, _ = attention
    injection = injection.at(layer)
    taken = injection.any_cross or query.shape[2] <= injection.largest_self
    source = attention.bank_sources(injection) if taken else None
    if injection.words is not None and layer in injection.words_layers:
        maps: list[Tensor] = []
        for words in injection.words.split(value.shape[-1], dim=2):
            # Columns are padded to the values' width: kernels that form no map want both alike.
            columns, width = torch.zeros_like(value), words.shape[2]
            columns[:, :, text_tokens, :width] = words[:, None]
            attended = _attend_edited(attention._replace(value=columns), text_tokens, source, injection)
            begin = len(maps) * value.shape[-1]
            maps.append(injection.over_heads(attended[..., :width], slice(begin, begin + width)))
        injection.maps[layer] = torch.cat(maps, 2)
    return _attend_edited(attention, text_tokens, source, injection)


def inject_scores(
    attention: LayerAttention, words: Tensor, text_tokens: slice, image: slice, injection: AnyInjection
) -> Tensor:
    """Return attention of text queries (rows, heads, tokens, channels), some of whose scores are scaled.

    `injection.scores` says by what such a query's scores of the keys `image` are multiplied before the
    softmax; its scores of other keys stay. `words` is attention without it; where its tokens are more
    than `text_tokens`, these are the last. Of each such query its row of the map is formed.
    """
    if isinstance(injection, DenseInjection):
        return words
    injection = injection.at(attention.layer)
    if injection.scores is None:
        return words
    rows, tokens, factors = injection.scores
    _, query, key, value, scale, mask = attention
    text = query[:, :, text_tokens].transpose(1, 2)
    precision = torch.promote_types(query.dtype, torch.float32)  # that of scores inside of SDPA's kernels
    queries, keys, values = (one.to(precision) for one in (text[rows, tokens], key[rows], value[rows]))
    scores = torch.einsum("nhc,nhkc->nhk", queries, keys) * scale
    scores[..., image] *= factors[:, None, None]
    if mask is not None:
        own = mask[rows][:, :, 0]
        scores = scores.masked_fill(~own, -torch.inf) if own.dtype == torch.bool else scores + own
    read = torch.einsum("nhk,nhkc->nhc", scores.softmax(-1), values).to(words.dtype)
    heads = injection.heads_of(rows, value.shape[1])
    by_token = words.transpose(1, 2)
    places = rows, tokens + (by_token.shape[1] - text.shape[1])
    if heads is not None:
        read = torch.where(heads[:, :, 0], read, by_token[places])
    return by_token.index_put_(places, read).transpose(1, 2)


def _attend_edited(
    attention: LayerAttention,
    text_tokens: slice,
    source: Sources | None,
    injection: BatchInjection,
) -> Tensor:
    if source is None or not len(injection.edited_rows):
        return attention.attend()
    pixels, scale = attention.query.shape[2], attention.scale
    taken = _share_out(attention.value, text_tokens, pixels, injection)
    source_query, source_key, *source_mask = source.of(injection.edited_slots)
    mask = source_mask[0] if source_mask else None
    from_source = LayerAttention(attention.layer, source_query, source_key, taken, scale, mask).attend()
    del source_query, source_key, taken  # before the output of all rows is made
    return attention.attend().index_add_(0, injection.edited_rows, from_source)


def _share_out(value: Tensor, text_tokens: slice, pixels: int, injection: BatchInjection) -> Tensor:
    """Leave rows the values for their own maps, and return those of edited rows for their source's maps.

    The sum of attention under the two maps, each with its values, is the edited output. `value` is changed in
    place; edited rows are in order in what is returned.
    """
    edited, text = injection.edited_rows, value[:, :, text_tokens].clone()
    taken = value.new_zeros(len(edited), *value.shape[1:])
    itself = injection.self_rows[: injection.self_count(pixels)]
    heads = injection.heads_of(itself, value.shape[1])
    if heads is None:
        taken[torch.searchsorted(edited, itself)] = value[itself]
        value.index_fill_(0, itself, 0)  # where `value[itself] = 0` would copy its 0 to the device
    else:
        taken[torch.searchsorted(edited, itself)] = value[itself].masked_fill(~heads, 0)
        value.index_copy_(0, itself, value[itself].masked_fill(heads, 0))
    own_text, taken_text = (tensor[:, :, text_tokens] for tensor in (value, taken))
    taken_text.zero_()
    own_text.copy_(text)
    if len(injection.replaced_rows):
        rows = injection.replaced_rows
        own_text.index_fill_(0, rows, 0)
        mixed = torch.einsum("nst,nhtd->nhsd", injection.replaced_mix, text[rows])
        taken_text[torch.searchsorted(edited, rows)] = mixed
    if len(injection.mixed_rows):
        rows = injection.mixed_rows
        own_share, mixed = mixed_shares(injection, text[rows])
        own_text[rows] = text[rows] * own_share
        taken_text[torch.searchsorted(edited, rows)] = mixed
    return taken
