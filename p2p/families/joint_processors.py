"""The attention processors of transformers whose image and text share one softmax: SD3's, Flux's, Flux.2's,
Qwen-Image's and Z-Image's.

They compute what diffusers' own do, and inject where `injection` is given in the attention's arguments.
"""

from __future__ import annotations

from contextvars import ContextVar

import torch
from diffusers.models.attention_processor import Attention
from diffusers.models.embeddings import apply_rotary_emb
from diffusers.models.transformers.transformer_flux import FluxAttention
from diffusers.models.transformers.transformer_flux2 import Flux2Attention, Flux2ParallelSelfAttention
from diffusers.models.transformers.transformer_qwenimage import apply_rotary_emb_qwen
from torch import Tensor
from torch.nn.functional import pad, scaled_dot_product_attention

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
    """Attention over [text, image], which Flux's single-stream blocks get already joined.

    Flux.2's double-stream blocks attend in the same way.
    """

    def __init__(self, layer: str, text_tokens: int) -> None:
        self.layer = layer
        self.text_tokens = text_tokens

    def __call__(
        self,
        attn: FluxAttention | Flux2Attention,
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


class Flux2SingleProcessor:
    """Attention over [text, image], joined, of a block whose one projection also makes its MLP's input.

    diffusers calls it with arguments by place, among which is no text.
    """

    def __init__(self, layer: str, text_tokens: int) -> None:
        self.layer = layer
        self.text_tokens = text_tokens

    def __call__(
        self,
        attn: Flux2ParallelSelfAttention,
        hidden_states: Tensor,
        attention_mask: Tensor | None = None,
        image_rotary_emb: tuple[Tensor, Tensor] | None = None,
        injection: AnyInjection | None = None,
    ) -> Tensor:
        """Attend from (rows, tokens and pixels, channels), and run the MLP beside it."""
        widths = [attn.inner_dim] * 3 + [attn.mlp_hidden_dim * attn.mlp_mult_factor]
        *projected, hidden = attn.to_qkv_mlp_proj(hidden_states).split(widths, dim=-1)
        query, key, value = (one.unflatten(-1, (attn.heads, -1)).transpose(1, 2) for one in projected)
        query, key = attn.norm_q(query), attn.norm_k(key)
        query, key = (apply_rotary_emb(x, image_rotary_emb, sequence_dim=2) for x in (query, key))
        attention = LayerAttention(self.layer, query, key, value, query.shape[-1] ** -0.5)
        output = attend(attention, slice(0, self.text_tokens), injection)
        joined: Tensor = attn.to_out(torch.cat([output, attn.mlp_act_fn(hidden)], -1))
        return joined


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


class ZImageProcessor:
    """Attention over [image, its padding, text, its padding], or over the text and its padding alone.

    All of this padding is attended. Keys get more, masked, up to the limit of the text: a row's attention is
    then the same whatever longer prompts it shares a call with. Every argument is named: diffusers'
    `Attention` hands a processor only those that are, and Z-Image's transformer hands it nothing of ours, so
    that the injection comes by `Z_IMAGE_INJECTION`.
    """

    def __init__(self, layer: str, pixels: int, image_tokens: int, text_tokens: int) -> None:
        """Attend over `image_tokens`, the first `pixels` of them no padding, and up to `text_tokens`."""
        self.layer = layer
        self.pixels = pixels
        self.image_tokens = image_tokens
        self.text_tokens = text_tokens

    def __call__(
        self,
        attn: Attention,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        freqs_cis: Tensor | None = None,
    ) -> Tensor:
        """Attend from (rows, tokens, channels), masked (rows, tokens) where rows are of unlike lengths."""
        query, key, value = _projected(
            hidden_states, (attn.to_q, attn.to_k, attn.to_v), (attn.norm_q, attn.norm_k), attn.heads
        )
        query, key = (apply_rotary_emb_qwen(x, freqs_cis, use_real=False) for x in (query, key))
        if attention_mask is None:
            attention_mask = torch.ones(hidden_states.shape[:2], dtype=torch.bool, device=query.device)
        missing = self.image_tokens + self.text_tokens - hidden_states.shape[1]
        key, value = (pad(x, (0, 0, 0, missing)) for x in (key, value))
        mask = pad(attention_mask, (0, missing))[:, None, None]
        attention = LayerAttention(self.layer, query, key, value, query.shape[-1] ** -0.5, mask)
        if self.image_tokens:
            text = slice(self.image_tokens, None)
            output = attend(attention, text, Z_IMAGE_INJECTION.get(), self.pixels)
        else:
            output = _joined(attention.attend())
        for part in attn.to_out:
            output = part(output)
        return output


Z_IMAGE_INJECTION: ContextVar[AnyInjection | None] = ContextVar("Z_IMAGE_INJECTION", default=None)
"""What the rows of the call that is made take."""


def attend(
    attention: LayerAttention, text_tokens: slice, injection: AnyInjection | None, pixels: int | None = None
) -> Tensor:
    """Return attention (rows, tokens, channels) of all queries; of the maps only the image's are edited.

    Rows that take the source's projections (`injection.taking`) have its queries, keys or values of the
    image, and its values of the text, in place; the text's queries read these keys and values too. The text's
    tokens are the first or the last; `pixels` are how many of the first are the image's, where padding stands
    between these and the text. Scores of words are scaled in the rows of text (`inject_scores`).
    """
    if injection is None:
        return _joined(attention.attend())
    layer, query, key, value = attention[:4]
    injection.visited.append(layer)
    begin, end, _ = text_tokens.indices(query.shape[2])
    last = begin if pixels is None else pixels
    image, others = (slice(end, None), text_tokens) if begin == 0 else (slice(0, last), slice(last, None))
    if injection.taking is not None:
        for name, tensor in (("query", query), ("key", key), ("value", value)):
            injection.taking(f"{layer}/{name}", tensor[:, :, image])
        injection.taking(f"{layer}/text value", value[:, :, text_tokens])
    words = attention._replace(query=query[:, :, others]).attend()
    words = inject_scores(attention, words, text_tokens, image, injection)
    edited = inject_joint(attention._replace(query=query[:, :, image]), text_tokens, injection)
    both = [one.transpose(1, 2) for one in ((words, edited) if begin == 0 else (edited, words))]
    return torch.cat(both, 1).flatten(2)  # joined as the kernels leave them, which copies them once


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
