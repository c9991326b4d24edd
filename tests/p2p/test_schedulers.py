"""Every scheduler against plain diffusers with the same seed, and a tree of edits against each edit alone.

Latents are compared, not images.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import (
    StableDiffusionImg2ImgPipeline,
    StableDiffusionPipeline,
    UNet2DConditionModel,
)
from torch import Tensor

from p2p import (
    Calls,
    EditRequest,
    FixedSeed,
    Group,
    ModelSpec,
    PromptToPrompt,
    Sampling,
    SDEdit,
    StableDiffusion,
    generate,
)
from p2p.engine import derived_seed, tree_latents
from p2p.evaluations import plan_evaluations
from p2p.groups import batches
from p2p.schedulers import new_scheduler, set_timesteps, take_step
from tests.p2p.scheduler_list import EXACT, SCHEDULERS, SINGLE, STEPS

SAMPLING = Sampling(STEPS, guidance_scale=3.0)
SOURCE, SWAP, ADD = "a cat on a bench", "a dog on a bench", "a cat with a hat on a bench"
IDS = [" ".join([name, *map(str, config.values())]) for name, config, _ in SCHEDULERS]


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
        guidance_rescale=sampling.guidance_rescale,
        generator=torch.Generator().manual_seed(seed),
        output_type="latent",
    ).images[0]


def small_model(like: StableDiffusion, **config: Any) -> StableDiffusion:
    """Return a pipeline in double precision with a smaller UNet: 8x8 latents, attention at 8x8 and 4x4."""
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
    with torch.no_grad():  # so that it looks at its prompt
        for name, parameter in unet.named_parameters():
            if "attn" in name and name.endswith(("to_k.weight", "to_v.weight", "to_out.0.weight")):
                parameter.mul_(4)
    parts = {**like.pipeline.components, "unet": unet.double().eval().requires_grad_(False)}
    pipeline = StableDiffusionPipeline(**parts, requires_safety_checker=False)
    pipeline.set_progress_bar_config(disable=True)
    return StableDiffusion(pipeline, self_max_side=8, blend_side=8)


@pytest.fixture(scope="module")
def model(tiny_model: StableDiffusion) -> StableDiffusion:
    """An ordinary UNet."""
    return small_model(tiny_model)


@pytest.fixture(scope="module")
def lcm(tiny_model: StableDiffusion) -> StableDiffusion:
    """A UNet that is told the guidance scale, as those of latent consistency models are."""
    model = small_model(tiny_model, time_cond_proj_dim=32)
    model.pipeline.scheduler = new_scheduler("LCMScheduler", {**tiny_model.pipeline.scheduler.config})
    return model


def trajectories(model: StableDiffusion, steps: int = STEPS) -> list[Any]:
    """Return edits that part from each other at several steps; the last two are tau = 1."""
    late = PromptToPrompt(cross_replace_steps=(0.3, 0.8), self_replace_steps=0.0)
    edits = [(SWAP, PromptToPrompt(tau=0.3)), (SWAP, late), (SWAP, PromptToPrompt(tau=0.0))]
    edits += [(ADD, PromptToPrompt(tau=0.4)), (SWAP, PromptToPrompt(tau=1.0)), (SWAP, FixedSeed())]
    return [m.trajectory(EditRequest(SOURCE, target), model.tokenizers, steps) for target, m in edits]


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


ZERO_SNR = {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}
PREDICTIONS: list[tuple[str, dict[str, Any], float, float]] = [  # with guidance_rescale
    ("DDIMScheduler", {"prediction_type": "v_prediction", **ZERO_SNR}, 0.7, EXACT),
    ("DDIMScheduler", {"prediction_type": "sample", **ZERO_SNR}, 0.0, EXACT),
    ("EulerDiscreteScheduler", {"prediction_type": "v_prediction", **ZERO_SNR}, 0.7, SINGLE),
    ("DPMSolverMultistepScheduler", {"prediction_type": "v_prediction"}, 1.0, SINGLE),
]


@pytest.mark.parametrize(("name", "config", "rescale", "tolerance"), PREDICTIONS)
def test_other_predictions_zero_terminal_snr_and_guidance_rescale_equal_plain_diffusers(
    model: StableDiffusion, name: str, config: dict[str, Any], rescale: float, tolerance: float
) -> None:
    sampling = replace(SAMPLING, guidance_rescale=rescale)
    with scheduler_of(model, name, config) as scheduler:
        first = model.new_scheduler(STEPS).timesteps[0]
        assert (first == 999) == ("rescale_betas_zero_snr" in config)
        assert scheduler.config.prediction_type == config["prediction_type"]
        assert_equals_plain_and_alone(model, sampling, tolerance)
        if rescale:
            off = plain(model, SOURCE, 3)
            assert (plain(model, SOURCE, 3, sampling) - off).abs().max() > 1000 * tolerance


def test_a_rescale_that_does_nothing_or_is_no_share_is_an_error() -> None:
    with pytest.raises(ValueError, match="guidance_rescale: 0.7 does nothing at guidance_scale 1"):
        Sampling(guidance_scale=1.0, guidance_rescale=0.7)
    for wrong in (-0.1, 1.5, True, "much", float("nan")):
        with pytest.raises(ValueError, match="guidance_rescale: .* is not a number in \\[0, 1\\]"):
            Sampling(guidance_rescale=wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize("steps", [4, 8])
def test_a_latent_consistency_model_equals_plain_diffusers_at_one_row_a_state(
    lcm: StableDiffusion, steps: int
) -> None:
    sampling = Sampling(steps, guidance_scale=8.5)
    assert_equals_plain_and_alone(lcm, sampling, EXACT)
    group, counted = Group(SOURCE, 3, tuple(trajectories(lcm, steps))), []
    tree_latents(lcm, [group], sampling, Calls(64, counted.append))
    assert sum(counted) == plan_evaluations([group], steps, sampling, guidance_embedded=True)
    assert 2 * sum(counted) == plan_evaluations([group], steps, sampling)
    assert list(batches([group] * 3, replace(sampling, max_batch=14), True)) == [[0, 1], [2]]
    other = plain(lcm, SOURCE, 3, replace(sampling, guidance_scale=2.0))
    assert (other - plain(lcm, SOURCE, 3, sampling)).abs().max() > 1e-3  # the UNet is told


def test_planning_knows_from_the_config_that_a_unet_is_told_the_guidance_scale(
    lcm: StableDiffusion, tiny_folder: Path, tmp_path: Path
) -> None:
    (tmp_path / "unet").mkdir()
    lcm.pipeline.unet.save_config(tmp_path / "unet")  # no weights
    (tmp_path / "model_index.json").write_text("{}")
    assert ModelSpec("lcm", str(tmp_path), 8, 8).guidance_embedded()
    assert lcm.guidance_embedded
    assert not ModelSpec("tiny", str(tiny_folder), 16, 16).guidance_embedded()


@pytest.mark.parametrize("setting", [{"negative_prompt": "fog"}, {"guidance_rescale": 0.5}])
def test_what_needs_unconditional_rows_is_an_error_without_them(
    lcm: StableDiffusion, setting: dict[str, Any]
) -> None:
    with pytest.raises(
        ValueError, match=f"{next(iter(setting))}: .* does nothing, as this model takes the g"
    ):
        tree_latents(lcm, [Group(SOURCE, 3, ())], Sampling(4, **setting))


@pytest.mark.parametrize("strength", [0.5, 1.0])
def test_sdedit_by_a_latent_consistency_model_equals_img2img(lcm: StableDiffusion, strength: float) -> None:
    steps = 4
    edit = SDEdit(strength).trajectory(EditRequest(SOURCE, SWAP), lcm.tokenizers, steps)
    [edited] = generate(lcm, [Group(SOURCE, 3, (edit,))], Sampling(steps, 8.5))
    img2img = StableDiffusionImg2ImgPipeline(**lcm.pipeline.components, requires_safety_checker=False)
    img2img.set_progress_bar_config(disable=True)
    scheduler, generator = lcm.new_scheduler(steps), torch.Generator().manual_seed(derived_seed(3))
    timestep = scheduler.timesteps[edit.start :][:1]
    noise = lcm.draw_noise([generator])
    latents = scheduler.add_noise(lcm.encode(edited.source[None]), noise, timestep)
    img2img.prepare_latents = lambda *_, **__: latents
    [image] = img2img(
        SWAP, edited.source[None], strength, steps, guidance_scale=8.5, generator=generator, output_type="pt"
    ).images
    # 8-bit images: the last digits of a double may turn one level.
    torch.testing.assert_close(edited.images[0], image.float(), rtol=0, atol=1.01 / 255)


@pytest.mark.parametrize(
    ("name", "config"), [(n, c) for n, c, _ in SCHEDULERS if n[:3] not in ("EDM", "PND")]
)
def test_a_start_at_a_middle_step_takes_latents_for_as_noisy_as_they_are(
    tiny_folder: Path, name: str, config: dict[str, Any]
) -> None:
    """With the one right prediction at every step, all starts end at the image, but for the last noise level.

    What is not noise-free in the end is the same at each start (set_alpha_to_one is off here).
    """
    spec = ModelSpec("tiny", str(tiny_folder), 16, 16, scheduler=name, scheduler_config=config)
    ends = []
    for start in range(STEPS):
        scheduler = spec.load_scheduler()
        set_timesteps(scheduler, STEPS)
        if hasattr(scheduler, "set_begin_index"):
            scheduler.set_begin_index(start)
        draws = torch.Generator().manual_seed(0)
        image, noise = torch.randn(2, 1, 4, 4, 4, generator=draws, dtype=torch.float64)
        timesteps = scheduler.timesteps[start:]
        latents = scheduler.add_noise(image, noise, timesteps[:1])
        for step, timestep in enumerate(timesteps, start=start):
            if hasattr(scheduler, "sigmas"):
                sigma = float(scheduler.sigmas[step])
                alpha = (1 + sigma**2) ** -0.5
            else:
                alpha = float(scheduler.alphas_cumprod[timestep]) ** 0.5
            scaled = scheduler.scale_model_input(latents, timestep)
            right = (scaled - alpha * image) / (1 - alpha**2) ** 0.5
            latents = take_step(scheduler, right, timestep, latents, [0], [draws])
        ends.append(latents)
    assert (ends[0] - image).abs().max() < 0.2
    torch.testing.assert_close(torch.stack(ends), ends[0].expand(STEPS, *ends[0].shape), rtol=0, atol=1e-3)


def test_sdedit_that_plms_cannot_start_is_refused(model: StableDiffusion) -> None:
    request = EditRequest(SOURCE, SWAP)
    half, whole = (SDEdit(s).trajectory(request, model.tokenizers, STEPS) for s in (0.5, 1.0))
    with scheduler_of(model, "PNDMScheduler", {"skip_prk_steps": True}):
        generate(model, [Group(SOURCE, 3, (whole,))], SAMPLING)
        with pytest.raises(
            ValueError, match="SDEdit would start at step 3 of a scheduler that makes 7 calls"
        ):
            generate(model, [Group(SOURCE, 3, (half,))], SAMPLING)
