"""One step of the denoiser's training, and scenes that are rendered while it goes on."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing
from dataclasses import fields, replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from transformers import CLIPTokenizer

from experiments.embedded import examples as examples_module
from experiments.embedded.denoiser import (
    build_scheduler,
    build_text_encoder,
    build_unet,
    recording_processors,
    skip_attention,
)
from experiments.embedded.denoising_objective import Objective, draw_step, min_snr
from experiments.embedded.examples import (
    Captioned,
    Examples,
    Stream,
    caption_scenes,
)
from experiments.embedded.training import Ema
from experiments.embedded.worlds.scenes.definition import WORLD
from experiments.embedded.worlds.scenes.drawing import draw_scenes
from tests.experiments.training_parts import (
    NONE,
    TOKENIZER,
    drawn_for,
    embedded_tokenizer,
    made_up_batch,
    tiny_objective,
)


@pytest.fixture(scope="module")
def tokenizer() -> CLIPTokenizer:
    return embedded_tokenizer()


@pytest.fixture(scope="module")
def batch(tokenizer: CLIPTokenizer) -> Examples:
    return made_up_batch(tokenizer)


def test_taking_the_own_captions_maps_changes_nothing(tokenizer: CLIPTokenizer, batch: Examples) -> None:
    objective = tiny_objective(tokenizer)
    same = replace(batch, other_ids=batch.ids, mapper=torch.arange(36).expand(8, -1))
    plain = objective(same, **drawn_for(batch), taking=NONE)
    taken = objective(same, **drawn_for(batch), taking=torch.tensor([4, 6]))
    torch.testing.assert_close(taken, plain, rtol=1e-5, atol=1e-6)
    other = objective(batch, **drawn_for(batch), taking=torch.tensor([4, 6]))
    assert abs(other["denoising"] - plain["denoising"]) > 1e-6


@pytest.mark.parametrize("bf16", [False, True])
def test_every_weight_has_a_gradient_with_maps_taken(
    tokenizer: CLIPTokenizer, batch: Examples, bf16: bool
) -> None:
    """In bfloat16 too, though autocast keeps what it casts and the other caption has no gradient."""
    objective = tiny_objective(tokenizer, bf16)
    losses = objective(batch, **drawn_for(batch), taking=torch.tensor([4, 6]))
    assert set(losses) == {"denoising", "grounding", "sink"}
    torch.stack(list(losses.values())).sum().backward()
    modules = nn.ModuleDict({"unet": objective.unet, "text": objective.text_encoder})
    idle = {n for n, p in modules.named_parameters() if p.requires_grad and p.grad is None}
    # Not computed, as it adds nothing to a context-free encoder.
    assert {n for n in idle if "self_attn" not in n and "layer_norm1" not in n} == set()
    assert all(p.grad.isfinite().all() for p in modules.parameters() if p.grad is not None)


def test_bfloat16_is_near_single_precision(tokenizer: CLIPTokenizer, batch: Examples) -> None:
    single, half = (
        tiny_objective(tokenizer, bf16)(batch, **drawn_for(batch), taking=torch.tensor([4]))
        for bf16 in (False, True)
    )
    single, half = ({name: float(v.detach()) for name, v in losses.items()} for losses in (single, half))
    assert half["denoising"] != single["denoising"]
    for name in single:  # 8 bits of mantissa, averaged over the batch
        assert half[name] == pytest.approx(single[name], rel=0.02)


def test_a_weight_of_nought_leaves_a_loss_out(tokenizer: CLIPTokenizer, batch: Examples) -> None:
    objective = tiny_objective(tokenizer, grounding=0, sink=0)
    assert set(objective(batch, **drawn_for(batch), taking=NONE)) == {"denoising"}


def test_errors_where_a_thing_is_count_by_its_weight(tokenizer: CLIPTokenizer, batch: Examples) -> None:
    """Without one a loss is min-SNR's; what a weight adds is in proportion to it."""
    given = drawn_for(batch)
    plain, three, six = (
        tiny_objective(tokenizer, grounding=0, sink=0, thing_weight=weight)(batch, **given, taking=NONE)
        for weight in (0.0, 3.0, 6.0)
    )
    objective = tiny_objective(tokenizer)
    ids = torch.where(given["dropped"][:, None], objective.empty, batch.ids)
    noisy = objective.scheduler.add_noise(batch.latents.float(), given["noise"], given["timesteps"])
    with torch.no_grad():
        states = objective.text_encoder(ids).last_hidden_state
        error = (objective.unet(noisy, given["timesteps"], states).sample - given["noise"]).square()
    weights = min_snr(objective.scheduler, given["timesteps"])
    torch.testing.assert_close(plain["denoising"], (error.mean((1, 2, 3)) * weights).mean())
    added = three["denoising"] - plain["denoising"]
    assert added > 0
    torch.testing.assert_close(six["denoising"], plain["denoising"] + 2 * added)


def test_a_few_steps_lower_the_loss_and_the_sink(tokenizer: CLIPTokenizer, batch: Examples) -> None:
    objective = tiny_objective(tokenizer, sink=1.0)
    modules = nn.ModuleList([objective.unet, objective.text_encoder])
    optimizer = torch.optim.AdamW([p for p in modules.parameters() if p.requires_grad], lr=3e-3)
    seen = []
    for _ in range(6):
        losses = objective(batch, **drawn_for(batch), taking=torch.tensor([5]))
        optimizer.zero_grad()
        torch.stack(list(losses.values())).sum().backward()
        optimizer.step()
        seen.append({name: float(value.detach()) for name, value in losses.items()})
    assert seen[-1]["sink"] < 0.8 * seen[0]["sink"]
    assert seen[-1]["denoising"] < seen[0]["denoising"]


def test_rows_that_take_are_noisy_and_have_a_caption() -> None:
    draw = draw_step(4_000, 0.25, seed=3, device="cpu")
    assert (draw.timesteps[draw.taking] >= 200).all()
    assert not draw.dropped[draw.taking].any()
    assert len(draw.taking) / 4_000 == pytest.approx(0.25 * 0.8 * 0.9, abs=0.02)
    assert len(draw_step(4_000, 0.0, seed=3, device="cpu").taking) == 0
    torch.testing.assert_close(draw.noise, draw_step(4_000, 0.25, seed=3, device="cpu").noise, rtol=0, atol=0)


def test_a_step_makes_no_tensor_on_another_device(tokenizer: CLIPTokenizer) -> None:
    """With made-up CUDA tensors, which refuse to meet those of the CPU; the backward needs a driver."""
    with FakeTensorMode(allow_non_fake_inputs=False):
        n, cuda = 8, {"device": "cuda"}
        with torch.device("cuda"):  # of what is built alone: what a step makes has to say where
            unet, average = build_unet((16, 32), 128), build_unet((16, 32), 128)
            text_encoder = build_text_encoder(tokenizer, (128, 3, 4))
        skip_attention(text_encoder)
        integers = torch.zeros(n, 36, dtype=torch.int32, **cuda)
        batch = Examples(
            ids=integers,
            tokens=torch.zeros(n, 2, dtype=torch.int64, **cuda),
            covered=torch.zeros(n, 2, 16, 16, dtype=torch.uint8, **cuda),
            other_ids=integers,
            mapper=torch.zeros(n, 36, dtype=torch.int64, **cuda),
            latents=torch.zeros(n, 4, 16, 16, dtype=torch.float16, **cuda),
        )
        objective = Objective(
            unet,
            text_encoder,
            recording_processors(unet),
            build_scheduler(),
            empty=integers[:1],
            idle=torch.zeros(len(tokenizer), dtype=torch.bool, **cuda),
            bf16=False,  # without a GPU autocast does nothing but warn
        )
        losses = objective(
            batch,
            noise=torch.zeros(n, 4, 16, 16, **cuda),
            timesteps=torch.zeros(n, dtype=torch.int64, **cuda),
            dropped=torch.zeros(n, dtype=torch.bool, **cuda),
            taking=torch.zeros(2, dtype=torch.int64, **cuda),
        )
        Ema(unet, average).update(unet, 0)
    assert {p.device.type for p in unet.parameters()} == {"cuda"}
    assert {loss.device.type for loss in losses.values()} == {"cuda"}


def brightness(images: np.ndarray) -> Tensor:
    """In place of the autoencoder: a latent of which each cell is its chunk's number of pictures."""
    return torch.full((len(images), 4, 16, 16), len(images), dtype=torch.float16)


@pytest.fixture
def in_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    """Render in threads of this process: spawned ones take ten seconds to import what they need."""
    monkeypatch.setattr(examples_module, "ProcessPoolExecutor", lambda n, *_: ThreadPoolExecutor(n))


@pytest.fixture
def stream(in_threads: None) -> Iterator[Stream]:
    with closing(Stream("scenes", 50, TOKENIZER, brightness, workers=1, chunk=20)) as stream:
        yield stream


def test_the_pool_grows_until_all_is_there(stream: Stream) -> None:
    assert len(stream) == 0
    stream.wait_for(20)
    assert len(stream) == 20
    first = stream.take(torch.arange(20))
    stream.wait_for(50)
    stream.receive()  # nothing is left
    assert len(stream) == 50
    torch.testing.assert_close(stream.take(torch.arange(20)).ids, first.ids, rtol=0, atol=0)
    everything = stream.take(torch.arange(50))
    assert sorted(everything.latents[:, 0, 0, 0].tolist()) == [10.0] * 10 + [20.0] * 40
    assert len({tuple(row) for row in everything.ids.tolist()}) > 30  # chunks are not alike


def test_a_chunk_is_the_one_of_its_number(stream: Stream, tokenizer: CLIPTokenizer) -> None:
    stream.wait_for(50)
    expected = caption_scenes(WORLD, draw_scenes(20, (2023, 0)), tokenizer, (2023, 0, 1))
    got = stream.take(torch.arange(20))
    for f in fields(Captioned):
        torch.testing.assert_close(getattr(got, f.name), getattr(expected, f.name), rtol=0, atol=0)


def test_training_goes_on_with_what_was_rendered_before_a_process_died(
    stream: Stream, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    stream.wait_for(20)
    dead: Any = next(iter(stream._running))
    monkeypatch.setattr(type(dead), "result", lambda _: (_ for _ in ()).throw(BrokenProcessPool("killed")))
    while stream._running:
        stream.receive(timeout=5)
    assert len(stream) == 20
    assert "going on with 20 scenes" in capsys.readouterr().out
    assert len(stream.take(torch.arange(20))) == 20
