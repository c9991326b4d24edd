"""MasaCtrl against its published formula with formed maps, and what it promises."""

from typing import Any

import pytest
import torch
from diffusers import PNDMScheduler
from torch import Tensor
from torch.testing import assert_close

from p2p import (
    DDIM,
    Direct,
    EditRequest,
    FixedSeed,
    Group,
    Inversion,
    MasaCtrl,
    PromptToPrompt,
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


def edit(model: StableDiffusion, method: Any, target: str = SWAP, steps: int = STEPS) -> Trajectory:
    return method.trajectory(EditRequest(SOURCE, target), model.tokenizers, steps)


def mutual(start_step: int, first: int) -> Taken:
    return Taken(dict.fromkeys(LAYERS[first:], "kv"), range(start_step, STEPS + 1))


@pytest.mark.parametrize(
    ("start_step", "start_layer", "first", "guidance"),
    [
        (0, 0, 0, 1.0),
        (1, "auto", 5, 3.0),
        (2, 3, 3, 1.0),
        (3, 6, 6, 3.0),
        pytest.param(0, 0, 0, 3.0, marks=pytest.mark.slow),
        pytest.param(1, "auto", 5, 1.0, marks=pytest.mark.slow),
        pytest.param(2, 3, 3, 3.0, marks=pytest.mark.slow),
        pytest.param(3, 6, 6, 1.0, marks=pytest.mark.slow),
    ],
)
def test_it_equals_the_published_formula(
    calm_model: StableDiffusion,
    start_step: int,
    start_layer: Any,
    first: int,
    guidance: float,
) -> None:
    edits = (edit(calm_model, MasaCtrl(start_step, start_layer)),)
    pipeline, prompts = calm_model.pipeline, (SOURCE, SWAP)
    theirs = side_by_side(pipeline, prompts, mutual(start_step, first), STEPS, guidance)
    for max_batch in (2, 64):
        sampling = Sampling(STEPS, guidance, max_batch=max_batch)
        ours = tree_latents(calm_model, [Group(SOURCE, 0, edits)], sampling)
        assert_close(torch.stack([ours[0, 0], ours[0, 1]]), theirs, rtol=0, atol=EXACT)
    plain = side_by_side(pipeline, prompts, Taken(), STEPS, guidance)
    assert (plain[1] - theirs[1]).abs().max() > 1000 * EXACT


def test_a_call_more_than_there_are_steps_reads_the_source_too(
    calm_model: StableDiffusion, monkeypatch: pytest.MonkeyPatch
) -> None:
    plms = PNDMScheduler.from_config(calm_model.pipeline.scheduler.config, skip_prk_steps=True)
    monkeypatch.setattr(calm_model.pipeline, "scheduler", plms)
    edits = (edit(calm_model, MasaCtrl(2)), edit(calm_model, MasaCtrl(STEPS)), edit(calm_model, FixedSeed()))
    ours = tree_latents(calm_model, [Group(SOURCE, 0, edits)], Sampling(STEPS, 3.0))
    theirs = side_by_side(calm_model.pipeline, (SOURCE, SWAP), mutual(2, 5), STEPS, 3.0)
    assert_close(torch.stack([ours[0, 0], ours[0, 1]]), theirs, rtol=0, atol=EXACT)
    assert torch.equal(ours[0, 2], ours[0, 3])


@pytest.mark.parametrize("inversion", [DDIM(), Direct()], ids=str)
def test_on_an_inverted_image_it_equals_the_published_formula(
    calm_model: StableDiffusion, picture: Tensor, inversion: Inversion
) -> None:
    sampling = Sampling(STEPS, 3.0)
    group = Group(SOURCE, 0, (edit(calm_model, MasaCtrl(1)),), lambda: picture, inversion)
    [path] = source_paths(calm_model, [group], sampling)
    assert path is not None
    ours = tree_latents(calm_model, [group], sampling, paths=[path])
    theirs = side_by_side(
        calm_model.pipeline, (SOURCE, SWAP), mutual(1, 5), STEPS, 3.0,
        start=path.latents, put_back=path.states,
    )  # fmt: skip
    assert_close(torch.stack([ours[0, 0], ours[0, 1]]), theirs, rtol=0, atol=EXACT)


def test_equal_prompts_give_the_source(calm_model: StableDiffusion) -> None:
    """Equal states and prompts have equal keys and values, so that reading the source's is reading one's own.

    By induction over the steps that stays so.
    """
    edits = tuple(edit(calm_model, MasaCtrl(step, 0), SOURCE) for step in (0, 3))
    ours = tree_latents(calm_model, [Group(SOURCE, 0, edits)], Sampling(STEPS, 3.0))
    for branch in (1, 2):
        assert_close(ours[0, branch], ours[0, 0], rtol=0, atol=EXACT)


def test_never_starting_is_the_fixed_seed_and_before_the_start_steps_are_shared(
    calm_model: StableDiffusion,
) -> None:
    never, fixed = edit(calm_model, MasaCtrl(STEPS)), edit(calm_model, FixedSeed())
    assert never.digest() == fixed.digest()
    tree = [Trajectory(SOURCE, ()), fixed, never, edit(calm_model, MasaCtrl(2))]
    assert [len(level) for level in build_tree([dict(enumerate(tree))], STEPS)] == [2, 2, 3, 3, 3, 3]


def test_a_digest_tells_what_determines_the_pixels(calm_model: StableDiffusion) -> None:
    methods = [
        *(MasaCtrl(), MasaCtrl(5), MasaCtrl(4, 3), MasaCtrl(4, 0), PromptToPrompt(tau=0), FixedSeed()),
    ]
    assert len({edit(calm_model, method).digest() for method in methods}) == len(methods)
    assert edit(calm_model, MasaCtrl()).digest() == edit(calm_model, MasaCtrl(4, "auto")).digest()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"start_step": -1}, "start_step: -1 is not a whole number of at least 0"),
        ({"start_step": 0.5}, "start_step: 0.5"),
        ({"start_layer": -1}, "start_layer: -1 is not 'auto' or a whole number"),
        ({"start_layer": "last"}, "start_layer: 'last'"),
    ],
)
def test_bad_settings_are_errors_at_construction(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        MasaCtrl(**arguments)


def test_a_start_after_the_last_step_is_an_error(calm_model: StableDiffusion) -> None:
    with pytest.raises(ValueError, match=r"start_step: 7 of 6 steps, allowed are 0 to 6 \(never\)"):
        edit(calm_model, MasaCtrl(7))
