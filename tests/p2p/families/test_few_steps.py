"""Models of few steps, each loaded through its YAML: source and tau = 1 equal diffusers' own call, with the
steps and the guidance of the model's card.
"""

from pathlib import Path

import pytest
import torch
from diffusers import (
    FlowMatchEulerDiscreteScheduler,
    LatentConsistencyModelPipeline,
    LCMScheduler,
    StableDiffusionPipeline,
    UNet2DConditionModel,
)

from p2p import EditRequest, FixedSeed, Group, Model, PromptToPrompt, Sampling
from p2p.engine import tree_latents
from tests.p2p.families import test_flux, test_stable_diffusion_3
from tests.p2p.families.test_stable_diffusion_xl import folder as sdxl_folder
from tests.p2p.families.yamls import from_yaml
from tests.tiny import save_tiny_pipeline

__all__ = ["sdxl_folder"]  # a fixture

SOURCE, SWAP = "a cat on a bench", "a dog on a bench"
SIDES = ("self_max_side=8", "blend_side=8", "dtype=float64")
EXACT, SINGLE = 1e-8, 1e-5  # Euler's samplers and flow matching's round to single precision themselves


def assert_equals_its_own_call(
    model: Model, steps: int, scale: float, own_scale: float, tolerance: float, **call: object
) -> None:
    """Compare with the pipeline's call at the guidance of the model's card, where 0 is off."""
    edits = [
        method.trajectory(EditRequest(SOURCE, SWAP), model.tokenizers, steps)
        for method in (FixedSeed(), PromptToPrompt(tau=1), PromptToPrompt(tau=0, self_replace_steps=1.0))
    ]
    latents = tree_latents(model, [Group(SOURCE, 3, tuple(edits))], Sampling(steps, scale))
    for branch, prompt in enumerate([SOURCE, SWAP, SWAP]):
        plain = model.pipeline(
            prompt,
            num_inference_steps=steps,
            guidance_scale=own_scale,
            generator=torch.Generator().manual_seed(3),
            output_type="latent",
            **call,
        ).images
        if plain.shape[1:] != latents[0, branch].shape:  # Flux's are packed
            plain = test_flux.unpacked(plain)
        torch.testing.assert_close(latents[0, branch], plain[0].double(), rtol=0, atol=tolerance)
    assert (latents[0, 3] - latents[0, 1]).abs().max() > 100 * tolerance


@pytest.fixture(scope="module")
def sd_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_pipeline(tmp_path_factory.mktemp("sd") / "pipeline")


@pytest.fixture(scope="module")
def lcm_folder(sd_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of the published folder's class, whose UNet is told the guidance scale."""
    options = {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}
    parts = StableDiffusionPipeline.from_pretrained(sd_folder, **options).components
    torch.manual_seed(0)
    unet = UNet2DConditionModel.from_config({**parts["unet"].config, "time_cond_proj_dim": 32})
    with torch.no_grad():  # so that it looks at its prompt
        for name, parameter in unet.named_parameters():
            if "attn" in name and name.endswith(("to_k.weight", "to_v.weight", "to_out.0.weight")):
                parameter.mul_(4)
    parts |= {"unet": unet, "scheduler": LCMScheduler.from_config(parts["scheduler"].config)}
    folder = tmp_path_factory.mktemp("lcm") / "pipeline"
    LatentConsistencyModelPipeline(**parts, requires_safety_checker=False).save_pretrained(folder)
    return folder


@pytest.mark.parametrize("steps", [1, 4])
def test_a_latent_consistency_model(lcm_folder: Path, steps: int) -> None:
    spec = from_yaml("lcm", f"path={lcm_folder}", *SIDES)
    assert spec.unet_calls(steps) == steps
    model = spec.load()
    assert type(model.pipeline) is LatentConsistencyModelPipeline
    assert_equals_its_own_call(model, steps, 8.5, 8.5, EXACT)
    with pytest.raises(ValueError, match="negative_prompt: 'fog' does nothing"):
        tree_latents(model, [Group(SOURCE, 3, ())], Sampling(steps, 8.5, negative_prompt="fog"))


def test_a_latent_consistency_model_is_planned_without_weights() -> None:
    spec = from_yaml("lcm")
    assert spec.guidance_embedded()  # one row a state, told by its class
    assert spec.unet_calls(4) == 4
    assert [len(t("a cat").input_ids) for t in spec.load_tokenizers()] == [4]
    with pytest.raises(ValueError, match="LCMScheduler does not make 51 steps"):
        spec.unet_calls(51)


@pytest.mark.parametrize("steps", [pytest.param(1, marks=pytest.mark.slow), 4])
def test_stable_diffusion_turbo(sd_folder: Path, steps: int) -> None:
    model = from_yaml("sd_turbo", f"path={sd_folder}", *SIDES).load()
    assert model.new_scheduler(4).timesteps.tolist() == [999, 749, 499, 249]
    assert_equals_its_own_call(model, steps, 1.0, 0.0, SINGLE)


@pytest.mark.parametrize("steps", [pytest.param(1, marks=pytest.mark.slow), 4])
def test_stable_diffusion_xl_turbo(sdxl_folder: Path, steps: int) -> None:
    model = from_yaml("sdxl_turbo", f"path={sdxl_folder}", *SIDES, "variant=null").load()
    scheduler = model.new_scheduler(4)
    assert type(scheduler).__name__ == "EulerAncestralDiscreteScheduler"
    assert scheduler.timesteps.tolist() == [999, 749, 499, 249]
    assert_equals_its_own_call(model, steps, 1.0, 0.0, SINGLE)


@pytest.mark.parametrize("name", ["sd_turbo", "sdxl_turbo"])
def test_turbo_models_are_planned_without_weights(name: str) -> None:
    spec = from_yaml(name)
    assert [spec.unet_calls(steps) for steps in (1, 2, 4)] == [1, 2, 4]
    assert spec.load_scheduler().config.timestep_spacing == "trailing"
    assert [len(t("a cat").input_ids) for t in spec.load_tokenizers()] == [4]


@pytest.mark.parametrize(
    ("name", "steps", "scale", "own_scale"),
    [
        ("sd35_medium", 3, 4.5, 4.5),
        pytest.param("sd35_large", 3, 3.5, 3.5, marks=pytest.mark.slow),
        ("sd35_large_turbo", 4, 1.0, 0.0),
    ],
)
def test_stable_diffusion_35(name: str, steps: int, scale: float, own_scale: float, tmp_path: Path) -> None:
    pipeline = test_stable_diffusion_3.tiny_pipeline(with_t5=False)
    pipeline.scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0)  # as published
    pipeline.save_pretrained(tmp_path)
    model = from_yaml(name, f"path={tmp_path}", *SIDES, "leave_out=[text_encoder_3]").load()
    assert_equals_its_own_call(model, steps, scale, own_scale, SINGLE)
    counted = model.new_scheduler(4).sigmas.tolist()
    assert counted[3] == pytest.approx(0.0089, abs=1e-4)  # of four steps three count


@pytest.mark.parametrize("steps", [pytest.param(1, marks=pytest.mark.slow), 4])
def test_flux_schnell_reads_256_tokens(steps: int, tmp_path: Path) -> None:
    test_flux.tiny_pipeline(guidance_embeds=False).save_pretrained(tmp_path)
    side = (*SIDES, "+height=32", "+width=32")
    model = from_yaml("flux_schnell", f"path={tmp_path}", *side).load()
    own = {"height": 32, "width": 32, "max_sequence_length": 256}
    assert_equals_its_own_call(model, steps, 1.0, 0.0, SINGLE, **own)
    longer = from_yaml("flux_schnell", f"path={tmp_path}", *side, "pipeline=FluxPipeline").load()
    plain = [tree_latents(one, [Group(SOURCE, 3, ())], Sampling(steps, 1.0))[0, 0] for one in (model, longer)]
    assert (plain[0] - plain[1]).abs().max() > 100 * SINGLE  # padding is attended
