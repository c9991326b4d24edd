"""PixArt: plain runs equal diffusers' pipelines; formed maps; masked text, learned sigma."""

from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DDIMScheduler, PixArtAlphaPipeline, PixArtSigmaPipeline, PixArtTransformer2DModel
from torch import Tensor

from p2p import Group, ModelSpec, PromptToPrompt, Sampling
from p2p.alignment import word_tokens
from p2p.engine import tree_latents
from p2p.families.pixart import PixArtAlpha, PixArtSigma
from p2p.operators import refine, replace
from p2p.trajectory import EditRequest
from tests.p2p.families.formed import (
    Controller,
    assert_no_map_is_formed,
    load,
)
from tests.p2p.families.tiny_parts import heed_text, tiny_vae
from tests.tiny_text import tiny_t5_encoder, tiny_t5_tokenizer

pytestmark = pytest.mark.xdist_group("pixart")

STEPS, SIDE, TOLERANCE = 4, 8, 1e-8
SOURCE, SWAP = "A cat on a bench", "A dog on a bench"  # captions are lowered


def tiny_pipeline(kind: type, sample_size: int = 16, out_channels: int = 8) -> Any:
    """Return a random pipeline in double precision: 16x16 latents, 8x8 tokens."""
    torch.manual_seed(0)
    transformer = PixArtTransformer2DModel(
        num_attention_heads=2,
        attention_head_dim=12,
        num_layers=2,
        cross_attention_dim=24,
        caption_channels=32,
        sample_size=sample_size,
        out_channels=out_channels,
    )
    heed_text(transformer)
    tokenizer = tiny_t5_tokenizer()
    pipeline = kind(
        tokenizer=tokenizer,
        text_encoder=tiny_t5_encoder(tokenizer),
        vae=tiny_vae(),
        transformer=transformer,
        scheduler=DDIMScheduler(clip_sample=False),
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline.to(torch.float64)


@pytest.fixture(scope="module", params=["alpha", "sigma"])
def model(request: pytest.FixtureRequest) -> PixArtAlpha:
    """Alpha, as its 1024-pixel model, is told size and aspect ratio, and predicts no variance; Sigma does."""
    if request.param == "sigma":
        return PixArtSigma(tiny_pipeline(PixArtSigmaPipeline), SIDE, SIDE)
    pipeline = tiny_pipeline(PixArtAlphaPipeline, sample_size=128, out_channels=4)
    return PixArtAlpha(pipeline, SIDE, SIDE, height=32, width=32)


class FormedProcessor:
    """Attention with formed maps, masked before the softmax; a controller edits the last two rows."""

    def __init__(self, controller: Controller) -> None:
        self.controller = controller

    def __call__(self, attn, hidden_states, encoder_hidden_states=None, attention_mask=None, **_) -> Tensor:
        text = encoder_hidden_states
        context = hidden_states if text is None else text
        query, key, value = (
            projected.unflatten(-1, (attn.heads, -1)).transpose(1, 2)
            for projected in (attn.to_q(hidden_states), attn.to_k(context), attn.to_v(context))
        )
        logits = query @ key.transpose(2, 3) / query.shape[-1] ** 0.5
        if attention_mask is not None:
            assert (attention_mask < 0).any()
            logits = logits + attention_mask[:, None]
        maps = logits.softmax(-1)
        edited = self.controller.image(maps[-2:]) if text is None else self.controller.text(maps[-2:])
        output = torch.cat([maps[:-2], edited]) @ value
        return attn.to_out[0](output.transpose(1, 2).flatten(2))


def run(
    model: PixArtAlpha,
    prompts: list[str],
    seed: int,
    controller: Controller | None = None,
    guidance: float = 3.0,
) -> Tensor:
    def end(step: int, timestep: Tensor, latents: Tensor) -> None:
        if controller:
            latents.copy_(controller.end_of_step(latents))

    return model.pipeline(
        prompts,
        negative_prompt=[""] * len(prompts),
        num_inference_steps=STEPS,
        guidance_scale=guidance,
        height=32,
        width=32,
        generator=[torch.Generator().manual_seed(seed) for _ in prompts],
        output_type="latent",
        use_resolution_binning=False,
        clean_caption=False,
        callback=end,
        max_sequence_length=model.text_blocks["tokenizer"],
    ).images


@pytest.mark.parametrize("guidance", [1.0, 3.0])
def test_source_and_tau_1_equal_plain_diffusers(model: PixArtAlpha, guidance: float) -> None:
    tau_1 = PromptToPrompt(tau=1).trajectory(EditRequest(SOURCE, SWAP), model.tokenizers, STEPS)
    ours = tree_latents(model, [Group(SOURCE, 3, (tau_1,))], Sampling(STEPS, guidance))
    plain = run(model, [SOURCE, SWAP], 3, guidance=guidance)
    torch.testing.assert_close(torch.stack([ours[0, 0], ours[0, 1]]), plain, rtol=0, atol=TOLERANCE)
    assert (plain[0] - plain[1]).abs().max() > 1e-2


def refine_words_alone(source: str, target: str, tokenizer: Any, tail: Any) -> tuple[Tensor, Tensor]:
    """Refine, and let padding take nothing."""
    matrix, aligned = refine(source, target, tokenizer, tail)
    matrix[:, len(tokenizer(target).input_ids) :] = 0
    return matrix, aligned


def replace_words_alone(source: str, target: str, tokenizer: Any, tail: Any) -> tuple[Tensor, Tensor]:
    """Replace, and let padding take nothing."""
    matrix, aligned = replace(source, target, tokenizer, tail)
    matrix[:, len(tokenizer(target).input_ids) :] = 0
    return matrix, aligned


@pytest.mark.parametrize(
    ("operator", "target"), [("refine", "A red cat on a bench"), ("replace", "A chinchilla on a bench")]
)
def test_masked_padding_has_nothing_to_align(model: PixArtAlpha, operator: str, target: str) -> None:
    """The source's mask leaves its padding no attention, so that no rule for padding shows in the picture."""
    alone = f"{__name__}.{operator}_words_alone"
    trajectories = tuple(
        PromptToPrompt(operator=name, tau=0).trajectory(EditRequest(SOURCE, target), model.tokenizers, STEPS)
        for name in (operator, alone)
    )
    assert trajectories[0].digest() != trajectories[1].digest()
    ours = tree_latents(model, [Group(SOURCE, 0, trajectories)], Sampling(STEPS, 3.0))
    torch.testing.assert_close(ours[0, 1], ours[0, 2], rtol=0, atol=TOLERANCE)


def test_no_map_is_formed(monkeypatch: pytest.MonkeyPatch) -> None:
    model = PixArtAlpha(tiny_pipeline(PixArtAlphaPipeline), 32, 32, height=128, width=128)
    assert_no_map_is_formed(model, FormedProcessor, monkeypatch)


@pytest.mark.parametrize(
    ("file", "kind"), [("pixart", PixArtAlphaPipeline), ("pixart_sigma", PixArtSigmaPipeline)]
)
def test_a_saved_folder_is_loaded_through_its_yaml(file: str, kind: Any, tmp_path: Path) -> None:
    pipeline = tiny_pipeline(kind)
    pipeline.save_pretrained(tmp_path)
    model = load(file, tmp_path, f"self_max_side={SIDE}", f"blend_side={SIDE}")
    assert isinstance(model.pipeline, kind)
    group = Group(
        "a cat", 0, (PromptToPrompt(tau=0).trajectory(EditRequest("a cat", "a dog"), model.tokenizers, 1),)
    )
    ours = tree_latents(model, [group], Sampling(1))
    same = tree_latents(type(model)(pipeline, SIDE, SIDE), [group], Sampling(1))
    torch.testing.assert_close(ours[0, 1], same[0, 1], rtol=0, atol=TOLERANCE)


def test_words_are_found_in_lowered_captions(model: PixArtAlpha) -> None:
    [tokenizer] = model.tokenizers
    assert word_tokens("A Chinchilla sitting", tokenizer) == [[0], [1, 2], [3]]  # T5 has no BOS
    lowered = model.pipeline.tokenizer("a chinchilla sitting").input_ids
    assert tokenizer("A Chinchilla sitting").input_ids == lowered
    assert tokenizer.model_max_length == (300 if isinstance(model, PixArtSigma) else 120)


def test_what_does_not_fit_is_an_error(model: PixArtAlpha) -> None:
    with pytest.raises(ValueError, match="height: 30 is no multiple of 4"):
        type(model)(model.pipeline, SIDE, SIDE, height=30, width=32)
    with pytest.raises(ValueError, match="width: 0 is no multiple of 4 above 0"):
        type(model)(model.pipeline, SIDE, SIDE, height=32, width=0)
    with pytest.raises(ValueError, match="blend_side: 4 is no side of an attention layer, allowed are 8"):
        type(model)(model.pipeline, SIDE, 4, height=32, width=32)
    spec = ModelSpec("pixart", "/nowhere", SIDE, SIDE, pipeline="PixArtAlphaPipeline")
    with pytest.raises(OSError, match="not on this machine, and planning needs its tokenizer"):
        spec.load_tokenizers()
