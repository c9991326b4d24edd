"""Stable Diffusion 2.x: OpenCLIP's activation, heads of one width, linear projections, v-prediction."""

import pytest
import torch
from diffusers import StableDiffusionPipeline, UNet2DConditionModel
from transformers import CLIPTextModel

from p2p import StableDiffusion
from p2p.loading.tokenizer_files import clip_tokenizer
from tests.p2p.families.materialised import EDITS, SAMPLING, STEPS, check_edit, check_plain
from tests.p2p.families.unets import ddim, look_at_the_prompt, tiny_vae
from tests.p2p.families.yamls import from_yaml
from tests.tiny_text import tiny_clip_config


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> StableDiffusion:
    """The pipeline by way of a folder: 16x16 latents, attention at heights 16 and 8."""
    torch.manual_seed(0)
    unet = UNet2DConditionModel(
        sample_size=16,
        down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
        block_out_channels=(16, 32),
        layers_per_block=1,
        attention_head_dim=(2, 4),
        cross_attention_dim=32,
        norm_num_groups=8,
        use_linear_projection=True,
        upcast_attention=True,
    )
    tokenizer = clip_tokenizer()
    tokenizer.pad_token = "!"
    pipeline = StableDiffusionPipeline(
        vae=tiny_vae(),
        text_encoder=CLIPTextModel(tiny_clip_config(32, "gelu")),
        tokenizer=tokenizer,
        unet=look_at_the_prompt(unet),
        scheduler=ddim(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    folder = tmp_path_factory.mktemp("sd2") / "pipeline"
    pipeline.save_pretrained(folder)
    sides = ("self_max_side=8", "blend_side=16")
    model = from_yaml("sd21", f"path={folder}", *sides, "dtype=float64").load()  # with the YAML's scheduler
    assert isinstance(model, StableDiffusion)
    return model


def call(model: StableDiffusion, prompts: list[str], generators: list[torch.Generator], kind: str = "latent"):
    return model.pipeline(
        prompts,
        num_inference_steps=STEPS,
        guidance_scale=SAMPLING.guidance_scale,
        generator=generators,
        output_type=kind,
    ).images


def test_it_equals_plain_diffusers(model: StableDiffusion) -> None:
    assert model.new_scheduler(STEPS).config.prediction_type == "v_prediction"
    check_plain(
        model,
        lambda prompts, generators: call(model, prompts, generators),
        lambda prompt, seed: call(model, [prompt], [torch.Generator().manual_seed(seed)], "pt")[0],
    )


@pytest.mark.parametrize(
    "name", [n if n in ("replace", "refine") else pytest.param(n, marks=pytest.mark.slow) for n in EDITS]
)
def test_edits_equal_formed_maps(model: StableDiffusion, name: str) -> None:
    check_edit(model, lambda prompts, generators: call(model, prompts, generators), name)


def test_it_is_planned_without_weights() -> None:
    spec = from_yaml("sd21")
    assert [len(t("a cat").input_ids) for t in spec.load_tokenizers()] == [4]
    assert spec.unet_calls(50) == 50
