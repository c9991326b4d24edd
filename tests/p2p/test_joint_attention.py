"""Joint injection as a function: the source's maps whole, and maps of more words than a head has channels;
scaled scores and what is taken where padding stands between image and text."""

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.testing import assert_close

from p2p.attention.injection import BatchInjection, LayerAttention
from p2p.attention.joint import inject_joint, inject_scores
from p2p.attention.source_bank import SourceBank
from p2p.families.joint_processors import attend

ROWS, HEADS, PIXELS, TEXT, CHANNELS, COLUMNS = 3, 2, 6, 4, 5, 8  # rows: source, target, another target
TOKENS = slice(PIXELS, None)


def index(*values: int) -> Tensor:
    return torch.tensor(values, dtype=torch.int64)


def injection(self_rows: tuple[int, ...], words: Tensor | None = None) -> BatchInjection:
    """Row 1 takes text maps wholly from row 0, aligned by the identity; `self_rows` take the image's."""
    edited = sorted({1, *self_rows})
    return BatchInjection(
        source_rows=index(0),
        replaced_rows=index(1),
        replaced_slots=index(0),
        replaced_mix=torch.eye(TEXT, dtype=torch.float64)[None],
        mixed_rows=index(),
        mixed_slots=index(),
        mixed_mix=torch.empty(0),
        mixed_own=torch.empty(0),
        self_rows=index(*self_rows),
        self_slots=index(*(0 for _ in self_rows)),
        self_max_pixels=tuple(PIXELS for _ in self_rows),
        edited_rows=index(*edited),
        edited_slots=index(*(0 for _ in edited)),
        any_cross=True,
        largest_self=PIXELS,
        bank=SourceBank(),
        words=words,
        words_layers=frozenset({"layer"}),
    )


def inputs() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return queries of the image, keys and values of image and text, and each row's own maps."""
    torch.manual_seed(0)
    query = torch.randn(ROWS, HEADS, PIXELS, CHANNELS, dtype=torch.float64)
    key, value = torch.randn(2, ROWS, HEADS, PIXELS + TEXT, CHANNELS, dtype=torch.float64)
    return query, key, value, (query @ key.transpose(2, 3)).softmax(-1)


def test_both_injected_with_the_identity_are_the_sources_rows() -> None:
    query, key, value, maps = inputs()
    output = inject_joint(LayerAttention("layer", query, key, value.clone(), 1.0), TOKENS, injection((1,)))
    assert_close(output, torch.stack([maps[0] @ value[0], maps[0] @ value[1], maps[2] @ value[2]]))


def test_one_of_both_takes_its_block_and_nothing_is_renormalised() -> None:
    query, key, value, maps = inputs()
    output = inject_joint(LayerAttention("layer", query, key, value.clone(), 1.0), TOKENS, injection((2,)))
    text_of_source = torch.cat([maps[1, :, :, :PIXELS], maps[0, :, :, PIXELS:]], -1)
    image_of_source = torch.cat([maps[0, :, :, :PIXELS], maps[2, :, :, PIXELS:]], -1)
    assert_close(output[1:], torch.stack([text_of_source @ value[1], image_of_source @ value[2]]))
    assert (text_of_source.sum(-1) - 1).abs().max() > 0.1


def test_word_maps_may_have_more_columns_than_a_head_has_channels() -> None:
    query, key, value, maps = inputs()
    words = torch.randint(2, (ROWS, TEXT, COLUMNS)).double()
    given = injection((1,), words)
    inject_joint(LayerAttention("layer", query, key, value.clone(), 1.0), TOKENS, given)
    text = torch.stack([maps[0], maps[0], maps[2]])[..., PIXELS:]
    assert_close(given.maps["layer"], (text @ words[:, None]).mean(1))


PADDED = slice(PIXELS + 2, None)  # of [image, two tokens of its padding, text]


def padded_attention() -> LayerAttention:
    """Return attention of all to all, in which row 1 does not attend to its last word."""
    torch.manual_seed(0)
    query, key, value = torch.randn(3, ROWS, HEADS, PADDED.start + TEXT, CHANNELS, dtype=torch.float64)
    mask = torch.ones(ROWS, 1, 1, PADDED.start + TEXT, dtype=torch.bool)
    mask[1, ..., -1] = False
    return LayerAttention("layer", query, key, value, 0.7, mask)


def test_scaled_scores_are_those_of_words_and_the_image_behind_padding_and_a_mask() -> None:
    attention, image = padded_attention(), slice(0, PIXELS)
    _, query, key, value, scale, mask = attention
    heads = torch.ones(ROWS, HEADS, 1, 1, dtype=torch.bool)
    heads[2, 1] = False
    words = attention._replace(query=query[:, :, PIXELS:]).attend()
    scaled = index(1, 2), index(0, 3), torch.tensor([2.0, 0.5], dtype=torch.float64)
    given = replace(injection(()), scores=scaled, heads={HEADS: heads})
    ours = inject_scores(attention, words.clone(), PADDED, image, given)
    scores = (query @ key.mT * scale).masked_fill(~mask, -torch.inf)
    scores[1, :, PADDED.start, image] *= 2
    scores[2, 0, PADDED.start + 3, image] *= 0.5
    assert_close(ours, (scores.softmax(-1) @ value)[:, :, PIXELS:])
    changed = (ours - words).abs().amax(-1) > 1e-9
    assert changed.nonzero().tolist() == [[1, 0, 2], [1, 1, 2], [2, 0, 5]]


def test_what_is_taken_is_the_images_and_the_texts_and_not_the_padding_between() -> None:
    attention, taken = padded_attention(), {}

    def taking(name: str, tensor: Tensor) -> None:
        taken[name] = tensor.clone()

    given: Any = replace(injection((1,)), taking=taking)
    attend(attention._replace(value=attention.value.clone()), PADDED, given, PIXELS)
    parts = {"query": attention.query, "key": attention.key, "value": attention.value}
    for name, tensor in parts.items():
        assert_close(taken[f"layer/{name}"], tensor[:, :, :PIXELS])
    assert_close(taken["layer/text value"], attention.value[:, :, PADDED])
    assert len(taken) == 4
