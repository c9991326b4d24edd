"""What holds for every inversion: equal prompts, trees of edits, planned costs, and what is refused."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from p2p import (
    DDIM,
    Calls,
    Direct,
    EditFriendly,
    FixedSeed,
    Inversion,
    NegativePrompt,
    NullText,
    PromptToPrompt,
    Proximal,
    StableDiffusion,
    Virtual,
    generate,
)
from p2p.engine import source_paths, tree_latents
from p2p.evaluations import plan_evaluations
from tests.p2p.inversion.inverting import (
    ADD,
    ROUNDING,
    SAMPLING,
    SOURCE,
    STEPS,
    SWAP,
    UNGUIDED,
    group,
    latents,
)

EQUAL_GUIDANCE = EditFriendly(guidance_scale=3.0, skip=0.25)
INVERSIONS = [
    DDIM(),
    NullText(inner_steps=1),
    NegativePrompt(),
    Proximal("l1", quantile=0.8),
    Direct(),
    EditFriendly(skip=0.25),
    Virtual(),
]
PLAIN = (DDIM, NegativePrompt, Direct)  # whose paths hold no more than those of the others


@pytest.mark.parametrize(
    "inversion", [DDIM(), NullText(1), NegativePrompt(), Proximal(), EQUAL_GUIDANCE, Virtual(3.0)], ids=str
)
def test_identical_prompts_give_the_reconstruction(
    model: StableDiffusion, image: Tensor, inversion: Inversion
) -> None:
    edits = [(SOURCE, PromptToPrompt(tau=0, self_replace_steps=1.0)), (SOURCE, FixedSeed())]
    source, *same = latents(model, image, inversion, edits)
    for other in same:
        torch.testing.assert_close(other, source, rtol=0, atol=ROUNDING)


@pytest.mark.parametrize(
    "inversion",
    [one if type(one) not in PLAIN else pytest.param(one, marks=pytest.mark.slow) for one in INVERSIONS],
    ids=str,
)
def test_a_tree_of_edits_equals_one_by_one_and_costs_what_was_planned(
    model: StableDiffusion, image: Tensor, inversion: Inversion
) -> None:
    edits = [
        (SWAP, PromptToPrompt(tau=0.0)),
        (SWAP, PromptToPrompt(tau=0.6, blend_threshold=0.6)),
        (ADD, PromptToPrompt(tau=0.2, weights={"bench": 2.0})),
        (SWAP, FixedSeed()),
    ]
    words = ("cat", "sitting")
    groups = [
        group(model, image, inversion, edits, words),
        group(model, image.flip(2), inversion, edits[1:2], words),
    ]
    counted: list[int] = []
    paths = source_paths(model, groups, SAMPLING, Calls(64, counted.append))
    together = tree_latents(model, groups, SAMPLING, Calls(6, counted.append), paths)
    assert sum(counted) == plan_evaluations(groups, STEPS, SAMPLING)
    for g, one in enumerate(groups):
        for branch, trajectory in enumerate(one.edits, start=1):
            alone = tree_latents(model, [replace(one, edits=(trajectory,))], SAMPLING, paths=[paths[g]])
            torch.testing.assert_close(together[g, branch], alone[0, 1], rtol=0, atol=1e-8)  # other batches
    # Paths of one batch, and edits of one tree, are each other's no more than the images are.
    assert len({float(row.sum()) for row in together.values()}) == len(together)
    [again] = source_paths(model, groups[1:], SAMPLING)
    assert again is not None
    torch.testing.assert_close(again.latents, paths[1].latents if paths[1] else None, rtol=0, atol=1e-8)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: NullText(inner_steps=-1), "inner_steps: -1"),
        (lambda: NullText(learning_rate=-1.0), "learning_rate: -1"),
        (lambda: Proximal(norm="l2"), "norm: 'l2' is not one of 'l0', 'l1'"),
        (lambda: Proximal(quantile=1.0), "quantile: 1.0"),
        (lambda: Proximal(threshold=-1.0), "threshold: -1"),
        (lambda: EditFriendly(guidance_scale=0.5), "guidance_scale: 0.5"),
        (lambda: EditFriendly(skip=1.0), "skip: 1.0"),
    ],
)
def test_settings_out_of_range_are_named(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


def test_what_does_not_fit_together_is_an_error(model: StableDiffusion, image: Tensor) -> None:
    plain = [(SWAP, FixedSeed())]
    with pytest.raises(ValueError, match="an image and an inversion go together"):
        generate(model, [group(model, image, None, plain)], SAMPLING)
    with pytest.raises(ValueError, match=r"has shape \(3, 16, 16\), allowed is \(3, 32, 32\)"):
        generate(model, [group(model, image[:, ::2, ::2], DDIM(), plain)], SAMPLING)
    with pytest.raises(ValueError, match="guidance_scale: 3.5 for the source with guidance off"):
        generate(model, [group(model, image, EditFriendly(), plain)], UNGUIDED)


def test_an_inversion_that_is_not_finite_is_an_error(
    model: StableDiffusion, image: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(model, "predict", lambda latents, *_: latents * float("nan"))
    for inversion in (DDIM(), NullText(), EditFriendly()):
        with pytest.raises(FloatingPointError, match="inversion: latents are not finite$"):
            source_paths(model, [group(model, image, inversion, [(SWAP, FixedSeed())])], SAMPLING)


def test_a_label_names_what_is_not_as_published() -> None:
    assert Proximal().label == "proximal"
    assert Proximal(quantile=0.75).label == "proximal quantile=0.75"
    assert EditFriendly().settings != EditFriendly(skip=0.2).settings


def test_a_model_without_unconditional_rows_is_not_inverted(
    model: StableDiffusion, image: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(StableDiffusion, "guidance_embedded", True)
    with pytest.raises(ValueError, match="a model that takes the guidance scale as an input, or none, cann"):
        generate(model, [group(model, image, Direct(), [(SWAP, FixedSeed())])], SAMPLING)
