"""SDXL: a tiny random StableDiffusionXLPipeline against its own call and against formed maps."""

import copy
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from diffusers import StableDiffusionXLImg2ImgPipeline, StableDiffusionXLPipeline, UNet2DConditionModel
from transformers import CLIPTextModel, CLIPTextModelWithProjection

from p2p import ModelSpec, StableDiffusionXL
from p2p.loading.tokenizer_files import clip_tokenizer
from tests.p2p.families.materialised import (
    EDITS,
    SAMPLING,
    STEPS,
    SWAP,
    check_edit,
    check_no_map,
    check_plain,
    check_sdedit,
)
from tests.p2p.families.unets import ddim, look_at_the_prompt, tiny_vae
from tests.p2p.families.yamls import from_yaml
from tests.tiny_text import tiny_bert_tokenizer, tiny_clip_config

pytestmark = pytest.mark.xdist_group("stable_diffusion_xl")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The pipeline on disk: 16x16 latents, attention at 16x16 and 8x8."""
    torch.manual_seed(0)
    unet = UNet2DConditionModel(
        sample_size=16,
        down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
        block_out_channels=(16, 32),
        layers_per_block=1,
        transformer_layers_per_block=(1, 2),
        attention_head_dim=(2, 4),
        cross_attention_dim=32 + 24,
        norm_num_groups=8,
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=6 * 8 + 16,
    )
    second = clip_tokenizer()
    second.pad_token = "!"
    pipeline = StableDiffusionXLPipeline(
        vae=tiny_vae(),
        text_encoder=CLIPTextModel(tiny_clip_config(32)),
        text_encoder_2=CLIPTextModelWithProjection(tiny_clip_config(24, "gelu", projection=16)),
        tokenizer=clip_tokenizer(),
        tokenizer_2=second,
        unet=look_at_the_prompt(unet),
        scheduler=ddim(),
        add_watermarker=False,
    )
    folder = tmp_path_factory.mktemp("sdxl") / "pipeline"
    pipeline.save_pretrained(folder)
    return folder


def spec(folder: Path, dtype: str = "float64") -> ModelSpec:
    """The YAML's model, but for Euler's scheduler: it rounds every step to single precision."""
    sides = ("self_max_side=16", "blend_side=16")
    return from_yaml(
        "sdxl", f"path={folder}", *sides, f"dtype={dtype}", "variant=null", "scheduler=DDIMScheduler"
    )


@pytest.fixture(scope="module")
def model(folder: Path) -> StableDiffusionXL:
    model = spec(folder).load()
    assert isinstance(model, StableDiffusionXL)
    return model


def call(
    model: StableDiffusionXL, prompts: list[str], generators: list[torch.Generator], kind: str = "latent"
):
    return model.pipeline(
        prompts,
        num_inference_steps=STEPS,
        guidance_scale=SAMPLING.guidance_scale,
        generator=generators,
        output_type=kind,
    ).images


def test_it_equals_plain_diffusers(model: StableDiffusionXL) -> None:
    check_plain(
        model,
        lambda prompts, generators: call(model, prompts, generators),
        lambda prompt, seed: call(model, [prompt], [torch.Generator().manual_seed(seed)], "pt")[0],
    )


@pytest.mark.parametrize(
    "name", [n if n in ("replace", "refine") else pytest.param(n, marks=pytest.mark.slow) for n in EDITS]
)
def test_edits_equal_formed_maps(model: StableDiffusionXL, name: str) -> None:
    check_edit(model, lambda prompts, generators: call(model, prompts, generators), name)


@pytest.mark.usefixtures("padded_calls")
@pytest.mark.parametrize(
    "name", ["refine", *(pytest.param(n, marks=pytest.mark.slow) for n in EDITS if n != "refine")]
)
def test_edits_of_padded_calls_equal_formed_maps(model: StableDiffusionXL, name: str) -> None:
    compiled = replace(model, compile=True)
    check_edit(compiled, lambda prompts, generators: call(model, prompts, generators), name)


def test_no_map_is_formed(model: StableDiffusionXL) -> None:
    check_no_map(model, lambda prompts, generators: call(model, prompts, generators))


def test_an_empty_negative_prompt_is_zeros_where_the_pipeline_says_so(model: StableDiffusionXL) -> None:
    assert all(
        not model.encode_prompt("", negative=True)[n].any() for n in ("encoder_hidden_states", "text_embeds")
    )
    assert model.encode_prompt("", negative=False)["text_embeds"].any()
    assert model.encode_prompt("fog", negative=True)["text_embeds"].any()


def test_it_is_planned_without_weights() -> None:
    spec = from_yaml("sdxl")
    assert [len(t("a cat").input_ids) for t in spec.load_tokenizers()] == [4]
    assert spec.unet_calls(50) == 50


def test_sdedit_equals_img2img_with_the_same_noise(model: StableDiffusionXL) -> None:
    img2img = StableDiffusionXLImg2ImgPipeline(**model.pipeline.components, add_watermarker=False)
    img2img.set_progress_bar_config(disable=True)
    start = [model.encode(torch.full((1, 3, 32, 32), 0.5))]

    def prepare_latents(*_: object, **__: object) -> torch.Tensor:
        return start[0]

    img2img.prepare_latents = prepare_latents
    check_sdedit(
        model,
        start,
        lambda image, generator: img2img(
            SWAP, image=image, strength=0.5, num_inference_steps=STEPS,
            guidance_scale=SAMPLING.guidance_scale, generator=generator, output_type="pt",
        ).images,
    )  # fmt: skip


def test_its_autoencoder_leaves_half_precision_where_it_says_so(folder: Path) -> None:
    half = spec(folder, "float16").load()
    assert half.dtype == torch.float16
    assert half.pipeline.vae.config.force_upcast
    assert half.pipeline.vae.dtype == torch.float32
    latents = half.encode(torch.rand(1, 3, 32, 32))
    assert latents.dtype == torch.float16
    assert half.decode(latents).shape == (1, 3, 32, 32)


def test_two_vocabularies_are_an_error(model: StableDiffusionXL) -> None:
    pipeline = copy.copy(model.pipeline)
    pipeline.tokenizer_2 = tiny_bert_tokenizer()
    with pytest.raises(ValueError, match="it and tokenizer_2 differ"):
        StableDiffusionXL(pipeline, 16, 16)
