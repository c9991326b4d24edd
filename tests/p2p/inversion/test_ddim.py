"""DDIM inversion on the tiny pipeline in double precision: where it leads, and what it holds on the way."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from diffusers import DDIMScheduler, EulerDiscreteScheduler
from torch import Tensor

from p2p import (
    DDIM,
    Calls,
    Direct,
    FixedSeed,
    Inversion,
    NegativePrompt,
    NullText,
    PromptToPrompt,
    StableDiffusion,
    generate,
)
from p2p.engine import tree_latents
from p2p.inversion.inversion import ddim_levels, ddim_states
from tests.p2p.inversion.inverting import (
    ADD,
    ROUNDING,
    SAMPLING,
    SOURCE,
    STEPS,
    SWAP,
    UNGUIDED,
    encoded,
    error,
    group,
)
from tests.p2p.naive import Settings, naive_latents


def test_ddim_leads_back_the_nearer_the_more_steps(model: StableDiffusion, image: Tensor) -> None:
    few, many = (error(model, image, DDIM(), replace(UNGUIDED, num_inference_steps=n)) for n in (4, 48))
    assert many < few / 3  # a random network is no smooth denoiser: not yet first order
    assert error(model, image, DDIM()) > 2 * few  # under guidance it does not lead back


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
def test_ddim_converges_for_a_smooth_denoiser(
    model: StableDiffusion,
    image: Tensor,
    scheduler: Any,
    monkeypatch: pytest.MonkeyPatch,
    prediction_type: str,
) -> None:
    scheduler(DDIMScheduler, prediction_type=prediction_type)
    alphas = model.pipeline.scheduler.alphas_cumprod.double()

    def of_normal_data(latents: Tensor, timestep: Tensor, *_: object) -> Tensor:
        """Predict for latents that are normal with variance 0.3."""
        alpha = alphas[timestep]
        clean = alpha.sqrt() * 0.3 * latents / (0.3 * alpha + 1 - alpha)
        epsilon = (latents - alpha.sqrt() * clean) / (1 - alpha).sqrt()
        return (
            epsilon if prediction_type == "epsilon" else alpha.sqrt() * epsilon - (1 - alpha).sqrt() * clean
        )

    monkeypatch.setattr(model, "predict", of_normal_data)
    latents = encoded(model, image)[None]
    errors = []
    for steps in (25, 100, 400):
        sampling = replace(UNGUIDED, num_inference_steps=steps)
        found = ddim_states(model, latents, [SOURCE], sampling, Calls(64))[:, 0]
        scheduled = model.new_scheduler(steps)
        for timestep in scheduled.timesteps:
            output = of_normal_data(found, timestep)
            found = scheduled.step(output, timestep, found, return_dict=False)[0]
        errors.append(float((found - latents).abs().max() / latents.abs().max()))
    # First order: a fourth of the step, a fourth of the error, or nearly.
    assert errors[0] > 3 * errors[1] > 9 * errors[2]
    assert errors[2] < 0.02


def test_paths_that_need_the_noise_alone_do_not_hold_all_states(
    model: StableDiffusion, image: Tensor
) -> None:
    latents = model.encode(torch.stack([image, image.flip(1)]))
    for inversion in (DDIM(), NegativePrompt(), NullText(inner_steps=0)):
        for sampling in (SAMPLING, UNGUIDED):
            paths = inversion.invert(model, latents, [SOURCE, SWAP], sampling, [], Calls(64))
            assert {path.latents.untyped_storage().nbytes() for path in paths} == {latents.nbytes}


@pytest.mark.parametrize("operator", ["replace", pytest.param("refine", marks=pytest.mark.slow)])
@pytest.mark.parametrize("inversion", [DDIM(), Direct(), NullText(inner_steps=0)], ids=str)
def test_edits_on_an_inversion_equal_a_naive_loop(
    model: StableDiffusion, image: Tensor, inversion: Inversion, operator: str
) -> None:
    settings = Settings(
        SOURCE, SWAP, operator, "fixed", {"default_": (0.0, 0.8)}, (0.0, 0.5), self_limit=16**2,
        weights={"dog": 2.0}, blend=("cat", "dog"), threshold=(0.5, 0.3),
    )  # fmt: skip
    method = PromptToPrompt(
        operator=operator, cross_replace_steps=0.8, self_replace_steps=0.5, weights={"dog": 2.0},
        blend_threshold=0.5,
    )  # fmt: skip
    states = naive_inversion(model, encoded(model, image), SOURCE)
    put_back = states[1:] if isinstance(inversion, Direct) else None
    naive, controller = naive_latents(
        model.pipeline, settings, 0, STEPS, SAMPLING.guidance_scale, start=states[0], put_back=put_back
    )
    assert controller.nearest > 1e-9
    ours = tree_latents(model, [group(model, image, inversion, [(SWAP, method)], ("cat", "dog"))], SAMPLING)
    torch.testing.assert_close(ours[0, 0], naive[0], rtol=0, atol=1e-8)
    torch.testing.assert_close(ours[0, 1], naive[1], rtol=0, atol=1e-8)


@torch.no_grad()
def naive_inversion(model: StableDiffusion, latents: Tensor, prompt: str) -> list[Tensor]:
    """Return x_T, ..., x_0 of DDIM inversion, the timesteps counted by hand."""
    pipeline = model.pipeline
    ids = pipeline.tokenizer([prompt], padding="max_length", return_tensors="pt").input_ids
    context = pipeline.text_encoder(ids).last_hidden_state
    alphas, stride, states = pipeline.scheduler.alphas_cumprod, 1000 // STEPS, [latents[None]]
    for k in range(STEPS):
        t = 1 + k * stride
        here, there = alphas[max(t - stride, 0)], alphas[t]
        epsilon = pipeline.unet(states[0], t, context).sample
        clean = (states[0] - (1 - here).sqrt() * epsilon) / here.sqrt()
        states.insert(0, there.sqrt() * clean + (1 - there).sqrt() * epsilon)
    return [state[0] for state in states]


def test_states_begin_with_noise_and_end_with_the_image(model: StableDiffusion, image: Tensor) -> None:
    latents = model.encode(torch.stack([image, image.flip(1)]))
    states = ddim_states(model, latents, [SOURCE, SWAP], SAMPLING, Calls(1))
    assert states.shape == (2, STEPS + 1, *latents.shape[1:])
    assert torch.equal(states[:, -1], latents)
    assert len(ddim_levels(model.new_scheduler(STEPS))) == STEPS


def test_where_memory_runs_out_an_inversion_s_calls_are_halved(
    model: StableDiffusion, image: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    latents, prompts = model.encode(torch.stack([image] * 5)), [SOURCE, SWAP, ADD, SOURCE, SWAP]
    wanted = ddim_states(model, latents, prompts, SAMPLING, Calls(64))
    predict, made, most = model.predict, [], 2

    def small(rows: Tensor, *rest: Any) -> Tensor:
        if len(rows) > most:
            raise torch.OutOfMemoryError("no memory for so many rows")
        return predict(rows, *rest)

    monkeypatch.setattr(model, "predict", small)
    calls = Calls(64, made.append)
    states = ddim_states(model, latents, prompts, SAMPLING, calls)
    torch.testing.assert_close(states, wanted, rtol=0, atol=ROUNDING)
    assert calls.max_rows == most
    assert made == [2, 2, 1] * STEPS
    most = 0
    with pytest.raises(torch.OutOfMemoryError):
        ddim_states(model, latents, prompts, SAMPLING, calls)


@pytest.mark.parametrize(
    ("kind", "config", "message"),
    [
        (EulerDiscreteScheduler, {}, "EulerDiscreteScheduler cannot be inverted, allowed is DDIMScheduler"),
        (DDIMScheduler, {"clip_sample": True}, "clip_sample=True cannot be inverted, allowed is False"),
        (DDIMScheduler, {"prediction_type": "sample"}, "allowed is epsilon or v_prediction"),
        (DDIMScheduler, {"timestep_spacing": "linspace"}, "timestep_spacing='linspace' in 4 steps is uneven"),
    ],
)
def test_a_scheduler_that_cannot_be_inverted_says_so(
    model: StableDiffusion, image: Tensor, scheduler: Any, kind: Any, config: dict[str, Any], message: str
) -> None:
    scheduler(kind, **config)
    with pytest.raises(ValueError, match=message):
        generate(model, [group(model, image, DDIM(), [(SWAP, FixedSeed())])], SAMPLING)
