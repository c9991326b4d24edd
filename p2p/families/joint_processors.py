"""The attention processors of SD3's, Flux's and Qwen-Image's transformers, whose image and text share one
softmax.

They compute what diffusers' own do, and inject where `injection` is given in the attention's arguments.
"""

from __future__ import annotations

import torch
from diffusers.models.attention_processor import Attention
from diffusers.models.embeddings import apply_rotary_emb
from diffusers.models.transformers.transformer_flux import FluxAttention
from diffusers.models.transformers.transformer_qwenimage import apply_rotary_emb_qwen
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from p2p.attention.injection import AnyInjection, LayerAttention, inject_self
from p2p.attention.joint import inject_joint, inject_scores


class SD3Processor:
    """Attention over [image, text], or over the image alone where a block has a second attention."""

    def __init__(self, layer: str) -> None:
        self.layer = layer

    def __call__(
        self,
        attn: Attention,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        injection: AnyInjection | None = None,
    ) -> Tensor | tuple[Tensor, Tensor]:
        """Attend from (rows, pixels, channels) and, where given, (rows, tokens, channels)."""
        query, key, value = _projected(
            hidden_states, (attn.to_q, attn.to_k, attn.to_v), (attn.norm_q, attn.norm_k), attn.heads
        )
        if encoder_hidden_states is None:
            if injection is None:
                output = scaled_dot_product_attention(query, key, value)
            else:
                injection.visited.append(self.layer)
                attention = LayerAttention(self.layer, query, key, value, query.shape[-1] ** -0.5)
                output = inject_self(attention, injection)
            return attn.to_out[1](attn.to_out[0](_joined(output)))
        text = _projected(
            encoder_hidden_states,
            (attn.add_q_proj, attn.add_k_proj, attn.add_v_proj),
            (attn.norm_added_q, attn.norm_added_k),
            attn.heads,
        )
        pixels = query.shape[2]
        query, key, value = (torch.cat(pair, 2) for pair in zip((query, key, value), text, strict=True))
        attention = LayerAttention(self.layer, query, key, value, query.shape[-1] ** -0.5)
        output = attend(attention, slice(pixels, None), injection)
        image, words = output[:, :pixels], output[:, pixels:]
        if not attn.context_pre_only:
            words = attn.to_add_out(words)
        return attn.to_out[1](attn.to_out[0](image)), words


class FluxProcessor:
    """Attention over [text, image], which single-stream blocks get already joined."""

    def __init__(self, layer: str, text_tokens: int) -> None:
        self.layer = layer
        self.text_tokens = text_tokens

    def __call__(
        self,
        attn: FluxAttention,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        image_rotary_emb: tuple[Tensor, Tensor] | None = None,
        injection: AnyInjection | None = None,
    ) -> Tensor | tuple[Tensor, Tensor]:
        """Attend from (rows, pixels, channels) and (rows, tokens, channels), or from both joined."""
        query, key, value = _projected(
            hidden_states, (attn.to_q, attn.to_k, attn.to_v), (attn.norm_q, attn.norm_k), attn.heads
        )
        if encoder_hidden_states is not None:
            text = _projected(
                encoder_hidden_states,
                (attn.add_q_proj, attn.add_k_proj, attn.add_v_proj),
                (attn.norm_added_q, attn.norm_added_k),
                attn.heads,
            )
            query, key, value = (torch.cat(pair, 2) for pair in zip(text, (query, key, value), strict=True))
        query, key = (apply_rotary_emb(x, image_rotary_emb, sequence_dim=2) for x in (query, key))
        attention = LayerAttention(self.layer, query, key, value, query.shape[-1] ** -0.5)
        output = attend(attention, slice(0, self.text_tokens), injection)
        if encoder_hidden_states is None:
            return output
        words, image = output[:, : self.text_tokens], output[:, self.text_tokens :]
        return attn.to_out[1](attn.to_out[0](image)), attn.to_add_out(words)


class QwenProcessor:
    """Attention over [text, image], in which padding of the text has no share.

    Every argument is named: diffusers' `Attention` hands a processor only those that are.
    """

    def __init__(self, layer: str) -> None:
        self.layer = layer

    def __call__(
        self,
        attn: Attention,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor,
        encoder_hidden_states_mask: Tensor | None = None,
        attention_mask: Tensor | None = None,
        image_rotary_emb: tuple[Tensor, Tensor] | None = None,
        injection: AnyInjection | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Attend from (rows, pixels, channels) and (rows, tokens, channels), masked (rows, tokens)."""
        image = _projected(
            hidden_states, (attn.to_q, attn.to_k, attn.to_v), (attn.norm_q, attn.norm_k), attn.heads
        )
        text = _projected(
            encoder_hidden_states,
            (attn.add_q_proj, attn.add_k_proj, attn.add_v_proj),
            (attn.norm_added_q, attn.norm_added_k),
            attn.heads,
        )
        if image_rotary_emb is not None:
            image, text = (
                (_turned(query, angles), _turned(key, angles), value)
                for (query, key, value), angles in zip((image, text), image_rotary_emb, strict=True)
            )
        query, key, value = (torch.cat(pair, 2) for pair in zip(text, image, strict=True))
        mask = None
        if encoder_hidden_states_mask is not None:
            of_image = encoder_hidden_states_mask.new_ones(hidden_states.shape[:2])
            mask = torch.cat([encoder_hidden_states_mask, of_image], 1)[:, None, None]
        tokens = encoder_hidden_states.shape[1]
        attention = LayerAttention(self.layer, query, key, value, query.shape[-1] ** -0.5, mask)
        output = attend(attention, slice(0, tokens), injection)
        words, pixels = output[:, :tokens], output[:, tokens:]
        return attn.to_out[1](attn.to_out[0](pixels)), attn.to_add_out(words)


def attend(attention: LayerAttention, text_tokens: slice, injection: AnyInjection | None) -> Tensor:
    """Return attention (rows, tokens, channels) of all queries; of the maps only the image's are edited.

    Rows that take the source's projections (`injection.taking`) have its queries, keys or values of the
    image, and its values of the text, in place; the text's queries read these keys and values too. The text's
    tokens are the first or the last. Scores of words are scaled in the rows of text (`inject_scores`).
    """
    if injection is None:
        return _joined(attention.attend())
    layer, query, key, value = attention[:4]
    injection.visited.append(layer)
    begin, end, _ = text_tokens.indices(query.shape[2])
    pixels = slice(end, None) if begin == 0 else slice(0, begin)
    if injection.taking is not None:
        for name, tensor in (("query", query), ("key", key), ("value", value)):
            injection.taking(f"{layer}/{name}", tensor[:, :, pixels])
        injection.taking(f"{layer}/text value", value[:, :, text_tokens])
    edited = inject_joint(attention._replace(query=query[:, :, pixels]), text_tokens, injection)
    words = attention._replace(query=query[:, :, text_tokens]).attend()
    words = inject_scores(attention, words, text_tokens, injection)
    return _joined(torch.cat([words, edited] if begin == 0 else [edited, words], 2))


def _projected(states: Tensor, projections: tuple, norms: tuple, heads: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return query, key and value (rows, heads, tokens, channels), the first two normalised where asked."""
    query, key, value = (
        project(states).unflatten(-1, (heads, -1)).transpose(1, 2) for project in projections
    )
    norm_query, norm_key = norms
    query = query if norm_query is None else norm_query(query)
    key = key if norm_key is None else norm_key(key)
    return query, key, value


def _turned(states: Tensor, angles: Tensor) -> Tensor:
    """Return queries or keys (rows, heads, tokens, channels) with their rotary embedding."""
    turned: Tensor = apply_rotary_emb_qwen(states.transpose(1, 2), angles, use_real=False)
    return turned.transpose(1, 2)


def _joined(output: Tensor) -> Tensor:
    return output.transpose(1, 2).flatten(2)
