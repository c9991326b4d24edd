"""Latents to images and back where memory is short: smaller calls, the same images, at last an error."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from p2p.families.model import Model
from tests.p2p.families import (
    test_flux,
    test_flux2,
    test_latent_diffusion,
    test_pixart,
    test_qwen_image,
    test_stable_diffusion_3,
)

Short = Callable[[Model, int], None]


def _flux() -> Model:
    return test_flux.tiny_flux()


def _pixart() -> Model:
    kind = test_pixart.PixArtAlpha
    return kind(test_pixart.tiny_pipeline(kind.pipeline_class()), test_pixart.SIDE, test_pixart.SIDE)


def _sd3() -> Model:
    side = test_stable_diffusion_3.SIDE
    return test_stable_diffusion_3.StableDiffusion3(test_stable_diffusion_3.tiny_pipeline(), side, side)


@pytest.fixture(
    params=["StableDiffusion", "LatentDiffusion", "Flux", "Flux2", "PixArt", "StableDiffusion3", "QwenImage"]
)
def model(request: pytest.FixtureRequest, tmp_path: Path) -> Model:
    """A tiny pipeline of each kind of autoencoder and family: shifted, quantised, of videos, of patches,
    plain."""
    if request.param == "StableDiffusion":
        found: Model = request.getfixturevalue("tiny_model")
        return found
    if request.param == "LatentDiffusion":
        return test_latent_diffusion.load(test_latent_diffusion.save(tmp_path / "ldm", quantised=True))
    makers = {"Flux": _flux, "Flux2": test_flux2.short_klein, "PixArt": _pixart, "StableDiffusion3": _sd3}
    return makers.get(request.param, test_qwen_image.tiny_qwen)()


def autoencoder(model: Model) -> Any:
    return getattr(model.pipeline, "vqvae", None) or model.pipeline.vae


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> Short:
    """Let a model's autoencoder run out of memory above a number of rows, late in the call."""

    def limit(model: Model, rows: int) -> None:
        vae = autoencoder(model)
        for name in ("encode", "decode"):
            call = getattr(vae, name)

            def limited(some: Tensor, *rest: Any, call: Any = call, **options: Any) -> Any:
                output = call(some, *rest, **options)
                if len(some) > rows:
                    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
                return output

            monkeypatch.setattr(vae, name, limited)

    return limit


def test_images_are_those_of_the_smaller_batch(
    model: Model, short: Short, monkeypatch: pytest.MonkeyPatch
) -> None:
    generators = [torch.Generator().manual_seed(seed) for seed in range(7)]
    latents = model.draw_noise(generators)
    wanted = torch.cat([model.decode(latents[i : i + 1]) for i in range(6)])
    pairs = torch.cat([model.decode(latents[i : i + 2]) for i in range(0, 6, 2)])
    monkeypatch.setattr("p2p.families.autoencoder.DECODED_PIXELS", 4 * latents[0, 0].numel())
    short(model, 3)  # 4 rows do not fit, 2 do
    halved = model.decode(latents[:6])
    assert torch.equal(halved, pairs)
    # In float32 a convolution of one row sums in another order: a step of 8 bits at most.
    torch.testing.assert_close(halved, wanted, rtol=0, atol=1.01 / 255)
    short(model, 1)
    assert torch.equal(model.decode(latents[:6]), wanted)


def test_where_one_image_is_too_much_it_is_said_in_one_line(model: Model, short: Short) -> None:
    latents = model.draw_noise([torch.Generator().manual_seed(0)])
    images = model.decode(latents)
    short(model, 0)
    for name, call, given in (("decode", model.decode, latents), ("encode", model.encode, images)):
        with pytest.raises(torch.OutOfMemoryError) as error:
            call(given)
        cause = "CUDA out of memory. Tried to allocate 2.00 GiB."
        assert str(error.value) == f"autoencoder: to {name} one image: memory ran out ({cause})"


def test_images_are_encoded_one_at_a_time(model: Model, short: Short) -> None:
    latents = model.draw_noise([torch.Generator().manual_seed(seed) for seed in range(3)])
    images = model.decode(latents)
    wanted = model.encode(images)
    short(model, 1)
    assert torch.equal(model.encode(images), wanted)
