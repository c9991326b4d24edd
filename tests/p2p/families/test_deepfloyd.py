"""DeepFloyd IF: tiny random pipelines of both stages against their own calls and against formed maps."""

from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import IFImg2ImgPipeline
from torch import Tensor

from p2p import (
    Calls,
    DeepFloyd,
    EditRequest,
    External,
    FixedSeed,
    Group,
    ModelSpec,
    PromptToPrompt,
    SDEdit,
    generate,
)
from p2p.engine import edit, tree_latents, upscale
from p2p.evaluations import plan_evaluations
from p2p.groups import SOURCE as THE_SOURCE
from p2p.upscaling import upscaled_latents
from tests.p2p.families.materialised import (
    ADD,
    EDITS,
    SAMPLING,
    SOURCE,
    STEPS,
    SWAP,
    TOLERANCE,
    check_edit,
    check_no_map,
    check_plain,
    check_sdedit,
    edited_latents,
    recorded_steps,
)
from tests.p2p.families.tiny_deepfloyd import save_tiny_deepfloyd, tiny_scheduler
from tests.p2p.families.yamls import from_yaml
from tests.p2p.naive import Controller, Settings

pytestmark = pytest.mark.xdist_group("deepfloyd")


class JointMaps:
    """Attention over text and pixels with formed probabilities, handed to the controller block by block."""

    def __init__(self, controller: Controller) -> None:
        self.controller = controller

    def __call__(self, attn: Any, hidden_states: Tensor, encoder_hidden_states: Tensor, **_: Any) -> Tensor:
        text = attn.norm_encoder_hidden_states(encoder_hidden_states)
        pixels = attn.group_norm(hidden_states.flatten(2)).transpose(1, 2)
        keys, values = [attn.add_k_proj(text)], [attn.add_v_proj(text)]
        if not attn.only_cross_attention:
            keys.append(attn.to_k(pixels))
            values.append(attn.to_v(pixels))
        query, key, value = map(
            attn.head_to_batch_dim, (attn.to_q(pixels), torch.cat(keys, 1), torch.cat(values, 1))
        )
        maps = (query @ key.transpose(1, 2) * attn.scale).softmax(-1).unflatten(0, (-1, attn.heads))
        blocks = [self.controller(maps[-2:, ..., : text.shape[1]], True)]
        if not attn.only_cross_attention:
            blocks.append(self.controller(maps[-2:, ..., text.shape[1] :], False))
        maps = torch.cat([maps[:-2], torch.cat(blocks, -1)])
        output = attn.to_out[0](attn.batch_to_head_dim(maps.flatten(0, 1) @ value))
        return output.transpose(1, 2).reshape(hidden_states.shape) + hidden_states


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_deepfloyd(tmp_path_factory.mktemp("deepfloyd"))


def spec(folder: Path) -> ModelSpec:
    stages = ((folder / "base", ""), (folder / "upscaler", "upscaler."))
    changes = [
        f"{key}{change}"
        for path, key in stages
        for change in (f"path={path}", "dtype=float64", "variant=null")
    ]
    return from_yaml("deepfloyd", *changes)


@pytest.fixture(scope="module")
def model(folder: Path) -> DeepFloyd:
    model = spec(folder).load()
    assert isinstance(model, DeepFloyd)
    return model


@pytest.fixture(scope="module")
def base(model: DeepFloyd) -> DeepFloyd:
    return replace(model, upscaler=None)


def call(model: DeepFloyd, prompts: list[str], generators: list[torch.Generator], **inputs: Tensor) -> Tensor:
    """Return the pipeline's output, around [-1, 1]."""
    return model.pipeline(
        prompts,
        num_inference_steps=STEPS,
        guidance_scale=SAMPLING.guidance_scale,
        generator=generators,
        output_type="pt",
        **inputs,
    ).images


def test_the_base_equals_plain_diffusers(base: DeepFloyd) -> None:
    check_plain(
        base,
        lambda prompts, generators: call(base, prompts, generators),
        lambda prompt, seed: (call(base, [prompt], [torch.Generator().manual_seed(seed)])[0] / 2 + 0.5).clamp(
            0, 1
        ),
    )


def test_a_scheduler_without_learned_variance_gets_noise_alone(base: DeepFloyd) -> None:
    original = base.pipeline.scheduler
    base.pipeline.scheduler = tiny_scheduler(variance_type="fixed_small")
    try:
        check_plain(
            base,
            lambda prompts, generators: call(base, prompts, generators),
            lambda prompt, seed: (
                call(base, [prompt], [torch.Generator().manual_seed(seed)])[0] / 2 + 0.5
            ).clamp(0, 1),
        )
    finally:
        base.pipeline.scheduler = original


@pytest.mark.parametrize(
    "name", [n if n in ("replace", "refine") else pytest.param(n, marks=pytest.mark.slow) for n in EDITS]
)
def test_edits_of_the_base_equal_formed_maps(base: DeepFloyd, name: str) -> None:
    check_edit(base, lambda prompts, generators: call(base, prompts, generators), name, JointMaps)


@pytest.mark.usefixtures("padded_calls")
@pytest.mark.parametrize(
    "name", ["refine", *(pytest.param(n, marks=pytest.mark.slow) for n in EDITS if n != "refine")]
)
def test_edits_of_the_base_in_padded_calls_equal_formed_maps(base: DeepFloyd, name: str) -> None:
    compiled = replace(base, compile=True)
    check_edit(compiled, lambda prompts, generators: call(base, prompts, generators), name, JointMaps)


def test_no_map_is_formed(base: DeepFloyd) -> None:
    check_no_map(base, lambda prompts, generators: call(base, prompts, generators), JointMaps)


def test_words_are_where_the_lower_cased_prompt_has_them(base: DeepFloyd) -> None:
    [tokenizer] = base.tokenizers
    assert tokenizer("A Cat").input_ids == tokenizer("a cat").input_ids
    upper, lower = (base.encode_prompt(p)["encoder_hidden_states"] for p in ("A Cat", "a cat"))
    assert torch.equal(upper, lower)


def test_sdedit_equals_img2img_with_the_same_noise(base: DeepFloyd) -> None:
    img2img = IFImg2ImgPipeline(**base.pipeline.components, requires_safety_checker=False)
    img2img.set_progress_bar_config(disable=True)
    start = [torch.empty(0)]

    def prepare_intermediate_images(*_: object, **__: object) -> Tensor:
        return start[0]

    img2img.prepare_intermediate_images = prepare_intermediate_images

    def call_it(image: Tensor, generator: torch.Generator) -> Tensor:
        output = img2img(
            SWAP, image=image * 2 - 1, strength=0.5, num_inference_steps=STEPS,
            guidance_scale=SAMPLING.guidance_scale, generator=generator, output_type="pt",
        ).images  # fmt: skip
        return (output / 2 + 0.5).clamp(0, 1)

    check_sdedit(base, start, call_it)


def quantised(images: Tensor) -> Tensor:
    return ((images / 2 + 0.5).clamp(0, 1) * 255).round() / 255


def test_both_stages_equal_plain_diffusers_with_one_generator(model: DeepFloyd) -> None:
    methods: list[Any] = [FixedSeed(), PromptToPrompt(tau=1), PromptToPrompt(tau=0)]
    trajectories = [m.trajectory(EditRequest(SOURCE, SWAP), model.tokenizers, STEPS) for m in methods]
    [edited] = generate(model, [Group(SOURCE, 3, tuple(trajectories))], SAMPLING)
    for ours, prompt in ((edited.source, SOURCE), (edited.images[0], SWAP), (edited.images[1], SWAP)):
        generator = [torch.Generator().manual_seed(3)]
        small = quantised(call(model, [prompt], generator)) * 2 - 1
        large = quantised(call(model.upscaler, [prompt], generator, image=small))[0]
        torch.testing.assert_close(ours.double(), large, rtol=0, atol=1.01 / 255)
        assert (ours - large).abs().gt(1e-6).double().mean() < 0.01  # a last digit may turn a level
    assert edited.source.shape == (3, 32, 32)
    assert (edited.images[2] - edited.images[0]).abs().max() > 10 / 255


@pytest.mark.parametrize("name", [pytest.param("replace", marks=pytest.mark.slow), "refine"])
@pytest.mark.usefixtures("padded_calls")
def test_edits_of_the_upscaler_equal_formed_maps(model: DeepFloyd, name: str) -> None:
    upscaler = model.upscaler
    assert upscaler is not None
    edit = {"weights": {}, **EDITS[name]}
    settings = Settings(
        SOURCE, edit["target"], edit["operator"], "fixed", {"default_": (0.0, 0.8)}, (0.0, 0.5),
        self_limit=256, weights=edit["weights"], blend=edit["blend"], threshold=(0.6, 0.6),
    )  # fmt: skip
    method = PromptToPrompt(
        edit["operator"], cross_replace_steps=0.8, self_replace_steps=0.5, weights=edit["weights"],
        blend_threshold=0.6,
    )  # fmt: skip
    request = EditRequest(SOURCE, edit["target"], blend_words=edit["blend"])
    trajectory = method.trajectory(request, upscaler.tokenizers, STEPS)
    trees = [Group(SOURCE, 5, (trajectory,)).trajectories()]
    small = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))

    def pipeline(prompts: list[str], generators: list[torch.Generator]) -> Tensor:
        return call(upscaler, prompts, generators, image=small * 2 - 1)

    wanted, controller = edited_latents(upscaler, pipeline, settings, 5, JointMaps)
    assert controller.nearest > 1e-9, "a blend value lies on its threshold"
    for model, max_batch in product((upscaler, replace(upscaler, compile=True)), (2, 64)):
        generator = torch.Generator().manual_seed(5)
        sampling = replace(SAMPLING, max_batch=max_batch)
        with torch.no_grad():
            [ours] = upscaled_latents(model, trees, [small], sampling, Calls(max_batch), [generator])
        torch.testing.assert_close(ours, wanted, rtol=0, atol=TOLERANCE)
    with recorded_steps(upscaler.pipeline) as plain:
        pipeline([SOURCE, edit["target"]], [torch.Generator().manual_seed(5) for _ in range(2)])
    assert (plain[-1][1] - wanted[1]).abs().max() > 1000 * TOLERANCE, "nothing was edited"


def test_another_pipeline_edits_the_enlarged_source_and_no_other_edit_takes_its_place(
    model: DeepFloyd, tiny_folder: Path
) -> None:
    other = External("StableDiffusionPipeline", str(tiny_folder), {"prompt": "{target_prompt}"})  # 32x32
    edits: list[Any] = [(SWAP, other), (SWAP, FixedSeed()), (ADD, other), (ADD, PromptToPrompt(tau=0.5))]
    made = [m.trajectory(EditRequest(SOURCE, target), model.tokenizers, STEPS) for target, m in edits]
    [mixed] = generate(model, [Group(SOURCE, 3, tuple(made))], SAMPLING)
    [alone] = generate(model, [Group(SOURCE, 3, (made[1], made[3]))], SAMPLING)
    assert torch.equal(mixed.source, alone.source)
    assert torch.equal(torch.stack(mixed.images[1::2]), torch.stack(alone.images))
    assert mixed.images[0].shape == mixed.source.shape
    assert not torch.equal(mixed.images[0], mixed.images[2])


def test_both_stages_are_planned_and_shared_exactly(folder: Path, model: DeepFloyd) -> None:
    methods: list[Any] = [FixedSeed(), PromptToPrompt(tau=1), PromptToPrompt(tau=0.5), SDEdit(0.5)]
    groups = [
        Group(
            SOURCE,
            seed,
            tuple(m.trajectory(EditRequest(SOURCE, t), model.tokenizers, STEPS) for m in methods),
        )
        for seed, t in ((0, SWAP), (1, ADD))
    ]
    counted: list[int] = []
    generate(model, groups, SAMPLING, Calls(SAMPLING.max_batch, counted.append))
    calls = spec(folder).upscaler_calls(STEPS)
    assert sum(counted) == plan_evaluations(groups, STEPS, SAMPLING, upscaler_calls=calls)
    # Fixed seed and tau = 1 are one image: source, fixed seed, tau 0.5 and SDEdit are enlarged.
    assert sum(counted) - plan_evaluations(groups, STEPS, SAMPLING) == 2 * 4 * STEPS * 2


def test_the_upscaler_may_have_windows_of_its_own(model: DeepFloyd) -> None:
    assert model.upscaler is not None

    def group(tau: float) -> Group:
        method = PromptToPrompt(tau=tau)
        return Group(SOURCE, 0, (method.trajectory(EditRequest(SOURCE, SWAP), model.tokenizers, STEPS),))

    [edited] = generate(replace(model, upscaler=None), [group(0.2)], SAMPLING)
    small = {(0, THE_SOURCE): edited.source, (0, 0): edited.images[0]}
    free, bound = (upscale(model.upscaler, [group(tau)], small, SAMPLING) for tau in (1.0, 0.0))
    assert torch.equal(free[0, THE_SOURCE], bound[0, THE_SOURCE])
    assert (free[0, 0] - bound[0, 0]).abs().max() > 10 / 255


def test_where_memory_runs_out_the_upscaler_s_calls_are_halved(
    model: DeepFloyd, monkeypatch: pytest.MonkeyPatch
) -> None:
    methods = [PromptToPrompt(tau=0.0), PromptToPrompt(tau=0.5), PromptToPrompt(tau=1.0)]
    edits = [(SWAP, method) for method in methods]
    wanted = edit(model, SOURCE, edits, 3, SAMPLING)
    upscaler = model.upscaler
    assert upscaler is not None
    predict, made = upscaler.predict, []

    def short(rows: Tensor, *rest: Any) -> Tensor:
        output = predict(rows, *rest)
        if len(rows) > 2:
            raise torch.OutOfMemoryError("no memory for so many rows")
        made.append(len(rows))
        return output

    monkeypatch.setattr(upscaler, "predict", short)
    found = edit(model, SOURCE, edits, 3, SAMPLING)
    for image, same in zip((found.source, *found.images), (wanted.source, *wanted.images), strict=True):
        torch.testing.assert_close(
            image, same, rtol=0, atol=1e-6
        )  # equal but for the order of sums, and 8 bits
    assert set(made) == {2}


def test_the_identity_knows_both_stages(folder: Path) -> None:
    both = spec(folder)
    alone = replace(both, upscaler=None)
    assert both.upscaler is not None
    other = replace(both, upscaler=replace(both.upscaler, scheduler="DDIMScheduler"))
    assert len({one.identity() for one in (both, alone, other)}) == 3


def test_an_upscaler_is_no_model_of_its_own(folder: Path, model: DeepFloyd) -> None:
    assert model.upscaler is not None
    with pytest.raises(ValueError, match="runs only as the upscaler of another model"):
        tree_latents(model.upscaler, [Group(SOURCE, 0, ())], SAMPLING)
    with pytest.raises(ValueError, match="upscaler: IFPipeline of a IFPipeline, allowed is"):
        replace(spec(folder), upscaler=replace(spec(folder), upscaler=None))


def test_a_real_image_is_no_source_of_two_stages(model: DeepFloyd) -> None:
    picture = torch.linspace(0, 1, model.image_size[1]).expand(3, *model.image_size)
    trajectory = SDEdit(0.5).trajectory(EditRequest(SOURCE, SWAP), model.tokenizers, STEPS)
    group = Group(SOURCE, 0, (trajectory,), lambda: picture)
    with pytest.raises(ValueError, match="cannot be the source of a model with an upscaler"):
        generate(model, [group], SAMPLING)
    [edited] = generate(replace(model, upscaler=None), [group], SAMPLING)
    assert torch.equal(edited.source, picture)
    assert edited.images[0].shape == picture.shape
