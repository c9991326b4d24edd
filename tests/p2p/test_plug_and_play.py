"""Plug-and-Play against its published formula with formed maps, and what it promises."""

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from p2p import (
    DDIM,
    Direct,
    EditRequest,
    FixedSeed,
    Group,
    Inversion,
    PlugAndPlay,
    Sampling,
    StableDiffusion,
)
from p2p.engine import source_paths, tree_latents
from p2p.trajectory import Trajectory
from p2p.tree import build_tree
from tests.p2p.side_by_side import LAYERS, Taken, side_by_side

STEPS = 6
SOURCE, SWAP = "a cat sitting on a bench", "a dog sitting on a bench"
EXACT = 1e-8  # double precision; other batches round otherwise, and the random network amplifies that


def edit(model: StableDiffusion, method: Any, target: str = SWAP) -> Trajectory:
    return method.trajectory(EditRequest(SOURCE, target), model.tokenizers, STEPS)


def published(attention: int, features: int, first: int = 4, block: str = "up_blocks.0.resnets.1") -> Taken:
    """Maps for `attention` steps in the layers from `first` on, a block's features for `features` steps."""
    return Taken(dict.fromkeys(LAYERS[first:], "qk"), range(attention), block, range(features))


PUBLISHED = [
    (PlugAndPlay(), published(3, 4)),
    (PlugAndPlay(1.0, 1.0), published(6, 6)),
    (PlugAndPlay(0.5, 0.0), published(3, 0)),
    (PlugAndPlay(0.0, 0.5), published(0, 3)),
    (PlugAndPlay(0.4, 0.9, 0, 3), published(2, 5, 3, "up_blocks.1.resnets.1")),
    (PlugAndPlay(0.9, 0.4, 2, 0), published(5, 2, 5, "up_blocks.0.resnets.0")),
]


@pytest.mark.parametrize(
    ("method", "taken", "guidance"),
    [
        pytest.param(*case, guidance, marks=() if (number + place) % 2 == 0 else pytest.mark.slow)
        for place, guidance in enumerate((3.0, 1.0))
        for number, case in enumerate(PUBLISHED)
    ],
)
def test_it_equals_the_published_formula(
    calm_model: StableDiffusion, method: PlugAndPlay, taken: Taken, guidance: float
) -> None:
    edits = (edit(calm_model, method),)
    pipeline, prompts = calm_model.pipeline, (SOURCE, SWAP)
    theirs = side_by_side(pipeline, prompts, taken, STEPS, guidance)
    for max_batch in (2, 64):
        sampling = Sampling(STEPS, guidance, max_batch=max_batch)
        ours = tree_latents(calm_model, [Group(SOURCE, 0, edits)], sampling)
        assert_close(torch.stack([ours[0, 0], ours[0, 1]]), theirs, rtol=0, atol=EXACT)
    plain = side_by_side(pipeline, prompts, Taken(), STEPS, guidance)
    assert (plain[1] - theirs[1]).abs().max() > 1000 * EXACT


@pytest.mark.parametrize("inversion", [DDIM(), Direct()], ids=str)
def test_on_an_inverted_image_it_equals_the_published_formula(
    calm_model: StableDiffusion, picture: Tensor, inversion: Inversion
) -> None:
    sampling = Sampling(STEPS, 3.0)
    group = Group(SOURCE, 0, (edit(calm_model, PlugAndPlay()),), lambda: picture, inversion)
    [path] = source_paths(calm_model, [group], sampling)
    assert path is not None
    ours = tree_latents(calm_model, [group], sampling, paths=[path])
    theirs = side_by_side(
        calm_model.pipeline, (SOURCE, SWAP), published(3, 4), STEPS, 3.0,
        start=path.latents, put_back=path.states,
    )  # fmt: skip
    assert_close(torch.stack([ours[0, 0], ours[0, 1]]), theirs, rtol=0, atol=EXACT)


def test_equal_prompts_give_the_source(calm_model: StableDiffusion) -> None:
    """Equal states and prompts have equal maps and features, at every step by induction."""
    edits = (edit(calm_model, PlugAndPlay(1.0, 1.0), SOURCE),)
    ours = tree_latents(calm_model, [Group(SOURCE, 0, edits)], Sampling(STEPS, 3.0))
    assert_close(ours[0, 1], ours[0, 0], rtol=0, atol=EXACT)


def test_no_steps_are_the_fixed_seed_and_equal_steps_are_one_edit(calm_model: StableDiffusion) -> None:
    digests = {
        share: edit(calm_model, PlugAndPlay(*share)).digest()
        for share in ((0.0, 0.0), (0.5, 0.8), (0.55, 0.7), (0.8, 0.5), (0.5, 0.5))
    }
    assert digests[0.0, 0.0] == edit(calm_model, FixedSeed()).digest()
    assert digests[0.5, 0.8] == digests[0.55, 0.7]  # 3 and 4 of 6 steps
    blocks = {edit(calm_model, PlugAndPlay(0.5, 0.8, *b)).digest() for b in ((1, 1), (0, 1), (1, 0))}
    assert len({*digests.values(), *blocks}) == 4 + 3


def test_branches_share_what_they_take_for_as_long_as_it_is_the_same(calm_model: StableDiffusion) -> None:
    shares = ((0.5, 0.8), (0.5, 0.5), (0.5, 1.0))
    tree = [Trajectory(SOURCE, ()), *(edit(calm_model, PlugAndPlay(*share)) for share in shares)]
    assert [len(level) for level in build_tree([dict(enumerate(tree))], STEPS)] == [2, 2, 2, 3, 4, 4]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"attention_steps": 1.5}, r"attention_steps: 1.5 is not a number in \[0, 1\]"),
        ({"feature_steps": -0.1}, "feature_steps: -0.1"),
        ({"feature_steps": True}, "feature_steps: True"),
        ({"attention_block": 1.5}, "attention_block: 1.5 is not 'auto' or a whole number"),
        ({"feature_block": "last"}, "feature_block: 'last'"),
    ],
)
def test_bad_settings_are_errors_at_construction(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PlugAndPlay(**arguments)
