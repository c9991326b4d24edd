"""What holds of every transformer: its edits equal formed maps in calls of any size, padded ones too, and
equal prompts give the source."""

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from diffusers import PixArtAlphaPipeline, PixArtSigmaPipeline
from torch import Tensor

from p2p import (
    Calls,
    EditRequest,
    FixedSeed,
    Group,
    Model,
    ModelSpec,
    PromptToPrompt,
    Sampling,
    SDEdit,
    heat_maps,
)
from p2p.engine import generate, tree_latents
from p2p.evaluations import plan_evaluations
from p2p.families.model import stack_rows
from p2p.families.pixart import PixArtAlpha, PixArtSigma
from p2p.families.stable_diffusion_3 import StableDiffusion3
from p2p.loading.loras import Lora, load_loras
from tests.p2p.families import (
    test_flux,
    test_flux2,
    test_pixart,
    test_qwen_image,
    test_stable_diffusion_3,
    test_z_image,
    tiny_flux2,
    tiny_z_image,
)
from tests.p2p.families.formed import (
    Controller,
    Edit,
    Run,
    assert_engine_equals,
    assert_equal_prompts_give_the_source,
    formed_edits,
    installed,
)
from tests.p2p.test_loras import random_lora

STEPS = 4


class Family(NamedTuple):
    """A tiny model in double precision, diffusers' own call of it, and its attention with formed maps."""

    model: Callable[[], Model]
    run: Run
    processor: Callable[[Controller], Any]
    guidance: float
    tolerance: float


def _pixart_alpha() -> Model:
    """Told size and aspect ratio, as the model of 1024 pixels is; it predicts no variance."""
    pipeline = test_pixart.tiny_pipeline(PixArtAlphaPipeline, sample_size=128, out_channels=4)
    return PixArtAlpha(pipeline, 8, 8, height=32, width=32)


FAMILIES = {
    "sd3": Family(
        lambda: StableDiffusion3(test_stable_diffusion_3.tiny_pipeline(), 8, 8),
        test_stable_diffusion_3.run,
        test_stable_diffusion_3.FormedProcessor,
        test_stable_diffusion_3.GUIDANCE,
        test_stable_diffusion_3.TOLERANCE,
    ),
    "flux": Family(
        test_flux.tiny_flux,
        test_flux.run,
        test_flux.FormedProcessor,
        test_flux.GUIDANCE,
        test_flux.TOLERANCE,
    ),
    "flux2_klein": Family(
        test_flux2.short_klein,
        test_flux2.run,
        test_flux2.FormedProcessor,
        test_flux2.GUIDANCE,
        test_flux2.TOLERANCE,
    ),
    "flux2_dev": Family(
        test_flux2.short_dev,
        test_flux2.run,
        partial(test_flux2.FormedProcessor, calls=1),
        test_flux2.GUIDANCE,
        test_flux2.TOLERANCE,
    ),
    "qwen_image": Family(
        test_qwen_image.tiny_qwen,
        test_qwen_image.run,
        test_qwen_image.FormedProcessor,
        test_qwen_image.GUIDANCE,
        test_qwen_image.TOLERANCE,
    ),
    "pixart": Family(_pixart_alpha, test_pixart.run, test_pixart.FormedProcessor, 3.0, test_pixart.TOLERANCE),
    "pixart_sigma": Family(
        lambda: PixArtSigma(test_pixart.tiny_pipeline(PixArtSigmaPipeline), 8, 8),
        test_pixart.run,
        test_pixart.FormedProcessor,
        3.0,
        test_pixart.TOLERANCE,
    ),
    "z_image": Family(  # among 36 tokens of an image and 28 of its padding
        tiny_z_image.short_z_image,
        test_z_image.run,
        test_z_image.FormedProcessor,
        test_z_image.GUIDANCE,
        test_z_image.TOLERANCE,
    ),
}
COMPILED = [name for name in FAMILIES if name != "z_image"]


ALIKE = ("pixart_sigma",)  # attends as pixart does


def each(names: Iterable[str], slow: Collection[str] = ()) -> list[Any]:
    """Return parameters whose tests one worker runs, family by family."""
    marks = {name: [pytest.mark.xdist_group(f"{name} edits")] for name in names}
    return [
        pytest.param(name, marks=own + [pytest.mark.slow] * (name in slow)) for name, own in marks.items()
    ]


@pytest.fixture(scope="module", params=each(FAMILIES))
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def family(name: str) -> Family:
    return FAMILIES[name]


@pytest.fixture(scope="module")
def model(family: Family) -> Model:
    return family.model()


@pytest.fixture(scope="module")
def formed(family: Family, model: Model) -> list[Tensor]:
    return formed_edits(model, family.run, family.processor, STEPS)


@pytest.mark.parametrize("name", each(FAMILIES, ALIKE), indirect=True)
@pytest.mark.parametrize("max_batch", [2, pytest.param(6, marks=pytest.mark.slow), 64])
def test_edits_equal_formed_maps(family: Family, model: Model, formed: list[Tensor], max_batch: int) -> None:
    assert_engine_equals(
        formed, model, Sampling(STEPS, family.guidance, max_batch=max_batch), family.tolerance
    )


@pytest.mark.usefixtures("padded_calls")
@pytest.mark.parametrize("name", each(COMPILED, ALIKE), indirect=True)
@pytest.mark.parametrize(
    "max_batch", [pytest.param(2, marks=pytest.mark.slow), 6, pytest.param(64, marks=pytest.mark.slow)]
)
def test_edits_of_padded_calls_equal_formed_maps(
    family: Family, model: Model, formed: list[Tensor], max_batch: int
) -> None:
    sampling = Sampling(STEPS, family.guidance, max_batch=max_batch)
    assert_engine_equals(formed, replace(model, compile=True), sampling, family.tolerance)


@pytest.mark.parametrize("name", each(["flux2_klein", "flux2_dev", "z_image"]), indirect=True)
def test_heat_maps_are_a_words_own_columns_and_a_template_and_padding_are_no_words(
    name: str, family: Family, model: Model
) -> None:
    """Columns are counted here: behind Klein's and Z-Image's 3 tokens of template, before dev's last one."""
    edit = Edit(
        "a chinchilla on a bench", "a dog on a bench", "replace", {"default_": (0.0, 0.5)}, (0.0, 0.5)
    )
    words = [["a", "chinchilla", "on", "a bench"], ["a", "dog", "on", "a bench"]]
    columns = [[0, 4], [1, 2], [3], [4, 5]], [[0, 3], [1], [2], [3, 4]]  # every "a" is a word of that name
    asked = list(dict.fromkeys(words[0] + words[1]))
    trajectory = edit.trajectory(model.tokenizers, STEPS)

    class Given:
        name, uses_mask = "p2p", False

        def trajectory(self, *_: Any) -> Any:
            return trajectory

    sampling = Sampling(STEPS, family.guidance)
    ours = heat_maps(model, edit.source, asked, (edit.target, Given()), seed=1, sampling=sampling)
    controller = Controller(edit, model.tokenizers, STEPS, model.blend_side)
    with installed(model, family.processor(controller)):
        family.run(model, [edit.source, edit.target], 1, controller)
    side = model.blend_side
    for row, (heat, spelled, places) in enumerate(
        zip((ours.source, ours.edited), words, columns, strict=True)
    ):
        [maps] = heat.maps.values()
        assert list(heat.words) == [word for word in asked if word in spelled]
        last = places[-1][-1] + 1
        begin = tiny_flux2.TEXT - 1 - last if name == "flux2_dev" else 3
        formed = controller.sums[row] / STEPS  # (pixels, tokens)
        for word, ours_of_word in zip(heat.words, maps, strict=True):
            own = [begin + place for place in places[spelled.index(word)]]
            expected = formed[:, own].sum(-1).reshape(side, -1)
            np.testing.assert_allclose(ours_of_word, expected.numpy(), rtol=0, atol=family.tolerance)
        others = formed.sum(-1) - formed[:, begin : begin + last].sum(-1)
        assert others.min() > 1e-3  # what a template and padding draw is in none of them


@torch.no_grad()
@pytest.mark.parametrize("name", each(["flux", "flux2_klein", "qwen_image", "z_image"]), indirect=True)
def test_norms_of_queries_and_keys_are_each_its_own(model: Model) -> None:
    """One call beside one of diffusers' own processors; the weights of a tiny model's norms are all 1."""
    modules = model.denoiser.named_modules()
    norms = [one.weight for name, one in modules if name.endswith(("_q", "_k")) and "norm" in name]
    generator = torch.Generator().manual_seed(0)
    latents = model.draw_noise([generator]).to(model.dtype)
    call = partial(model.predict, latents, torch.tensor(500.0), stack_rows([model.encode_prompt("a cat")]))
    try:
        for weight in norms:
            weight.copy_(torch.rand(weight.shape, generator=generator) + 0.5)
        with model.injection_processors():
            ours = call()
        theirs = call()
    finally:
        for weight in norms:
            weight.fill_(1)
    assert norms
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-6)
    assert (theirs - call()).abs().max() > 1e-3


def test_equal_prompts_give_the_source(family: Family, model: Model) -> None:
    assert_equal_prompts_give_the_source(model, STEPS, family.guidance)


def test_what_the_source_does_not_inject_stays_the_targets_own(family: Family, model: Model) -> None:
    """With all maps injected the target is not the source: its text's values, and queries, are its own."""
    method = PromptToPrompt(tau=0, self_replace_steps=1.0)
    request = EditRequest("a cat on a bench", "a dog on a bench")
    edit = method.trajectory(request, model.tokenizers, STEPS)
    groups = [Group(request.source_prompt, 0, (edit,))]
    latents = tree_latents(model, groups, Sampling(STEPS, family.guidance))
    assert (latents[0, 0] - latents[0, 1]).abs().max() > 1e-2


LORAS = {
    "flux2_klein": ("to_q", "add_k_proj", "to_qkv_mlp_proj"),
    "qwen_image": ("to_q", "add_k_proj"),
    "z_image": ("to_q", "to_v"),
}


@pytest.mark.parametrize("of", each(LORAS))
def test_a_lora_equals_diffusers_own_call(of: str, tmp_path: Path) -> None:
    family, groups = FAMILIES[of], [Group("a cat on a bench", 3, ())]
    plain_model, sampling = family.model(), Sampling(STEPS, family.guidance)
    pipeline = plain_model.pipeline
    plain = tree_latents(plain_model, groups, sampling)
    pipeline.save_lora_weights(
        tmp_path, random_lora(pipeline.transformer, LORAS[of], 0), weight_name="my.safetensors"
    )
    assert load_loras(pipeline, [Lora(str(tmp_path / "my.safetensors"), 0.5)]) == []
    pipeline.to(torch.float64)
    model = replace(plain_model)
    ours = tree_latents(model, groups, sampling)[0, 0]
    expected = family.run(model, [groups[0].source_prompt], 3, None)[0]
    torch.testing.assert_close(ours.double(), expected, rtol=0, atol=family.tolerance)
    assert (ours - plain[0, 0]).abs().max() > 1e-3


@pytest.mark.parametrize("of", each(["sd3", "qwen_image", "z_image"]))
def test_planning_counts_two_rows_a_guided_state_without_weights(of: str) -> None:
    family = FAMILIES[of]
    model, request = family.model(), EditRequest("a cat on a bench", "a dog on a bench")
    methods: Sequence[Any] = [PromptToPrompt(tau=0.5), FixedSeed(), SDEdit(0.5)]
    edits = tuple(method.trajectory(request, model.tokenizers, STEPS) for method in methods)
    groups = [Group(request.source_prompt, 0, edits)]
    spec = ModelSpec(of, "/nowhere", 8, 8, pipeline=model.pipeline_name)
    for guidance in (1.0, family.guidance):
        sampling, counted = Sampling(STEPS, guidance), list[int]()
        generate(model, groups, sampling, Calls(sampling.max_batch, counted.append))
        states = 2 * STEPS + STEPS + STEPS // 2
        assert sum(counted) == states * (2 if guidance > 1 else 1)
        assert sum(counted) == plan_evaluations(groups, STEPS, sampling, spec.guidance_embedded())


PIXART = {"guidance_scale": 1.0, "use_resolution_binning": False, "clean_caption": False}
PLAIN: dict[str, dict[str, Any]] = {  # how diffusers' own call is told not to guide, and what it encodes
    "flux2_klein": {"guidance_scale": 1.0, "max_sequence_length": tiny_flux2.TEXT},
    "flux2_dev": {"guidance_scale": 1.0, "max_sequence_length": tiny_flux2.TEXT},
    "qwen_image": {"true_cfg_scale": 1.0},
    "z_image": {"guidance_scale": 0.0},
    "pixart": PIXART,
    "pixart_sigma": PIXART,
}


@pytest.mark.parametrize("of", each(FAMILIES))
@pytest.mark.parametrize(("height", "width"), [(16, 24), pytest.param(32, 16, marks=pytest.mark.slow)])
def test_an_image_of_unlike_sides_is_that_of_diffusers(of: str, height: int, width: int) -> None:
    square = FAMILIES[of].model()
    side = height // 4  # of tokens
    model = replace(square, height=height, width=width, self_max_side=side, blend_side=side)
    prompt = "a cat on a bench"
    same = PromptToPrompt(tau=0, self_replace_steps=1.0, operator="refine")
    request = EditRequest(prompt, prompt, blend_words=("cat", "cat"))
    groups = [Group(prompt, 3, (same.trajectory(request, model.tokenizers, STEPS),))]
    [edited] = generate(model, groups, Sampling(STEPS, 1.0))
    assert torch.equal(edited.images[0], edited.source)
    plain = model.pipeline(
        prompt=prompt,
        num_inference_steps=STEPS,
        height=height,
        width=width,
        generator=torch.Generator().manual_seed(3),
        output_type="pt",
        **PLAIN.get(of, {"guidance_scale": 1.0}),
    ).images[0]
    assert plain.shape == (3, height, width)
    torch.testing.assert_close(edited.source, plain.float(), rtol=0, atol=0.51 / 255)  # 8 bits
