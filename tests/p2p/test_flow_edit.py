"""FlowEdit on tiny pipelines of every family of flows: against the paper's loop, written out by hand over
diffusers' own transformer; what its sweeps share; what it refuses.
"""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from p2p import Calls, EditRequest, FlowEdit, Group, Model, Sampling, StableDiffusion, generate
from p2p.engine import derived_seed, source_paths
from p2p.evaluations import plan_evaluations, unshared_evaluations
from p2p.methods.flow_edit import DifferenceEdit, edited_by_differences
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

pytestmark = pytest.mark.xdist_group("flow_edit")

STEPS = 5
SAMPLING = Sampling(STEPS, 7.5)  # whose guidance scale is none of FlowEdit's
SHORT = FlowEdit(n_max=4)


@pytest.fixture(scope="module", params=METHODS_RUN_ON)
def model(request: pytest.FixtureRequest) -> Model:
    return tiny_flow_model(request.param)


@pytest.fixture(scope="module")
def sd3() -> Model:
    return tiny_flow_model("sd3")


def trajectory(model: Model, method: FlowEdit, target: str = SWAP) -> Trajectory:
    return method.trajectory(EditRequest(SOURCE, target), model.tokenizers, STEPS)


def edited(model: Model, picture: Tensor, edits: list[Trajectory], calls: Calls | None = None) -> Tensor:
    encoded = model.encode(picture[None])
    jobs = [DifferenceEdit(0, edit) for edit in edits]
    return edited_by_differences(model, jobs, encoded, [7], SAMPLING, calls or Calls(64))


def by_hand(model: Model, picture: Tensor, method: FlowEdit, target: str) -> Tensor:
    """The paper's Algorithm 1, the time of its steps being the noise levels."""
    velocity, sigmas, source = velocity_of(model), levels(model, STEPS), model.encode(picture[None])
    generators = [torch.Generator().manual_seed(7 + k) for k in range(method.n_avg)]
    scales = method.source_guidance_scale, method.target_guidance_scale
    edit = source
    for i in range(STEPS, 0, -1):  # steps that are left
        here, there = sigmas[STEPS - i], sigmas[STEPS - i + 1]
        drawn = [torch.randn(source.shape, generator=g, dtype=model.noise_dtype) for g in generators]
        noises = [noise.to(source.dtype) for noise in drawn]
        if i > method.n_max:
            continue
        if i > method.n_min:
            difference = torch.zeros_like(source)
            for noise in noises:
                z_source = (1 - here) * source + here * noise
                z_target = edit + z_source - source
                v_target = velocity(z_target, here, target, scales[1])
                difference += (v_target - velocity(z_source, here, SOURCE, scales[0])) / method.n_avg
            edit = edit + (there - here) * difference
        else:
            if i == method.n_min:
                edit = edit + ((1 - here) * source + here * noises[0]) - source
            edit = edit + (there - here) * velocity(edit, here, target, scales[1])
    return edit


@torch.no_grad()
@pytest.mark.parametrize(
    "method",
    [
        FlowEdit(n_max=4, source_guidance_scale=1.0, target_guidance_scale=2.5),
        FlowEdit(n_max=5, n_min=2, n_avg=2),
        FlowEdit(n_max=3, n_min=3),
    ],
    ids=str,
)
def test_it_equals_the_papers_loop(model: Model, picture: Tensor, method: FlowEdit) -> None:
    ours = edited(model, picture, [trajectory(model, method)])
    expected = by_hand(model, picture, method, SWAP)
    size = float(expected.abs().max())
    # Rotary embeddings and timesteps are rounded to single precision by other routes (a batch, a cast).
    torch.testing.assert_close(ours, expected, rtol=0, atol=1e-6 * size)
    assert (ours - model.encode(picture[None])).abs().max() > 1e-2


@torch.no_grad()
def test_the_source_prompt_under_its_own_guidance_gives_the_source_bit_by_bit(
    model: Model, picture: Tensor
) -> None:
    alike = FlowEdit(n_max=5, n_avg=2, source_guidance_scale=3.5, target_guidance_scale=3.5)
    other = replace(alike, target_guidance_scale=13.5)
    ours = edited(model, picture, [trajectory(model, alike, SOURCE), trajectory(model, other, SOURCE)])
    source = model.encode(picture[None])[0]
    assert torch.equal(ours[0], source)
    assert (ours[1] - source).abs().max() > 1e-2


@torch.no_grad()
def test_a_sweep_asks_for_the_sources_velocity_once_and_costs_what_was_planned(
    sd3: Model, picture: Tensor
) -> None:
    sweep = [replace(SHORT, target_guidance_scale=1 + i / 2) for i in range(1, 9)]
    methods = [*sweep, replace(SHORT, n_max=2), replace(SHORT, n_avg=2), replace(SHORT, n_min=2)]
    edits = [trajectory(sd3, method, ADD if i % 2 else SWAP) for i, method in enumerate(methods)]
    one = Group(SOURCE, 3, tuple(edits), lambda: picture)
    counted: list[int] = []
    generate(sd3, [one], SAMPLING, Calls(64, counted.append))
    assert sum(counted) == plan_evaluations([one], STEPS, SAMPLING)
    assert plan_evaluations([one], STEPS, SAMPLING) <= 0.6 * unshared_evaluations([one], STEPS, SAMPLING)
    counted.clear()
    together = edited(sd3, picture, edits, Calls(6, counted.append))
    assert max(counted) == 6
    for i in (0, 8, 9, 10):
        alone = edited(sd3, picture, [edits[i]])
        torch.testing.assert_close(together[i : i + 1], alone, rtol=0, atol=1e-9)
    assert len({float(row.sum()) for row in together}) == len(edits)
    assert len({edit.digest() for edit in edits}) == len(edits)


def test_guidance_that_is_off_or_an_input_costs_one_row(sd3: Model) -> None:
    off = trajectory(sd3, replace(SHORT, source_guidance_scale=1.0, n_min=1))
    one = Group(SOURCE, 3, (off,), lambda: torch.zeros(3, 32, 32))
    assert plan_evaluations([one], STEPS, SAMPLING) == 3 * (1 + 2) + 2
    assert plan_evaluations([one], STEPS, SAMPLING, guidance_embedded=True) == 3 * 2 + 1


@torch.no_grad()
def test_a_generated_source_is_edited_as_a_given_picture_is(sd3: Model) -> None:
    one = Group(SOURCE, 3, (trajectory(sd3, SHORT),))
    [made] = generate(sd3, [one], SAMPLING)
    encoded = sd3.encode(made.source[None])
    jobs = [DifferenceEdit(0, one.edits[0])]
    latents = edited_by_differences(sd3, jobs, encoded, [derived_seed(3)], SAMPLING, Calls(64))
    assert torch.equal(sd3.decode(latents)[0], made.images[0])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"n_max": 0}, "n_max: 0 is not a whole number of at least 1"),
        ({"n_avg": 1.5}, "n_avg: 1.5 is not a whole number of at least 1"),
        ({"n_min": 25}, "n_min: 25 is more than n_max, 24"),
        ({"target_guidance_scale": 0.5}, "target_guidance_scale: 0.5"),
    ],
)
def test_settings_out_of_range_are_named(settings: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        FlowEdit(**settings)  # type: ignore[arg-type]


def test_what_does_not_fit_is_refused(sd3: Model, calm_model: StableDiffusion) -> None:
    with pytest.raises(ValueError, match="n_max: 24 of 5 steps, allowed are 1 to 5"):
        trajectory(sd3, FlowEdit())
    one = Group(SOURCE, 3, (trajectory(calm_model, SHORT),))
    with pytest.raises(ValueError, match="DDIMScheduler has no flow's noise levels, allowed is FlowMatchEul"):
        source_paths(calm_model, [one], SAMPLING)
