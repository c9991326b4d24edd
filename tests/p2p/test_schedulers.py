"""Every scheduler against plain diffusers with the same seed, and a tree of edits against each edit alone.

Latents are compared, not images. Those that cannot work say so before weights load.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
from diffusers import DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from torch import Tensor

from p2p import EditRequest, FixedSeed, Group, PromptToPrompt, Sampling, StableDiffusion, StableDiffusionSpec
from p2p.engine import tree_latents
from p2p.schedulers import KNOWN, fork, new_scheduler, set_timesteps, take_step

STEPS = 6
SAMPLING = Sampling(STEPS, guidance_scale=3.0)
SOURCE, SWAP, ADD = "a cat on a bench", "a dog on a bench", "a cat with a hat on a bench"
EXACT = 1e-9
# These hold sigmas, or round every step, in single precision whatever they are given; a last digit may grow.
SINGLE = 1e-5

SCHEDULERS: list[tuple[str, dict[str, Any], float]] = [
    ("DDIMScheduler", {}, EXACT),
    ("DDIMScheduler", {"timestep_spacing": "trailing"}, EXACT),
    ("DDPMScheduler", {}, EXACT),
    ("DEISMultistepScheduler", {}, EXACT),
    ("DPMSolverMultistepScheduler", {}, SINGLE),
    ("DPMSolverMultistepScheduler", {"use_karras_sigmas": True, "solver_order": 3}, SINGLE),
    ("DPMSolverMultistepScheduler", {"algorithm_type": "sde-dpmsolver++"}, SINGLE),
    ("DPMSolverSinglestepScheduler", {}, EXACT),
    ("EDMEulerScheduler", {}, SINGLE),
    ("EulerAncestralDiscreteScheduler", {}, SINGLE),
    ("EulerDiscreteScheduler", {}, SINGLE),
    ("LCMScheduler", {}, EXACT),
    ("LMSDiscreteScheduler", {}, EXACT),
    ("PNDMScheduler", {"skip_prk_steps": True}, EXACT),
    ("TCDScheduler", {}, EXACT),
    ("UniPCMultistepScheduler", {}, EXACT),
]
IDS = [" ".join([name, *map(str, config.values())]) for name, config, _ in SCHEDULERS]
REFUSED = {
    "DPMSolverSDEScheduler": "cannot be loaded: DPMSolverSDEScheduler requires the torchsde library",
    "HeunDiscreteScheduler": "calls the UNet 11 times for 6 steps (2 a step), but the windows of an edit",
    "KDPM2DiscreteScheduler": "calls the UNet 11 times for 6 steps (2 a step), but the windows of an edit",
    "KDPM2AncestralDiscreteScheduler": "calls the UNet 11 times for 6 steps (2 a step), but the windows",
}


@contextmanager
def scheduler_of(model: StableDiffusion, name: str, config: dict[str, Any]) -> Iterator[Any]:
    original = model.pipeline.scheduler
    model.pipeline.scheduler = new_scheduler(name, {**original.config, **config})
    try:
        yield model.pipeline.scheduler
    finally:
        model.pipeline.scheduler = original


def plain(model: StableDiffusion, prompt: str, seed: int, sampling: Sampling = SAMPLING) -> Tensor:
    """Return the latents of an ordinary diffusers call."""
    return model.pipeline(
        prompt,
        num_inference_steps=sampling.num_inference_steps,
        guidance_scale=sampling.guidance_scale,
        generator=torch.Generator().manual_seed(seed),
        output_type="latent",
    ).images[0]


def small_unet(**config: Any) -> UNet2DConditionModel:
    """Return a random UNet for 8x8 latents that looks at its prompt; attention at 8x8 and 4x4."""
    torch.manual_seed(0)
    unet = UNet2DConditionModel(
        sample_size=8,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        block_out_channels=(8, 16),
        layers_per_block=1,
        attention_head_dim=2,
        cross_attention_dim=32,
        norm_num_groups=4,
        **config,
    )
    with torch.no_grad():
        for name, parameter in unet.named_parameters():
            if "attn" in name and name.endswith(("to_k.weight", "to_v.weight", "to_out.0.weight")):
                parameter.mul_(4)
    return unet.double().eval().requires_grad_(False)


@pytest.fixture(scope="module")
def model(tiny_model: StableDiffusion) -> StableDiffusion:
    """The tiny pipeline in double precision, with a smaller UNet."""
    pipeline = StableDiffusionPipeline(
        **{**tiny_model.pipeline.components, "unet": small_unet()}, requires_safety_checker=False
    )
    pipeline.set_progress_bar_config(disable=True)
    return StableDiffusion(pipeline, self_max_side=8, blend_side=8)


def trajectories(model: StableDiffusion, steps: int = STEPS) -> list[Any]:
    """Return edits that part from each other at several steps; the last two are tau = 1."""
    late = PromptToPrompt(cross_replace_steps=(0.3, 0.8), self_replace_steps=0.0)
    edits = [(SWAP, PromptToPrompt(tau=0.3)), (SWAP, late), (SWAP, PromptToPrompt(tau=0.0))]
    edits += [(ADD, PromptToPrompt(tau=0.4)), (SWAP, PromptToPrompt(tau=1.0)), (SWAP, FixedSeed())]
    return [m.trajectory(EditRequest(SOURCE, target), model.tokenizer, steps) for target, m in edits]


def assert_equals_plain_and_alone(model: StableDiffusion, sampling: Sampling, tolerance: float) -> None:
    edits = trajectories(model, sampling.num_inference_steps)
    tree = tree_latents(model, [Group(SOURCE, 3, tuple(edits))], sampling)

    def close(branch: int, other: Tensor) -> None:
        torch.testing.assert_close(tree[0, branch], other, rtol=0, atol=tolerance)

    close(0, plain(model, SOURCE, 3, sampling))
    swapped = plain(model, SWAP, 3, sampling)
    close(5, swapped)
    close(6, swapped)
    for number, edit in enumerate(edits[:2], start=1):
        close(number, tree_latents(model, [Group(SOURCE, 3, (edit,))], sampling)[0, 1])
    rows = torch.stack([tree[0, branch] for branch in range(6)]).flatten(1)
    apart = torch.stack([(rows - row).abs().amax(1) for row in rows]).fill_diagonal_(torch.inf)
    assert apart.min() > 100 * tolerance  # no two branches are one


@pytest.mark.parametrize(("name", "config", "tolerance"), SCHEDULERS, ids=IDS)
def test_a_scheduler_equals_plain_diffusers_and_splits_its_history(
    model: StableDiffusion, name: str, config: dict[str, Any], tolerance: float
) -> None:
    with scheduler_of(model, name, config):
        assert_equals_plain_and_alone(model, SAMPLING, tolerance)


def test_all_that_diffusers_calls_compatible_are_tested_or_refused() -> None:
    compatible = {kind.__name__ for kind in DDIMScheduler().compatibles}
    compatible |= {name for name in diffusers.schedulers.KarrasDiffusionSchedulers.__members__}
    tested = {name for name, _, _ in SCHEDULERS}
    assert compatible <= tested | set(REFUSED)
    assert tested == set(KNOWN)


@pytest.mark.parametrize("name", REFUSED)
def test_a_scheduler_that_cannot_work_is_refused_before_weights_load(tiny_folder: Path, name: str) -> None:
    with pytest.raises(ValueError, match="allowed are DDIMScheduler, DDPMScheduler") as error:
        StableDiffusionSpec("tiny", str(tiny_folder), 16, 16, scheduler=name).unet_calls(STEPS)
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
        ("FlowMatchEulerDiscreteScheduler", {}, "no attribute 'scale_model_input'"),
    ],
)
def test_configs_that_cannot_work_are_refused_too(
    tiny_folder: Path, name: str, config: dict[str, Any], message: str
) -> None:
    spec = StableDiffusionSpec("tiny", str(tiny_folder), 16, 16, scheduler=name, scheduler_config=config)
    with pytest.raises(ValueError, match=message) as error:
        spec.unet_calls(STEPS)
    assert str(error.value).startswith(f"scheduler: {name} ")
    assert "\n" not in str(error.value)


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
