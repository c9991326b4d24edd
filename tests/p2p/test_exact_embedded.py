"""In single precision, on the embedded model: the engine equals the materialised reference, and the source
does not depend on the edits that ride along.
"""

import random
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from experiments.embedded.training import WEIGHTS
from p2p import (
    EditRequest,
    FixedSeed,
    Group,
    ModelSpec,
    PromptToPrompt,
    Sampling,
    StableDiffusion,
)
from p2p.engine import tree_latents
from p2p.methods.profiles import PROFILES
from p2p.schedulers import new_scheduler
from tests.p2p.naive import Settings, naive_latents

pytestmark = pytest.mark.xdist_group("exact_embedded")

STEPS = 4
TOLERANCE = 1e-4  # of latents, whose standard deviation is about 1
SWAP = ("a cat on the beach", "a dog on the beach", ("cat", "dog"))
TWO = ("a red cat and a dog in a room", "a red fox and a bus in a room", ("dog", "bus"))
ADD = ("a cat in the snow", "a cat with a hat in the snow", ("cat", "hat"))
REMOVE = ("a cat with a crown in a field", "a cat in a field", ("crown", "cat"))
PLACE = ("a big owl in the desert", "a big owl in the city", ("desert", "city"))
SAME = ("a red car in the city", "a red car in the city", ("car", "car"))


@dataclass(frozen=True)
class Case:
    """One edit; guidance, scheduler and seed of its run."""

    prompts: tuple[str, str, tuple[str, str]]
    profile: str
    cross: dict[str, tuple[float, float]]
    itself: tuple[float, float]
    guidance: float
    scheduler: str
    blend: bool = False
    substruct: bool = False
    weights: tuple[tuple[str, float], ...] = ()
    operator: str = "refine"
    seed: int = 0


HALF, MOST, ALL, LATE = (0.0, 0.5), (0.0, 0.8), (0.0, 1.0), (0.2, 0.9)
DDIM, PNDM, DPM, EULER, ANCESTRAL, DDPM = (
    f"{name}Scheduler"
    for name in ("DDIM", "PNDM", "DPMSolverMultistep", "EulerDiscrete", "EulerAncestralDiscrete", "DDPM")
)
CASES = [
    Case(SWAP, "fixed", {"default_": MOST}, (0.0, 0.4), 7.5, DDIM, blend=True, operator="replace"),
    Case(SWAP, "null-text", {"default_": HALF}, MOST, 4.0, PNDM, blend=True, seed=1),
    Case(SWAP, "google-stable", {"default_": ALL}, HALF, 1.0, DPM, blend=True, operator="replace"),
    Case(TWO, "fixed", {"default_": LATE, "bus": HALF}, (0.0, 0.4), 7.5, DPM, True, True, operator="replace"),
    Case(TWO, "null-text", {"default_": MOST}, (0.0, 0.0), 1.0, DDIM, operator="replace", seed=2),
    Case(ADD, "fixed", {"default_": MOST}, LATE, 7.5, EULER, blend=True, weights=(("hat", 3.0),)),
    Case(ADD, "google-stable", {"default_": HALF}, (0.0, 0.4), 4.0, DDPM, weights=(("hat", 2.0),)),
    Case(REMOVE, "fixed", {"default_": HALF}, (0.0, 0.4), 7.5, ANCESTRAL, seed=1),
    Case(PLACE, "null-text", {"default_": HALF}, HALF, 7.5, DDIM, True, True, (("city", 2.0),), "replace"),
    Case(SAME, "fixed", {"default_": ALL}, MOST, 7.5, EULER, True, weights=(("red", -2.0), ("car", 4.0))),
]


def draw(number: int) -> Case:
    """Draw an edit and the settings of its run."""
    rng = random.Random(number)
    prompts = rng.choice([SWAP, TWO, ADD, REMOVE, PLACE, SAME])
    word = prompts[2][1]
    profile = rng.choice(list(PROFILES))
    cross = {"default_": rng.choice([HALF, MOST, ALL, LATE])}
    if rng.random() < 0.3:
        cross[word] = rng.choice([HALF, MOST, ALL, LATE])
    weighted = prompts is SAME or rng.random() < 0.4
    blend = rng.random() < 0.5
    return Case(
        prompts,
        profile,
        cross if prompts is not SAME else {"default_": ALL},
        rng.choice([(0.0, 0.0), (0.0, 0.4), HALF, MOST, LATE]),
        rng.choice([1.0, 4.0, 7.5]),
        rng.choice([DDIM, PNDM, DPM, EULER, ANCESTRAL, DDPM]),
        blend,
        blend and profile != "google-stable" and rng.random() < 0.3,
        ((word, rng.choice([0.3, 2.0, 4.0])),) if weighted else (),
        "refine" if prompts in (ADD, REMOVE) else rng.choice(["replace", "refine"]),
        rng.randrange(4),
    )


CASES += [draw(number) for number in range(32)]
FEW = 10  # are always compared; the others where slow tests are asked for


@pytest.fixture(scope="module")
def embedded() -> StableDiffusion:
    """The pipeline that ships with the project, in single precision on the CPU."""
    return spec("float32").load()


def spec(dtype: str) -> ModelSpec:
    folder = str(Path(WEIGHTS) / "pipeline")
    return ModelSpec("embedded", folder, 16, 16, dtype=dtype, device="cpu")


@dataclass(frozen=True)
class Compared:
    """How far the engine's latents are from the reference's, and how near a blend came to its threshold."""

    case: Case
    source: float
    target: float
    moved: float  # the target, from the run without control
    nearest: float


def compare(model: StableDiffusion, case: Case) -> Compared:
    source, target, words = case.prompts
    blend = words if case.blend else None
    substruct = ("a", "a") if case.substruct else None
    settings = Settings(
        source, target, case.operator, case.profile, case.cross, case.itself,
        self_limit=PROFILES[case.profile].self_max_pixels or 256, weights=dict(case.weights), blend=blend,
        substruct=substruct, blend_start=PROFILES[case.profile].blend_start, threshold=(0.4, 0.6),
    )  # fmt: skip
    method = PromptToPrompt(
        operator=case.operator, cross_replace_steps=case.cross, self_replace_steps=case.itself,
        weights=dict(case.weights), profile=case.profile, blend_threshold=0.4,
        substruct_words=substruct, substruct_threshold=0.6,
    )  # fmt: skip
    request = EditRequest(source, target, blend_words=blend)
    edits = tuple(m.trajectory(request, model.tokenizers, STEPS) for m in (method, FixedSeed()))
    original = model.pipeline.scheduler
    plms: dict[str, Any] = {"skip_prk_steps": True} if case.scheduler == PNDM else {}
    model.pipeline.scheduler = new_scheduler(case.scheduler, {**original.config, **plms})
    try:
        ours = tree_latents(model, [Group(source, case.seed, edits)], Sampling(STEPS, case.guidance))
        naive, controller = naive_latents(model.pipeline, settings, case.seed, STEPS, case.guidance)
    finally:
        model.pipeline.scheduler = original

    def far(one: Tensor, other: Tensor) -> float:
        return float((one - other).abs().max())

    return Compared(
        case,
        far(ours[0, 0], naive[0]),
        far(ours[0, 1], naive[1]),
        far(ours[0, 2], naive[1]),
        controller.nearest,
    )


@pytest.fixture(scope="module")
def compared(embedded: StableDiffusion) -> Callable[[int], Compared]:
    """Compare a case in single precision, once."""
    return cache(lambda number: compare(embedded, CASES[number]))


@pytest.fixture(scope="module")
def embedded_in_double() -> StableDiffusion:
    return spec("float64").load()


@pytest.mark.parametrize(
    "number", [*range(FEW), *(pytest.param(n, marks=pytest.mark.slow) for n in range(FEW, len(CASES)))]
)
def test_the_engine_equals_formed_maps_in_single_precision(
    compared: Callable[[int], Compared], embedded_in_double: StableDiffusion, number: int
) -> None:
    """Also where a blend value lies near its threshold: no case is left out.

    Some samplers let roundings grow, in the unedited source as well. Where a difference exceeds 1e-4, it has
    to be one: below 1e-3, and gone in double precision.
    """
    result = compared(number)
    assert result.moved > 1000 * TOLERANCE, f"nothing was edited: {result}"
    if max(result.source, result.target) > TOLERANCE:
        assert max(result.source, result.target) < 10 * TOLERANCE, result
        exact = compare(embedded_in_double, result.case)
        # DPM-Solver++ and the ancestral sampler round each step to single precision whatever they are given.
        exactly = 1e-5 if result.case.scheduler in (DPM, ANCESTRAL) else 1e-9
        assert max(exact.source, exact.target) < exactly, exact


def test_few_cases_exceed_the_tolerance(
    compared: Callable[[int], Compared], record_property: Callable[[str, object], None]
) -> None:
    over = [r for r in map(compared, range(FEW)) if max(r.source, r.target) > TOLERANCE]
    told = [
        f"{r.case.prompts[1]!r}, {r.case.scheduler}, guidance {r.case.guidance}: source {r.source:.1e}, "
        f"target {r.target:.1e}"
        for r in over
    ]
    print("\n".join([f"{len(over)} of {FEW} cases above {TOLERANCE:g}, by rounding:", *told]))
    record_property("above_tolerance", told)
    assert len(over) <= FEW // 4, told  # 2 of the first 24 measured


def test_blends_near_their_threshold_are_told(
    compared: Callable[[int], Compared], record_property: Callable[[str, object], None]
) -> None:
    """There a rounding may turn a latent cell from the source's to the target's, which is no fault.

    A run has hundreds of blend values a step, so some lie within 1e-4 of the threshold, but none within the
    two engines' difference of it, or the tests above would have failed.
    """
    results = [compared(number) for number in range(FEW)]
    near = [result for result in results if result.nearest < TOLERANCE]
    told = [f"{r.case.prompts[1]!r}, {r.case.scheduler}: {r.nearest:.1e}" for r in near]
    print("\n".join([f"{len(near)} of {FEW} cases near a blend's threshold:", *told]))
    record_property("near_threshold", told)
    assert len(near) <= FEW // 2, told
    assert sum(result.case.blend for result in results) >= 6


def riders(model: StableDiffusion) -> list[Any]:
    """Return edits of every kind, of one source."""
    source, target, words = SWAP
    edits: list[tuple[str, Any]] = [
        (target, PromptToPrompt(tau=0.0)),
        (target, FixedSeed()),
        (target, PromptToPrompt(tau=0.5, operator="refine", local_blend=False)),
        (source, PromptToPrompt(tau=0.0, weights={"cat": 3.0}, local_blend=False)),
        ("a cat with a hat on the beach", PromptToPrompt(tau=0.2, local_blend=False)),
        (target, PromptToPrompt(tau=0.0, profile="google-stable")),
        (target, PromptToPrompt(cross_replace_steps=(0.3, 0.8), self_replace_steps=1.0)),
    ]
    return [
        m.trajectory(EditRequest(source, text, blend_words=words), model.tokenizers, STEPS)
        if text == target
        else m.trajectory(EditRequest(source, text), model.tokenizers, STEPS)
        for text, m in edits
    ]


@pytest.mark.parametrize(
    ("guidance", "dtype"),
    [
        (7.5, torch.float32),
        (1.0, torch.float64),
        pytest.param(1.0, torch.float32, marks=pytest.mark.slow),
        pytest.param(7.5, torch.float64, marks=pytest.mark.slow),
    ],
)
def test_the_source_does_not_depend_on_the_edits_that_ride_along(
    embedded: StableDiffusion, embedded_in_double: StableDiffusion, dtype: torch.dtype, guidance: float
) -> None:
    """Within rounding of the time embedding's GEMM; bit for bit where the source has a call of its own."""
    name = str(dtype).removeprefix("torch.")
    model = embedded if name == "float32" else embedded_in_double
    edits = riders(model)
    sampling = Sampling(STEPS, guidance)
    alone = tree_latents(model, [Group(SWAP[0], 0, ())], sampling)[0, 0]
    for count in (1, len(edits)):
        group = Group(SWAP[0], 0, tuple(edits[:count]))
        along = tree_latents(model, [group], sampling)[0, 0]
        # Measured with guidance: 1.2e-4, 3e-5 with other weights; 2e-13 in double precision.
        torch.testing.assert_close(along, alone, rtol=0, atol=4e-4 if name == "float32" else 1e-11)
    if guidance > 1:  # two rows are the source's own call
        along = tree_latents(model, [group], replace(sampling, max_batch=2))[0, 0]
        assert torch.equal(along, alone)
