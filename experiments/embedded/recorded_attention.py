"""Attention that keeps its maps while the embedded denoiser is trained, can take another caption's, and the
losses on where it goes.

Grounding: after TokenCompose (Wang et al. 2024). Taken maps: Prompt-to-Prompt (Hertz et al. 2022), Sec. 3.2.
"""

from dataclasses import dataclass

import torch
from diffusers.models.attention_processor import Attention, AttnProcessor
from torch import Tensor, nn


@dataclass(frozen=True)
class Taken:
    """Maps that rows of a batch take from another caption, as Prompt-to-Prompt edits take their source's."""

    rows: Tensor  # (k,) which rows of the batch take
    maps: Tensor  # (k, heads, pixels, tokens), the other caption's
    mapper: Tensor  # (k, tokens) the other caption's token for each of the row's own, -1 where there is none


class RecordingProcessor(AttnProcessor):
    """Materialised attention that keeps its last probabilities; its CPU backward is faster than SDPA's.

    `probabilities` are each row's own, before anything is taken, so that losses on them train what a caption
    itself looks at.
    """

    probabilities: Tensor  # (batch, pixels, tokens), mean over heads
    maps: Tensor | None = None  # (batch, heads, pixels, tokens), where `keep_maps`
    keep_maps = False
    taken: Taken | None = None

    def __call__(
        self, attn: Attention, hidden_states: Tensor, encoder_hidden_states: Tensor, **_: object
    ) -> Tensor:
        """Attend from (batch, pixels, channels) to (batch, tokens, channels)."""
        query, key, value = (
            attn.to_q(hidden_states),
            attn.to_k(encoder_hidden_states),
            attn.to_v(encoder_hidden_states),
        )
        query, key, value = map(attn.head_to_batch_dim, (query, key, value))
        scores = torch.bmm(query, key.transpose(1, 2)) * attn.scale
        probabilities = scores.softmax(-1)
        maps = probabilities.unflatten(0, (-1, attn.heads))
        self.probabilities = maps.mean(1)
        if self.keep_maps:
            self.maps = maps
        if self.taken is not None:
            probabilities = take_maps(maps, self.taken).flatten(0, 1)
        output = attn.batch_to_head_dim(torch.bmm(probabilities, value))
        return attn.to_out[1](attn.to_out[0](output))


def take_maps(maps: Tensor, taken: Taken) -> Tensor:
    """Return the maps, in which rows `taken.rows` use another caption's maps.

    A token that the other caption has too gets the other caption's column, any other token keeps its own.
    Nothing is renormalised, so a pixel's mass may be below or above 1, as in an edit (p2p/operators.py:
    `source_map @ M * a + target_map * (1 - a)`). `maps` (batch, heads, pixels, tokens).
    """
    columns = taken.mapper[:, None, None].expand_as(taken.maps)
    moved = taken.maps.to(maps.dtype).gather(-1, columns.clamp(min=0))
    return maps.index_copy(0, taken.rows, torch.where(columns >= 0, moved, maps[taken.rows]))


def grounding_loss(probabilities: Tensor, tokens: Tensor, masks: Tensor) -> Tensor:
    """Return -log of the share of a thing's attention that lies inside its mask, per thing.

    TokenCompose's token loss (Eq. 3) is (1 - share)^2, whose gradient vanishes where a word looks at the
    wrong thing; the logarithm's does not.

    `probabilities` (batch, pixels, tokens); `tokens` (batch, things), 0 where there is no thing; `masks`
    (batch, things, 16, 16).
    """
    pixels = probabilities.shape[1]
    side = int(pixels**0.5)
    masks = nn.functional.adaptive_avg_pool2d(masks, side).flatten(2)  # (batch, things, pixels)
    columns = probabilities.float().transpose(1, 2).gather(1, tokens[..., None].expand(-1, -1, pixels))
    # No thing: the start token's column, which may be all 0, and 0 / 0 would spoil the whole batch.
    share = (columns * masks).sum(-1) / columns.sum(-1).clamp(min=1e-12)
    return -share.clamp(min=1e-4).log() * (tokens > 0)


def sink_loss(probabilities: Tensor, idle: Tensor, allowed: float) -> Tensor:
    """Return -log of the attention on tokens that are not idle, over the least that is asked of them.

    Attention that has nothing to look at rests on some token. On padding or on filler words it does harm, as
    an edit moves and adds such tokens; the start token stands still in every edit. The loss is 0 as long as
    the idle tokens together have at most `allowed` of a pixel's attention, so a filler may still say a
    little, and the gradient of idle tokens' scores does not vanish where they have nearly all attention.

    `probabilities` (batch, pixels, tokens), sums 1; `idle` (batch, tokens) bool; `allowed` in [0, 1). Returns
    (batch,), the mean over pixels.
    """
    left = (probabilities.float() * ~idle[:, None]).sum(-1)
    return -(left / (1 - allowed)).clamp(1e-6, 1).log().mean(-1)
