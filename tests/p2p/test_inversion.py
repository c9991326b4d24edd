"""What each inversion promises, on the tiny pipeline in double precision; three against a naive loop."""

import copy
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DDIMScheduler, EulerDiscreteScheduler
from torch import Tensor

from p2p import (
    DDIM,
    Calls,
    Direct,
    EditFriendly,
    EditRequest,
    FixedSeed,
    Group,
    Inversion,
    ModelSpec,
    NegativePrompt,
    NullText,
    PromptToPrompt,
    Proximal,
    Sampling,
    SDEdit,
    StableDiffusion,
    edit,
    generate,
)
from p2p.engine import denoise_tree, plan_evaluations, source_paths, tree_latents
from p2p.inversion.inversion import ddim_levels, ddim_states
from p2p.source_path import Shrink
from p2p.tree import build_tree
from p2p.word_readings import Reading, Watch, word_columns
from tests.p2p.naive import Settings, naive_latents

STEPS = 4
SAMPLING = Sampling(num_inference_steps=STEPS, guidance_scale=3.0)
UNGUIDED = replace(SAMPLING, guidance_scale=1.0)
SOURCE, SWAP, ADD = (
    "a cat sitting on a bench",
    "a dog sitting on a bench",
    "a cat with a hat sitting on a bench",
)
# The scheduler's coefficients are single precision, but the same ones forth and back.
ROUNDING = 1e-9
EQUAL_GUIDANCE = EditFriendly(guidance_scale=3.0, skip=0.25)
INVERSIONS = [
    DDIM(),
    NullText(inner_steps=1),
    NegativePrompt(),
    Proximal("l1", quantile=0.8),
    Direct(),
    EditFriendly(skip=0.25),
]


@pytest.fixture(scope="module")
def model(tiny_model: StableDiffusion) -> StableDiffusion:
    """The tiny pipeline with calmer attention: at full strength guidance makes it chaotic."""
    pipeline = copy.deepcopy(tiny_model.pipeline)
    with torch.no_grad():
        for name, parameter in pipeline.unet.named_parameters():
            if "attn" in name and name.endswith(("to_q.weight", "to_k.weight", "to_v.weight")):
                parameter.mul_(0.5)
    return StableDiffusion(pipeline, self_max_side=16, blend_side=16)


@pytest.fixture(scope="module")
def image() -> Tensor:
    """A picture with 8-bit values."""
    x = torch.linspace(0, 1, 32)
    picture = torch.stack(
        [x.expand(32, 32), x[:, None].expand(32, 32), 0.5 + 0.4 * torch.sin(9 * x + x[:, None])]
    )
    return (picture * 255).round() / 255


@pytest.fixture
def scheduler(model: StableDiffusion) -> Iterator[Any]:
    """Put another scheduler into the pipeline for one test."""
    original = model.pipeline.scheduler

    def install(kind: Any, **config: Any) -> None:
        model.pipeline.scheduler = kind.from_config(original.config, **config)

    yield install
    model.pipeline.scheduler = original


def encoded(model: StableDiffusion, image: Tensor) -> Tensor:
    return model.encode(image[None])[0]


def group(
    model: StableDiffusion,
    image: Tensor,
    inversion: Inversion | None,
    edits: list[tuple[str, Any]],
    blend_words: tuple[str, str] | None = None,
    seed: int = 0,
    steps: int = STEPS,
) -> Group:
    trajectories = tuple(
        method.trajectory(EditRequest(SOURCE, target, blend_words=blend_words), model.tokenizers, steps)
        for target, method in edits
    )
    return Group(SOURCE, seed, trajectories, lambda: image, inversion)


def latents(
    model: StableDiffusion,
    image: Tensor,
    inversion: Inversion,
    edits: list[tuple[str, Any]],
    sampling: Sampling = SAMPLING,
) -> list[Tensor]:
    """Return the final latents of the source and of the edits."""
    one = group(model, image, inversion, edits, steps=sampling.num_inference_steps)
    found = tree_latents(model, [one], sampling)
    return [found[0, branch] for branch in range(len(edits) + 1)]


def error(
    model: StableDiffusion, image: Tensor, inversion: Inversion, sampling: Sampling = SAMPLING
) -> float:
    """Return the mean squared error of the reconstruction, in latents."""
    source = latents(model, image, inversion, [(SWAP, FixedSeed())], sampling)[0]
    return float((source - encoded(model, image)).square().mean())


def test_ddim_leads_back_the_nearer_the_more_steps(model: StableDiffusion, image: Tensor) -> None:
    few, many = (error(model, image, DDIM(), replace(UNGUIDED, num_inference_steps=n)) for n in (4, 48))
    assert many < few / 3  # a random network is no smooth denoiser: not yet first order
    assert error(model, image, DDIM()) > 2 * few  # under guidance it does not lead back


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
def test_ddim_converges_for_a_smooth_denoiser(
    model: StableDiffusion,
    image: Tensor,
    scheduler: Any,
    monkeypatch: pytest.MonkeyPatch,
    prediction_type: str,
) -> None:
    scheduler(DDIMScheduler, prediction_type=prediction_type)
    alphas = model.pipeline.scheduler.alphas_cumprod.double()

    def of_normal_data(latents: Tensor, timestep: Tensor, *_: object) -> Tensor:
        """Predict for latents that are normal with variance 0.3."""
        alpha = alphas[timestep]
        clean = alpha.sqrt() * 0.3 * latents / (0.3 * alpha + 1 - alpha)
        epsilon = (latents - alpha.sqrt() * clean) / (1 - alpha).sqrt()
        return (
            epsilon if prediction_type == "epsilon" else alpha.sqrt() * epsilon - (1 - alpha).sqrt() * clean
        )

    monkeypatch.setattr(model, "predict", of_normal_data)
    latents = encoded(model, image)[None]
    errors = []
    for steps in (25, 100, 400):
        sampling = replace(UNGUIDED, num_inference_steps=steps)
        found = ddim_states(model, latents, [SOURCE], sampling, Calls(64))[:, 0]
        scheduled = model.new_scheduler(steps)
        for timestep in scheduled.timesteps:
            output = of_normal_data(found, timestep)
            found = scheduled.step(output, timestep, found, return_dict=False)[0]
        errors.append(float((found - latents).abs().max() / latents.abs().max()))
    # First order: a fourth of the step, a fourth of the error, or nearly.
    assert errors[0] > 3 * errors[1] > 9 * errors[2]
    assert errors[2] < 0.02


def test_null_text_leads_nearer_the_more_it_optimises(model: StableDiffusion, image: Tensor) -> None:
    def null_text(inner_steps: int) -> NullText:
        return NullText(inner_steps, learning_rate=1e-2, epsilon=0, epsilon_growth=0)

    ddim, none, some = (error(model, image, i) for i in (DDIM(), null_text(0), null_text(4)))
    assert none == pytest.approx(ddim, rel=1e-6)  # nothing was optimised
    assert some < 0.9 * ddim


def test_null_text_stops_early_and_counts_what_it_took(model: StableDiffusion, image: Tensor) -> None:
    for epsilon, inner in ((1e9, 1), (0.0, 3)):
        inversion = NullText(3, epsilon=epsilon, epsilon_growth=0)
        counted: list[int] = []
        one = group(model, image, inversion, [(SWAP, FixedSeed())])
        source_paths(model, [one], SAMPLING, Calls(64, counted.append))
        assert sum(counted) == STEPS * (1 + 2 + inner)
        assert sum(counted) <= inversion.evaluations(SAMPLING)


def test_null_text_leaves_no_gradients_behind(model: StableDiffusion, image: Tensor) -> None:
    """Nor in the weights of a pipeline that the user loaded, which ask for them."""
    model.denoiser.requires_grad_(True)
    source_paths(model, [group(model, image, NullText(inner_steps=1), [(SWAP, FixedSeed())])], SAMPLING)
    model.denoiser.requires_grad_(False)
    assert [name for name, weight in model.denoiser.named_parameters() if weight.grad is not None] == []


def test_null_text_moves_in_half_precision_where_the_denoiser_hardly_heeds_the_text(
    tiny_folder: Path, image: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Gradients are about 1e-8 then, which float16 rounds to 0."""

    def faint(latents: Tensor, timestep: Tensor, conditioning: Any) -> Tensor:
        return latents + 0.01 * conditioning["encoder_hidden_states"].mean((1, 2))[:, None, None, None]

    half = ModelSpec("tiny", str(tiny_folder), 16, 16, dtype="float16", device="cpu").load()
    monkeypatch.setattr(half, "predict", faint)
    one = group(half, image, NullText(1, epsilon=0, epsilon_growth=0), [(SWAP, FixedSeed())])
    [path] = source_paths(half, [one], SAMPLING)
    assert path is not None
    assert path.negatives is not None
    start = half.encode_prompt("", negative=True)["encoder_hidden_states"]
    assert (path.negatives["encoder_hidden_states"][0] != start).float().mean() > 0.9


def test_paths_that_need_the_noise_alone_do_not_hold_all_states(
    model: StableDiffusion, image: Tensor
) -> None:
    latents = model.encode(torch.stack([image, image.flip(1)]))
    for inversion in (DDIM(), NegativePrompt(), NullText(inner_steps=0)):
        for sampling in (SAMPLING, UNGUIDED):
            paths = inversion.invert(model, latents, [SOURCE, SWAP], sampling, [], Calls(64))
            assert {path.latents.untyped_storage().nbytes() for path in paths} == {latents.nbytes}


def test_without_guidance_null_text_and_negative_prompt_are_ddim(
    model: StableDiffusion, image: Tensor
) -> None:
    ddim, *others = (
        latents(model, image, i, [(SWAP, PromptToPrompt())], UNGUIDED)
        for i in (DDIM(), NullText(), NegativePrompt())
    )
    for other in others:
        torch.testing.assert_close(other, ddim, rtol=0, atol=0)
    assert NullText().evaluations(UNGUIDED) == STEPS


def test_negative_prompt_undoes_guidance_for_the_source(model: StableDiffusion, image: Tensor) -> None:
    [guided, same] = latents(model, image, NegativePrompt(), [(SOURCE, FixedSeed())])
    [plain, _] = latents(model, image, DDIM(), [(SOURCE, FixedSeed())], UNGUIDED)
    torch.testing.assert_close(guided, plain, rtol=0, atol=ROUNDING)
    torch.testing.assert_close(same, plain, rtol=0, atol=ROUNDING)


def test_proximal_lies_between_negative_prompt_and_the_source(model: StableDiffusion, image: Tensor) -> None:
    edits = [(SWAP, PromptToPrompt(tau=0.5)), (SWAP, FixedSeed())]
    plain = latents(model, image, NegativePrompt(), edits)
    for all_kept in (Proximal(quantile=0.0), Proximal(threshold=0.0), Proximal("l1", threshold=0.0)):
        for ours, theirs in zip(latents(model, image, all_kept, edits), plain, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=0, atol=ROUNDING)
    source, *edited = latents(model, image, Proximal(threshold=1e9), edits)
    torch.testing.assert_close(edited[1], source, rtol=0, atol=ROUNDING)  # all guided by the source's prompt
    some = latents(model, image, Proximal(), edits)[2]
    assert 0 < (some - source).abs().sum() < (plain[2] - source).abs().sum()


def test_shrink_is_the_proximal_operator_of_each_norm() -> None:
    difference = torch.tensor([-3.0, -1.0, 0.5, 2.0])
    assert Shrink("l0", threshold=1.0)(difference).tolist() == [-3.0, 0.0, 0.0, 2.0]
    assert Shrink("l1", threshold=1.0)(difference).tolist() == [-2.0, 0.0, 0.0, 1.0]
    # As the authors' code and PnP Inversion's write it, under the name l0.
    assert torch.equal(Shrink("l1", threshold=1.0)(difference), difference - difference.clamp(-1, 1))
    # With the source's four zeros the sizes are 0, 0, 0, 0, 0.5, 1, 2, 3: the 5/7 quantile is 1.
    assert Shrink("l0", quantile=5 / 7 + 1e-6)(difference).tolist() == [-3.0, 0.0, 0.0, 2.0]


@pytest.mark.parametrize("guidance_scale", [1.0, 3.0, 20.0])
def test_direct_gives_the_source_back_bit_for_bit(
    model: StableDiffusion, image: Tensor, guidance_scale: float
) -> None:
    sampling = replace(SAMPLING, guidance_scale=guidance_scale)
    edits = [(SWAP, PromptToPrompt(tau=0.2)), (SOURCE, FixedSeed())]
    source, swap, same = latents(model, image, Direct(), edits, sampling)
    assert torch.equal(source, encoded(model, image))
    assert not torch.equal(swap, source)
    # The edit with the source's own prompt starts from the same noise, but is not put back.
    torch.testing.assert_close(same, latents(model, image, DDIM(), edits, sampling)[0], rtol=0, atol=ROUNDING)
    [edited] = generate(model, [group(model, image, Direct(), edits)], sampling)
    assert edited.reconstruction is not None
    torch.testing.assert_close(edited.reconstruction, model.decode(source[None])[0], rtol=0, atol=0)


@pytest.mark.parametrize("inversion", [EditFriendly(skip=0.25), EditFriendly(1.0, 0.0)])
@pytest.mark.parametrize("last", [False, True])
def test_edit_friendly_gives_the_source_back_for_every_seed(
    model: StableDiffusion, image: Tensor, inversion: EditFriendly, last: bool, scheduler: Any
) -> None:
    scheduler(DDIMScheduler, set_alpha_to_one=last)
    groups = [group(model, image, inversion, [(SWAP, FixedSeed())], seed=seed) for seed in (0, 1)]
    found = tree_latents(model, groups, SAMPLING)
    for g in (0, 1):
        torch.testing.assert_close(found[g, 0], encoded(model, image), rtol=0, atol=ROUNDING)
    assert (found[0, 1] - found[1, 1]).abs().max() > 1000 * ROUNDING  # two edits of one image


@pytest.mark.parametrize(
    "inversion", [DDIM(), NullText(1), NegativePrompt(), Proximal(), EQUAL_GUIDANCE], ids=str
)
def test_identical_prompts_give_the_reconstruction(
    model: StableDiffusion, image: Tensor, inversion: Inversion
) -> None:
    edits = [(SOURCE, PromptToPrompt(tau=0, self_replace_steps=1.0)), (SOURCE, FixedSeed())]
    source, *same = latents(model, image, inversion, edits)
    for other in same:
        torch.testing.assert_close(other, source, rtol=0, atol=ROUNDING)


@pytest.mark.parametrize("inversion", INVERSIONS, ids=str)
def test_a_tree_of_edits_equals_one_by_one_and_costs_what_was_planned(
    model: StableDiffusion, image: Tensor, inversion: Inversion
) -> None:
    edits = [
        (SWAP, PromptToPrompt(tau=0.0)),
        (SWAP, PromptToPrompt(tau=0.6, blend_threshold=0.6)),
        (ADD, PromptToPrompt(tau=0.2, weights={"bench": 2.0})),
        (SWAP, FixedSeed()),
    ]
    words = ("cat", "sitting")
    groups = [
        group(model, image, inversion, edits, words),
        group(model, image.flip(2), inversion, edits[1:2], words),
    ]
    counted: list[int] = []
    paths = source_paths(model, groups, SAMPLING, Calls(64, counted.append))
    together = tree_latents(model, groups, SAMPLING, Calls(6, counted.append), paths)
    assert sum(counted) == plan_evaluations(groups, STEPS, SAMPLING)
    for g, one in enumerate(groups):
        for branch, trajectory in enumerate(one.edits, start=1):
            alone = tree_latents(model, [replace(one, edits=(trajectory,))], SAMPLING, paths=[paths[g]])
            torch.testing.assert_close(together[g, branch], alone[0, 1], rtol=0, atol=1e-8)  # other batches
    # Paths of one batch, and edits of one tree, are each other's no more than the images are.
    assert len({float(row.sum()) for row in together.values()}) == len(together)
    [again] = source_paths(model, groups[1:], SAMPLING)
    assert again is not None
    torch.testing.assert_close(again.latents, paths[1].latents if paths[1] else None, rtol=0, atol=1e-8)


@pytest.mark.parametrize("operator", ["replace", "refine"])
@pytest.mark.parametrize("inversion", [DDIM(), Direct(), NullText(inner_steps=0)], ids=str)
def test_edits_on_an_inversion_equal_a_naive_loop(
    model: StableDiffusion, image: Tensor, inversion: Inversion, operator: str
) -> None:
    settings = Settings(
        SOURCE, SWAP, operator, "fixed", {"default_": (0.0, 0.8)}, (0.0, 0.5), self_limit=16**2,
        weights={"dog": 2.0}, blend=("cat", "dog"), threshold=(0.5, 0.3),
    )  # fmt: skip
    method = PromptToPrompt(
        operator=operator, cross_replace_steps=0.8, self_replace_steps=0.5, weights={"dog": 2.0},
        blend_threshold=0.5,
    )  # fmt: skip
    states = naive_inversion(model, encoded(model, image), SOURCE)
    put_back = states[1:] if isinstance(inversion, Direct) else None
    naive, controller = naive_latents(
        model.pipeline, settings, 0, STEPS, SAMPLING.guidance_scale, start=states[0], put_back=put_back
    )
    assert controller.nearest > 1e-9
    ours = tree_latents(model, [group(model, image, inversion, [(SWAP, method)], ("cat", "dog"))], SAMPLING)
    torch.testing.assert_close(ours[0, 0], naive[0], rtol=0, atol=1e-8)
    torch.testing.assert_close(ours[0, 1], naive[1], rtol=0, atol=1e-8)


@torch.no_grad()
def naive_inversion(model: StableDiffusion, latents: Tensor, prompt: str) -> list[Tensor]:
    """Return x_T, ..., x_0 of DDIM inversion, the timesteps counted by hand."""
    pipeline = model.pipeline
    ids = pipeline.tokenizer([prompt], padding="max_length", return_tensors="pt").input_ids
    context = pipeline.text_encoder(ids).last_hidden_state
    alphas, stride, states = pipeline.scheduler.alphas_cumprod, 1000 // STEPS, [latents[None]]
    for k in range(STEPS):
        t = 1 + k * stride
        here, there = alphas[max(t - stride, 0)], alphas[t]
        epsilon = pipeline.unet(states[0], t, context).sample
        clean = (states[0] - (1 - here).sqrt() * epsilon) / here.sqrt()
        states.insert(0, there.sqrt() * clean + (1 - there).sqrt() * epsilon)
    return [state[0] for state in states]


def test_sdedit_takes_the_image_itself_and_needs_no_inversion(model: StableDiffusion, image: Tensor) -> None:
    sdedit = [(SWAP, SDEdit(0.5))]
    counted: list[int] = []
    one = group(model, image, None, sdedit)
    [alone] = generate(model, [one], SAMPLING, Calls(64, counted.append))
    assert sum(counted) == plan_evaluations([one], STEPS, SAMPLING) == STEPS // 2 * 2
    [beside] = generate(model, [group(model, image, Direct(), [*sdedit, (SWAP, FixedSeed())])], SAMPLING)
    torch.testing.assert_close(alone.images[0], beside.images[0], rtol=0, atol=1.01 / 255)
    assert alone.reconstruction is None
    assert torch.equal(alone.source, image)
    assert torch.equal(beside.source, image)


def test_generated_and_inverted_groups_share_a_call_of_generate(
    model: StableDiffusion, image: Tensor
) -> None:
    swap = [(SWAP, PromptToPrompt(tau=0.2))]
    real = group(model, image, Direct(), swap)
    groups = [real, Group(SOURCE, 0, real.edits)]
    together = generate(model, groups, SAMPLING)
    for one, edited in zip(groups, together, strict=True):
        [alone] = generate(model, [one], SAMPLING)
        torch.testing.assert_close(edited.images[0], alone.images[0], rtol=0, atol=1.01 / 255)
    assert together[1].reconstruction is None


def test_edit_takes_an_image(model: StableDiffusion, image: Tensor) -> None:
    method = PromptToPrompt(tau=0.2)
    edited = edit(model, SOURCE, [(SWAP, method)], sampling=SAMPLING, image=image, inversion=Direct())
    [same] = generate(model, [group(model, image, Direct(), [(SWAP, method)])], SAMPLING)
    assert torch.equal(edited.images[0], same.images[0])


def test_a_group_apart_shares_nothing_with_its_source(model: StableDiffusion) -> None:
    [plain] = [FixedSeed().trajectory(EditRequest(SOURCE, SOURCE), model.tokenizers, STEPS)]
    trees = [[plain, plain], [plain, plain]]
    assert [len(level) for level in build_tree(trees, STEPS)] == [2] * STEPS
    apart = build_tree(trees, STEPS, start=2, apart=[1])
    assert [len(level) for level in apart] == [3] * (STEPS - 2)
    assert [(node.group, node.parent, node.branches) for node in apart[0]] == [
        (0, 0, (0, 1)), (1, 1, (0,)), (1, 1, (1,)),
    ]  # fmt: skip
    assert [node.parent for node in apart[1]] == [0, 1, 2]


def test_states_begin_with_noise_and_end_with_the_image(model: StableDiffusion, image: Tensor) -> None:
    latents = model.encode(torch.stack([image, image.flip(1)]))
    states = ddim_states(model, latents, [SOURCE, SWAP], SAMPLING, Calls(1))
    assert states.shape == (2, STEPS + 1, *latents.shape[1:])
    assert torch.equal(states[:, -1], latents)
    assert len(ddim_levels(model.new_scheduler(STEPS))) == STEPS


def test_where_memory_runs_out_an_inversion_s_calls_are_halved(
    model: StableDiffusion, image: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    latents, prompts = model.encode(torch.stack([image] * 5)), [SOURCE, SWAP, ADD, SOURCE, SWAP]
    wanted = ddim_states(model, latents, prompts, SAMPLING, Calls(64))
    predict, made, most = model.predict, [], 2

    def small(rows: Tensor, *rest: Any) -> Tensor:
        if len(rows) > most:
            raise torch.OutOfMemoryError("no memory for so many rows")
        return predict(rows, *rest)

    monkeypatch.setattr(model, "predict", small)
    calls = Calls(64, made.append)
    states = ddim_states(model, latents, prompts, SAMPLING, calls)
    torch.testing.assert_close(states, wanted, rtol=0, atol=ROUNDING)
    assert calls.max_rows == most
    assert made == [2, 2, 1] * STEPS
    most = 0
    with pytest.raises(torch.OutOfMemoryError):
        ddim_states(model, latents, prompts, SAMPLING, calls)


@pytest.mark.parametrize(
    ("kind", "config", "message"),
    [
        (EulerDiscreteScheduler, {}, "EulerDiscreteScheduler cannot be inverted, allowed is DDIMScheduler"),
        (DDIMScheduler, {"clip_sample": True}, "clip_sample=True cannot be inverted, allowed is False"),
        (DDIMScheduler, {"prediction_type": "sample"}, "allowed is epsilon or v_prediction"),
        (DDIMScheduler, {"timestep_spacing": "linspace"}, "timestep_spacing='linspace' in 4 steps is uneven"),
    ],
)
def test_a_scheduler_that_cannot_be_inverted_says_so(
    model: StableDiffusion, image: Tensor, scheduler: Any, kind: Any, config: dict[str, Any], message: str
) -> None:
    scheduler(kind, **config)
    with pytest.raises(ValueError, match=message):
        generate(model, [group(model, image, DDIM(), [(SWAP, FixedSeed())])], SAMPLING)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: NullText(inner_steps=-1), "inner_steps: -1"),
        (lambda: NullText(learning_rate=-1.0), "learning_rate: -1"),
        (lambda: Proximal(norm="l2"), "norm: 'l2' is not one of 'l0', 'l1'"),
        (lambda: Proximal(quantile=1.0), "quantile: 1.0"),
        (lambda: Proximal(threshold=-1.0), "threshold: -1"),
        (lambda: EditFriendly(guidance_scale=0.5), "guidance_scale: 0.5"),
        (lambda: EditFriendly(skip=1.0), "skip: 1.0"),
    ],
)
def test_settings_out_of_range_are_named(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


def test_what_does_not_fit_together_is_an_error(model: StableDiffusion, image: Tensor) -> None:
    plain = [(SWAP, FixedSeed())]
    with pytest.raises(ValueError, match="an image and an inversion go together"):
        generate(model, [group(model, image, None, plain)], SAMPLING)
    with pytest.raises(ValueError, match=r"has shape \(3, 16, 16\), allowed is \(3, 32, 32\)"):
        generate(model, [group(model, image[:, ::2, ::2], DDIM(), plain)], SAMPLING)
    with pytest.raises(ValueError, match="guidance_scale: 3.5 for the source with guidance off"):
        generate(model, [group(model, image, EditFriendly(), plain)], UNGUIDED)


def test_an_inversion_that_is_not_finite_is_an_error(
    model: StableDiffusion, image: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(model, "predict", lambda latents, *_: latents * float("nan"))
    for inversion in (DDIM(), NullText(), EditFriendly()):
        with pytest.raises(FloatingPointError, match="inversion: latents are not finite"):
            source_paths(model, [group(model, image, inversion, [(SWAP, FixedSeed())])], SAMPLING)


def test_a_label_names_what_is_not_as_published() -> None:
    assert Proximal().label == "proximal"
    assert Proximal(quantile=0.75).label == "proximal quantile=0.75"
    assert EditFriendly().settings != EditFriendly(skip=0.2).settings


def test_rescaled_guidance_leads_back_to_the_source_too(model: StableDiffusion, image: Tensor) -> None:
    """Within what it takes without rescaling, which multiplies by one more ratio: of deviations that are 1 up
    to rounding where the guidance has no effect, or else the same at the inversion and at its replay.
    """
    rescaled = replace(SAMPLING, guidance_rescale=0.7)
    edits = [(SWAP, FixedSeed())]
    [unguided, _] = latents(model, image, DDIM(), edits, UNGUIDED)
    wanted = {
        Direct(): encoded(model, image),
        EditFriendly(skip=0.25): encoded(model, image),
        NegativePrompt(): unguided,
    }
    for inversion, source in wanted.items():
        found, swap = latents(model, image, inversion, edits, rescaled)
        torch.testing.assert_close(found, source, rtol=0, atol=ROUNDING)
        assert (swap - latents(model, image, inversion, edits)[1]).abs().max() > 1000 * ROUNDING


def test_a_model_without_unconditional_rows_is_not_inverted(
    model: StableDiffusion, image: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(StableDiffusion, "guidance_embedded", True)
    with pytest.raises(ValueError, match="a model that takes the guidance scale as an input, or none, cann"):
        generate(model, [group(model, image, Direct(), [(SWAP, FixedSeed())])], SAMPLING)


def test_steps_of_maps_count_from_the_first_of_the_schedule(model: StableDiffusion, image: Tensor) -> None:
    one = group(model, image, EditFriendly(skip=0.5), [(SWAP, FixedSeed())])
    words = [
        word_columns(prompt, [word], model.tokenizers) for prompt, word in ((SOURCE, "cat"), (SWAP, "dog"))
    ]
    readings = (Reading("16", (0, STEPS // 2)), Reading("16", (STEPS // 2, STEPS)))
    watch = Watch(words[0], words[1], readings)
    one = replace(one, edits=(replace(one.edits[0], watch=watch),))
    nodes, _, maps = denoise_tree(model, [one], SAMPLING)
    row = next(row for row, node in enumerate(nodes) if 1 in node.branches)
    not_run, run = ([float(m.sum()) for m in maps.read(row, nodes[row], watch, r)] for r in readings)
    assert not_run == [0, 0]
    assert min(run) > 0
