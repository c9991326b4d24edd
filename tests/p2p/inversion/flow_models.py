"""Tiny random pipelines of flow matching, and their velocity by a call of their transformer that is written
by hand."""

from collections.abc import Callable
from functools import cache, partial
from typing import Any

import pytest
import torch
from diffusers import Flux2KleinPipeline, Flux2Pipeline, FluxPipeline, QwenImagePipeline, ZImagePipeline
from torch import Tensor

from p2p import EditRequest, Flux, Group, Inversion, Model, Sampling, StableDiffusion3
from tests.p2p.families import (
    test_flux,
    test_flux2,
    test_qwen_image,
    test_stable_diffusion_3,
    test_z_image,
    tiny_flux2,
    tiny_z_image,
)

STEPS, GUIDANCE = 5, 3.0
SAMPLING = Sampling(STEPS, GUIDANCE)
# diffusers' scheduler, which the engine takes for a generated source, rounds to single precision.
ROUNDED = 1e-5
# tests/p2p/test_flux2_dev.py has Flux.2 dev.
FLOW_FAMILIES = ("sd3", "flux", "qwen_image", "flux2_klein", "z_image")
METHODS_RUN_ON = [pytest.param("sd3", marks=pytest.mark.slow), *FLOW_FAMILIES[1:]]
"""For methods that ask a model for its velocity alone; Qwen-Image has two rows a state as sd3 has."""
SOURCE, SWAP, ADD = "a cat on a bench", "a dog on a bench", "a cat with a red hat on a bench"


def tiny_flow_model(family: str, dtype: torch.dtype = torch.float64) -> Model:
    """Return a tiny model of a flow with images of 32 pixels, 16 x 16 latents (Flux.2 8 x 8) and 8 x 8
    tokens."""
    if family == "flux2_klein":
        pipeline = test_flux2.tiny_klein().to(dtype)
        return test_flux2.ShortKlein(pipeline, 8, 8, height=32, width=32)
    if family == "flux2_dev":
        return tiny_flux2.ShortDev(tiny_flux2.tiny_dev().to(dtype), 8, 8, height=32, width=32)
    if family == "z_image":
        pipeline = tiny_z_image.tiny_z_image().to(dtype)
        return tiny_z_image.ShortZImage(pipeline, 8, 8, height=32, width=32)
    if family == "sd3":
        return StableDiffusion3(test_stable_diffusion_3.tiny_pipeline().to(dtype), 8, 8)
    if family == "qwen_image":
        pipeline = test_qwen_image.tiny_pipeline().to(dtype)
        return test_qwen_image.ShortText(pipeline, 8, 8, height=32, width=32)
    return Flux(test_flux.tiny_pipeline().to(dtype), 8, 8, height=32, width=32)


def rows(model: Model) -> int:
    """Return how many rows of a call a state takes."""
    return SAMPLING.rows_per_state(model.guidance_embedded)


def levels(model: Model, steps: int = STEPS) -> list[float]:
    """Return the sampler's noise levels, as the pipeline has them set."""
    return model.new_scheduler(steps).sigmas.double().tolist()


def group(
    model: Model, image: Tensor, inversion: Inversion | None, edits: list[tuple[str, Any]], steps: int = STEPS
) -> Group:
    trajectories = tuple(
        method.trajectory(EditRequest(SOURCE, target, blend_words=("cat", "bench")), model.tokenizers, steps)
        for target, method in edits
    )
    return Group(SOURCE, 3, trajectories, lambda: image, inversion)


Velocity = Callable[[Tensor, float, str, float], Tensor]


def velocity_of(model: Model) -> Velocity:
    """Return the velocity at latents (1, ...), a level, a prompt and a guidance scale, by diffusers' parts
    alone."""
    pipeline = model.pipeline
    if isinstance(pipeline, QwenImagePipeline):
        return _qwen_image(pipeline)
    if isinstance(pipeline, Flux2KleinPipeline | Flux2Pipeline):
        return _flux2(pipeline)
    if isinstance(pipeline, ZImagePipeline):
        return _z_image(pipeline)
    return _flux(pipeline) if isinstance(pipeline, FluxPipeline) else _stable_diffusion_3(pipeline)


def guided(pipeline: Any, unconditional: Tensor, conditional: Tensor, guidance: float) -> Tensor:
    """Return guided velocities (rows, channels, height, width) as a pipeline guides them."""
    both = unconditional + guidance * (conditional - unconditional)
    if not isinstance(pipeline, QwenImagePipeline):
        return both
    patches, own = (x.unflatten(3, (-1, 2)).unflatten(2, (-1, 2)) for x in (both, conditional))
    squares = [x.square().sum((1, 3, 5), keepdim=True) for x in (own, patches)]
    return (patches * (squares[0] / squares[1]).sqrt()).flatten(4).flatten(2, 3)


def _stable_diffusion_3(pipeline: Any) -> Velocity:
    encoded = cache(lambda prompt: pipeline.encode_prompt([prompt], None, None, device="cpu"))

    def velocity(latents: Tensor, sigma: float, prompt: str, guidance: float) -> Tensor:
        text, empty, pooled, empty_pooled = encoded(prompt)

        def call(text: Tensor, pooled: Tensor) -> Tensor:
            timestep = torch.tensor([sigma], dtype=torch.float32) * 1000
            return pipeline.transformer(latents, text, pooled, timestep).sample

        conditional = call(text, pooled)
        if guidance == 1:
            return conditional
        return guided(pipeline, call(empty, empty_pooled), conditional, guidance)

    return velocity


def _flux(pipeline: Any) -> Velocity:
    encoded = cache(lambda prompt: pipeline.encode_prompt([prompt], None, device="cpu"))

    def velocity(latents: Tensor, sigma: float, prompt: str, guidance: float) -> Tensor:
        text, pooled, text_ids = encoded(prompt)
        _, channels, height, width = latents.shape
        output = pipeline.transformer(
            pipeline._pack_latents(latents, 1, channels, height, width),
            text,
            pooled,
            torch.tensor([sigma], dtype=torch.float32).to(latents.dtype),
            pipeline._prepare_latent_image_ids(1, height // 2, width // 2, "cpu", latents.dtype),
            text_ids,
            torch.tensor([guidance]),
        ).sample
        return pipeline._unpack_latents(output, height * 2, width * 2, pipeline.vae_scale_factor)

    return velocity


def _flux2(pipeline: Any) -> Velocity:
    encoded = cache(lambda prompt: pipeline.encode_prompt(prompt, max_sequence_length=test_flux2.TEXT))

    def velocity(latents: Tensor, sigma: float, prompt: str, guidance: float) -> Tensor:
        told = torch.tensor([guidance]) if pipeline.transformer.config.guidance_embeds else None

        def call(prompt: str) -> Tensor:
            text, text_ids = encoded(prompt)
            output = pipeline.transformer(
                pipeline._pack_latents(latents),
                text,
                torch.tensor([sigma], dtype=torch.float32).to(latents.dtype),
                pipeline._prepare_latent_ids(latents),
                text_ids,
                told,
            ).sample
            return output.mT.unflatten(2, latents.shape[2:])

        conditional = call(prompt)
        if guidance == 1 or told is not None:
            return conditional
        return guided(pipeline, call(""), conditional, guidance)

    return velocity


def _z_image(pipeline: Any) -> Velocity:
    encoded = cache(lambda prompt: pipeline.encode_prompt([prompt], "cpu", False)[0])

    def velocity(latents: Tensor, sigma: float, prompt: str, guidance: float) -> Tensor:
        def call(prompt: str) -> Tensor:
            told = (1000 - torch.tensor([sigma], dtype=torch.float32) * 1000) / 1000
            rows = [latents[0][:, None].to(pipeline.transformer.dtype)]  # noise is drawn in single precision
            [output] = pipeline.transformer(rows, told, encoded(prompt)).sample
            return -output[None, :, 0]  # towards the image; ours leads away from it

        conditional = call(prompt)
        return conditional if guidance == 1 else guided(pipeline, call(""), conditional, guidance)

    return velocity


def _qwen_image(pipeline: Any) -> Velocity:
    encoded = cache(lambda prompt: pipeline.encode_prompt([prompt], device="cpu")[0])

    def velocity(latents: Tensor, sigma: float, prompt: str, guidance: float) -> Tensor:
        _, channels, height, width = latents.shape

        def call(prompt: str) -> Tensor:
            output = pipeline.transformer(
                pipeline._pack_latents(latents, 1, channels, height, width),
                encoded(prompt),
                timestep=torch.tensor([sigma], dtype=torch.float32).to(latents.dtype),
                img_shapes=[[(1, height // 2, width // 2)]],
            ).sample
            return pipeline._unpack_latents(output, height * 2, width * 2, pipeline.vae_scale_factor)[:, :, 0]

        conditional = call(prompt)
        return conditional if guidance == 1 else guided(pipeline, call(""), conditional, guidance)

    return velocity


def same(latents: Tensor) -> Tensor:
    return latents


def in_fours(latents: Tensor) -> Tensor:
    return FluxPipeline._pack_latents(latents, len(latents), 4, 16, 16)


def in_ones(latents: Tensor) -> Tensor:
    return latents.flatten(2).mT


def of_ones(latents: Tensor) -> Tensor:
    return latents.mT.unflatten(2, (8, 8))


FAMILIES: dict[Any, tuple[Any, Any, Any, Any, dict[str, Any]]] = {
    # Processor, from ours to latents that the pipeline is given, to those in its loop, from those; options.
    StableDiffusion3: (test_stable_diffusion_3.FormedProcessor, same, same, same, {}),
    Flux: (test_flux.FormedProcessor, in_fours, in_fours, test_flux.unpacked, {}),
    test_qwen_image.ShortText: (
        partial(test_qwen_image.FormedProcessor, calls=1),
        in_fours,
        in_fours,
        test_flux.unpacked,
        {},
    ),
    test_flux2.ShortKlein: (
        partial(test_flux2.FormedProcessor, calls=1),
        same,
        in_ones,
        of_ones,
        {"max_sequence_length": test_flux2.TEXT},
    ),
    tiny_z_image.ShortZImage: (  # whose guidance is off at 0
        partial(test_z_image.FormedProcessor, pixels=64),
        same,
        same,
        same,
        {"guidance_scale": 0.0},
    ),
}
