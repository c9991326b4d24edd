"""Inversions of tiny pipelines of every family of flows: against the published loops, written by hand over
diffusers' own transformer; what a source replays; edits, their trees and what they cost.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
import torch
from diffusers import DDIMScheduler, DPMSolverMultistepScheduler
from torch import Tensor

from p2p import (
    DDIM,
    Calls,
    Direct,
    FixedSeed,
    Group,
    Model,
    PromptToPrompt,
    Sampling,
    StableDiffusion,
    generate,
)
from p2p.engine import denoise_tree, source_paths, tree_latents
from p2p.evaluations import plan_evaluations, unshared_evaluations
from p2p.inversion import FireFlow, FlowInversion, ReverseEuler, RFInversion, RFSolver, UniInv
from tests.p2p.families.formed import EDITS, Controller, installed
from tests.p2p.inversion.flow_models import (
    ADD,
    FAMILIES,
    FLOW_FAMILIES,
    GUIDANCE,
    SOURCE,
    STEPS,
    SWAP,
    Velocity,
    group,
    levels,
    tiny_flow_model,
    velocity_of,
)

pytestmark = pytest.mark.xdist_group("flow_inversions")

SAMPLING = Sampling(STEPS, GUIDANCE)
PULLED = RFInversion(eta=0.6, eta_start=0.2, eta_stop=0.8)
EVERY = [ReverseEuler(), RFSolver(), FireFlow(), UniInv(), UniInv(alpha=0.6), PULLED]
# Rotary embeddings and timesteps are rounded to single precision by other routes (a batch, a cast) than here.
TOLERANCE = 1e-6

Field = Callable[[Tensor, float], Tensor]


@pytest.fixture(scope="module", params=FLOW_FAMILIES)
def model(request: pytest.FixtureRequest) -> Model:
    return tiny_flow_model(request.param)


@pytest.fixture(scope="module")
def flux() -> Model:
    return tiny_flow_model("flux")


def encoded(model: Model, image: Tensor) -> Tensor:
    return model.encode(image[None])


def taylor(field: Field, x: Tensor, sigmas: Sequence[float]) -> Tensor:
    """RF-Solver as published: a second-order Taylor step, its derivative a difference over half a step."""
    for here, there in pairwise(sigmas):
        step = there - here
        first = field(x, here)
        slope = (field(x + step / 2 * first, here + step / 2) - first) / (step / 2)
        x = x + step * first + step**2 / 2 * slope
    return x


def reusing(field: Field, x: Tensor, sigmas: Sequence[float]) -> Tensor:
    """FireFlow as published."""
    velocity = field(x, sigmas[0])
    for here, there in pairwise(sigmas):
        velocity = field(x + velocity * (there - here) / 2, (here + there) / 2)
        x = x + velocity * (there - here)
    return x


def one_ahead(field: Field, x: Tensor, sigmas: Sequence[float]) -> Tensor:
    """Uni-Inv as published."""
    ahead = x + field(x, sigmas[0]) * (sigmas[1] - sigmas[0])
    for i, (here, there) in enumerate(pairwise(sigmas), start=2):
        velocity = field(ahead, there)
        x = x + velocity * (there - here)
        ahead = x + velocity * (sigmas[i] - there) if i < len(sigmas) else x
    return x


def backwards(field: Field, x: Tensor, sigmas: Sequence[float]) -> Tensor:
    for here, there in pairwise(sigmas):
        x = x + field(x, there) * (there - here)
    return x


def sampled(field: Field, x: Tensor, sigmas: Sequence[float]) -> Tensor:
    for here, there in pairwise(sigmas):
        x = x + field(x, here) * (there - here)
    return x


LOOPS: dict[type[FlowInversion], tuple[Callable[..., Tensor], Callable[..., Tensor]]] = {
    ReverseEuler: (backwards, sampled),
    RFSolver: (taylor, taylor),
    FireFlow: (reusing, reusing),
    UniInv: (one_ahead, sampled),
}


def published(model: Model, image: Tensor, inversion: FlowInversion) -> list[Tensor]:
    """Return noise, source and the fixed-seed edit of the published loops."""
    velocity, sigmas, x = velocity_of(model), levels(model), encoded(model, image)
    sigmas = sigmas[inversion.start(STEPS) :]
    if isinstance(inversion, RFInversion):
        return _drawn(model, velocity, x, inversion)
    up, down = LOOPS[type(inversion)]
    noise = up(lambda x, s: velocity(x, s, SOURCE, 1.0), x, sigmas[::-1])
    source = down(lambda x, s: velocity(x, s, SOURCE, 1.0), noise, sigmas)
    return [noise, source, down(lambda x, s: velocity(x, s, SWAP, GUIDANCE), noise, sigmas)]


def _drawn(model: Model, velocity: Velocity, image: Tensor, inversion: RFInversion) -> list[Tensor]:
    """RF-Inversion's Algorithms 1 and 2, their t being 1 - sigma on the way down."""
    sigmas = levels(model)
    drawn = torch.randn(image.shape, generator=torch.Generator().manual_seed(3), dtype=model.noise_dtype)
    random = drawn.to(image)
    noise = image
    for here, there in pairwise(sigmas[::-1]):
        own = velocity(noise, there, "", 1.0)
        noise = noise + (own + inversion.gamma * ((random - noise) / (1 - here) - own)) * (there - here)
    ends = []
    for prompt, guidance in ((SOURCE, 1.0), (SWAP, GUIDANCE)):
        x = noise
        for i, (here, there) in enumerate(pairwise(sigmas)):
            towards = -velocity(x, here, prompt, guidance)
            if 1 <= i < 4:
                towards = towards + inversion.eta * ((image - x) / here - towards)
            x = x + towards * (here - there)
        ends.append(x)
    return [noise, *ends]


def each() -> list[Any]:
    """Return every inversion of every family; all of Qwen-Image and one of the others are fast."""
    found = []
    for number, family in enumerate(FLOW_FAMILIES):
        for place, one in enumerate(EVERY):
            marks = () if family == "qwen_image" or place == number else pytest.mark.slow
            found.append(pytest.param(family, one, marks=marks, id=f"{family}-{one.label}"))
    return found


@torch.no_grad()
@pytest.mark.parametrize(("model", "inversion"), each(), indirect=["model"])
def test_inversions_lead_where_the_published_loops_do(
    model: Model, picture: Tensor, inversion: FlowInversion
) -> None:
    one = group(model, picture, inversion, [(SWAP, FixedSeed())])
    [path] = source_paths(model, [one], SAMPLING)
    assert path is not None
    ours = tree_latents(model, [one], SAMPLING, paths=[path])
    expected = published(model, picture, inversion)
    for row, wanted in zip((path.latents, ours[0, 0], ours[0, 1]), expected, strict=True):
        torch.testing.assert_close(row, wanted[0], rtol=0, atol=TOLERANCE * float(wanted.abs().max()))
    assert (ours[0, 0] - ours[0, 1]).abs().max() > 1e-2
    assert (path.latents - encoded(model, picture)[0]).abs().max() > 1e-1


@torch.no_grad()
@pytest.mark.parametrize(
    ("model", "inversion"),
    [
        pytest.param("sd3", ReverseEuler(keep_states=True), marks=pytest.mark.slow),
        *((family, ReverseEuler(keep_states=True)) for family in FLOW_FAMILIES[1:]),
        ("qwen_image", replace(PULLED, keep_states=True)),
        *(
            pytest.param(family, replace(PULLED, keep_states=True), marks=pytest.mark.slow)
            for family in FLOW_FAMILIES
            if family != "qwen_image"
        ),
    ],
    indirect=["model"],
)
def test_a_source_replays_the_states_of_its_inversion_exactly(
    model: Model, picture: Tensor, inversion: FlowInversion
) -> None:
    one = group(model, picture, inversion, [(SWAP, PromptToPrompt(tau=0.2)), (SOURCE, FixedSeed())])
    ours = tree_latents(model, [one], SAMPLING)
    assert torch.equal(ours[0, 0], encoded(model, picture)[0])
    assert not torch.equal(ours[0, 2], ours[0, 0])  # an edit with the source's prompt is not put back
    [edited] = generate(model, [one], SAMPLING)
    assert edited.reconstruction is not None
    torch.testing.assert_close(edited.reconstruction, model.decode(encoded(model, picture))[0])


def edits_of_each() -> list[Any]:
    """Return both edits of every family; both of Qwen-Image and one of the others are fast."""
    edits = ("replace, blended", "refine, per word, blended")
    return [
        pytest.param(family, edit, marks=() if family == "qwen_image" or n % 2 == i else pytest.mark.slow)
        for n, family in enumerate(FLOW_FAMILIES)
        for i, edit in enumerate(edits)
    ]


@torch.no_grad()
@pytest.mark.parametrize(("model", "edit"), edits_of_each(), indirect=["model"])
def test_edits_after_an_inversion_equal_formed_maps(model: Model, picture: Tensor, edit: str) -> None:
    """diffusers' own call from the noise that was found, with guidance off, on processors that form every
    map."""
    one = EDITS[edit]
    trajectory = one.trajectory(model.tokenizers, STEPS)
    inverted = Group(one.source, 0, (trajectory,), lambda: picture, UniInv())
    [path] = source_paths(model, [inverted], Sampling(STEPS, 1.0))
    assert path is not None
    ours = tree_latents(model, [inverted], Sampling(STEPS, 1.0), paths=[path])
    controller = Controller(one, model.tokenizers, STEPS, 8)
    processor, given, into_loop, out_of_loop, options = FAMILIES[type(model)]
    made: list[Tensor] = []

    def end(_: Any, step: int, timestep: Tensor, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        made.append(controller.end_of_step(out_of_loop(tensors["latents"])))
        return {"latents": into_loop(made[-1])}

    with installed(model, processor(controller)):
        model.pipeline(
            prompt=[one.source, one.target],
            latents=given(path.latents[None].repeat(2, 1, 1, 1)),
            num_inference_steps=STEPS,
            height=32,
            width=32,
            output_type="latent",
            callback_on_step_end=end,
            **{"guidance_scale": 1.0, **options},
        )
    assert controller.nearest > 1e-6
    assert (ours[0, 1] - ours[0, 0]).abs().max() > 1e-2
    # diffusers' scheduler rounds latents to single precision at every step; a last digit may turn and grow.
    both = torch.stack([ours[0, 0], ours[0, 1]])
    torch.testing.assert_close(both, made[-1].to(both.dtype), rtol=0, atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize(("model", "inversion"), each(), indirect=["model"])
def test_identical_prompts_give_the_reconstruction_without_guidance(
    model: Model, picture: Tensor, inversion: FlowInversion
) -> None:
    edits = [(SOURCE, PromptToPrompt(tau=0, self_replace_steps=1.0)), (SOURCE, FixedSeed())]
    one = group(model, picture, inversion, edits)
    ours = tree_latents(model, [one], Sampling(STEPS, 1.0))
    for branch in (1, 2):
        torch.testing.assert_close(ours[0, branch], ours[0, 0], rtol=0, atol=1e-9)


@torch.no_grad()
@pytest.mark.parametrize(
    ("family", "inversion"),
    [
        *(pytest.param(*one, marks=pytest.mark.slow) for one in (("sd3", RFSolver()), ("flux", FireFlow()))),
        ("z_image", FireFlow()),
        ("qwen_image", PULLED),
        ("flux2_klein", UniInv(alpha=0.6)),
    ],
    ids=str,
)
def test_a_tree_of_edits_equals_one_by_one_and_costs_what_was_planned(
    family: str, picture: Tensor, inversion: FlowInversion
) -> None:
    model = tiny_flow_model(family)
    edits = [
        (SWAP, PromptToPrompt(tau=0.0)),
        (SWAP, PromptToPrompt(tau=0.4, blend_threshold=0.6)),
        (ADD, PromptToPrompt(tau=0.2, weights={"bench": 2.0})),
        (SWAP, FixedSeed()),
    ]
    groups = [
        group(model, picture, inversion, edits),
        group(model, picture.flip(2), inversion, edits[1:2]),
    ]
    embedded = model.guidance_embedded
    counted: list[int] = []
    paths = source_paths(model, groups, SAMPLING, Calls(64, counted.append))
    assert sum(counted) == 2 * inversion.evaluations(SAMPLING)
    together = tree_latents(model, groups, SAMPLING, Calls(6, counted.append), paths)
    assert sum(counted) == plan_evaluations(groups, STEPS, SAMPLING, embedded)
    for g, branch in ((0, 2), (0, 3), (1, 1)):
        single = replace(groups[g], edits=(groups[g].edits[branch - 1],))
        counted.clear()
        alone = tree_latents(model, [single], SAMPLING, Calls(64, counted.append), [paths[g]])
        torch.testing.assert_close(together[g, branch], alone[0, 1], rtol=0, atol=1e-6)  # other batches
        cost = sum(counted) + inversion.evaluations(SAMPLING)
        assert cost == unshared_evaluations([single], STEPS, SAMPLING, embedded)
    assert len({float(row.sum()) for row in together.values()}) == len(together)


@torch.no_grad()
def test_edits_read_their_words_once_a_step(picture: Tensor) -> None:
    """A step of two evaluations adds as much to the maps of words as one of one: velocities agree."""
    model = tiny_flow_model("sd3")
    predict = model.predict

    def early(latents: Tensor, timestep: Tensor, *rest: Any) -> Tensor:
        """Call the network, so that it edits; but go nowhere: all solvers stand at the same latents."""
        return 0 * predict(latents, torch.tensor(500.0), *rest)

    model.predict = early  # type: ignore[method-assign]
    blended = (SWAP, PromptToPrompt(tau=0.2, blend_threshold=0.5))
    sums = []
    for inversion in (ReverseEuler(), RFSolver(), FireFlow()):
        _, _, maps = denoise_tree(model, [group(model, picture, inversion, [blended])], SAMPLING)
        sums.append(next(iter(maps.sums.values())))
    assert float(sums[0].abs().max()) > 0
    for other in sums[1:]:
        torch.testing.assert_close(other, sums[0], rtol=1e-12, atol=0)


@torch.no_grad()
@pytest.mark.parametrize("family", ["sd3", "flux", "qwen_image", "flux2_klein"])
def test_in_half_precision_latents_stay_fine_and_both_ways_are_told_what_the_pipeline_tells(
    family: str, picture: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tiny_flow_model(family, torch.bfloat16)
    told: list[tuple[float, torch.dtype]] = []
    forward = model.denoiser.forward

    def spy(*args: Any, **options: Any) -> Any:
        timestep = options["timestep"]
        told.append((timestep[0].item(), timestep.dtype))
        return forward(*args, **options)

    monkeypatch.setattr(model.denoiser, "forward", spy)
    pipeline = model.pipeline
    pipeline(
        prompt=SOURCE,
        num_inference_steps=STEPS,
        guidance_scale=1.0,
        height=32,
        width=32,
        output_type="latent",
    )
    own, told[:] = list(told), []
    one = group(model, picture, ReverseEuler(), [(SOURCE, FixedSeed())])
    [path] = source_paths(model, [one], Sampling(STEPS, 1.0))
    assert path is not None
    assert path.latents.dtype == torch.float32
    assert told == own[::-1]
    told.clear()
    ours = tree_latents(model, [one], Sampling(STEPS, 1.0), paths=[path])
    assert told == own
    assert ours[0, 0].dtype == torch.float32
    values = ours[0, 0].unique()
    assert (values.bfloat16().float() != values).any()  # not rounded


@torch.no_grad()
def test_a_network_that_is_told_the_guidance_is_told_the_sources_own(
    flux: Model, picture: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[list[float]] = []
    forward = flux.denoiser.forward

    def spy(*args: Any, **options: Any) -> Any:
        told.append(options["guidance"].tolist())
        return forward(*args, **options)

    monkeypatch.setattr(flux.denoiser, "forward", spy)
    one = group(flux, picture, UniInv(), [(SWAP, FixedSeed()), (ADD, FixedSeed())])
    tree_latents(flux, [one], SAMPLING)
    assert told == [[1.0]] * (STEPS + 1) + [[1.0, GUIDANCE, GUIDANCE]] * STEPS


def test_what_does_not_fit_is_refused(
    model: Model, picture: Tensor, calm_model: StableDiffusion, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = [(SWAP, FixedSeed())]
    for inversion in (DDIM(), Direct()):
        with pytest.raises(ValueError, match="is for flow matching, whose inversions are reverse_euler, rf_"):
            source_paths(model, [group(model, picture, inversion, plain)], SAMPLING)
    with pytest.raises(ValueError, match="DDIMScheduler has no flow's noise levels, allowed is FlowMatchE"):
        source_paths(calm_model, [group(calm_model, picture, RFSolver(), plain)], SAMPLING)
    with pytest.raises(ValueError, match=r"alpha: 0.1 of 5 steps is no step, allowed is 1/5 or more"):
        source_paths(model, [group(model, picture, UniInv(alpha=0.1), plain)], SAMPLING)
    with pytest.raises(ValueError, match="eta_stop: from 0.0 to 0.1 of 5 steps is no step"):
        source_paths(model, [group(model, picture, RFInversion(eta_stop=0.1), plain)], SAMPLING)
    flow = DPMSolverMultistepScheduler(use_flow_sigmas=True, prediction_type="flow_prediction")
    assert flow is not DDIMScheduler
    flow.set_timesteps(STEPS)
    with pytest.raises(ValueError, match="DPMSolverMultistepScheduler has no flow's noise levels"):
        ReverseEuler().check(flow, SAMPLING)
