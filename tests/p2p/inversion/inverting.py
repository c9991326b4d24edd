"""Groups that start from a picture, and what of them the tests of inversions compare."""

from dataclasses import replace
from typing import Any

from torch import Tensor

from p2p import (
    EditRequest,
    FixedSeed,
    Group,
    Inversion,
    Sampling,
    StableDiffusion,
)
from p2p.engine import tree_latents

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
