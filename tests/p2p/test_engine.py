"""The engine against plain diffusers, against itself in other batches, and against the definition of the
edits.
"""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from accelerate import cpu_offload
from diffusers import StableDiffusionImg2ImgPipeline
from torch import Tensor

from p2p import (
    Calls,
    EditRequest,
    FixedSeed,
    Group,
    PromptToPrompt,
    Sampling,
    SDEdit,
    StableDiffusion,
    edit,
    generate,
)
from p2p.alignment import ExpandingTokenizer
from p2p.devices import overflow_advice
from p2p.engine import derived_seed, tree_latents
from p2p.evaluations import plan_evaluations
from p2p.groups import batches

STEPS = 6
SAMPLING = Sampling(num_inference_steps=STEPS, guidance_scale=5.0)
SOURCE, SWAP, ADD = (
    "a cat sitting on a bench",
    "a dog sitting on a bench",
    "a cat with a hat sitting on a bench",
)
ROUNDING = 1.01 / 255  # images are 8-bit: the last digits of a double may turn one level, here and there


def group(
    model: StableDiffusion,
    edits: Sequence[tuple[str, Any]],
    source: str = SOURCE,
    seed: int = 0,
    steps: int = STEPS,
    weights: Mapping[str, float] | None = None,
) -> Group:
    return Group(
        source,
        seed,
        tuple(m.trajectory(EditRequest(source, t, weights or {}), model.tokenizers, steps) for t, m in edits),
    )


def plain(model: StableDiffusion, prompt: str, seed: int, sampling: Sampling = SAMPLING) -> Tensor:
    images = model.pipeline(
        prompt,
        num_inference_steps=sampling.num_inference_steps,
        guidance_scale=sampling.guidance_scale,
        negative_prompt=sampling.negative_prompt,
        generator=torch.Generator().manual_seed(seed),
        output_type="pt",
    ).images
    return quantised(images[0])


def quantised(image: Tensor) -> Tensor:
    return (image.float() * 255).round() / 255


def assert_same(image: Tensor, other: Tensor) -> None:
    torch.testing.assert_close(image, other, rtol=0, atol=ROUNDING)
    assert (image != other).float().mean() < 0.01


@pytest.mark.parametrize(
    "sampling", [SAMPLING, replace(SAMPLING, guidance_scale=1.0), replace(SAMPLING, negative_prompt="fog")]
)
def test_source_and_fixed_seed_equal_plain_diffusers(tiny_model: StableDiffusion, sampling: Sampling) -> None:
    [edited] = generate(
        tiny_model,
        [group(tiny_model, [(SWAP, FixedSeed()), (SWAP, PromptToPrompt(tau=0))], seed=3)],
        sampling,
    )
    assert_same(edited.source, plain(tiny_model, SOURCE, 3, sampling))
    assert_same(edited.images[0], plain(tiny_model, SWAP, 3, sampling))
    assert (edited.images[1] - edited.images[0]).abs().max() > 10 * ROUNDING


@pytest.mark.parametrize("strength", [0.2, 0.5, 0.84, 1.0])
def test_sdedit_equals_img2img_with_the_same_noise(tiny_model: StableDiffusion, strength: float) -> None:
    [edited] = generate(tiny_model, [group(tiny_model, [(SWAP, SDEdit(strength))], seed=5)], SAMPLING)
    img2img = StableDiffusionImg2ImgPipeline(**tiny_model.pipeline.components, requires_safety_checker=False)
    img2img.set_progress_bar_config(disable=True)
    scheduler = tiny_model.new_scheduler(STEPS)
    start = STEPS - int(STEPS * strength)
    noise = tiny_model.draw_noise([torch.Generator().manual_seed(derived_seed(5))])
    latents = scheduler.add_noise(
        tiny_model.encode(edited.source[None]), noise, scheduler.timesteps[start : start + 1]
    )
    img2img.prepare_latents = lambda *_, **__: latents
    images = img2img(SWAP, edited.source[None], strength, STEPS, guidance_scale=5.0, output_type="pt").images
    assert_same(edited.images[0], quantised(images[0]))


def test_sdedit_noise_is_not_the_noise_of_the_source(tiny_model: StableDiffusion) -> None:
    own, source = (tiny_model.draw_noise([torch.Generator().manual_seed(s)]) for s in (derived_seed(5), 5))
    assert torch.corrcoef(torch.stack([own.flatten(), source.flatten()]))[0, 1].abs() < 0.15
    assert len({derived_seed(seed) for seed in range(1000)}) == 1000


@pytest.mark.parametrize(
    "method",
    [
        PromptToPrompt(tau=0, self_replace_steps=1.0),
        PromptToPrompt(cross_replace_steps=(0.2, 0.7)),
        FixedSeed(),
    ],
)
def test_identical_prompts_give_the_source(tiny_model: StableDiffusion, method: Any) -> None:
    [edited] = generate(tiny_model, [group(tiny_model, [(SOURCE, method)])], SAMPLING)
    assert_same(edited.images[0], edited.source)


def test_weights_of_one_change_nothing_and_others_do(tiny_model: StableDiffusion) -> None:
    def weigh(**weights: float) -> PromptToPrompt:
        return PromptToPrompt(tau=0, weights=weights)

    edits = [
        (SOURCE, weigh(cat=1.0)),
        (SOURCE, weigh(cat=3.0)),
        (SOURCE, weigh(cat=-1.0, bench=2.0)),
        (SWAP, PromptToPrompt(tau=0)),
        (SWAP, weigh(dog=0.0)),
    ]
    [edited] = generate(tiny_model, [group(tiny_model, edits)], SAMPLING)
    one, three, several, swap, without = edited.images
    assert_same(one, edited.source)
    for image, other in ((three, one), (several, one), (several, three), (without, swap)):
        assert (image - other).abs().max() > 3 * ROUNDING


def test_the_pairs_own_weights_are_used_or_replaced_by_a_number(tiny_model: StableDiffusion) -> None:
    pair = {"bench": 3.0}
    methods = [
        PromptToPrompt(tau=0),
        PromptToPrompt(tau=0, weights={"bench": 3.0}),
        PromptToPrompt(tau=0, weights=0.5),
    ]
    trajectories = [
        m.trajectory(EditRequest(SOURCE, SOURCE, pair), tiny_model.tokenizers, STEPS) for m in methods
    ]
    assert trajectories[0].digest() == trajectories[1].digest() != trajectories[2].digest()
    assert trajectories[2].record["weights"] == {"bench": 0.5}


def test_a_tokenizer_that_is_used_as_it_is_is_not_copied(tiny_model: StableDiffusion) -> None:
    """CLIP's takes 27 MB, more than an edit's own memory on a small model."""
    [used] = tiny_model.tokenizers
    assert isinstance(used, ExpandingTokenizer)
    assert used.tokenizer is tiny_model.pipeline.tokenizer


@pytest.mark.parametrize("limit", [2, pytest.param(6, marks=pytest.mark.slow)])
def test_one_seed_is_one_image_whatever_rides_along(tiny_model: StableDiffusion, limit: int) -> None:
    edits = [(SWAP, PromptToPrompt(tau=t)) for t in (0.0, 0.4, 1.0)] + [
        (ADD, PromptToPrompt(tau=0.2)),
        (SWAP, SDEdit(0.5)),
    ]
    groups = [
        group(tiny_model, edits, seed=1),
        group(tiny_model, edits[:2], "a cat sitting on a sofa bench", 1),
    ]
    groups = [
        groups[0],
        group(tiny_model, [("a red car", PromptToPrompt(tau=0.2))], "a blue car", 2),
        group(tiny_model, edits[3:], seed=7),
    ]
    together = generate(tiny_model, groups, SAMPLING)
    # Chunks: the source's queries and keys outlive their own call.
    for one, other in zip(
        generate(tiny_model, groups, replace(SAMPLING, max_batch=limit)), together, strict=True
    ):
        assert_same(one.source, other.source)
        for image, same in zip(one.images, other.images, strict=True):
            assert_same(image, same)
    for g, edited in zip(groups, together, strict=True):
        for number, trajectory in enumerate(g.edits):
            [alone] = generate(tiny_model, [Group(g.source_prompt, g.seed, (trajectory,))], SAMPLING)
            assert_same(alone.images[0], edited.images[number])


def test_an_image_has_its_edits_number_whatever_stands_before_it(tiny_model: StableDiffusion) -> None:
    edits = [(ADD, SDEdit(0.5)), (SWAP, FixedSeed()), (SWAP, SDEdit(0.5)), (ADD, PromptToPrompt(tau=0.2))]
    mixed = group(tiny_model, edits, seed=2)
    assert set(tree_latents(tiny_model, [mixed], SAMPLING)) == {(0, 0), (0, 2), (0, 4)}
    [edited] = generate(tiny_model, [mixed], SAMPLING)
    for image, trajectory in zip(edited.images, mixed.edits, strict=True):
        [alone] = generate(tiny_model, [Group(SOURCE, 2, (trajectory,))], SAMPLING)
        assert_same(image, alone.images[0])


def test_where_memory_runs_out_calls_are_halved_and_nothing_is_done_twice(
    tiny_model: StableDiffusion, monkeypatch: pytest.MonkeyPatch
) -> None:
    edits = [(SWAP, PromptToPrompt(tau=t)) for t in (0.0, 0.4, 1.0)] + [(ADD, PromptToPrompt(tau=0.2))]
    groups = [group(tiny_model, edits), group(tiny_model, edits[2:], seed=1)]
    wanted = generate(tiny_model, groups, SAMPLING)
    predict, made = tiny_model.predict, []

    def small(rows: Tensor, *rest: Any) -> Tensor:
        output = predict(rows, *rest)  # fails late, when layers have kept their queries and keys
        if len(rows) > 6:
            raise torch.OutOfMemoryError("no memory for so many rows")
        return output

    monkeypatch.setattr(tiny_model, "predict", small)
    calls = Calls(SAMPLING.max_batch, made.append)
    for edited, same in zip(generate(tiny_model, groups, SAMPLING, calls), wanted, strict=True):
        for image, other in zip(edited.images, same.images, strict=True):
            assert_same(image, other)
    assert sum(made) == plan_evaluations(groups, STEPS, SAMPLING)
    assert max(made) <= calls.max_rows <= 6


@pytest.mark.parametrize("guidance_scale", [1.0, 5.0])
def test_the_plan_says_what_the_loop_counts(tiny_model: StableDiffusion, guidance_scale: float) -> None:
    sampling = replace(SAMPLING, guidance_scale=guidance_scale)
    methods = [PromptToPrompt(tau=t) for t in (0, 0.25, 0.5, 0.75, 1)] + [
        FixedSeed(),
        SDEdit(0.5),
        SDEdit(0.9),
    ]
    groups = [
        group(tiny_model, [(SWAP, m) for m in methods]),
        group(tiny_model, [(ADD, m) for m in methods], seed=1),
    ]
    counted: list[int] = []
    generate(tiny_model, groups, sampling, Calls(sampling.max_batch, counted.append))
    assert sum(counted) == plan_evaluations(groups, STEPS, sampling)
    separately = sum(
        plan_evaluations([Group(g.source_prompt, g.seed, (e,))], STEPS, sampling)
        for g in groups
        for e in g.edits
    )
    assert sum(counted) < 0.6 * separately


def test_eleven_taus_cost_about_half_the_trajectories(tiny_model: StableDiffusion) -> None:
    edits = [(SWAP, PromptToPrompt(tau=t / 10, self_replace_steps=0.0)) for t in range(11)]
    one = group(tiny_model, edits, steps=50)
    rows = plan_evaluations([one], 50, Sampling())
    assert rows / 100 == pytest.approx(11 / 2 + 2, abs=0.6)  # in trajectories of 50 steps with guidance


def test_batches_hold_every_group_once_and_fit(tiny_model: StableDiffusion) -> None:
    groups = [group(tiny_model, [(SWAP, PromptToPrompt(tau=t)) for t in (0, 0.5)], seed=s) for s in range(7)]
    numbers = list(batches(groups, replace(SAMPLING, max_batch=12)))
    assert numbers == [[0, 1], [2, 3], [4, 5], [6]]


def test_processors_are_restored_even_after_an_error(
    tiny_model: StableDiffusion, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = {name: type(processor) for name, processor in tiny_model.pipeline.unet.attn_processors.items()}

    def fail(*_: object) -> Tensor:
        raise RuntimeError("no noise today")

    monkeypatch.setattr(tiny_model, "predict", fail)
    with pytest.raises(RuntimeError, match="no noise today"):
        generate(tiny_model, [group(tiny_model, [])], SAMPLING)
    assert {
        name: type(processor) for name, processor in tiny_model.pipeline.unet.attn_processors.items()
    } == before


def test_a_layer_that_bypasses_its_processor_is_an_error(
    tiny_model: StableDiffusion, monkeypatch: pytest.MonkeyPatch
) -> None:
    layer = tiny_model.pipeline.unet.mid_block.attentions[0].transformer_blocks[0].attn2
    monkeypatch.setattr(layer, "forward", lambda hidden_states, **_: torch.zeros_like(hidden_states))
    with pytest.raises(RuntimeError, match="1 layers did not call their processor"):
        generate(tiny_model, [group(tiny_model, [(SWAP, PromptToPrompt(tau=0))])], SAMPLING)


def test_images_that_are_not_finite_are_an_error(
    tiny_model: StableDiffusion, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tiny_model, "predict", lambda latents, *_: latents * float("nan"))
    with pytest.raises(FloatingPointError, match=r"not finite for prompts \[.*\]$"):
        generate(tiny_model, [group(tiny_model, [])], SAMPLING)


def test_single_precision_is_advised_for_half_precision_alone() -> None:
    told = [overflow_advice(dtype) for dtype in (torch.float16, torch.bfloat16, torch.float32, torch.float64)]
    assert [bool(text) for text in told] == [True, True, False, False]


def test_edit_is_generate_for_one_group(tiny_model: StableDiffusion) -> None:
    method = PromptToPrompt(tau=0.2)
    edited = edit(tiny_model, SOURCE, [(SWAP, method)], seed=4, sampling=SAMPLING)
    [same] = generate(tiny_model, [group(tiny_model, [(SWAP, method)], seed=4)], SAMPLING)
    assert_same(edited.images[0], same.images[0])


def test_edit_passes_on_weights_and_blend_words(tiny_model: StableDiffusion) -> None:
    """Without them a number for the weights, and all that bounds an area, would do nothing."""
    method = PromptToPrompt(
        weights=3.0, blend_weight=2.0, blend_start=0.0, substruct_words=("bench", "bench")
    )
    asked: dict[str, Any] = {"weights": {"bench": 1.0}, "blend_words": ("cat", "dog")}
    edited = edit(tiny_model, SOURCE, [(SWAP, method)], sampling=SAMPLING, **asked)
    request = EditRequest(SOURCE, SWAP, {"bench": 1.0}, ("cat", "dog"))
    trajectory = method.trajectory(request, tiny_model.tokenizers, STEPS)
    [same] = generate(tiny_model, [Group(SOURCE, 0, (trajectory,))], SAMPLING)
    assert torch.equal(edited.images[0], same.images[0])
    assert trajectory.record["weights"] == {"bench": 3.0}
    assert trajectory.blend is not None
    without = edit(tiny_model, SOURCE, [(SWAP, replace(method, substruct_words=None))], sampling=SAMPLING)
    assert (edited.images[0] - without.images[0]).abs().max() > 10 * ROUNDING


def test_substruct_words_that_can_do_nothing_are_an_error(tiny_model: StableDiffusion) -> None:
    method = PromptToPrompt(substruct_words=("bench", "bench"))
    with pytest.raises(ValueError, match=r"substruct_words: \('bench', 'bench'\) given without blend_words"):
        edit(tiny_model, SOURCE, [(SWAP, method)], sampling=SAMPLING)
    absent = PromptToPrompt(substruct_words=("bench", "hat"))
    with pytest.raises(ValueError, match="'hat'.*a dog sitting on a bench"):
        edit(tiny_model, SOURCE, [(SWAP, absent)], sampling=SAMPLING, blend_words=("cat", "dog"))
    # A data set may have pairs without blend words beside others.
    assert method.trajectory(EditRequest(SOURCE, SWAP), tiny_model.tokenizers, STEPS).blend is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda image: (image * 255).to(torch.uint8),
            r"is torch.uint8, allowed is floating point in \[0, 1\]",
        ),
        (lambda image: image * 2 - 1, r"has values from -.* to .*, allowed is \[0, 1\]"),
        (lambda image: image * 255, "has values from .* to 255"),
        (lambda image: image / 0, "has values from nan"),
    ],
)
def test_a_real_image_that_is_not_in_0_1_is_an_error(
    tiny_model: StableDiffusion, picture: Tensor, change: Any, message: str
) -> None:
    with pytest.raises(ValueError, match="image of 'a cat sitting on a bench': " + message) as error:
        edit(tiny_model, SOURCE, [(SWAP, SDEdit(0.5))], sampling=SAMPLING, image=change(picture))
    assert "\n" not in str(error.value)


def test_a_real_image_of_another_precision_is_given_back_in_single(
    tiny_model: StableDiffusion, picture: Tensor
) -> None:
    edited = edit(tiny_model, SOURCE, [(SWAP, SDEdit(0.2))], sampling=SAMPLING, image=picture.double())
    assert torch.equal(edited.source, picture)


@pytest.mark.parametrize("pixels", [33, 0, -32])
def test_a_size_that_is_no_whole_number_of_latents_is_an_error(
    tiny_model: StableDiffusion, pixels: int
) -> None:
    for name in ("height", "width"):
        with pytest.raises(ValueError, match=f"{name}: {pixels} is no multiple of 2 above 0"):
            StableDiffusion(tiny_model.pipeline, 16, 16, **{name: pixels})


def test_networks_that_accelerate_keeps_elsewhere_compute_where_it_moves_them(
    tiny_model: StableDiffusion,
) -> None:
    """Here they lie on "meta" until they are called; `enable_model_cpu_offload` has them on the CPU."""
    pipeline = copy.deepcopy(tiny_model.pipeline)
    for network in (pipeline.unet, pipeline.vae, pipeline.text_encoder):
        cpu_offload(network, "cpu")
    model = StableDiffusion(pipeline, 16, 16)
    assert (pipeline.device, model.device) == (torch.device("meta"), torch.device("cpu"))
    edits = [(SWAP, PromptToPrompt(tau=0.2)), (SWAP, SDEdit(0.5))]
    edited, same = (edit(m, SOURCE, edits, sampling=SAMPLING) for m in (model, tiny_model))
    for image, other in zip(edited.images, same.images, strict=True):
        assert_same(image, other)


def test_a_side_that_no_layer_has_is_an_error(tiny_model: StableDiffusion) -> None:
    with pytest.raises(
        ValueError, match="self_max_side: 32 is no side of an attention layer, allowed are 16, 8"
    ):
        StableDiffusion(tiny_model.pipeline, self_max_side=32, blend_side=16)
