"""What a flow transformer of the embedded world shows on held-out scenes and prompts: `make quality-flow`
measures the shipped one (`--weights FOLDER`: another pipeline) and writes QUALITY.md there.

Prompts, seeds and judges are those of quality.py; the goals are its own.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from evaluation.clip import Clip
from experiments.embedded.figures import Figure, generate_groups
from experiments.embedded.judge import Judge
from experiments.embedded.quality import end, parse, write
from experiments.embedded.train_vae import to_model
from experiments.embedded.training import WEIGHTS
from experiments.embedded.worlds.scenes.definition import WORLD
from experiments.embedded.worlds.scenes.quality import naming, preserved, swapped
from p2p import (
    EditRequest,
    FireFlow,
    FixedSeed,
    Group,
    Inversion,
    Model,
    ModelSpec,
    Projections,
    PromptToPrompt,
    ReverseEuler,
    RFSolver,
    Sampling,
    UniInv,
)
from p2p.trajectory import Method, Trajectory

SPEC = ModelSpec(
    "embedded_flow",
    str(WEIGHTS / "flow"),
    pipeline="StableDiffusion3Pipeline",
    self_max_side=8,
    blend_side=8,
    leave_out=("text_encoder_3",),
    device="cpu",
)
SAMPLING = Sampling(num_inference_steps=28, guidance_scale=3.0)
INVERSIONS = (ReverseEuler(), UniInv(), FireFlow(), RFSolver())


def reconstruction(
    model: Model,
    inversions: Sequence[Inversion] = INVERSIONS,
    n: int = 32,
    steps: int = SAMPLING.num_inference_steps,
) -> list[Figure]:
    """n held-out renders, inverted and denoised again under their captions: dB beside the render itself.

    Both ways are without guidance. The autoencoder alone loses some; its own figure comes first.
    """
    sampling = Sampling(steps, guidance_scale=1)
    drawn = WORLD.draw(n, (14, 0), True)
    images = (to_model(torch.from_numpy(drawn.images)) + 1) / 2
    captions = [scene.caption() for scene in drawn.scenes]
    figures = [
        Figure(
            f"the autoencoder alone, dB ({n} renders)", decibels(model.decode(model.encode(images)), images)
        )
    ]
    for inversion in inversions:
        groups = [
            Group(caption, 0, (_itself(model, caption, sampling),), partial(_given, image), inversion)
            for image, caption in zip(images, captions, strict=True)
        ]
        edited = generate_groups(model, groups, sampling)
        again = torch.stack([e.reconstruction for e in edited if e.reconstruction is not None])
        goal = ">= 25" if inversion.name == "rf_solver" else ""
        figures.append(Figure(f"reconstruction by {inversion.name}, dB", decibels(again, images), goal))
    return figures


def _itself(model: Model, caption: str, sampling: Sampling) -> Trajectory:
    request = EditRequest(caption, caption)
    return FixedSeed().trajectory(request, model.tokenizers, sampling.num_inference_steps)


def _given(image: Tensor) -> Tensor:
    return image


def decibels(images: Tensor, others: Tensor) -> float:
    """Return the mean over pictures of the PSNR of pictures in [0, 1]."""
    errors = (images.cpu() - others.cpu()).square().mean((1, 2, 3))
    return float((-10 * errors.log10()).mean())


def preservation(model: Model, judge: Judge, sampling: Sampling = SAMPLING, swaps: int = 64) -> list[Figure]:
    """Held-out swaps of one seed: error outside the objects' area by projections, by maps and by a blend."""
    methods: dict[str, Method] = {
        "projections": Projections(replace_steps=0.2),
        "P2P": PromptToPrompt(tau=0.2, local_blend=False),
        "P2P with LocalBlend": PromptToPrompt(tau=0.2),
    }
    edited, names = swapped(model, tuple(methods.values()), (0,), sampling, swaps)
    return [
        figure
        for i, label in enumerate(methods)
        for figure in preserved(judge, edited, names, i, label, "<= 0.5")
    ]


def measure(weights: Path, device: str = "cpu") -> Iterator[Figure]:
    """Measure everything about a pipeline; the judging networks are the shipped ones."""
    judge = Judge.load(WEIGHTS / "judge", WORLD).to(device)
    clip = Clip(backbone="embedded", folder=str(WEIGHTS / "clip"), device=device)
    model = replace(SPEC, path=str(weights), device=device).load()
    for figure in naming(model, judge, clip, SAMPLING):
        yield replace(figure, goal=">= 0.85" if "single-object" in figure.name else "")
    yield from reconstruction(model)
    yield from preservation(model, judge)


def main(weights: Path, device: str = "cpu") -> None:
    """Measure and write the figures into the weights' folder. Exit 1 where a goal is missed."""
    options = f"--weights {weights}" + ("" if device == "cpu" else f" --device {device}")
    figures = write(measure(weights, device), weights, f'make quality-flow ARGS="{options}"', device)
    end(figures)


if __name__ == "__main__":
    given = parse(str(__doc__), WEIGHTS / "flow")
    main(given.weights, given.device)
