"""How noisy the state is that a step starts from, under every scheduler in one unit."""

from itertools import pairwise

import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from torch import Tensor

from p2p.schedulers import KNOWN, new_scheduler, noise_share, noised
from tests.tiny_pipelines import BETAS

STEPS = 20


def scheduler(name: str, **config: object):
    made = new_scheduler(name, {**(BETAS if name != "EDMEulerScheduler" else {}), **config})
    made.set_timesteps(STEPS)
    return made


def alphas_cumprod() -> Tensor:
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
    return torch.cumprod(1 - betas, 0)


def test_it_is_one_minus_alpha_bar_where_variance_is_kept() -> None:
    ddim = scheduler("DDIMScheduler")
    for step in (0, 7, 19):
        expected = 1 - alphas_cumprod()[ddim.timesteps[step]].item()
        assert noise_share(ddim, step) == pytest.approx(expected, abs=1e-6)


def test_it_is_one_over_one_and_snr_where_sigmas_scale_or_flow() -> None:
    euler = scheduler("EulerDiscreteScheduler", timestep_spacing="leading")
    flow = FlowMatchEulerDiscreteScheduler(shift=3.0)
    flow.set_timesteps(STEPS)
    for step in (0, 7, 19):
        sigma = euler.sigmas[step].item()
        assert noise_share(euler, step) == pytest.approx(sigma**2 / (1 + sigma**2), abs=1e-6)
        s = flow.sigmas[step].item()
        assert noise_share(flow, step) == pytest.approx(s**2 / ((1 - s) ** 2 + s**2), abs=1e-6)


def test_equal_timesteps_are_equal_noise_whatever_the_scheduler() -> None:
    ddim, euler = scheduler("DDIMScheduler"), scheduler("EulerDiscreteScheduler", timestep_spacing="leading")
    assert ddim.timesteps.tolist() == euler.timesteps.tolist()
    for step in range(STEPS):
        assert noise_share(ddim, step) == pytest.approx(noise_share(euler, step), abs=1e-5)


def test_one_strength_is_other_noise_under_karras() -> None:
    step = STEPS - int(0.33 * STEPS)
    karras = scheduler("DPMSolverMultistepScheduler", use_karras_sigmas=True)
    shares = [noise_share(one, step) for one in (scheduler("DDIMScheduler"), karras)]
    assert shares == pytest.approx([0.325, 0.067], abs=5e-3)


@pytest.mark.parametrize("name", [name for name in KNOWN if name != "PNDMScheduler"])
def test_it_falls_with_the_steps_and_leaves_the_scheduler_as_it_was(name: str) -> None:
    one = scheduler(name)
    shares = [noise_share(one, step) for step in range(STEPS)]
    assert all(0 <= share <= 1 for share in shares)
    assert all(later < earlier for earlier, later in pairwise(shares))
    assert getattr(one, "begin_index", None) is None


def test_it_is_the_variance_of_a_noised_state() -> None:
    ddim = scheduler("DDIMScheduler")
    generator = torch.Generator().manual_seed(0)
    x, noise = (torch.randn(200_000, generator=generator, dtype=torch.float64) for _ in range(2))
    at = ddim.timesteps[7:8]
    pure = noised(ddim, torch.zeros_like(x), noise, at)
    whole = noised(ddim, x, noise, at)
    assert (pure.var() / whole.var()).item() == pytest.approx(noise_share(ddim, 7), abs=0.01)
