"""The calls of a compiled denoiser: of few sizes, padded, and of the pixels and the count of any others."""

from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch
from diffusers import DDIMScheduler
from torch import Tensor

from p2p import (
    Calls,
    EditRequest,
    FixedSeed,
    Group,
    MasaCtrl,
    PromptToPrompt,
    Sampling,
    SDEdit,
    StableDiffusion,
    generate,
)
from p2p.compiling import call_size
from p2p.engine import tree_latents
from p2p.evaluations import plan_evaluations
from p2p.inversion import Direct, NullText
from p2p.trajectory import Method

STEPS = 5
SOURCE, SWAP, LONGER = "a cat on the beach", "a dog on the beach", "a cat on the snowy white beach"
WEIGHTS = {"beach": 2.5}
METHODS: list[tuple[str, Method]] = [
    (SWAP, PromptToPrompt(tau=0.2)),
    (SWAP, PromptToPrompt(tau=0.7, profile="google-stable")),
    (LONGER, PromptToPrompt(tau=0.4)),
    (LONGER, PromptToPrompt(cross_replace_steps=(0.2, 0.7), self_replace_steps=(0.5, 0.9))),
    (SOURCE, PromptToPrompt(tau=0.0, self_replace_steps=0.0)),  # reweighted alone
    (SWAP, FixedSeed()),
]


def groups(model: StableDiffusion, methods: Sequence[tuple[str, Method]], blend: bool) -> list[Group]:
    """Return three groups: all of the methods, one, and none that takes from its source."""
    words = ("cat", "beach") if blend else None
    edits = tuple(
        method.trajectory(
            EditRequest(SOURCE, target, WEIGHTS, words if isinstance(method, PromptToPrompt) else None),
            model.tokenizers,
            STEPS,
        )
        for target, method in methods
    )
    return [Group(SOURCE, 3, edits), Group(SOURCE, 4, edits[:1]), Group(SOURCE, 5, edits[-1:])]


def assert_equal(ours: dict[tuple[int, int], Tensor], theirs: dict[tuple[int, int], Tensor]) -> None:
    for branch, latents in theirs.items():  # as far apart as batches of two sizes, in double precision
        torch.testing.assert_close(ours[branch], latents, rtol=0, atol=1e-8)


@pytest.mark.parametrize("blend", [pytest.param(False, marks=pytest.mark.slow), True], ids=["", "blend"])
@pytest.mark.usefixtures("padded_calls")
def test_edits_are_those_of_other_calls(calm_model: StableDiffusion, blend: bool) -> None:
    own = groups(calm_model, METHODS, blend)
    plain = tree_latents(calm_model, own, Sampling(STEPS))
    for max_batch in (4, 64) if blend else (2, 4, 10, 64):
        sampling = Sampling(STEPS, max_batch=max_batch)
        assert_equal(tree_latents(replace(calm_model, compile=True), own, sampling), plain)
    assert (plain[0, 1] - plain[0, 0]).abs().max() > 0.1


@pytest.mark.usefixtures("padded_calls")
def test_edits_without_guidance_and_beside_single_layers_are_those_of_other_calls(
    calm_model: StableDiffusion,
) -> None:
    methods: list[tuple[str, Method]] = [*METHODS, (SWAP, MasaCtrl(start_step=3, start_layer=1))]
    own, sampling = groups(calm_model, methods, True), Sampling(STEPS, 1.0, max_batch=5)
    plain = tree_latents(calm_model, own, Sampling(STEPS, 1.0))
    assert_equal(tree_latents(replace(calm_model, compile=True), own, sampling), plain)


@pytest.mark.usefixtures("padded_calls")
@pytest.mark.parametrize(
    "inversion",
    [Direct(), pytest.param(NullText(inner_steps=1), marks=pytest.mark.slow)],
    ids=["direct", "null-text"],
)
def test_edits_of_pictures_are_those_of_other_calls(
    calm_model: StableDiffusion, picture: Tensor, inversion: Direct | NullText
) -> None:
    edits = groups(calm_model, [*METHODS, (SWAP, SDEdit(0.5))], False)[0].edits
    group = Group(SOURCE, 3, edits, lambda: picture, inversion)
    assert isinstance(calm_model.pipeline.scheduler, DDIMScheduler)
    [plain] = generate(calm_model, [group], Sampling(STEPS))
    [ours] = generate(replace(calm_model, compile=True), [group], Sampling(STEPS, max_batch=6))
    for mine, other in zip(ours.images, plain.images, strict=True):
        torch.testing.assert_close(mine, other, rtol=0, atol=1.01 / 255)


@pytest.mark.usefixtures("padded_calls")
@pytest.mark.parametrize("max_batch", [16, pytest.param(64, marks=pytest.mark.slow)])
def test_padding_is_not_counted(calm_model: StableDiffusion, max_batch: int) -> None:
    own, sampling = groups(calm_model, METHODS, True)[:1], Sampling(STEPS, max_batch=max_batch)
    sizes: list[int] = []
    model = replace(calm_model, compile=True)
    call, model.predict = model.predict, lambda rows, *rest: sizes.append(len(rows)) or call(rows, *rest)
    counted: list[int] = []
    generate(model, own, sampling, Calls(max_batch, counted.append))
    assert sum(counted) == plan_evaluations(own, STEPS, sampling)
    assert sum(sizes) > sum(counted)
    assert set(sizes) <= {2, 4, 8, 16, 32, 64}


@pytest.mark.usefixtures("padded_calls")
def test_memory_that_runs_out_makes_smaller_calls(calm_model: StableDiffusion) -> None:
    own, model = groups(calm_model, METHODS, True), replace(calm_model, compile=True)
    call = model.predict

    def predict(rows: Tensor, *rest: object) -> Tensor:
        output = call(rows, *rest)
        if len(rows) > 5:
            raise torch.OutOfMemoryError("out of memory")
        return output

    model.predict = predict
    assert_equal(tree_latents(model, own, Sampling(STEPS)), tree_latents(calm_model, own, Sampling(STEPS)))


@pytest.mark.parametrize("most", [1, 2, 3, 5, 8, 32])
def test_calls_are_of_few_sizes_and_at_most_a_quarter_of_one_is_padding(most: int) -> None:
    powers = {size for size in (1, 2, 4, 8, 16, 32) if size <= most}
    for states in range(1, 100):
        left = states
        while left:
            count, size = call_size(left, most)
            assert 0 < count <= min(left, size)
            assert 4 * count >= 3 * size
            assert size in powers | {most}
            left -= count
