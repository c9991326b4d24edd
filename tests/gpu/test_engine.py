"""Every method, every inversion and every way to batch gives the CPU's images on the device."""

from dataclasses import dataclass, field

import pytest
import torch
from torch import Tensor

from p2p import (
    DDIM,
    Calls,
    Direct,
    Edited,
    EditFriendly,
    EditRequest,
    FixedSeed,
    Group,
    Inversion,
    MasaCtrl,
    Model,
    NegativePrompt,
    NullText,
    PlugAndPlay,
    PromptToPrompt,
    Proximal,
    Sampling,
    SDEdit,
    generate,
)
from p2p.evaluations import plan_evaluations
from p2p.trajectory import Method, Trajectory
from tests.gpu.conftest import Sides
from tests.gpu.levels import assert_same_images

pytestmark = pytest.mark.gpu

STEPS = 6
SAMPLING = Sampling(STEPS, 3.0)
SOURCE, SWAP, WEAR = "a cat on the beach", "a dog on the beach", "a cat with a hat on the beach"


@dataclass(frozen=True)
class Case:
    """An edit of SOURCE."""

    method: Method
    target: str = SWAP
    weights: dict[str, float] = field(default_factory=dict)
    blend_words: tuple[str, str] | None = None

    def trajectory(self, model: Model, source: str = SOURCE) -> Trajectory:
        request = EditRequest(source, self.target, self.weights, self.blend_words)
        return self.method.trajectory(request, model.tokenizers, STEPS)


CASES = {
    "fixed_seed": Case(FixedSeed()),
    "replace": Case(PromptToPrompt(operator="replace", tau=0.2)),
    "refine": Case(PromptToPrompt(operator="refine", tau=0.2), WEAR),
    "reweight": Case(PromptToPrompt(tau=0.2), SOURCE, {"beach": 2.0}),
    "window": Case(PromptToPrompt(cross_replace_steps=(0.2, 0.7), self_replace_steps=(0.1, 0.6))),
    "local_blend": Case(PromptToPrompt(tau=0.2), blend_words=("cat", "dog")),
    "masactrl": Case(MasaCtrl(start_step=1)),
    "plug_and_play": Case(PlugAndPlay()),
    "sdedit": Case(SDEdit(0.7)),
}
INVERSIONS = (DDIM(), Direct(), EditFriendly(), NegativePrompt(), NullText(inner_steps=3), Proximal())


@pytest.mark.parametrize("name", CASES)
def test_a_generated_image_and_its_edit(sides: Sides, name: str) -> None:
    groups = [Group(SOURCE, 1, (CASES[name].trajectory(sides.cpu),))]
    theirs = generate(sides.cpu, groups, SAMPLING)
    assert_same_images(generate(sides.device, groups, SAMPLING), theirs, sides.share)
    assert (theirs[0].images[0] - theirs[0].source).abs().max() > 0.05  # it is an edit


@pytest.mark.parametrize("inversion", INVERSIONS, ids=lambda inversion: inversion.name)
def test_a_real_picture_and_its_edits(sides: Sides, pictures: Tensor, inversion: Inversion) -> None:
    edits = tuple(CASES[name].trajectory(sides.cpu) for name in ("replace", "local_blend", "sdedit"))
    groups = [Group(SOURCE, 5, edits, lambda: pictures[0], inversion)]
    theirs = generate(sides.cpu, groups, SAMPLING)
    assert_same_images(generate(sides.device, groups, SAMPLING), theirs, sides.share)


@pytest.fixture(scope="module")
def batch(sides: Sides) -> tuple[list[Group], list[Edited]]:
    """Two prompts and two seeds, each with edits of several methods; their images, made on the CPU."""
    chosen = ("replace", "local_blend", "masactrl", "plug_and_play", "sdedit")
    groups = [
        Group(source, seed, tuple(CASES[name].trajectory(sides.cpu, source) for name in chosen))
        for source, seed in ((SOURCE, 1), (SOURCE, 2), ("a cat in the snow", 1))
    ]
    return groups, generate(sides.cpu, groups, SAMPLING)


@pytest.mark.parametrize("max_batch", [4, 64])
def test_prompts_seeds_and_edits_in_one_batch(
    sides: Sides, batch: tuple[list[Group], list[Edited]], max_batch: int
) -> None:
    """What rides along does not show, nor does where a step is cut; rows are those that were planned."""
    groups, theirs = batch
    rows: list[int] = []
    sampling = Sampling(STEPS, 3.0, max_batch=max_batch)
    ours = generate(sides.device, groups, sampling, Calls(max_batch, rows.append))
    assert_same_images(ours, theirs, sides.share)
    assert sum(rows) == plan_evaluations(groups, STEPS, sampling)
    assert max(rows) <= max_batch


def test_pictures_of_one_batch(sides: Sides, pictures: Tensor) -> None:
    edits = (CASES["replace"].trajectory(sides.cpu),)
    groups = [Group(SOURCE, 0, edits, lambda row=row: row, Direct()) for row in pictures]  # type: ignore[misc]
    ours = generate(sides.device, groups, SAMPLING)
    assert_same_images(ours, generate(sides.cpu, groups, SAMPLING), sides.share)


def test_one_seed_is_one_noise_whatever_the_device(sides: Sides) -> None:
    here, there = (
        model.draw_noise([torch.Generator().manual_seed(7)]) for model in (sides.cpu, sides.device)
    )
    assert torch.equal(here, there.cpu())
