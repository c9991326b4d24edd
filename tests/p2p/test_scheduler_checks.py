"""What cannot work is refused before weights load, and how a scheduler's state is split is found out."""

from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
from diffusers import (
    DDIMScheduler,
)
from torch import Tensor

from p2p import (
    ModelSpec,
)
from p2p.schedulers import KNOWN, fork, new_scheduler, set_timesteps, take_step
from tests.p2p.scheduler_list import REFUSED, SCHEDULERS, STEPS


def test_all_that_diffusers_calls_compatible_are_tested_or_refused() -> None:
    compatible = {kind.__name__ for kind in DDIMScheduler().compatibles}
    compatible |= set(diffusers.schedulers.KarrasDiffusionSchedulers.__members__)
    tested = {name for name, _, _ in SCHEDULERS}
    assert compatible <= tested | set(REFUSED)
    assert tested == set(KNOWN)


@pytest.mark.parametrize("name", REFUSED)
def test_a_scheduler_that_cannot_work_is_refused_before_weights_load(tiny_folder: Path, name: str) -> None:
    with pytest.raises(ValueError, match="allowed are DDIMScheduler, DDPMScheduler") as error:
        ModelSpec("tiny", str(tiny_folder), 16, 16, scheduler=name).unet_calls(STEPS)
    assert str(error.value).startswith(f"scheduler: {name} {REFUSED[name]}")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("name", "config", "message"),
    [
        ("PNDMScheduler", {}, "15 times for 6 steps .*skip_prk_steps: true leaves the Runge-Kutta calls out"),
        (
            "EulerAncestralDiscreteScheduler",
            {"prediction_type": "sample"},
            "cannot take step 1 of 6: .*sample",
        ),
        ("DDIMScheduler", {"prediction_type": "noise"}, "cannot take step 1 of 6: prediction_type given as"),
        (
            "DDIMScheduler",
            {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"},
            "not finite: zero terminal SNR needs prediction_type v_prediction or sample",
        ),
        ("LCMScheduler", {"original_inference_steps": 4}, "does not make 6 steps: .*smaller than"),
        ("DDIMScheduler", {"beta_schedule": "steep"}, "cannot be made from its config: steep is not"),
        ("DDIMInverseScheduler", {}, "goes from the image to noise"),
        ("RePaintScheduler", {}, "RePaintScheduler"),
        ("FlowMatchEulerDiscreteScheduler", {}, "is for flow matching, this model is not"),
    ],
)
def test_configs_that_cannot_work_are_refused_too(
    tiny_folder: Path, name: str, config: dict[str, Any], message: str
) -> None:
    spec = ModelSpec("tiny", str(tiny_folder), 16, 16, scheduler=name, scheduler_config=config)
    with pytest.raises(ValueError, match=message) as error:
        spec.unet_calls(STEPS)
    assert str(error.value).startswith(f"scheduler: {name} ")
    assert "\n" not in str(error.value)


def test_a_setting_that_no_scheduler_has_is_an_error(tiny_folder: Path) -> None:
    def spec(**config: Any) -> ModelSpec:
        name = "EulerDiscreteScheduler"
        return ModelSpec("tiny", str(tiny_folder), 16, 16, scheduler=name, scheduler_config=config)

    message = "scheduler_config: 'beta_strat' is no setting of EulerDiscreteScheduler, allowed are beta_end, "
    with pytest.raises(ValueError, match=message) as error:
        spec(beta_strat=0.1, beta_end=0.2).load_scheduler()
    assert "\n" not in str(error.value)
    assert spec(beta_end=0.2).load_scheduler().config.beta_end == 0.2
    spec(set_alpha_to_one=False).load_scheduler()  # DDIM's, as a model's file has it for its own scheduler


class Hidden(DDIMScheduler):
    """Keeps its last sample where `fork` does not look."""

    def set_timesteps(self, *args: Any, **kwargs: Any) -> None:
        super().set_timesteps(*args, **kwargs)
        self.memory: dict[str, Tensor] = {}

    def step(self, model_output: Tensor, timestep: Tensor, sample: Tensor, return_dict: bool = True) -> Any:
        last = self.memory.get("last", sample)
        self.memory["last"] = sample
        [latents] = super().step(model_output, timestep, sample, return_dict=False)[:1]
        return (latents + 0.1 * last,)


class OneDraw(DDIMScheduler):
    """Draws noise of its own, whatever the generators say."""

    def step(
        self, model_output: Tensor, timestep: Tensor, sample: Tensor, generator: Any = None, **_: Any
    ) -> Any:
        return (sample + torch.randn(sample.shape, dtype=sample.dtype),)


class Coupled(DDIMScheduler):
    """Lets rows see each other."""

    def step(self, model_output: Tensor, timestep: Tensor, sample: Tensor, return_dict: bool = True) -> Any:
        return (sample - 0.1 * model_output.mean(0, keepdim=True),)


@pytest.mark.parametrize(("kind", "state"), [(Hidden, "memory"), (OneDraw, "unknown"), (Coupled, "unknown")])
def test_a_state_that_the_engine_does_not_know_is_found(kind: Any, state: str) -> None:
    with pytest.raises(ValueError, match=f"{kind.__name__} has a state that cannot be split .*{state}"):
        set_timesteps(kind(), STEPS)


class Undone(Hidden):
    """The same memory, where `fork` looks."""

    def set_timesteps(self, *args: Any, **kwargs: Any) -> None:
        super().set_timesteps(*args, **kwargs)
        self.kept: list[Tensor] = []

    def step(self, model_output: Tensor, timestep: Tensor, sample: Tensor, return_dict: bool = True) -> Any:
        self.memory = {"last": self.kept[0]} if self.kept else {}
        self.kept = [sample]
        latents = super().step(model_output, timestep, sample)
        self.memory = {}
        return latents


def test_a_state_of_latents_in_a_list_is_split() -> None:
    assert set_timesteps(Undone(), STEPS) == STEPS


def test_rows_of_a_group_get_one_draw_and_groups_their_own() -> None:
    scheduler = new_scheduler("DDPMScheduler", {})
    set_timesteps(scheduler, STEPS)
    latents, output = torch.ones(4, 4, 2, 2), torch.zeros(4, 4, 2, 2)
    generators = [torch.Generator().manual_seed(seed) for seed in (0, 1)]
    rows = take_step(scheduler, output, scheduler.timesteps[0], latents, [0, 1, 0, 0], generators)
    assert torch.equal(rows[0], rows[2])
    assert torch.equal(rows[0], rows[3])
    assert not torch.allclose(rows[0], rows[1])
    again = torch.Generator().manual_seed(0)
    torch.randn(1, 4, 2, 2, generator=again)
    assert torch.equal(generators[0].get_state(), again.get_state())  # drawn from once, not once a row


def test_what_is_not_latents_is_not_split() -> None:
    scheduler = new_scheduler("UniPCMultistepScheduler", {})
    set_timesteps(scheduler, STEPS)
    before = {name: value for name, value in vars(scheduler).items() if isinstance(value, Tensor)}
    fork(scheduler, torch.tensor([0, 0, 1]), torch.zeros(2, 4, 4, 4))
    assert all(getattr(scheduler, name) is value for name, value in before.items())
