"""The losses on where attention goes, and maps taken from another caption, beside values on paper."""

import math
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from transformers import CLIPTextModel, CLIPTokenizer

from experiments.embedded.denoiser import FILLERS, build_text_encoder, idle_tokens, share_padding
from experiments.embedded.examples import (
    caption_scenes,
    token_mapper,
)
from experiments.embedded.recorded_attention import Taken, grounding_loss, sink_loss, take_maps
from experiments.embedded.worlds.scenes.definition import WORLD
from experiments.embedded.worlds.scenes.drawing import draw_scenes
from experiments.embedded.worlds.scenes.world import Scene, draw_scene
from p2p.operators import alignment_matrix, resolve_operator
from tests.experiments.training_parts import embedded_tokenizer


@pytest.fixture(scope="module")
def tokenizer() -> CLIPTokenizer:
    return embedded_tokenizer()


def test_sink_loss_is_minus_log_of_what_is_left_over_what_should_be() -> None:
    idle = torch.tensor([[False, True, False, True]])
    maps = torch.tensor([[[0.4, 0.5, 0.0, 0.1], [0.9, 0.05, 0.0, 0.05]]])  # idle mass 0.6 and 0.1
    expected = -math.log(0.4 / 0.9) / 2  # the second pixel is within what is allowed
    torch.testing.assert_close(sink_loss(maps, idle, 0.1), torch.tensor([expected]))
    assert sink_loss(maps, idle, 0.61) == 0
    everything = torch.tensor([[[0.0, 1.0, 0.0, 0.0]]])
    torch.testing.assert_close(sink_loss(everything, idle, 0.1), torch.tensor([-math.log(1e-6)]))


def test_sink_loss_moves_attention_from_idle_tokens_to_the_others_until_it_is_within_the_share() -> None:
    idle = torch.tensor([[False, True, False, True]])
    scores = torch.tensor([[[0.0, 8.0, 0.0, 0.0]]], requires_grad=True)  # nearly all on an idle token
    optimizer = torch.optim.SGD([scores], lr=1.0)
    first = None
    for _ in range(300):
        loss = sink_loss(scores.softmax(-1), idle, 0.1).sum()
        optimizer.zero_grad()
        loss.backward()
        first = scores.grad.clone() if first is None else first
        optimizer.step()
    assert first[0, 0, 1] > 0.5  # the gradient is strong where it is most wrong
    mass = scores.detach().softmax(-1)[0, 0]
    assert float((mass * idle[0]).sum()) == pytest.approx(0.1, abs=0.01)
    assert mass[0] > 0.4
    assert mass[2] > 0.4


def test_grounding_loss_is_minus_log_of_the_share_inside() -> None:
    maps = torch.zeros(1, 4, 3)
    maps[0, :, 1] = torch.tensor([0.1, 0.3, 0.0, 0.1])  # a quarter of the 2x2 side holds 0.3 of 0.5
    masks = torch.zeros(1, 2, 16, 16)
    masks[0, 0, :8, 8:] = 1  # the top right cell
    loss = grounding_loss(maps, torch.tensor([[1, 0]]), masks)
    torch.testing.assert_close(loss, torch.tensor([[-math.log(0.6), 0.0]]))


def test_grounding_loss_moves_a_words_attention_into_its_thing() -> None:
    masks = torch.zeros(1, 1, 16, 16)
    masks[0, 0, :4, :4] = 1
    scores = torch.zeros(1, 256, 2)
    scores[0, 255, 1] = 2.0  # looks at the wrong corner
    scores.requires_grad_()
    optimizer = torch.optim.SGD([scores], lr=5.0)
    for _ in range(400):
        loss = grounding_loss(scores.softmax(-1), torch.tensor([[1]]), masks).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    column, inside = scores.softmax(-1)[0, :, 1], masks[0, 0].flatten() == 1
    assert column[inside].sum() / column.sum() > 0.8  # 2 % at first
    assert column[inside].min() > column[~inside].max()


def test_idle_are_padding_and_filler_words_only(tokenizer: CLIPTokenizer) -> None:
    ids = tokenizer("a red cat with a hat in the snow", padding="max_length", return_tensors="pt").input_ids
    idle = idle_tokens(tokenizer)[ids][0].tolist()
    words = ["BOS", "a", "red", "cat", "with", "a", "hat", "in", "the", "snow"]
    assert idle == [word in FILLERS for word in words] + [True] * (36 - len(words))


@pytest.mark.parametrize("trained", [False, True])
def test_all_padding_is_one_vector_in_an_ordinary_encoder(
    tokenizer: CLIPTokenizer, tmp_path: Path, trained: bool
) -> None:
    """`trained`: position embeddings far larger than training made them (0.04), weights through float16."""
    torch.manual_seed(0)
    encoder = build_text_encoder(tokenizer, (128, 3, 4))
    if trained:
        nn.init.normal_(encoder.embeddings.position_embedding.weight)
    ids = tokenizer(["a cat", "a red cat and a dog"], padding="max_length", return_tensors="pt").input_ids
    padding = ids == tokenizer.pad_token_id

    def spread(encoder: CLIPTextModel) -> float:
        with torch.no_grad():
            states = encoder(ids).last_hidden_state[padding]
        return float((states - states[0]).abs().max() / states[0].std())

    assert spread(encoder) > 0.5
    share_padding(encoder)
    encoder.half().save_pretrained(tmp_path)
    assert spread(CLIPTextModel.from_pretrained(tmp_path, dtype=torch.float32)) < 0.01
    with torch.no_grad():  # words still know where they stand
        states = encoder.float()(ids).last_hidden_state
    assert float((states[1, 1] - states[1, 5]).abs().max()) > 0.1


@pytest.mark.parametrize(
    ("source", "target"),
    [
        ("a cat in the snow", "a dog in the snow"),
        ("a cat in the snow", "a red cat in the snow at night"),
        ("a cat and a big dog in the snow", "a cat in the snow"),
        ("a cat on the beach", "a cat with a hat on the beach"),
    ],
)
def test_taken_maps_are_the_formed_maps_of_the_edit(
    tokenizer: CLIPTokenizer, source: str, target: str
) -> None:
    """`source_map @ M * a + target_map * (1 - a)`, alignment.py's formula, in rows that take alone."""
    generator = torch.Generator().manual_seed(0)
    own, maps = (torch.rand(n, 2, 9, 36, generator=generator).softmax(-1) for n in (3, 1))
    mapper = token_mapper(source, target, tokenizer)
    got = take_maps(own, Taken(torch.tensor([1]), maps, mapper[None]))
    operator = resolve_operator("auto", source, target)
    matrix, aligned = alignment_matrix(operator, source, target, tokenizer)
    torch.testing.assert_close(got[1], maps[0] @ matrix * aligned + own[1] * (1 - aligned))
    torch.testing.assert_close(got[[0, 2]], own[[0, 2]], rtol=0, atol=0)


def test_a_longer_target_has_more_mass_than_one(tokenizer: CLIPTokenizer) -> None:
    mapper = token_mapper("a cat in the snow", "a red cat in the snow at night", tokenizer)
    even = torch.full((1, 1, 1, 36), 1 / 36)
    taken = take_maps(even * 2, Taken(torch.tensor([0]), even, mapper[None]))  # own twice the other's
    new = (mapper == -1).sum()
    assert new == 3  # "red", "at", "night"
    torch.testing.assert_close(taken.sum(), (33 + 2 * new) / 36)


def test_another_scene_is_one_edit_away_and_never_reserved() -> None:
    rng = np.random.default_rng(0)
    scenes = [draw_scene(rng) for _ in range(400)]
    others = [WORLD.other(scene, rng) for scene in scenes]
    assert not any(other.reserved() for other in others)
    names = {f.name for f in fields(Scene)}
    changed = [{n for n in names if getattr(a, n) != getattr(b, n)} for a, b in zip(scenes, others)]
    assert all(len(c) == 1 for c in changed)
    assert {n for c in changed for n in c} == names
    assert all(a.caption() != b.caption() for a, b in zip(scenes, others))


def test_captions_know_where_their_things_are(tokenizer: CLIPTokenizer) -> None:
    scenes = draw_scenes(20, (91, 0))
    captioned = caption_scenes(WORLD, scenes, tokenizer, (91, 1))
    for i, scene in enumerate(scenes.scenes):
        for j, thing in enumerate(scene.things):
            assert tokenizer.decode(captioned.ids[i, captioned.tokens[i, j]]).strip() == thing.name
            assert captioned.covered[i, j].sum() > 32  # two cells at least
        assert captioned.covered[i, len(scene.things) :].sum() == 0
    assert captioned.covered.max() == 16
