"""Qwen-Image: plain runs equal diffusers' pipeline; formed maps; a templated, masked text."""

from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from diffusers import QwenImageImg2ImgPipeline, QwenImagePipeline
from diffusers.models.transformers.transformer_qwenimage import apply_rotary_emb_qwen
from torch import Tensor
from torch.nn.functional import pad

from p2p import EditRequest, Group, ModelSpec, PromptToPrompt, QwenImage, Sampling, SDEdit
from p2p.alignment import encode, word_tokens
from p2p.engine import derived_seed, generate, tree_latents
from p2p.templated_tokenizer import TemplatedTokenizer
from tests.p2p.families.formed import (
    Controller,
    assert_a_source_is_the_same_in_any_call,
    assert_no_map_is_formed,
    edit_joint,
    load,
)
from tests.p2p.families.tiny_qwen import tiny_pipeline, tiny_qwen_tokenizer

pytestmark = pytest.mark.xdist_group("qwen_image")

STEPS, SIDE, TEXT, GUIDANCE = 4, 8, 48, 4.0
SOURCE, SWAP, LONGER = "a cat on a bench", "a dog on a bench", "a chinchilla with a red hat on a bench"
# The scheduler rounds latents, rotary embedding rounds queries and keys to single precision.
TOLERANCE = 1e-5


class ShortText(QwenImage):
    """Qwen-Image with less padding, for speed."""

    text_blocks: ClassVar[Mapping[str, int | None]] = {"tokenizer": TEXT}


def tiny_qwen(pixels: int = 32) -> QwenImage:
    side = pixels // 4
    return ShortText(tiny_pipeline(), side, side, height=pixels, width=pixels)


@pytest.fixture(scope="module")
def model() -> QwenImage:
    return tiny_qwen()


class FormedProcessor:
    """Attention with formed maps over [text, image]; a controller edits the last two rows of every other
    call of the two layers, the conditional one; with `calls` 1 of every call.

    The controller knows of padding up to the text's limit; diffusers pads to the longest prompt.
    """

    def __init__(self, controller: Controller, calls: int = 2) -> None:
        self.controller, self.calls, self.visits = controller, calls, 0

    def __call__(
        self,
        attn,
        hidden_states,
        encoder_hidden_states=None,
        encoder_hidden_states_mask=None,
        attention_mask=None,
        image_rotary_emb=None,
    ) -> Any:
        def heads(projected: Tensor, norm: Any, angles: Tensor) -> Tensor:
            split = norm(projected.unflatten(-1, (attn.heads, -1)))
            return apply_rotary_emb_qwen(split, angles, use_real=False).transpose(1, 2)

        text, (of_image, of_text) = encoder_hidden_states, image_rotary_emb
        tokens = text.shape[1]
        filling = (0, 0, 0, TEXT - tokens)
        image_query = heads(attn.to_q(hidden_states), attn.norm_q, of_image)
        image_key = heads(attn.to_k(hidden_states), attn.norm_k, of_image)
        text_query = heads(attn.add_q_proj(text), attn.norm_added_q, of_text)
        text_key = heads(attn.add_k_proj(text), attn.norm_added_k, of_text)
        query = torch.cat([pad(text_query, filling), image_query], 2)
        key = torch.cat([pad(text_key, filling), image_key], 2)
        values = torch.cat([pad(attn.add_v_proj(text), filling), attn.to_v(hidden_states)], 1)
        mask = encoder_hidden_states_mask
        mask = torch.ones(text.shape[:2], dtype=torch.bool) if mask is None else mask
        mask = torch.cat([pad(mask, filling[2:]), mask.new_ones(hidden_states.shape[:2])], 1)
        logits = query @ key.transpose(2, 3) / query.shape[-1] ** 0.5
        maps = logits.masked_fill(~mask[:, None, None], -torch.inf).softmax(-1)
        conditional, self.visits = self.visits // 2 % self.calls == 0, self.visits + 1
        if conditional:
            maps = torch.cat([maps[:-2], edit_joint(self.controller, maps[-2:], slice(0, TEXT))])
        output = (maps @ values.unflatten(-1, (attn.heads, -1)).transpose(1, 2)).transpose(1, 2).flatten(2)
        return attn.to_out[0](output[:, TEXT:]), attn.to_add_out(output[:, :tokens])


def unpacked(latents: Tensor) -> Tensor:
    return QwenImagePipeline._unpack_latents(latents, 32, 32, 2)[:, :, 0]


def run(
    model: QwenImage,
    prompts: list[str],
    seed: int,
    controller: Controller | None = None,
    guidance: float = GUIDANCE,
    negative: str = "",
) -> Tensor:
    def end(_: Any, step: int, timestep: Tensor, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        if controller is None:
            return {}
        latents = controller.end_of_step(unpacked(tensors["latents"]))
        return {"latents": QwenImagePipeline._pack_latents(latents, len(latents), 4, 16, 16)}

    made = model.pipeline(
        prompts,
        negative_prompt=[negative] * len(prompts),
        true_cfg_scale=guidance,
        num_inference_steps=STEPS,
        height=32,
        width=32,
        generator=[torch.Generator().manual_seed(seed) for _ in prompts],
        output_type="latent",
        callback_on_step_end=end,
    ).images
    return unpacked(made)


@pytest.mark.parametrize(("guidance", "negative"), [(GUIDANCE, ""), (GUIDANCE, "a hat"), (1.0, "")])
def test_source_and_tau_1_equal_plain_diffusers(model: QwenImage, guidance: float, negative: str) -> None:
    tau_1 = PromptToPrompt(tau=1).trajectory(EditRequest(SOURCE, LONGER), model.tokenizers, STEPS)
    sampling = Sampling(STEPS, guidance, negative_prompt=negative)
    ours = tree_latents(model, [Group(SOURCE, 3, (tau_1,))], sampling)
    plain = run(model, [SOURCE, LONGER], 3, guidance=guidance, negative=negative)
    torch.testing.assert_close(torch.stack([ours[0, 0], ours[0, 1]]), plain, rtol=0, atol=TOLERANCE)
    assert (plain[0] - plain[1]).abs().max() > 1e-2
    unguided = run(model, [SOURCE, LONGER], 3, guidance=1.0)
    assert ((plain - unguided).abs().max() > 1e-2) == (guidance > 1)


def test_no_map_is_formed(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_qwen(pixels=128)
    model.pipeline.scheduler.register_to_config(shift_terminal=None)  # with it there is no single step
    assert_no_map_is_formed(model, FormedProcessor, monkeypatch)


def test_a_source_is_the_same_alone_and_beside_longer_prompts_in_bfloat16() -> None:
    model = QwenImage(tiny_pipeline().to(torch.bfloat16), SIDE, SIDE, height=32, width=32)
    assert_a_source_is_the_same_in_any_call(model, Sampling(STEPS, GUIDANCE), LONGER, LONGER)
    # diffusers, which pads to the longest prompt and masks where there is one, has two.
    one, both = run(model, [SOURCE], 3), run(model, [SOURCE, LONGER], 3)
    assert not torch.equal(one[0], both[0])


@pytest.mark.parametrize(
    ("prompt", "words"),
    [
        (SOURCE, [[0], [1], [2], [3], [4]]),
        ("a chinchilla on a bench", [[0], [1, 2], [3], [4], [5]]),
        ("cat {} dog", [[0], [1, 2, 3], [4]]),
    ],
)
def test_words_stand_where_the_encoder_has_them(
    model: QwenImage, prompt: str, words: list[list[int]]
) -> None:
    """Row k of the encoder's states changes with word k; the template's five last tokens are no word's."""
    [tokenizer] = model.tokenizers
    assert word_tokens(prompt, tokenizer) == words
    encoding = encode(prompt, tokenizer)
    assert encoding["special_tokens_mask"] == [0] * (words[-1][-1] + 1) + [1] * 5
    own = model.encode_prompt(prompt)
    assert own["encoder_hidden_states_mask"].sum() == len(encoding["input_ids"])
    inputs = model.pipeline.text_encoder.get_input_embeddings()
    seen: list[Tensor] = []
    hook = inputs.register_forward_hook(lambda _, args, output: seen.append(args[0]))
    try:
        model.encode_prompt(prompt)
    finally:
        hook.remove()
    assert seen[0][0, 34:].tolist() == encoding["input_ids"]


def test_a_templated_tokenizer_refuses_what_it_cannot_place() -> None:
    tokenizer = tiny_qwen_tokenizer()
    tokenizer.model_max_length = 512
    begin = "<|im_start|>user\n"
    for dropped, prompt, message in (
        (4, SOURCE, "begins after 3 tokens of its template, of which the pipeline drops 4"),
        (3, "\na cat", r"'\\na cat' shares a token with the text that the model puts around it"),
        (3, "a cat\n", None),  # before a special token nothing merges
        (2, SOURCE, None),
    ):
        templated = TemplatedTokenizer(tokenizer, (begin + "{}<|im_end|>").format, dropped)
        with nullcontext() if message is None else pytest.raises(ValueError, match=message):
            templated(prompt)
    assert word_tokens("a cat", templated) == [[1], [2]]


def test_a_prompt_that_is_too_long_is_refused(model: QwenImage) -> None:
    fitting = " ".join(["a"] * (TEXT - 5))  # five tokens of the template follow it
    assert model.encode_prompt(fitting)["encoder_hidden_states_mask"].all()
    with pytest.raises(ValueError, match="has 49 tokens, allowed are 48"):
        model.encode_prompt(fitting + " a")


@pytest.mark.parametrize("scale", [1.0, 4.0])
def test_guidance_keeps_the_norm_of_each_token(model: QwenImage, scale: float) -> None:
    uncond, text = torch.randn(2, 3, 4, 8, 6, generator=torch.Generator().manual_seed(0))
    guided = model.guide(uncond, text, scale, 0.0)

    def norms(latents: Tensor) -> Tensor:
        return latents.unflatten(3, (-1, 2)).unflatten(2, (-1, 2)).square().sum((1, 3, 5)).sqrt()

    torch.testing.assert_close(norms(guided), norms(text), rtol=1e-5, atol=0)
    assert ((guided - text).abs().max() > 0.1) == (scale > 1)
    deviations = model.guide(uncond, text, scale, 1.0).std((1, 2, 3))
    torch.testing.assert_close(deviations, text.std((1, 2, 3)), rtol=1e-5, atol=0)


@pytest.mark.parametrize("entry", ["guidance_embeds", "use_additional_t_cond"])
def test_a_transformer_that_is_told_more_is_refused(entry: str) -> None:
    with pytest.raises(ValueError, match=f"^{entry}: True in the transformer's config, allowed is false$"):
        QwenImage.embeds_guidance({entry: True})


def test_a_saved_folder_is_loaded_through_its_yaml(tmp_path: Path) -> None:
    pipeline = tiny_pipeline()
    pipeline.save_pretrained(tmp_path)
    sized = "+height=32", "+width=32"
    model = load("qwen_image", tmp_path, f"self_max_side={SIDE}", f"blend_side={SIDE}", *sized)
    edit = PromptToPrompt(tau=0).trajectory(EditRequest("a cat", "a dog"), model.tokenizers, STEPS)
    groups = [Group("a cat", 0, (edit,))]
    ours = tree_latents(model, groups, Sampling(STEPS, GUIDANCE))
    same = tree_latents(QwenImage(pipeline, SIDE, SIDE, 32, 32), groups, Sampling(STEPS, GUIDANCE))
    torch.testing.assert_close(ours[0, 1], same[0, 1], rtol=0, atol=TOLERANCE)
    spec = ModelSpec("qwen_image", str(tmp_path), SIDE, SIDE, pipeline="QwenImagePipeline")
    assert spec.unet_calls(STEPS) == STEPS
    assert spec.joint_blocks() == {"double": 2}
    with pytest.raises(ValueError, match="makes no single step with shift_terminal"):
        spec.unet_calls(1)
    other = ModelSpec("flux", str(tmp_path), SIDE, SIDE, pipeline="FluxPipeline")
    with pytest.raises(ValueError, match="holds a QwenImagePipeline, the model's pipeline is FluxPipeline"):
        other.check()


def test_sdedit_equals_diffusers_image_to_image(model: QwenImage) -> None:
    sdedit = SDEdit(0.5).trajectory(EditRequest(SOURCE, SWAP), model.tokenizers, STEPS)
    [edited] = generate(model, [Group(SOURCE, 3, (sdedit,))], Sampling(STEPS, GUIDANCE))
    image_to_image = QwenImageImg2ImgPipeline(**model.pipeline.components)
    image_to_image.set_progress_bar_config(disable=True)
    latents = model.encode(edited.source[None].double())  # else it would draw from the mean's neighbourhood
    expected = image_to_image(
        SWAP,
        negative_prompt="",
        image=latents,
        strength=0.5,
        num_inference_steps=STEPS,
        true_cfg_scale=GUIDANCE,
        generator=torch.Generator().manual_seed(derived_seed(3)),
        height=32,
        width=32,
        output_type="pt",
    ).images
    torch.testing.assert_close(edited.images[0], expected[0].float(), rtol=0, atol=1.01 / 255)  # 8 bits
    assert (edited.images[0] - edited.source).abs().max() > 5 / 255
