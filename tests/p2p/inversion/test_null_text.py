"""Null-text inversion: what its optimisation gains and costs, and in half precision."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from p2p import (
    DDIM,
    Calls,
    FixedSeed,
    ModelSpec,
    NegativePrompt,
    NullText,
    PromptToPrompt,
    StableDiffusion,
)
from p2p.engine import source_paths
from tests.p2p.inversion.inverting import SAMPLING, STEPS, SWAP, UNGUIDED, error, group, latents


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
