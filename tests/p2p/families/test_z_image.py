"""Z-Image: plain runs equal diffusers' pipeline; formed maps; multiples of 32 tokens."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import ZImageImg2ImgPipeline
from torch import Tensor
from torch.nn.functional import pad

from p2p import EditRequest, Group, ModelSpec, PromptToPrompt, Sampling, SDEdit, ZImage
from p2p.engine import derived_seed, generate, tree_latents
from tests.p2p.families.formed import (
    Controller,
    assert_a_source_is_the_same_in_any_call,
    assert_no_map_is_formed,
    load,
)
from tests.p2p.families.tiny_z_image import TEXT, ShortZImage, short_z_image, tiny_z_image
from tests.p2p.families.yamls import from_yaml

pytestmark = pytest.mark.xdist_group("z_image")

STEPS, SIDE, GUIDANCE = 4, 6, 4.0
SOURCE, SWAP = "a cat on a bench", "a dog on a bench"
LONG = "a cat " + " ".join(["on a bench"] * 9)  # 37 tokens with those of the template, so padded to 64
# Latents, predictions and rotary embeddings are rounded to single precision.
TOLERANCE = 1e-5


@pytest.fixture(scope="module")
def model() -> ZImage:
    return short_z_image()


class FormedProcessor:
    """Attention with formed maps over [image, text]; a controller edits the image's rows of the first two.

    The controller knows of padding up to the text's limit, and of the image's own tokens alone.
    """

    def __init__(self, controller: Controller, pixels: int = 36) -> None:
        self.controller, self.pixels = controller, pixels

    def __call__(
        self, attn, hidden_states, encoder_hidden_states=None, attention_mask=None, freqs_cis=None
    ) -> Tensor:
        def heads(projected: Tensor) -> Tensor:
            return projected.unflatten(-1, (attn.heads, -1)).transpose(1, 2)

        def turned(states: Tensor) -> Tensor:
            pairs = torch.view_as_complex(states.float().unflatten(-1, (-1, 2)).contiguous())
            return torch.view_as_real(pairs * freqs_cis[:, None]).flatten(3).type_as(states)

        query = turned(attn.norm_q(heads(attn.to_q(hidden_states))))
        key = turned(attn.norm_k(heads(attn.to_k(hidden_states))))
        logits = query @ key.transpose(2, 3) / query.shape[-1] ** 0.5
        if attention_mask is not None:
            logits = logits.masked_fill(~attention_mask[:, None, None], -torch.inf)
        maps = logits.softmax(-1)
        tokens, image = maps.shape[-1], -(-self.pixels // 32) * 32
        rows = pad(maps[:2, :, : self.pixels], (0, image + TEXT - tokens))
        edited = [self.controller.image(rows[..., :image]), self.controller.text(rows[..., image:])]
        maps[:2, :, : self.pixels] = torch.cat(edited, -1)[..., :tokens]
        return attn.to_out[0]((maps @ heads(attn.to_v(hidden_states))).transpose(1, 2).flatten(2))


def run(
    model: ZImage,
    prompts: list[str],
    seed: int,
    controller: Controller | None = None,
    guidance: float = GUIDANCE,
    negative: str = "",
) -> Tensor:
    """Return diffusers' latents; its guidance is one less than ours, its prompts are written over."""

    def end(_: Any, step: int, timestep: Tensor, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        return {"latents": controller.end_of_step(tensors["latents"])} if controller else {}

    height, width = model.image_size
    images: Tensor = model.pipeline(
        list(prompts),
        negative_prompt=[negative] * len(prompts),
        guidance_scale=guidance - 1,
        num_inference_steps=STEPS,
        height=height,
        width=width,
        generator=[torch.Generator().manual_seed(seed) for _ in prompts],
        output_type="latent",
        callback_on_step_end=end,
    ).images
    return images.double()


@pytest.mark.parametrize(
    ("guidance", "negative"), [(GUIDANCE, ""), (GUIDANCE, "a hat"), (2.0, ""), (1.0, "")]
)
def test_source_and_tau_1_equal_plain_diffusers(model: ZImage, guidance: float, negative: str) -> None:
    """A target of another length too, of which nothing is taken; a scale of 1 is off, diffusers' 0."""
    edits = tuple(
        PromptToPrompt(tau=1).trajectory(EditRequest(SOURCE, target), model.tokenizers, STEPS)
        for target in (SWAP, LONG)
    )
    sampling = Sampling(STEPS, guidance, negative_prompt=negative)
    ours = tree_latents(model, [Group(SOURCE, 3, edits)], sampling)
    plain = run(model, [SOURCE, SWAP, LONG], 3, guidance=guidance, negative=negative)
    torch.testing.assert_close(
        torch.stack([ours[0, i] for i in range(3)]), plain, rtol=0, atol=TOLERANCE, check_dtype=False
    )
    assert (plain[0] - plain[1]).abs().max() > 1e-2
    unguided = run(model, [SOURCE, SWAP, LONG], 3, guidance=1.0)
    assert ((plain - unguided).abs().max() > 1e-2) == (guidance > 1)


@pytest.mark.parametrize("max_batch", [2, 64])
def test_an_edit_is_the_same_beside_a_prompt_of_another_length(model: ZImage, max_batch: int) -> None:
    swap, longer = (
        PromptToPrompt(tau=0.2).trajectory(EditRequest(*pair), model.tokenizers, STEPS)
        for pair in ((SOURCE, SWAP), (LONG, LONG.replace("cat", "dog")))
    )
    sampling = Sampling(STEPS, GUIDANCE, max_batch=max_batch)
    groups = [Group(SOURCE, 3, (swap,)), Group(LONG, 4, (longer,))]
    together = tree_latents(model, groups, sampling)
    for g, one in enumerate(groups):
        alone = tree_latents(model, [one], sampling)
        for branch in (0, 1):
            torch.testing.assert_close(together[g, branch], alone[0, branch], rtol=0, atol=TOLERANCE)
        assert (alone[0, 1] - alone[0, 0]).abs().max() > 1e-2


def test_no_map_is_formed(monkeypatch: pytest.MonkeyPatch) -> None:
    model = short_z_image(pixels=128)
    assert_no_map_is_formed(model, partial(FormedProcessor, pixels=1024), monkeypatch)


def test_a_source_is_the_same_alone_and_beside_longer_prompts_in_bfloat16() -> None:
    model = ShortZImage(tiny_z_image().to(torch.bfloat16), SIDE, SIDE, height=24, width=24)
    alone = assert_a_source_is_the_same_in_any_call(model, Sampling(STEPS, GUIDANCE), SWAP, LONG)
    assert alone.dtype == torch.float32  # as in diffusers, whatever the model's precision
    plain = run(model, [SOURCE], 3)[0]
    torch.testing.assert_close(alone, plain.float(), rtol=0, atol=0.05)  # other kernels, bfloat16


def test_named_layers_are_those_and_all_of_them_are_null(model: ZImage) -> None:
    named: Sequence[Any] = [None, "single-0..1", "single-0", "single-1", "no-single-1"]
    edits = tuple(
        PromptToPrompt(tau=0, blocks=blocks).trajectory(EditRequest(SOURCE, SWAP), model.tokenizers, STEPS)
        for blocks in named
    )
    latents = tree_latents(model, [Group(SOURCE, 3, edits)], Sampling(STEPS, GUIDANCE))
    for one, other in ((1, 2), (3, 5)):
        torch.testing.assert_close(latents[0, one], latents[0, other], rtol=0, atol=TOLERANCE)
    assert all((latents[0, i] - latents[0, j]).abs().max() > 1e-4 for i, j in ((1, 3), (1, 4), (3, 4)))


def test_a_saved_folder_is_loaded_through_its_yaml_and_not_compiled(tmp_path: Path) -> None:
    pipeline = tiny_z_image()
    pipeline.save_pretrained(tmp_path)
    sides = f"self_max_side={SIDE}", f"blend_side={SIDE}", "+height=24", "+width=24"
    model = load("z_image", tmp_path, *sides)
    edit = PromptToPrompt(tau=0).trajectory(EditRequest("a cat", "a dog"), model.tokenizers, STEPS)
    groups = [Group("a cat", 0, (edit,))]
    ours = tree_latents(model, groups, Sampling(STEPS, GUIDANCE))
    same = tree_latents(ZImage(pipeline, SIDE, SIDE, 24, 24), groups, Sampling(STEPS, GUIDANCE))
    torch.testing.assert_close(ours[0, 1], same[0, 1], rtol=0, atol=TOLERANCE)
    spec = ModelSpec("z_image", str(tmp_path), SIDE, SIDE, pipeline="ZImagePipeline")
    assert spec.unet_calls(STEPS) == STEPS
    assert spec.joint_blocks() == {"single": 2}
    other = ModelSpec("flux", str(tmp_path), SIDE, SIDE, pipeline="FluxPipeline")
    with pytest.raises(ValueError, match="holds a ZImagePipeline, the model's pipeline is FluxPipeline"):
        other.check()
    with pytest.raises(Exception, match="compile: ZImagePipeline gives its transformer lists") as refused:
        from_yaml("z_image", f"path={tmp_path}", "compile=true")
    assert "allowed is model.compile=false" in str(refused.value)


def test_sdedit_equals_diffusers_image_to_image() -> None:
    """In single precision: image-to-image draws noise in that of the text, text-to-image in single always."""
    model = ShortZImage(tiny_z_image().to(torch.float32), SIDE, SIDE, height=24, width=24)
    sdedit = SDEdit(0.5).trajectory(EditRequest(SOURCE, SWAP), model.tokenizers, STEPS)
    [edited] = generate(model, [Group(SOURCE, 3, (sdedit,))], Sampling(STEPS, GUIDANCE))
    image_to_image = ZImageImg2ImgPipeline(**model.pipeline.components)
    image_to_image.set_progress_bar_config(disable=True)
    expected = image_to_image(
        SWAP,
        image=model.encode(edited.source[None]),  # else it would draw from the mean's neighbourhood
        strength=0.5,
        num_inference_steps=STEPS,
        guidance_scale=GUIDANCE - 1,
        generator=torch.Generator().manual_seed(derived_seed(3)),
        height=24,
        width=24,
        output_type="pt",
    ).images
    torch.testing.assert_close(edited.images[0], expected[0], rtol=0, atol=1.01 / 255)  # 8 bits
    assert (edited.images[0] - edited.source).abs().max() > 5 / 255
