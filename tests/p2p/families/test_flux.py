"""Flux: plain runs equal diffusers' pipeline; formed maps; distilled guidance, packed latents."""

from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import (
    FlowMatchEulerDiscreteScheduler,
    FluxImg2ImgPipeline,
    FluxPipeline,
    FluxTransformer2DModel,
)
from diffusers.models.embeddings import apply_rotary_emb
from torch import Tensor
from transformers import CLIPTextModel

from p2p import Calls, EditRequest, FixedSeed, Group, ModelSpec, PromptToPrompt, Sampling, SDEdit
from p2p.engine import derived_seed, generate, tree_latents
from p2p.evaluations import plan_evaluations
from p2p.families.flux import Flux
from p2p.groups import batches
from p2p.loading.tokenizer_files import clip_tokenizer
from tests.p2p.families.formed import (
    Controller,
    assert_no_map_is_formed,
    edit_joint,
    load,
)
from tests.p2p.families.tiny_parts import heed_text, tiny_vae
from tests.tiny_text import tiny_clip_config, tiny_t5_encoder, tiny_t5_tokenizer

pytestmark = pytest.mark.xdist_group("flux")

STEPS, SIDE, TEXT, GUIDANCE = 4, 8, 512, 3.5
SOURCE, SWAP = "a cat on a bench", "a dog on a bench"
# The scheduler rounds latents, rotary embedding rounds queries and keys to single precision.
TOLERANCE = 1e-5


def tiny_pipeline(guidance_embeds: bool = True) -> FluxPipeline:
    """Return a random pipeline in double precision: two double- and one single-stream block."""
    torch.manual_seed(0)
    transformer = FluxTransformer2DModel(
        in_channels=16,
        num_layers=2,
        num_single_layers=1,
        attention_head_dim=8,
        num_attention_heads=2,
        joint_attention_dim=32,
        pooled_projection_dim=16,
        guidance_embeds=guidance_embeds,
        axes_dims_rope=(2, 2, 4),
    )
    heed_text(transformer)
    t5 = tiny_t5_tokenizer()
    pipeline = FluxPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=guidance_embeds),
        vae=tiny_vae(shift=0.1),
        text_encoder=CLIPTextModel(tiny_clip_config(width=16)),
        tokenizer=clip_tokenizer(),
        text_encoder_2=tiny_t5_encoder(t5),
        tokenizer_2=t5,
        transformer=transformer,
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline.to(torch.float64)


def tiny_flux(guidance_embeds: bool = True, pixels: int = 32) -> Flux:
    side = pixels // 4
    return Flux(tiny_pipeline(guidance_embeds), side, side, height=pixels, width=pixels)


@pytest.fixture(scope="module", params=[True, False], ids=["dev", "schnell"])
def either(request: pytest.FixtureRequest) -> Flux:
    return tiny_flux(request.param)


@pytest.fixture(scope="module")
def model() -> Flux:
    return tiny_flux()


class FormedProcessor:
    """Attention with formed maps over [text, image]; a controller edits the last two rows."""

    def __init__(self, controller: Controller) -> None:
        self.controller = controller

    def __call__(
        self, attn, hidden_states, encoder_hidden_states=None, attention_mask=None, image_rotary_emb=None
    ) -> Any:
        def heads(projected: Tensor) -> Tensor:
            return projected.unflatten(-1, (attn.heads, -1)).transpose(1, 2)

        query = attn.norm_q(heads(attn.to_q(hidden_states)))
        key = attn.norm_k(heads(attn.to_k(hidden_states)))
        value = heads(attn.to_v(hidden_states))
        if encoder_hidden_states is not None:
            text = encoder_hidden_states
            query = torch.cat([attn.norm_added_q(heads(attn.add_q_proj(text))), query], 2)
            key = torch.cat([attn.norm_added_k(heads(attn.add_k_proj(text))), key], 2)
            value = torch.cat([heads(attn.add_v_proj(text)), value], 2)
        query, key = apply_rotary_emb(query, image_rotary_emb), apply_rotary_emb(key, image_rotary_emb)
        maps = (query @ key.transpose(2, 3) / query.shape[-1] ** 0.5).softmax(-1)
        maps = torch.cat([maps[:-2], edit_joint(self.controller, maps[-2:], slice(0, TEXT))])
        output = (maps @ value).transpose(1, 2).flatten(2)
        if encoder_hidden_states is None:
            return output
        return attn.to_out[0](output[:, TEXT:]), attn.to_add_out(output[:, :TEXT])


def unpacked(latents: Tensor) -> Tensor:
    return FluxPipeline._unpack_latents(latents, 32, 32, 2)


def run(
    model: Flux,
    prompts: list[str],
    seed: int,
    controller: Controller | None = None,
    guidance: float = GUIDANCE,
) -> Tensor:
    def end(_: Any, step: int, timestep: Tensor, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        if controller is None:
            return {}
        latents = controller.end_of_step(unpacked(tensors["latents"]))
        return {"latents": FluxPipeline._pack_latents(latents, len(latents), 4, 16, 16)}

    packed = model.pipeline(
        prompts,
        num_inference_steps=STEPS,
        guidance_scale=guidance,
        height=32,
        width=32,
        generator=[torch.Generator().manual_seed(seed) for _ in prompts],
        output_type="latent",
        callback_on_step_end=end,
    ).images
    return unpacked(packed)


def test_source_and_tau_1_equal_plain_diffusers(either: Flux) -> None:
    tau_1 = PromptToPrompt(tau=1).trajectory(EditRequest(SOURCE, SWAP), either.tokenizers, STEPS)
    ours = tree_latents(either, [Group(SOURCE, 3, (tau_1,))], Sampling(STEPS, GUIDANCE))
    plain = run(either, [SOURCE, SWAP], 3)
    torch.testing.assert_close(torch.stack([ours[0, 0], ours[0, 1]]), plain, rtol=0, atol=TOLERANCE)
    assert (plain[0] - plain[1]).abs().max() > 1e-2


def test_the_network_is_told_the_guidance(either: Flux) -> None:
    low, high = (
        tree_latents(either, [Group(SOURCE, 3, ())], Sampling(STEPS, scale))[0, 0] for scale in (1.0, 7.0)
    )
    if either.denoiser.config.guidance_embeds:
        torch.testing.assert_close(low, run(either, [SOURCE], 3, guidance=1.0)[0], rtol=0, atol=TOLERANCE)
        assert (low - high).abs().max() > 1e-3
    else:
        assert torch.equal(low, high)


def test_no_map_is_formed(monkeypatch: pytest.MonkeyPatch) -> None:
    assert_no_map_is_formed(tiny_flux(pixels=128), FormedProcessor, monkeypatch)


def test_planning_counts_one_row_a_state_without_weights(either: Flux) -> None:
    """A guidance scale above 1 takes no unconditional rows, and a negative prompt would have no effect."""
    methods = [PromptToPrompt(tau=0.5), FixedSeed(), SDEdit(0.5)]
    request = EditRequest(SOURCE, SWAP)
    edits = tuple(method.trajectory(request, either.tokenizers, STEPS) for method in methods)
    groups, sampling = [Group(SOURCE, 0, edits)] * 2, Sampling(STEPS, 7.5, max_batch=6)
    counted: list[int] = []
    generate(either, groups, sampling, Calls(sampling.max_batch, counted.append))
    spec = ModelSpec("flux", "/nowhere", SIDE, SIDE, pipeline="FluxPipeline")
    assert spec.guidance_embedded()
    assert sum(counted) == plan_evaluations(groups, STEPS, sampling, spec.guidance_embedded())
    assert max(counted) == 6  # three states of each group
    assert list(batches(groups, sampling, spec.guidance_embedded())) == [[0, 1]]
    negative = Sampling(STEPS, negative_prompt="fog")
    with pytest.raises(ValueError, match="negative_prompt: 'fog' does nothing"):
        plan_evaluations(groups, STEPS, negative, spec.guidance_embedded())
    with pytest.raises(ValueError, match="negative_prompt: 'fog' does nothing"):
        generate(either, groups, negative)
    with pytest.raises(OSError, match="not on this machine, and planning needs its tokenizer_2"):
        spec.load_tokenizers()


def test_a_saved_folder_is_loaded_through_its_yaml(tmp_path: Path) -> None:
    pipeline = tiny_pipeline()
    pipeline.save_pretrained(tmp_path)
    model = load("flux", tmp_path, f"self_max_side={SIDE}", f"blend_side={SIDE}", "+height=32", "+width=32")
    edit = PromptToPrompt(tau=0).trajectory(EditRequest("a cat", "a dog"), model.tokenizers, STEPS)
    ours = tree_latents(model, [Group("a cat", 0, (edit,))], Sampling(STEPS))
    same = tree_latents(Flux(pipeline, SIDE, SIDE, 32, 32), [Group("a cat", 0, (edit,))], Sampling(STEPS))
    torch.testing.assert_close(ours[0, 1], same[0, 1], rtol=0, atol=TOLERANCE)
    calls = ModelSpec("flux", str(tmp_path), SIDE, SIDE, pipeline="FluxPipeline").unet_calls(STEPS)
    assert calls == STEPS


def test_sdedit_equals_diffusers_image_to_image(model: Flux) -> None:
    sdedit = SDEdit(0.5).trajectory(EditRequest(SOURCE, SWAP), model.tokenizers, STEPS)
    [edited] = generate(model, [Group(SOURCE, 3, (sdedit,))], Sampling(STEPS, GUIDANCE))
    image_to_image = FluxImg2ImgPipeline(**model.pipeline.components)
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
