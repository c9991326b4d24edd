"""TurboEdit (Deutch et al. 2024) leads where its authors' formulas lead, written out step by step, on tiny
pipelines of Turbo models.
"""

from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler, FlowMatchEulerDiscreteScheduler
from torch import Tensor

from p2p import (
    EditFriendly,
    EditRequest,
    FixedSeed,
    Group,
    Inversion,
    Model,
    NoiseShifted,
    PromptToPrompt,
    Sampling,
    StableDiffusion,
)
from p2p.engine import source_paths, tree_latents
from p2p.evaluations import plan_evaluations
from p2p.sampling import Calls
from tests.p2p.families.test_few_steps import SIDES, sd_folder
from tests.p2p.families.test_stable_diffusion_xl import folder as sdxl_folder
from tests.p2p.families.yamls import from_yaml
from tests.p2p.inversion.inverting import SOURCE, SWAP, encoded, latents

__all__ = ["sd_folder", "sdxl_folder"]  # fixtures

STEPS, SEED, W = 5, 3, 1.5
SAMPLING = Sampling(STEPS, W)
ROUNDING = 1e-9


@pytest.fixture(scope="module", params=[pytest.param("sdxl_turbo", marks=pytest.mark.slow), "sd_turbo"])
def turbo(request: pytest.FixtureRequest) -> Model:
    """A Turbo model, loaded through its YAML, in double precision."""
    folder: Path = request.getfixturevalue("sdxl_folder" if "xl" in request.param else "sd_folder")
    own = ["variant=null"] if "xl" in request.param else []
    return from_yaml(request.param, f"path={folder}", *SIDES, *own).load()


def one_edit(model: Model, image: Tensor, edits: list[tuple[str, Any]], inversion: Inversion) -> Group:
    made = tuple(
        method.trajectory(EditRequest(SOURCE, target), model.tokenizers, STEPS) for target, method in edits
    )
    return Group(SOURCE, SEED, made, lambda: image, inversion)


def published(model: Model, picture: Tensor, last_norm: float) -> Tensor:
    """Return the edit by the authors' loop: DDPM's means, w times the difference of two prompts' means."""
    scheduler = DDPMScheduler.from_config(model.pipeline.scheduler.config, clip_sample=False)
    alphas, draws = scheduler.alphas_cumprod.double(), torch.Generator().manual_seed(SEED)
    drawn = [model.draw_noise([draws]) for _ in range(STEPS)][1:]
    times = [799, 599, 399, 199]
    states = [
        alphas[t - 200].sqrt() * picture + (1 - alphas[t - 200]).sqrt() * noise if t > 200 else picture
        for t, noise in zip(times, drawn, strict=True)
    ]

    def mean(state: Tensor, step: int, prompt: str) -> Tensor:
        given = {name: value[None] for name, value in model.encode_prompt(prompt).items()}
        hidden = given.pop("encoder_hidden_states")
        output = model.pipeline.unet(state, times[step], hidden, added_cond_kwargs=given or None).sample
        now = alphas[times[step]]
        then = alphas[times[step + 1]] if step < 3 else torch.tensor(1.0).double()
        beta = 1 - now / then
        start = (state - (1 - now).sqrt() * output) / now.sqrt()
        kept = (now / then).sqrt() * (1 - then) / (1 - now)
        return then.sqrt() * beta / (1 - now) * start + kept * state

    edit = states[0]
    for step, following in enumerate([*states[1:], picture]):
        noise = following - mean(states[step], step, SOURCE)
        if step == 3:
            noise = noise * min(1.0, last_norm / float(noise.norm()))
        own, other = mean(edit, step, SOURCE), mean(edit, step, SWAP)
        edit = noise + own + W * (other - own)
    return edit


@pytest.mark.parametrize("norm", [None, 0.05])
@torch.no_grad()
def test_an_edit_is_the_published_one(turbo: Model, picture: Tensor, norm: float | None) -> None:
    original = turbo.encode(picture[None])
    bound = None if norm is None else norm * (16384 / original.numel()) ** 0.5
    one = one_edit(
        turbo, picture, [(SWAP, FixedSeed()), (SOURCE, FixedSeed())], NoiseShifted(last_norm=bound)
    )
    found = tree_latents(turbo, [one], SAMPLING)
    expected = published(turbo, original, 1e9 if norm is None else norm)[0]
    # Levels are float32 in both; through a random UNet their rounding grows.
    torch.testing.assert_close(found[0, 1], expected, rtol=0, atol=1e-4 * float(expected.abs().max()))
    torch.testing.assert_close(found[0, 2], found[0, 0], rtol=0, atol=ROUNDING)  # the source's own prompt
    back = float((found[0, 0] - original[0]).abs().max())
    # Without a bound what rounding leaves, which the network amplifies; with one what the picture then lacks.
    assert back < 1e-6 if norm is None else back > 1e-3, back


def test_without_a_shift_it_is_edit_friendly_inversion_with_the_sources_prompt_as_negative(
    model: StableDiffusion, image: Tensor
) -> None:
    """Both find one source path on DDIM, whose last alpha is set to 1; guidance 1 leaves the negative out."""
    kept = model.pipeline.scheduler
    model.pipeline.scheduler = DDIMScheduler.from_config(kept.config, set_alpha_to_one=True)
    try:
        plain, edits = Sampling(4, 1.0), [(SWAP, PromptToPrompt(tau=0.4))]
        ours = latents(model, image, NoiseShifted(skip=0.25, shift=0, last_norm=None), edits, plain)
        theirs = latents(model, image, EditFriendly(1.0, 0.25), edits, plain)
    finally:
        model.pipeline.scheduler = kept
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-4)  # DDIM's coefficients are float32
    torch.testing.assert_close(ours[0], encoded(model, image), rtol=0, atol=ROUNDING)


def test_it_costs_a_row_for_each_step_that_is_run(turbo: Model, picture: Tensor) -> None:
    counted: list[int] = []
    one = one_edit(turbo, picture, [(SWAP, PromptToPrompt(tau=0.2))], NoiseShifted())
    paths = source_paths(turbo, [one], SAMPLING, Calls(64, counted.append))
    assert sum(counted) == 4
    tree_latents(turbo, [one], SAMPLING, Calls(64, counted.append), paths)
    assert sum(counted) == plan_evaluations([one], STEPS, SAMPLING) == 4 + 2 * 2 * 4


@pytest.mark.parametrize(
    ("inversion", "sampling", "told", "message"),
    [
        (NoiseShifted(), SAMPLING, True, "scheduler: pseudo-guidance needs unconditional rows"),
        (
            NoiseShifted(),
            Sampling(5, 1.5, negative_prompt="fog"),
            False,
            "negative_prompt: 'fog' does nothing",
        ),
        (
            NoiseShifted(),
            Sampling(4, 1.5),
            False,
            "skip: 0.2 of 4 steps is no step, allowed are 0 and 1/4 or",
        ),
    ],
)
def test_what_it_cannot_do_is_refused(
    inversion: NoiseShifted, sampling: Sampling, told: bool, message: str
) -> None:
    scheduler = DDIMScheduler(clip_sample=False)
    scheduler.set_timesteps(sampling.num_inference_steps)
    with pytest.raises(ValueError, match=f"^{message}"):
        inversion.check(scheduler, sampling, told)
    flow = FlowMatchEulerDiscreteScheduler()
    flow.set_timesteps(5)
    with pytest.raises(ValueError, match="^scheduler: FlowMatchEulerDiscreteScheduler is for flow matching"):
        inversion.check(flow, SAMPLING)
    for make in (
        lambda: NoiseShifted(1.0),
        lambda: NoiseShifted(shift=-1),
        lambda: NoiseShifted(last_norm=-1),
    ):
        with pytest.raises(ValueError, match=r"^(skip|shift|last_norm): "):
            make()
