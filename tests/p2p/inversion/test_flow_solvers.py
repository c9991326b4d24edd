"""Steps along a flow on velocity fields whose solution stands on paper: what is exact, and which order errors
have.

The inversion error is the distance from the noise that the field itself leads to. That of the round trip,
there and back, may fall by another order, so both are told.
"""

import math
from collections.abc import Callable
from itertools import pairwise

import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from torch import Tensor

from p2p.flow_solvers import STEPS, FlowDescent, Velocity, flow_sigmas, flow_timestep, steps_that_count
from p2p.inversion import FireFlow, FlowInversion, ReverseEuler, RFInversion, RFSolver, UniInv
from p2p.inversion.flow_inversion import flow_states
from p2p.source_path import SourcePath

EVERY = [ReverseEuler, RFSolver, FireFlow, UniInv]
GAUSS = "a Gaussian's"
IMAGE = torch.tensor([0.2, 0.5, 0.9, 1.4], dtype=torch.float64).reshape(1, 1, 2, 2)

Field = Callable[[Tensor, float], Tensor]
Answer = Callable[[Tensor], Tensor]

FIELDS: dict[str, tuple[Field, Answer]] = {  # and where each leads from level 0 to level 1
    "-x^2": (lambda x, sigma: -x * x, lambda x: x / (1 + x)),
    "1.3 x": (lambda x, sigma: 1.3 * x, lambda x: x * math.exp(1.3)),
    GAUSS: (lambda x, sigma: _gaussian(x, sigma), lambda x: x / 0.6),
}


def _gaussian(x: Tensor, sigma: float) -> Tensor:
    """The velocity where images are normal with deviation 0.6: `x` keeps its place among all, in
    deviations."""
    variance = (1 - sigma) ** 2 * 0.36 + sigma**2
    return x * (sigma - (1 - sigma) * 0.36) / variance


def _told(field: Field) -> Velocity:
    return lambda latents, sigma, last: field(latents, sigma)


def even(steps: int) -> list[float]:
    return [1 - i / steps for i in range(steps)] + [0.0]


def shifted(steps: int) -> list[float]:
    """The levels of Stable Diffusion 3's pipeline, whose last step starts at 0.0089."""
    scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0)
    scheduler.set_timesteps(steps)
    return flow_sigmas(scheduler)


def up(kind: type[FlowInversion], field: Field, sigmas: list[float]) -> Tensor:
    return flow_states(_told(field), IMAGE, sigmas, STEPS[kind.up])[:, 0]


def down(kind: type[FlowInversion], field: Field, sigmas: list[float], noise: Tensor) -> Tensor:
    descent = FlowDescent([SourcePath(noise[0], solver=kind.down)], sigmas, STEPS[kind.down])
    latents, kept = noise, None
    for step in range(len(sigmas) - 1):
        latents, kept = descent.step(_told(field), step, latents, [0], kept)
    return latents


def orders(error: Callable[[int], float]) -> float:
    """Return by which power of the step an error falls, between 80 and 160 steps."""
    return math.log2(error(80) / error(160))


@pytest.mark.parametrize("grid", [even, shifted])
@pytest.mark.parametrize("kind", EVERY)
def test_a_constant_velocity_is_inverted_exactly(kind: type[FlowInversion], grid: Callable) -> None:
    velocity = torch.tensor([0.3, -1.0, 2.0, 0.0], dtype=torch.float64).reshape(IMAGE.shape)
    noise = up(kind, lambda x, sigma: velocity, grid(7))
    # Levels are the scheduler's float32, whose differences add up to 1 but for double precision's rounding.
    torch.testing.assert_close(noise, IMAGE + velocity, rtol=0, atol=1e-14)
    torch.testing.assert_close(
        down(kind, lambda x, sigma: velocity, grid(7), noise), IMAGE, rtol=0, atol=1e-14
    )


@pytest.mark.parametrize(
    ("name", "grid"), [("-x^2", even), ("-x^2", shifted), ("1.3 x", even), ("1.3 x", shifted), (GAUSS, even)]
)
@pytest.mark.parametrize(("kind", "order"), [(ReverseEuler, 1), (RFSolver, 2), (FireFlow, 2), (UniInv, 1)])
def test_the_inversion_error_falls_with_the_order_of_the_steps(
    kind: type[FlowInversion], order: int, name: str, grid: Callable
) -> None:
    field, answer = FIELDS[name]

    def error(steps: int) -> float:
        return float((up(kind, field, grid(steps)) - answer(IMAGE)).abs().max())

    if kind is RFSolver and name == GAUSS:
        order = 3  # by luck of that field: its term of order 2 is nothing
    assert orders(error) == pytest.approx(order, abs=0.25)


@pytest.mark.parametrize(("kind", "order"), [(ReverseEuler, 1), (RFSolver, 3), (FireFlow, 2), (UniInv, 2)])
def test_the_round_trip_is_no_measure_of_the_inversion(kind: type[FlowInversion], order: int) -> None:
    """RF-Solver comes back by order 3 from noise that is wrong by order 2, Uni-Inv by 2 from one wrong by
    1."""
    field, _ = FIELDS["-x^2"]

    def error(steps: int) -> float:
        noise = up(kind, field, even(steps))
        return float((down(kind, field, even(steps), noise) - IMAGE).abs().max())

    assert orders(error) >= order - 0.25


@pytest.mark.parametrize("steps", [10, 28])
def test_eulers_round_trip_shrinks_by_the_factor_on_paper(steps: int) -> None:
    a = 1.3
    noise = up(ReverseEuler, lambda x, sigma: a * x, even(steps))
    back = down(ReverseEuler, lambda x, sigma: a * x, even(steps), noise)
    factor = (1 - (a / steps) ** 2) ** steps
    torch.testing.assert_close(back, factor * IMAGE, rtol=1e-12, atol=0)


def test_euler_never_asks_for_level_0_and_the_others_do_once() -> None:
    for kind, least in ((ReverseEuler, 0), (RFSolver, 1), (FireFlow, 1), (UniInv, 1)):
        asked: list[float] = []

        def field(x: Tensor, sigma: float, asked: list[float] = asked) -> Tensor:
            asked.append(sigma)
            return -x

        up(kind, field, shifted(5))
        assert asked.count(0.0) == least
        assert len(asked) == {ReverseEuler: 5, RFSolver: 10, FireFlow: 6, UniInv: 6}[kind]


def test_a_full_pull_ends_on_the_picture_whatever_the_velocity() -> None:
    picture = IMAGE[0].flip(1)
    for sigmas in (even(6), shifted(6)):
        path = SourcePath(IMAGE[0], solver="euler", picture=picture, pulls=(0.0,) * 3 + (1.0,) * 3)
        half = SourcePath(IMAGE[0], solver="euler", picture=picture, pulls=(0.5,) * 6)
        ends = []
        for one in (path, half):
            latents, kept = IMAGE, None
            descent = FlowDescent([one], sigmas, STEPS["euler"])
            for step in range(6):
                latents, kept = descent.step(_told(lambda x, s: x.sin() + s), step, latents, [0], kept)
            ends.append(latents[0])
        torch.testing.assert_close(ends[0], picture, rtol=0, atol=1e-14)
        assert (ends[1] - picture).abs().max() > 0.05


def test_the_levels_are_the_samplers_and_so_are_the_timesteps() -> None:
    scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0)
    scheduler.set_timesteps(28)
    sigmas = flow_sigmas(scheduler)
    assert sigmas == [*scheduler.sigmas[:-1].tolist(), 0.0]
    assert all(before > after for before, after in pairwise(sigmas))
    assert [flow_timestep(scheduler, sigma).item() for sigma in sigmas[:-1]] == scheduler.timesteps.tolist()


def test_steps_that_do_next_to_nothing_are_not_counted() -> None:
    assert (steps_that_count(shifted(28)), shifted(28)[-2]) == (27, pytest.approx(0.0089, abs=1e-4))
    assert (steps_that_count(shifted(4)), steps_that_count(even(28))) == (3, 28)
    terminal = FlowMatchEulerDiscreteScheduler(shift_terminal=0.02)
    terminal.set_timesteps(4)
    assert (steps_that_count(flow_sigmas(terminal)), terminal.sigmas[-2].item()) == (3, pytest.approx(0.02))


@pytest.mark.parametrize("setting", ["stochastic_sampling", "invert_sigmas"])
def test_what_is_no_ode_down_to_the_image_is_refused(setting: str) -> None:
    scheduler = FlowMatchEulerDiscreteScheduler(**{setting: True})
    scheduler.set_timesteps(4)
    with pytest.raises(ValueError, match=f"scheduler: {setting}=True is no ODE .*, allowed is False"):
        flow_sigmas(scheduler)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: UniInv(alpha=0.0), r"alpha: 0.0 is not in \(0, 1\]"),
        (lambda: RFInversion(gamma=1.5), r"gamma: 1.5 is not in \[0, 1\]"),
        (lambda: RFInversion(eta_start=0.5), "eta_start: 0.5 is beyond eta_stop, 0.25"),
    ],
)
def test_settings_out_of_range_are_named(make: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()
