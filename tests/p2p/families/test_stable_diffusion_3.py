"""SD3: plain runs equal diffusers' pipeline; formed maps of one softmax over image and text."""

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import (
    DDIMScheduler,
    FlowMatchEulerDiscreteScheduler,
    SD3Transformer2DModel,
    StableDiffusion3Img2ImgPipeline,
    StableDiffusion3Pipeline,
)
from torch import Tensor
from transformers import CLIPTextModelWithProjection

from p2p import EditRequest, Group, ModelSpec, PromptToPrompt, Sampling, SDEdit
from p2p.engine import derived_seed, generate, tree_latents
from p2p.families.stable_diffusion_3 import StableDiffusion3
from p2p.loading.tokenizer_files import clip_tokenizer
from tests.p2p.families.formed import (
    Controller,
    assert_no_map_is_formed,
    edit_joint,
    load,
)
from tests.p2p.families.tiny_parts import heed_text, tiny_vae
from tests.tiny_text import tiny_clip_config, tiny_t5_encoder, tiny_t5_tokenizer

pytestmark = pytest.mark.xdist_group("stable_diffusion_3")

STEPS, SIDE, GUIDANCE = 4, 8, 3.0
SOURCE, SWAP = "a cat on a bench", "a dog on a bench"
# The scheduler rounds latents to single precision at every step; a last digit may turn and grow.
TOLERANCE = 1e-5


def tiny_pipeline(with_t5: bool = True, sample_size: int = 16) -> StableDiffusion3Pipeline:
    """Return a random pipeline in double precision: 16x16 latents, 8x8 tokens; its first block as SD3.5's."""
    torch.manual_seed(0)
    transformer = SD3Transformer2DModel(
        sample_size=sample_size,
        in_channels=4,
        out_channels=4,
        num_layers=3,
        attention_head_dim=8,
        num_attention_heads=2,
        joint_attention_dim=32,
        caption_projection_dim=16,
        pooled_projection_dim=16,
        pos_embed_max_size=32,
        dual_attention_layers=(0,),
        qk_norm="rms_norm",
    )
    heed_text(transformer)
    t5 = tiny_t5_tokenizer() if with_t5 else None
    pipeline = StableDiffusion3Pipeline(
        transformer=transformer,
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
        vae=tiny_vae(shift=0.1),
        text_encoder=CLIPTextModelWithProjection(tiny_clip_config(width=16, projection=8)),
        tokenizer=clip_tokenizer(),
        text_encoder_2=CLIPTextModelWithProjection(tiny_clip_config(width=16, act="gelu", projection=8)),
        tokenizer_2=clip_tokenizer(),
        text_encoder_3=tiny_t5_encoder(t5) if t5 else None,
        tokenizer_3=t5,
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline.to(torch.float64)


@pytest.fixture(scope="module")
def model() -> StableDiffusion3:
    return StableDiffusion3(tiny_pipeline(), SIDE, SIDE)


class FormedProcessor:
    """Attention with formed maps over [image, text] or the image; a controller edits the last two rows."""

    def __init__(self, controller: Controller, pixels: int = SIDE**2) -> None:
        self.controller, self.pixels = controller, pixels

    def __call__(self, attn, hidden_states, encoder_hidden_states=None, attention_mask=None) -> Any:
        def heads(projected: Tensor) -> Tensor:
            return projected.unflatten(-1, (attn.heads, -1)).transpose(1, 2)

        query = attn.norm_q(heads(attn.to_q(hidden_states)))
        key = attn.norm_k(heads(attn.to_k(hidden_states)))
        value = heads(attn.to_v(hidden_states))
        if encoder_hidden_states is not None:
            text = encoder_hidden_states
            query = torch.cat([query, attn.norm_added_q(heads(attn.add_q_proj(text)))], 2)
            key = torch.cat([key, attn.norm_added_k(heads(attn.add_k_proj(text)))], 2)
            value = torch.cat([value, heads(attn.add_v_proj(text))], 2)
        maps = (query @ key.transpose(2, 3) / query.shape[-1] ** 0.5).softmax(-1)
        edited = (
            self.controller.image(maps[-2:])
            if encoder_hidden_states is None
            else edit_joint(self.controller, maps[-2:], slice(self.pixels, None))
        )
        output = (torch.cat([maps[:-2], edited]) @ value).transpose(1, 2).flatten(2)
        image = attn.to_out[0](output[:, : self.pixels])
        if encoder_hidden_states is None:
            return image
        words = output[:, self.pixels :]
        return image, words if attn.context_pre_only else attn.to_add_out(words)


def run(
    model: StableDiffusion3,
    prompts: list[str],
    seed: int,
    controller: Controller | None = None,
    guidance: float = GUIDANCE,
) -> Tensor:
    def end(_: Any, step: int, timestep: Tensor, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        return {"latents": controller.end_of_step(tensors["latents"])} if controller else {}

    return model.pipeline(
        prompts,
        num_inference_steps=STEPS,
        guidance_scale=guidance,
        generator=[torch.Generator().manual_seed(seed) for _ in prompts],
        output_type="latent",
        callback_on_step_end=end,
    ).images


@pytest.mark.parametrize("guidance", [1.0, GUIDANCE])
def test_source_and_tau_1_equal_plain_diffusers(model: StableDiffusion3, guidance: float) -> None:
    tau_1 = PromptToPrompt(tau=1).trajectory(EditRequest(SOURCE, SWAP), model.tokenizers, STEPS)
    ours = tree_latents(model, [Group(SOURCE, 3, (tau_1,))], Sampling(STEPS, guidance))
    plain = run(model, [SOURCE, SWAP], 3, guidance=guidance)
    torch.testing.assert_close(torch.stack([ours[0, 0], ours[0, 1]]), plain, rtol=0, atol=TOLERANCE)
    assert (plain[0] - plain[1]).abs().max() > 1e-2


def test_no_map_is_formed(monkeypatch: pytest.MonkeyPatch) -> None:
    model = StableDiffusion3(tiny_pipeline(sample_size=64), 32, 32)
    assert_no_map_is_formed(model, partial(FormedProcessor, pixels=32**2), monkeypatch)


@pytest.mark.parametrize("with_t5", [pytest.param(True, marks=pytest.mark.slow), False])
def test_a_saved_folder_is_loaded_through_its_yaml(with_t5: bool, tmp_path: Path) -> None:
    """Without text_encoder_3 its block holds zeros for diffusers, and no word for the alignment."""
    pipeline = tiny_pipeline(with_t5)
    pipeline.save_pretrained(tmp_path)
    left_out = "" if with_t5 else "text_encoder_3"
    sides = (f"self_max_side={SIDE}", f"blend_side={SIDE}")
    model = load("sd3", tmp_path, *sides, f"leave_out=[{left_out}]")
    request = EditRequest("a red cat", "a red chinchilla", {"red": 2.0}, ("cat", "chinchilla"))
    method = PromptToPrompt(tau=0, blend_threshold=0.8)
    group = Group("a red cat", 0, (method.trajectory(request, model.tokenizers, STEPS),))
    ours = tree_latents(model, [group], Sampling(STEPS))
    same = tree_latents(StableDiffusion3(pipeline, SIDE, SIDE), [group], Sampling(STEPS))
    torch.testing.assert_close(ours[0, 1], same[0, 1], rtol=0, atol=TOLERANCE)
    plain = run(model, ["a red cat"], 0, guidance=7.5)
    torch.testing.assert_close(ours[0, 0], plain[0], rtol=0, atol=TOLERANCE)
    assert [type(t).__name__ == "NoText" for t in model.tokenizers] == [False, not with_t5]


def test_sdedit_equals_diffusers_image_to_image(model: StableDiffusion3) -> None:
    sdedit = SDEdit(0.5).trajectory(EditRequest(SOURCE, SWAP), model.tokenizers, STEPS)
    [edited] = generate(model, [Group(SOURCE, 3, (sdedit,))], Sampling(STEPS, GUIDANCE))
    image_to_image = StableDiffusion3Img2ImgPipeline(**model.pipeline.components)
    image_to_image.set_progress_bar_config(disable=True)
    vae, source = model.pipeline.vae, edited.source[None].double()
    mean = vae.encode(source * 2 - 1).latent_dist.mode()
    expected = image_to_image(
        SWAP,
        image=(mean - vae.config.shift_factor) * vae.config.scaling_factor,
        strength=0.5,
        num_inference_steps=STEPS,
        guidance_scale=GUIDANCE,
        generator=torch.Generator().manual_seed(derived_seed(3)),
        height=32,
        width=32,
        output_type="pt",
    ).images
    torch.testing.assert_close(edited.images[0], expected[0].float(), rtol=0, atol=1.01 / 255)  # 8 bits
    assert (edited.images[0] - edited.source).abs().max() > 5 / 255


def test_a_schedule_that_shifts_with_the_image_equals_plain_diffusers(model: StableDiffusion3) -> None:
    original = model.pipeline.scheduler
    model.pipeline.scheduler = FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True)
    try:
        ours = tree_latents(model, [Group(SOURCE, 3, ())], Sampling(STEPS, GUIDANCE))
        plain = run(model, [SOURCE], 3)
        torch.testing.assert_close(ours[0, 0], plain[0], rtol=0, atol=TOLERANCE)
    finally:
        model.pipeline.scheduler = original


def test_a_scheduler_of_another_kind_is_an_error(model: StableDiffusion3) -> None:
    with pytest.raises(ValueError, match="DDIMScheduler is not for flow matching, allowed are FlowMatch"):
        model.set_timesteps(DDIMScheduler(), STEPS)


def test_a_profile_that_would_inject_nowhere_is_an_error() -> None:
    model = StableDiffusion3(tiny_pipeline(sample_size=64), 32, 32)  # 1024 tokens in every layer
    request = EditRequest(SOURCE, SWAP)
    for profile, limit in (("google-stable", 256), ("null-text", None)):
        edit = PromptToPrompt(tau=0, self_replace_steps=1.0, profile=profile).trajectory(
            request, model.tokenizers, 1
        )
        group = Group(SOURCE, 0, (edit,))
        if limit:
            with pytest.raises(
                ValueError, match=f"layers of at most {limit} tokens, but the smallest .* 1024"
            ):
                tree_latents(model, [group], Sampling(1, 1.0))
        else:
            tree_latents(model, [group], Sampling(1, 1.0))


def test_only_t5_can_be_left_out() -> None:
    kept = ModelSpec("sd3", "/nowhere", SIDE, SIDE, pipeline="StableDiffusion3Pipeline")
    with pytest.raises(ValueError, match=r"leave_out: \['text_encoder'\] of .*, allowed are text_encoder_3"):
        replace(kept, leave_out=["text_encoder"])
    with pytest.raises(ValueError, match=r"of FluxPipeline, allowed are none"):
        replace(kept, pipeline="FluxPipeline", leave_out=["text_encoder_3"])
