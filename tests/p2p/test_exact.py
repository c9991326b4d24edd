"""The engine equals the materialised form of the reference over randomised edits, profiles and batches."""

import random
from typing import Any

import pytest
import torch
from diffusers import (
    DDIMScheduler,
    DDPMScheduler,
    DPMSolverMultistepScheduler,
    EulerAncestralDiscreteScheduler,
    PNDMScheduler,
)

from p2p import EditRequest, Group, PromptToPrompt, Sampling, StableDiffusion
from p2p.engine import tree_latents
from p2p.methods.profiles import PROFILES
from tests.p2p.naive import Settings, naive_latents, uncontrolled_latents

STEPS = 4
PROMPTS = {  # operator, source, target, (blend words), (substruct words)
    "swap": ("replace", "a cat sitting on a bench", "a dog sitting on a bench", ("cat", "dog")),
    "longer swap": ("replace", "a cat on a bench", "a chinchilla on a bench", ("cat", "chinchilla")),
    "two swaps": ("replace", "a chinchilla and a cat", "a dog and a capybara", ("cat", "capybara")),
    "swap, refined": ("refine", "a cat sitting on a bench", "a dog sitting on a bench", ("cat", "dog")),
    "addition": ("refine", "a cat on a bench", "a cat with a hat on a bench", ("cat", "hat")),
    "removal": ("refine", "a red cat with a hat on a bench", "a cat on a bench", ("hat", "cat")),
    "same": ("replace", "a red cat on a bench", "a red cat on a bench", ("cat", "cat")),
}
MANY = " ".join(["red"] * 73)  # with "a", "cat", beginning and end CLIP's 77 tokens
FULL = {  # prompts without any padding
    "full source": ("refine", f"a cat {MANY}", f"a cat {MANY[:-12]}", None),
    "full target": ("refine", f"a cat {MANY[:-12]}", f"a hat {MANY}", None),
    "full source, replaced": ("replace", f"a capybara {MANY[:-8]}", f"a cat {MANY[:-8]}", None),
    "full target, replaced": ("replace", f"a cat {MANY[:-8]}", f"a capybara {MANY[:-8]}", None),
}
SCHEDULERS: list[tuple[type, dict[str, Any], float]] = [  # with tolerances
    (DDIMScheduler, {}, 1e-8),
    (PNDMScheduler, {"skip_prk_steps": True}, 1e-8),
    (DDPMScheduler, {}, 1e-8),
    # These round every step to single precision, whatever they are given; a last digit may turn and grow.
    (DPMSolverMultistepScheduler, {}, 1e-5),
    (EulerAncestralDiscreteScheduler, {}, 1e-5),
]
FEW = 5  # draws of three edits that run each time: one of each scheduler
WINDOWS = [(0.0, 1.0), (0.0, 0.8), (0.0, 0.5), (0.2, 0.9), (0.5, 1.0), (0.0, 0.3)]


def draw(rng: random.Random, number: int) -> tuple[Settings, PromptToPrompt, EditRequest, str]:
    """Draw one edit, in the reference's terms and in ours; the first ones cover every kind and profile."""
    kind = list(PROMPTS)[number % len(PROMPTS)]
    profile = list(PROFILES)[number % len(PROFILES)]
    operator, source, target, words = PROMPTS[kind]
    cross = {"default_": rng.choice(WINDOWS)}
    if rng.random() < 0.4:
        cross[words[1]] = rng.choice(WINDOWS)
    itself = rng.choice([(0.0, 0.0), (0.0, 0.4), (0.2, 0.8), (0.0, 1.0)])
    weights = {}
    if kind == "same" or rng.random() < 0.5:
        weights[words[1]] = rng.choice([-1.0, 0.5, 2.0, 5.0])
    if kind != "same" and PROFILES[profile].one_weight is False and weights and rng.random() < 0.5:
        weights["bench" if "bench" in target else "a"] = rng.choice([0.0, 3.0])
    if kind == "same" and cross["default_"][1] < 0.3:
        cross["default_"] = (0.0, 1.0)
    blend = words if rng.random() < 0.5 and min(weights.values(), default=1) > 0 else None
    substruct = ("a", "a") if blend and profile != "google-stable" and rng.random() < 0.4 else None
    settings = Settings(
        source, target, operator, profile, cross, itself,
        self_limit=PROFILES[profile].self_max_pixels or 64,
        weights=weights, blend=blend, substruct=substruct, blend_start=PROFILES[profile].blend_start,
        threshold=(rng.choice([0.3, 0.7]), 0.6),
    )  # fmt: skip
    method = PromptToPrompt(
        operator=operator, cross_replace_steps=cross, self_replace_steps=itself, weights=weights,
        profile=profile, blend_threshold=settings.threshold[0], substruct_words=substruct,
        substruct_threshold=settings.threshold[1],
    )  # fmt: skip
    return settings, method, EditRequest(source, target, blend_words=blend), kind


@pytest.fixture
def model(calm_model: StableDiffusion) -> StableDiffusion:
    """The tiny pipeline, self-attention injected at 8x8 only where the profile has no limit of its own.

    Sharper attention is chaotic: with it and guidance 4, even the unedited source differed by up to 2e-6.
    """
    return StableDiffusion(calm_model.pipeline, self_max_side=8, blend_side=16)


@pytest.mark.parametrize(
    "number", [*range(FEW), *(pytest.param(n, marks=pytest.mark.slow) for n in range(FEW, 48))]
)
def test_the_engine_equals_formed_maps(model: StableDiffusion, number: int) -> None:
    """Three edits of a draw share a call of any size; each equals the naive engine on its own."""
    rng = random.Random(number)
    kind, config, tolerance = SCHEDULERS[number % len(SCHEDULERS)]
    guidance = rng.choice([1.0, 3.0])
    sampling = Sampling(STEPS, guidance, max_batch=rng.choice([2, 6, 64]))
    drawn = [draw(rng, number + 5 * i) for i in range(3)]
    seeds = [rng.choice([0, 1]) for _ in drawn]
    original = model.pipeline.scheduler
    model.pipeline.scheduler = kind.from_config(original.config, **config)
    try:
        calls = len(model.new_scheduler(STEPS).timesteps)
        groups = [
            Group(s.source, seed, (method.trajectory(request, model.tokenizers, STEPS),))
            for (s, method, request, _), seed in zip(drawn, seeds, strict=True)
        ]
        ours = tree_latents(model, groups, sampling)
        targets = [settings.target for settings, *_ in drawn]
        plain = uncontrolled_latents(model.pipeline, targets, seeds, STEPS, guidance)
        for g, ((settings, _, _, name), seed) in enumerate(zip(drawn, seeds, strict=True)):
            naive, controller = naive_latents(model.pipeline, settings, seed, STEPS, guidance)
            assert controller.nearest > 1e-9, f"{name}: a blend value lies on its threshold"
            assert controller.step == calls
            torch.testing.assert_close(ours[g, 0], naive[0], rtol=0, atol=tolerance)
            torch.testing.assert_close(ours[g, 1], naive[1], rtol=0, atol=tolerance)
            assert (plain[g] - naive[1]).abs().max() > 1000 * tolerance, f"{name}: nothing was edited"
    finally:
        model.pipeline.scheduler = original


@pytest.mark.parametrize(
    "kind",
    [
        pytest.param(k, marks=pytest.mark.slow) if k in ("full source", "full target, replaced") else k
        for k in FULL
    ],
)
def test_prompts_without_padding_equal_formed_maps(model: StableDiffusion, kind: str) -> None:
    operator, source, target, _ = FULL[kind]
    lengths = [len(model.tokenizers[0](prompt)["input_ids"]) for prompt in (source, target)]
    assert max(lengths) == 77 > min(lengths)
    settings = Settings(
        source, target, operator, "fixed", {"default_": (0.0, 0.8)}, (0.0, 0.4), self_limit=64
    )
    method = PromptToPrompt(operator=operator, cross_replace_steps=0.8, self_replace_steps=0.4)
    trajectory = method.trajectory(EditRequest(source, target), model.tokenizers, STEPS)
    ours = tree_latents(model, [Group(source, 0, (trajectory,))], Sampling(STEPS, 3.0))
    naive, _ = naive_latents(model.pipeline, settings, 0, STEPS, 3.0)
    torch.testing.assert_close(ours[0, 0], naive[0], rtol=0, atol=1e-8)
    torch.testing.assert_close(ours[0, 1], naive[1], rtol=0, atol=1e-8)
    plain = uncontrolled_latents(model.pipeline, [target], [0], STEPS, 3.0)
    assert (plain[0] - naive[1]).abs().max() > 1e-5
