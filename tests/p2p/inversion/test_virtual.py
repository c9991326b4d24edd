"""Virtual inversion: the source comes back bit by bit, an edit is what the paper's formulas make of it, on
tiny pipelines of few-step models, and on paper where the network's answer is known.
"""

from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import (
    DDIMScheduler,
    DDPMScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    LCMScheduler,
    PixArtSigmaPipeline,
    PNDMScheduler,
)
from torch import Tensor

from p2p import (
    EditRequest,
    FixedSeed,
    Group,
    Inversion,
    Model,
    PixArtSigma,
    PromptToPrompt,
    Sampling,
    StableDiffusion,
    Virtual,
    generate,
)
from p2p.engine import source_paths, tree_latents
from p2p.evaluations import plan_evaluations
from p2p.noise_levels import NoiseLevels
from p2p.sampling import Calls
from tests.p2p.families import test_pixart
from tests.p2p.families.test_few_steps import SIDES, lcm_folder, sd_folder
from tests.p2p.families.test_stable_diffusion_xl import folder as sdxl_folder
from tests.p2p.families.yamls import from_yaml
from tests.p2p.inversion.inverting import SOURCE, SWAP, encoded, latents

__all__ = ["lcm_folder", "sd_folder", "sdxl_folder"]  # fixtures

STEPS = 4
SEED = 3
EXACT, SINGLE = 1e-8, 1e-4  # levels are float32 in both; through a random UNet their rounding grows


@pytest.fixture(scope="module", params=["lcm", "lcm_guided", "sdxl_turbo", "sd_turbo"])
def few_step(request: pytest.FixtureRequest) -> tuple[str, Model]:
    """A few-step model, loaded through its YAML, in double precision, with pictures of 32 pixels."""
    name = request.param
    folders = {"lcm": "lcm_folder", "lcm_guided": "lcm_folder", "sdxl_turbo": "sdxl_folder"}
    folder: Path = request.getfixturevalue(folders.get(name, "sd_folder"))
    own = {"sdxl_turbo": ["variant=null"], "lcm_guided": ["height=32", "width=32"]}.get(name, [])
    return name, from_yaml(name, f"path={folder}", *SIDES, *own).load()


def one_edit(model: Model, image: Tensor, method: Any, inversion: Inversion) -> Group:
    edit = method.trajectory(EditRequest(SOURCE, SWAP), model.tokenizers, STEPS)
    return Group(SOURCE, SEED, (edit,), lambda: image, inversion)


def by_the_paper(model: Model, name: str, picture: Tensor, guidance: float) -> Tensor:
    """Return the edit by Algorithm 2 of the paper with nothing injected, epsilon by epsilon."""
    pipeline, draws = model.pipeline, torch.Generator().manual_seed(SEED)
    alphas = pipeline.scheduler.alphas_cumprod.double()
    told = name == "lcm"  # by the network's own input, where others have unconditional rows

    def epsilon(state: Tensor, timestep: int, prompt: str, scale: float) -> Tensor:
        def row(text: str, negative: bool = False) -> Tensor:
            given = {k: v[None] for k, v in model.encode_prompt(text, negative).items()}
            hidden = given.pop("encoder_hidden_states")
            scales = torch.tensor([scale - 1])
            size = pipeline.unet.config.time_cond_proj_dim
            condition = pipeline.get_guidance_scale_embedding(scales, size).double() if told else None
            return pipeline.unet(
                state, timestep, hidden, timestep_cond=condition, added_cond_kwargs=given or None
            ).sample

        if told or scale == 1:
            return row(prompt)
        negative = row("", True)
        return negative + scale * (row(prompt) - negative)

    source = target = model.draw_noise([draws])
    times = [int(t) for t in model.new_scheduler(STEPS).timesteps]
    for step, timestep in enumerate(times):
        signal, noise = alphas[timestep].sqrt(), (1 - alphas[timestep]).sqrt()
        consistent = (source - signal * picture) / noise
        own, other = epsilon(source, timestep, SOURCE, 1.0), epsilon(target, timestep, SWAP, guidance)
        moved = (target - noise * (other - own + consistent)) / signal
        if step + 1 == len(times):
            break
        after, drawn = alphas[times[step + 1]], model.draw_noise([draws])
        source, target = (after.sqrt() * x + (1 - after).sqrt() * drawn for x in (picture, moved))
    return moved


@pytest.mark.parametrize("skip", [0.0, 0.25])
@torch.no_grad()
def test_the_source_comes_back_bit_by_bit(few_step: tuple[str, Model], picture: Tensor, skip: float) -> None:
    name, model = few_step
    sampling = from_yaml_sampling(name)
    one = one_edit(model, picture, PromptToPrompt(tau=0.2), Virtual(skip=skip))
    found = tree_latents(model, [one], sampling)
    original = model.encode(picture[None])[0]
    assert torch.equal(found[0, 0], original)
    assert (found[0, 1] - original).abs().max() > 0.01
    [edited] = generate(model, [one], sampling)
    assert torch.equal(edited.reconstruction, model.decode(original[None])[0])


@torch.no_grad()
def test_a_transformer_of_diffusion_gives_the_source_back_too(picture: Tensor) -> None:
    """PixArt, whose network predicts a variance beside the noise, with DDIM."""
    pipeline = test_pixart.tiny_pipeline(PixArtSigmaPipeline)
    config = dict(pipeline.scheduler.config, clip_sample=False, thresholding=False)
    pipeline.scheduler = DDIMScheduler.from_config(config)
    model = PixArtSigma(pipeline, 8, 8)
    edits = (PromptToPrompt(tau=0.2), FixedSeed())
    made = tuple(m.trajectory(EditRequest(SOURCE, SWAP), model.tokenizers, STEPS) for m in edits)
    found = tree_latents(model, [Group(SOURCE, SEED, made, lambda: picture, Virtual())], Sampling(STEPS, 2.0))
    assert torch.equal(found[0, 0], model.encode(picture[None])[0])
    assert (found[0, 1] - found[0, 2]).abs().max() > 0.01


def from_yaml_sampling(name: str) -> Sampling:
    return Sampling(STEPS, {"lcm": 8.5, "lcm_guided": 2.0}.get(name, 1.0))


@torch.no_grad()
def test_an_edit_is_the_papers(few_step: tuple[str, Model], picture: Tensor) -> None:
    name, model = few_step
    sampling = from_yaml_sampling(name)
    found = tree_latents(model, [one_edit(model, picture, FixedSeed(), Virtual())], sampling)
    expected = by_the_paper(model, name, model.encode(picture[None]), sampling.guidance_scale)[0]
    size = float(expected.abs().max())
    torch.testing.assert_close(found[0, 1], expected, rtol=0, atol=SINGLE * size)


def test_a_constant_difference_moves_the_picture_as_far_as_on_paper(
    model: StableDiffusion, image: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the network answers 0 to the source and d to the target, each step moves the edit by -d s / a.

    The first state is noise alone for both; from then on the target's is ahead by a times its way so far,
    which the step's own a takes back: the way is -d times the sum of s / a over the steps, whatever is drawn.
    """
    difference = 0.25
    texts = [model.encode_prompt(prompt)["encoder_hidden_states"] for prompt in (SOURCE, SWAP)]

    def predict(rows: Tensor, timestep: Tensor, conditioning: Any, injection: Any, *_: Any) -> Tensor:
        if injection:
            injection.visited += list(model.denoiser.attn_processors)
        told = [torch.equal(row, texts[1]) for row in conditioning["encoder_hidden_states"]]
        return torch.ones_like(rows) * torch.tensor(told)[:, None, None, None] * difference

    monkeypatch.setattr(model, "predict", predict)
    source, edit = latents(model, image, Virtual(), [(SWAP, FixedSeed())], Sampling(STEPS, 1.0))
    alphas = model.pipeline.scheduler.alphas_cumprod.double()
    way = sum(((1 - alphas[int(t)]) / alphas[int(t)]).sqrt() for t in model.new_scheduler(STEPS).timesteps)
    torch.testing.assert_close(source, encoded(model, image), rtol=0, atol=0)
    torch.testing.assert_close(edit, source - difference * way, rtol=0, atol=EXACT)


def test_pictures_of_the_states_are_those_of_diffusers(model: StableDiffusion) -> None:
    """And the mean after a step is that of DDIM with eta 1, in epsilon and in v."""
    state, output = torch.randn(2, 1, 4, 8, 8, generator=torch.Generator().manual_seed(0)).double()
    for prediction in ("epsilon", "v_prediction"):
        config = dict(model.pipeline.scheduler.config, prediction_type=prediction, set_alpha_to_one=True)
        scheduler = DDIMScheduler.from_config(config)
        scheduler.set_timesteps(STEPS)
        levels = NoiseLevels.of(scheduler)
        for step, timestep in enumerate(scheduler.timesteps):
            if step + 1 < STEPS:
                scheduler.final_alpha_cumprod = scheduler.alphas_cumprod[scheduler.timesteps[step + 1]]
            else:
                scheduler.final_alpha_cumprod = torch.tensor(1.0)
            none = torch.zeros_like(state)
            mean, picture = scheduler.step(
                output, timestep, state, eta=1.0, variance_noise=none, return_dict=False
            )
            torch.testing.assert_close(levels.picture(step, state, output), picture, rtol=0, atol=1e-5)
            torch.testing.assert_close(levels.mean(step, state, output), mean, rtol=0, atol=1e-5)


def test_an_edit_costs_its_states_and_no_inversion(few_step: tuple[str, Model], picture: Tensor) -> None:
    name, model = few_step
    sampling, counted = from_yaml_sampling(name), []
    one = one_edit(model, picture, PromptToPrompt(tau=0.2), Virtual(skip=0.25))
    source_paths(model, [one], sampling, Calls(64, counted.append))
    assert counted == []
    tree_latents(model, [one], sampling, Calls(64, counted.append))
    rows = 2 if name == "lcm_guided" else 1
    planned = plan_evaluations([one], STEPS, sampling, model.guidance_embedded)
    assert sum(counted) == planned == 2 * rows * 3


def test_maps_of_the_source_hold_an_edit_back(model: StableDiffusion, image: Tensor) -> None:
    held, free = PromptToPrompt(tau=0, self_replace_steps=1.0), FixedSeed()
    source, *edits = latents(model, image, Virtual(), [(SWAP, held), (SWAP, free)], Sampling(STEPS, 1.0))
    assert (edits[0] - source).abs().mean() < (edits[1] - source).abs().mean()


@pytest.mark.parametrize(
    ("kind", "config", "message"),
    [
        (FlowMatchEulerDiscreteScheduler, {}, "scheduler: FlowMatchEulerDiscreteScheduler is for flow match"),
        (PNDMScheduler, {}, "scheduler: PNDMScheduler has no such noise levels, allowed are DDIMScheduler"),
        (LCMScheduler, {"clip_sample": True}, "scheduler: clip_sample=True cannot be inverted, allowed is"),
        (LCMScheduler, {"prediction_type": "sample"}, "scheduler: prediction_type=sample cannot be inverted"),
        (DDPMScheduler, {"variance_type": "learned"}, "scheduler: variance_type=learned cannot be inverted"),
        (EulerDiscreteScheduler, {"use_karras_sigmas": True}, "scheduler: step 2 of 5 is at timestep"),
        (EulerDiscreteScheduler, {"timestep_spacing": "linspace"}, "scheduler: step 2 of 5 is at timestep"),
    ],
)
def test_a_scheduler_without_its_levels_is_refused(kind: Any, config: dict[str, Any], message: str) -> None:
    plain = {} if kind is FlowMatchEulerDiscreteScheduler else {"timestep_spacing": "trailing"}
    if kind in (LCMScheduler, DDPMScheduler):
        plain["clip_sample"] = False
    scheduler = kind(**{**plain, **config})
    scheduler.set_timesteps(5)
    with pytest.raises(ValueError, match=f"^{message}") as refused:
        Virtual().check(scheduler, Sampling(5, 1.0))
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("inversion", "guidance", "message"),
    [
        (Virtual(skip=0.2), 1.0, "skip: 0.2 of 4 steps is no step, allowed are 0 and 1/4 or more"),
        (Virtual(2.0), 1.0, "guidance_scale: 2.0 for the source with guidance off for its edits"),
    ],
)
def test_settings_that_do_nothing_are_refused(inversion: Virtual, guidance: float, message: str) -> None:
    scheduler = DDIMScheduler(clip_sample=False)
    scheduler.set_timesteps(4)
    with pytest.raises(ValueError, match=f"^{message}"):
        inversion.check(scheduler, Sampling(4, guidance))
    for make in (lambda: Virtual(0.5), lambda: Virtual(skip=1.0), lambda: Virtual(skip=True)):
        with pytest.raises(ValueError, match=r"^(guidance_scale|skip): "):
            make()
