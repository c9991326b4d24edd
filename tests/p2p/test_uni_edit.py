"""Uni-Edit on tiny pipelines of every family of flows: against the paper's loop, written out by hand over
diffusers' own transformer, and on paper; what its sweeps share; what it refuses.
"""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from p2p import Calls, EditRequest, Group, Model, Sampling, StableDiffusion, UniEdit, generate
from p2p.engine import source_paths
from p2p.evaluations import plan_evaluations, unshared_evaluations
from p2p.methods.uni_edit import FusionEdit, edited_area, edited_by_fusion, fused
from p2p.trajectory import Trajectory
from tests.p2p.inversion.flow_models import (
    ADD,
    METHODS_RUN_ON,
    SOURCE,
    SWAP,
    levels,
    tiny_flow_model,
    velocity_of,
)

pytestmark = pytest.mark.xdist_group("uni_edit")

STEPS = 5
SAMPLING = Sampling(STEPS, 7.5)  # whose guidance scale is none of Uni-Edit's


@pytest.fixture(scope="module", params=METHODS_RUN_ON)
def model(request: pytest.FixtureRequest) -> Model:
    return tiny_flow_model(request.param)


@pytest.fixture(scope="module")
def sd3() -> Model:
    return tiny_flow_model("sd3")


def trajectory(model: Model, method: UniEdit, target: str = SWAP) -> Trajectory:
    return method.trajectory(EditRequest(SOURCE, target), model.tokenizers, STEPS)


def edited(model: Model, picture: Tensor, edits: list[Trajectory], calls: Calls | None = None) -> Tensor:
    encoded = model.encode(picture[None])
    return edited_by_fusion(
        model, [FusionEdit(0, edit) for edit in edits], encoded, SAMPLING, calls or Calls(64)
    )


def inverted(model: Model, picture: Tensor, first: int) -> Tensor:
    """Uni-Inv without a prompt, to the step `first`."""
    velocity, sigmas, state = velocity_of(model), levels(model, STEPS), model.encode(picture[None])
    found = velocity(state, 0.0, "", 1.0)
    for step in range(STEPS - 1, first - 1, -1):
        way = sigmas[step] - sigmas[step + 1]
        found = velocity(state + way * found, sigmas[step], "", 1.0)
        state = state + way * found
    return state


def by_hand(model: Model, picture: Tensor, method: UniEdit, target: str) -> Tensor:
    """The authors' loop for Flux, by the tokens that a transformer sees: 8 x 8 of them here."""
    velocity, sigmas, first = velocity_of(model), levels(model, STEPS), STEPS - int(STEPS * method.alpha)
    state, scale = inverted(model, picture, first), method.guidance_scale
    for step in range(first, STEPS):
        source, wanted = (velocity(state, sigmas[step], prompt, scale) for prompt in (SOURCE, target))
        ahead, area = wanted - source, torch.empty_like(wanted[:, :1])
        side = state.shape[-1] // 8
        sizes = torch.empty(8, 8, dtype=ahead.dtype)
        for y in range(8):
            for x in range(8):
                rows, columns = slice(y * side, (y + 1) * side), slice(x * side, (x + 1) * side)
                sizes[y, x] = ahead[..., rows, columns].abs().mean()
                area[..., rows, columns] = sizes[y, x]
        area = (area - sizes.min()) / (sizes.max() - sizes.min())
        mixed = area * wanted + (1 - area) * source + method.omega * (1 + area) * ahead
        state = state + (sigmas[step + 1] - sigmas[step]) * mixed
    return state


@torch.no_grad()
@pytest.mark.parametrize(
    "method", [UniEdit(omega=2), UniEdit(0.8, 0.5, guidance_scale=3.0)], ids=["published", "guided"]
)
def test_it_equals_the_authors_loop(model: Model, picture: Tensor, method: UniEdit) -> None:
    ours = edited(model, picture, [trajectory(model, method)])
    expected = by_hand(model, picture, method, SWAP)
    size = float(expected.abs().max())
    # Rotary embeddings and timesteps are rounded to single precision by other routes (a batch, a cast).
    torch.testing.assert_close(ours, expected, rtol=0, atol=1e-6 * size)
    assert (ours - model.encode(picture[None])).abs().max() > 1e-2


@torch.no_grad()
def test_the_source_prompt_is_denoised_alone_and_costs_one_velocity_a_step(
    model: Model, picture: Tensor
) -> None:
    velocity, sigmas, state = velocity_of(model), levels(model, STEPS), inverted(model, picture, 2)
    for step in range(2, STEPS):
        state = state + (sigmas[step + 1] - sigmas[step]) * velocity(state, sigmas[step], SOURCE, 1.0)
    counted: list[int] = []
    same = trajectory(model, UniEdit(0.6, 50.0), SOURCE)
    ours = edited(model, picture, [same], Calls(64, counted.append))
    torch.testing.assert_close(ours, state, rtol=0, atol=1e-6 * float(state.abs().max()))
    planned = plan_evaluations([Group(SOURCE, 0, (same,), lambda: picture)], STEPS, SAMPLING)
    assert sum(counted) == planned == 4 + 3


def test_constant_velocities_move_the_picture_as_far_as_on_paper(
    sd3: Model, picture: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the network answers c to no prompt, a to the source and a + d to the target, the picture goes up
    by s c and down by s (a + (m + w (1 + m)) d), s the level at which it begins and m the area of d.
    """
    ahead = torch.zeros(sd3.latent_shape, dtype=sd3.dtype)
    ahead[:, 4:8, 4:8], ahead[:, 8:10, :6] = 0.5, -2.0  # whose signs do not count: its size is the area's
    empty, own = 0.25, -0.75
    texts = {p: sd3.encode_prompt(p)["encoder_hidden_states"] for p in ("", SOURCE, SWAP)}

    def predict(rows: Tensor, timestep: Tensor, conditioning: Any, *_: Any, **__: Any) -> Tensor:
        found = torch.empty_like(rows)
        for row, told in zip(found, conditioning["encoder_hidden_states"], strict=True):
            [prompt] = [p for p, text in texts.items() if torch.equal(text, told)]
            row.copy_({"": empty + 0 * ahead, SOURCE: own + 0 * ahead, SWAP: own + ahead}[prompt])
        return found

    monkeypatch.setattr(sd3, "predict", predict)
    area = torch.zeros_like(ahead)
    area[:, 4:8, 4:8], area[:, 8:10, :6] = 0.25, 1.0
    for alpha, omega in ((0.6, 5.0), (1.0, 0.5)):
        [made] = edited(sd3, picture, [trajectory(sd3, UniEdit(alpha, omega))])
        level = levels(sd3, STEPS)[STEPS - int(STEPS * alpha)]
        way = empty - own - (area + omega * (1 + area)) * ahead
        torch.testing.assert_close(made, sd3.encode(picture[None])[0] + level * way, rtol=0, atol=1e-6)


def test_the_area_is_of_tokens_and_sizes_and_empty_where_nothing_stands_out() -> None:
    difference = torch.zeros(2, 4, 6)
    difference[:, 0, 0] = torch.tensor([3.0, -1.0])  # a mean of 2; its token's 0.5
    difference[:, 2:4, 4:6] = -1.0
    expected = torch.zeros(1, 4, 6)
    expected[:, :2, :2], expected[:, 2:4, 4:6] = 0.5, 1.0
    torch.testing.assert_close(edited_area(difference, 2), expected, rtol=0, atol=0)
    assert edited_area(difference)[0, 0, 0] == 1
    assert edited_area(torch.full((2, 4, 6), -3.0), 2).eq(0).all()
    source = torch.randn(2, 4, 6, generator=torch.Generator().manual_seed(0))
    assert torch.equal(fused(source, source, 5.0, 2), source)


@torch.no_grad()
def test_a_sweep_inverts_once_shares_its_first_step_and_costs_what_was_planned(
    sd3: Model, picture: Tensor
) -> None:
    sweep = [UniEdit(0.6, omega) for omega in (0.0, 1.0, 2.0)]
    methods = [*sweep, UniEdit(0.8, 1.0), UniEdit(1.0, 1.0), replace(sweep[0], guidance_scale=2.0)]
    edits = [trajectory(sd3, method, ADD if i == 1 else SWAP) for i, method in enumerate(methods)]
    other = Group(ADD, 3, (trajectory(sd3, UniEdit(0.4, 1.0)),), lambda: picture.flip(2))
    one = Group(SOURCE, 3, tuple(edits), lambda: picture)
    counted: list[int] = []
    found = generate(sd3, [one, other], SAMPLING, Calls(64, counted.append))
    # Up 5 + 1. From 0.6: one source and two targets, then three edits in two steps; from 0.8 and 1 two a
    # step; guided, both velocities have two rows. The other group: up 2 + 1, and two steps.
    assert plan_evaluations([one], STEPS, SAMPLING) == 6 + (3 + 2 * 6) + 8 + 10 + 3 * 4
    assert sum(counted) == plan_evaluations([one, other], STEPS, SAMPLING)
    assert sum(counted) == plan_evaluations([one], STEPS, SAMPLING) + 3 + 4
    one_by_one = unshared_evaluations([one], STEPS, SAMPLING)
    assert one_by_one == 4 * (4 + 3 * 2) + (5 + 8) + (6 + 10) + 3 * 2
    embedded = plan_evaluations([one], STEPS, Sampling(STEPS), guidance_embedded=True)
    assert embedded == 6 + (3 + 2 * 6) + 8 + 10 + 3 * 2
    together = edited(sd3, picture, edits, Calls(4))
    for i in (1, 3, 5):
        alone = edited(sd3, picture, [edits[i]])
        torch.testing.assert_close(together[i : i + 1], alone, rtol=0, atol=1e-9)
        torch.testing.assert_close(sd3.decode(together)[i], found[0].images[i], rtol=0, atol=1.5 / 255)
    assert len({float(row.sum()) for row in together}) == len(edits)
    assert len({edit.digest() for edit in edits}) == len(edits)


@torch.no_grad()
def test_a_generated_source_is_edited_as_a_given_picture_is(sd3: Model) -> None:
    one = Group(SOURCE, 3, (trajectory(sd3, UniEdit(omega=1)),))
    [made] = generate(sd3, [one], SAMPLING)
    latents = edited(sd3, made.source, [*one.edits])
    assert torch.equal(sd3.decode(latents)[0], made.images[0])
    assert (made.images[0] - made.source).abs().max() > 0.01


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"alpha": 0}, r"alpha: 0 is not in \(0, 1\]"),
        ({"alpha": 1.5}, r"alpha: 1.5 is not in \(0, 1\]"),
        ({"omega": -1}, "omega: -1 is not a finite number of at least 0"),
        ({"guidance_scale": 0.5}, "guidance_scale: 0.5 is not a finite number of at least 1"),
    ],
)
def test_settings_out_of_range_are_named(settings: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        UniEdit(**settings)


def test_what_does_not_fit_is_refused(sd3: Model, calm_model: StableDiffusion) -> None:
    with pytest.raises(ValueError, match="alpha: 0.1 of 5 steps is no step, allowed is 1/5 or more"):
        trajectory(sd3, UniEdit(0.1))
    one = Group(SOURCE, 3, (trajectory(calm_model, UniEdit()),))
    with pytest.raises(ValueError, match="DDIMScheduler has no flow's noise levels, allowed is FlowMatchEul"):
        source_paths(calm_model, [one], SAMPLING)
