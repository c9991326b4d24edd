"""LDM-256: a tiny random LDMTextToImagePipeline against its own call and against formed maps."""

from pathlib import Path

import pytest
import torch
from diffusers import LDMTextToImagePipeline, UNet2DConditionModel, VQModel
from diffusers.pipelines.latent_diffusion.pipeline_latent_diffusion import LDMBertConfig, LDMBertModel

from p2p import LatentDiffusion
from tests.p2p.families.materialised import EDITS, SAMPLING, STEPS, check_edit, check_plain
from tests.p2p.families.unets import ddim, look_at_the_prompt, tiny_vae
from tests.p2p.families.yamls import from_yaml
from tests.tiny_text import tiny_bert_tokenizer

pytestmark = pytest.mark.xdist_group("latent_diffusion")


def save(folder: Path, quantised: bool) -> Path:
    """Save the pipeline: 16x16 latents of 8 pixels, attention at 16x16 and 8x8."""
    torch.manual_seed(0)
    tokenizer = tiny_bert_tokenizer(tokens=512)  # as published; the pipeline cuts at 77
    unet = UNet2DConditionModel(
        sample_size=16,
        down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
        block_out_channels=(16, 32),
        layers_per_block=1,
        attention_head_dim=2,
        cross_attention_dim=32,
        norm_num_groups=8,
    )
    vq = VQModel(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(8,) * 4,
        latent_channels=4,
        norm_num_groups=4,
        num_vq_embeddings=32,
    )
    bert = LDMBertModel(
        LDMBertConfig(
            vocab_size=len(tokenizer),
            encoder_layers=2,
            encoder_ffn_dim=64,
            encoder_attention_heads=2,
            head_dim=16,
            d_model=32,
        )
    )
    pipeline = LDMTextToImagePipeline(
        vqvae=vq if quantised else tiny_vae(levels=4),
        bert=bert,
        tokenizer=tokenizer,
        unet=look_at_the_prompt(unet),
        scheduler=ddim(),
    )
    pipeline.save_pretrained(folder)
    return folder


def load(folder: Path) -> LatentDiffusion:
    spec = from_yaml("ldm256", f"path={folder}", "dtype=float64")
    assert [t.model_max_length for t in spec.load_tokenizers()] == [77]
    model = spec.load()
    assert isinstance(model, LatentDiffusion)
    return model


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> LatentDiffusion:
    return load(save(tmp_path_factory.mktemp("ldm") / "pipeline", quantised=False))


def call(model: LatentDiffusion, prompts: list[str], generators: list[torch.Generator]) -> torch.Tensor:
    return model.pipeline(
        prompts,
        num_inference_steps=STEPS,
        guidance_scale=SAMPLING.guidance_scale,
        generator=generators,
        output_type="pt",
    ).images


@pytest.mark.parametrize("quantised", [False, True])
def test_it_equals_plain_diffusers(model: LatentDiffusion, tmp_path: Path, quantised: bool) -> None:
    if quantised:
        model = load(save(tmp_path / "pipeline", quantised=True))
    check_plain(
        model,
        lambda prompts, generators: call(model, prompts, generators),
        lambda prompt, seed: call(model, [prompt], [torch.Generator().manual_seed(seed)])[0],
    )
    assert model.encode(torch.rand(2, 3, 128, 128)).shape == (2, *model.latent_shape)


@pytest.mark.parametrize(
    "name", [n if n in ("replace", "refine") else pytest.param(n, marks=pytest.mark.slow) for n in EDITS]
)
def test_edits_equal_formed_maps(model: LatentDiffusion, name: str) -> None:
    check_edit(model, lambda prompts, generators: call(model, prompts, generators), name)
