"""How the embedded denoiser is trained: time, resuming, the losses on attention, and maps taken from another
caption.
"""

import math
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing
from dataclasses import dataclass, fields, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from transformers import CLIPTextModel, CLIPTokenizer

from experiments.embedded import examples as examples_module
from experiments.embedded.examples import (
    Captioned,
    Examples,
    Stream,
    caption_scenes,
    other_scene,
    token_mapper,
    with_latents,
)
from experiments.embedded.recorded_attention import Taken, grounding_loss, sink_loss, take_maps
from experiments.embedded.scenes import draw_scenes
from experiments.embedded.train_diffusion import (
    FILLERS,
    Objective,
    Recipe,
    build_scheduler,
    build_text_encoder,
    build_unet,
    draw_step,
    idle_tokens,
    parse,
    recording_processors,
    save_pipeline,
    share_padding,
    skip_attention,
)
from experiments.embedded.training import WEIGHTS, Ema, ResumeError, Timetable, cosine, run_minutes
from experiments.embedded.world import Scene, draw_scene
from p2p.operators import alignment_matrix, resolve_operator

TOKENIZER = WEIGHTS / "pipeline" / "tokenizer"


@pytest.fixture(scope="module")
def tokenizer() -> CLIPTokenizer:
    return CLIPTokenizer.from_pretrained(TOKENIZER)


@pytest.fixture(scope="module")
def batch(tokenizer: CLIPTokenizer) -> Examples:
    """Eight scenes with made-up latents."""
    captioned = caption_scenes(draw_scenes(8, (90, 0)), tokenizer, (90, 1))
    latents = torch.randn(8, 4, 16, 16, generator=torch.Generator().manual_seed(0))
    return with_latents(captioned, latents.half())


def tiny_objective(tokenizer: CLIPTokenizer, bf16: bool = False, **weights: float) -> Objective:
    torch.manual_seed(0)
    unet, text_encoder = build_unet((16, 32)), build_text_encoder(tokenizer)
    skip_attention(text_encoder)
    empty = tokenizer("", padding="max_length", return_tensors="pt").input_ids.int()
    cross = recording_processors(unet)
    idle = idle_tokens(tokenizer)
    return Objective(unet, text_encoder, cross, build_scheduler(), empty, idle, bf16, **weights)


def drawn_for(batch: Examples) -> dict[str, Tensor]:
    draw = draw_step(len(batch), 0.0, seed=1, device="cpu")
    dropped = torch.zeros(len(batch), dtype=torch.bool)
    dropped[1] = True
    return {"noise": draw.noise, "timesteps": draw.timesteps, "dropped": dropped}


NONE = torch.zeros(0, dtype=torch.int64)


# --- time


def test_a_slow_start_costs_time_and_no_warm_up() -> None:
    timetable = Timetable(start=50, end=362, reserve=2)  # began at 2, ready at 50
    assert timetable.progress(50) == 0
    assert timetable.progress(205) == pytest.approx(0.5)
    assert timetable.progress(360) == 1
    assert timetable.progress(400) == 1


def test_a_resumed_training_spreads_what_is_left_over_the_time_that_is_left() -> None:
    timetable = Timetable(start=1000, end=1100, done=0.6, reserve=0)
    assert timetable.progress(1000) == pytest.approx(0.6)
    assert timetable.progress(1050) == pytest.approx(0.8)
    assert timetable.progress(1100) == 1
    assert Timetable(start=1000, end=990, done=0.6).progress(1000) == 1  # the time was over before it started


def test_progress_never_falls_where_saves_take_longer_and_longer() -> None:
    timetable = Timetable(start=0, end=100)
    seen = []
    for now in range(0, 80, 2):
        seen.append(timetable.progress(now))
        timetable.saved(now / 8 if now % 4 else 0.1)
    assert all(a < b for a, b in pairwise(seen))
    assert timetable.reserve == pytest.approx(1.5 * 78 / 8)


@dataclass
class Fake:
    """A training of one number towards 3 by a clock that only its steps and saves move."""

    folder: Path
    step_seconds: float = 0.5
    save_seconds: float = 4.0
    fails_at: int | None = None
    now: float = 100.0

    def __post_init__(self) -> None:
        self.rates: list[float] = []
        self.saves: list[float] = []
        self.model = nn.Linear(1, 1, bias=False)
        nn.init.zeros_(self.model.weight)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=0.1, weight_decay=0)

    def loss(self, step: int) -> dict[str, Tensor]:
        if step == self.fails_at:
            raise KeyboardInterrupt
        self.now += self.step_seconds
        self.rates.append(self.optimizer.param_groups[0]["lr"])
        return {"distance": (self.model.weight - 3).square().sum()}

    def saved(self, steps: int, seconds: float) -> None:
        self.saves.append(self.now)
        self.now += self.save_seconds

    def run(
        self,
        minutes: float = 6.0,
        loss: Callable[[int], dict[str, Tensor]] | None = None,
        began: float | None = None,
        **settings: object,
    ) -> int:
        average = nn.Linear(1, 1, bias=False)
        steps, _ = run_minutes(
            self.folder / "training.pt",
            minutes,
            self.now if began is None else began,
            self.model,
            self.optimizer,
            lambda progress: 1 - progress,
            loss or self.loss,
            Ema(self.model, average),
            settings,
            self.saved,
            clock=lambda: self.now,
        )
        return steps


def test_it_ends_on_time_with_the_rate_at_nought_and_saves_every_minute(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fake = Fake(tmp_path)
    fake.run(minutes=6, began=80)  # 20 s went by before the first step
    assert 80 + 355 < fake.now <= 80 + 360
    assert fake.rates[0] == pytest.approx(0.1)
    assert all(a >= b for a, b in pairwise(fake.rates))
    assert fake.rates[-1] < 0.001
    assert len(fake.saves) == 6
    assert all(60 <= b - a < 66 for a, b in pairwise(fake.saves[:-1]))
    assert float(fake.model.weight.detach()) == pytest.approx(3, abs=0.05)
    lines = capsys.readouterr().out.splitlines()
    assert 25 < len(lines) < 40  # one in ten seconds
    assert "2.00 steps/s" in lines[0]
    assert "5.50 minutes left" in lines[0]


def test_a_training_that_was_broken_off_goes_on_where_it_stood(tmp_path: Path) -> None:
    first = Fake(tmp_path, fails_at=300)
    with pytest.raises(KeyboardInterrupt):
        first.run()
    kept = torch.load(tmp_path / "training.pt", weights_only=True)
    second = Fake(tmp_path, now=9_000.0)
    steps = second.run()
    # The rate goes on from the checkpoint's progress, and the minutes left are those it had not spent.
    assert second.rates[0] == pytest.approx(0.1 * (1 - kept["progress"]))
    assert kept["step"] + len(second.rates) == steps
    assert second.now - 9_000 + kept["seconds"] == pytest.approx(360, abs=4)
    assert second.rates[-1] < 0.001
    assert float(second.model.weight.detach()) == pytest.approx(3, abs=0.05)


def test_a_training_that_has_ended_is_not_trained_further(tmp_path: Path) -> None:
    steps = Fake(tmp_path).run(minutes=2)
    again = Fake(tmp_path)
    assert again.run(minutes=4) == steps
    assert again.rates == []


def test_a_training_with_no_time_left_is_kept_for_more(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(KeyboardInterrupt):
        Fake(tmp_path, fails_at=300).run()
    kept = torch.load(tmp_path / "training.pt", weights_only=True)
    late = Fake(tmp_path, now=1_000.0)
    assert late.run(began=700) == kept["step"]  # rendering took the rest
    assert "give more minutes" in capsys.readouterr().out
    assert Fake(tmp_path).run(minutes=8) > kept["step"] + 400


def test_a_checkpoint_of_other_settings_is_an_error_that_names_them(tmp_path: Path) -> None:
    Fake(tmp_path).run(minutes=1, channels=[16, 32], seed=0)
    with pytest.raises(ResumeError, match=r"channels \[16, 32\], now \[64, 160\]"):
        Fake(tmp_path).run(minutes=1, channels=[64, 160], seed=0)


def test_a_loss_that_is_not_finite_ends_the_training_and_keeps_the_good_state(tmp_path: Path) -> None:
    fake = Fake(tmp_path)

    def loss(step: int) -> dict[str, Tensor]:
        return {name: value * (math.nan if step > 250 else 1) for name, value in fake.loss(step).items()}

    with pytest.raises(ValueError, match="not finite"):
        fake.run(loss=loss)
    kept = torch.load(tmp_path / "training.pt", weights_only=True)
    assert kept["model"]["weight"].isfinite().all()


def test_the_average_forgets_the_untrained_weights() -> None:
    model, average = nn.Linear(1, 1), nn.Linear(1, 1)
    ema = Ema(model, average)
    nn.init.constant_(model.weight, 5.0)
    for step in range(50):
        ema.update(model, step)
    assert float(average.weight) == pytest.approx(5, abs=0.01)


def test_the_schedule_warms_up_stays_and_falls_to_nought() -> None:
    rates = [cosine(p / 1000, flat=0.35, warm_up=0.03) for p in range(1001)]
    assert rates[0] < 0.01
    assert rates[30] == pytest.approx(1)
    assert rates[350] == pytest.approx(1)
    assert rates[675] == pytest.approx(0.5, abs=0.01)
    assert rates[-1] == pytest.approx(0, abs=1e-6)


# --- where attention goes


def test_sink_loss_is_minus_log_of_what_is_left_over_what_should_be() -> None:
    idle = torch.tensor([[False, True, False, True]])
    maps = torch.tensor([[[0.4, 0.5, 0.0, 0.1], [0.9, 0.05, 0.0, 0.05]]])  # idle mass 0.6 and 0.1
    expected = -math.log(0.4 / 0.9) / 2  # the second pixel is within what is allowed
    torch.testing.assert_close(sink_loss(maps, idle, 0.1), torch.tensor([expected]))
    assert sink_loss(maps, idle, 0.61) == 0
    everything = torch.tensor([[[0.0, 1.0, 0.0, 0.0]]])
    torch.testing.assert_close(sink_loss(everything, idle, 0.1), torch.tensor([-math.log(1e-6)]))


def test_sink_loss_moves_attention_from_idle_tokens_to_the_others_until_it_is_within_the_share() -> None:
    idle = torch.tensor([[False, True, False, True]])
    scores = torch.tensor([[[0.0, 8.0, 0.0, 0.0]]], requires_grad=True)  # nearly all on an idle token
    optimizer = torch.optim.SGD([scores], lr=1.0)
    first = None
    for _ in range(300):
        loss = sink_loss(scores.softmax(-1), idle, 0.1).sum()
        optimizer.zero_grad()
        loss.backward()
        first = scores.grad.clone() if first is None else first
        optimizer.step()
    assert first[0, 0, 1] > 0.5  # the gradient is strong where it is most wrong
    mass = scores.detach().softmax(-1)[0, 0]
    assert float((mass * idle[0]).sum()) == pytest.approx(0.1, abs=0.01)
    assert mass[0] > 0.4
    assert mass[2] > 0.4


def test_grounding_loss_is_minus_log_of_the_share_inside() -> None:
    maps = torch.zeros(1, 4, 3)
    maps[0, :, 1] = torch.tensor([0.1, 0.3, 0.0, 0.1])  # a quarter of the 2x2 side holds 0.3 of 0.5
    masks = torch.zeros(1, 2, 16, 16)
    masks[0, 0, :8, 8:] = 1  # the top right cell
    loss = grounding_loss(maps, torch.tensor([[1, 0]]), masks)
    torch.testing.assert_close(loss, torch.tensor([[-math.log(0.6), 0.0]]))


def test_grounding_loss_moves_a_words_attention_into_its_thing() -> None:
    masks = torch.zeros(1, 1, 16, 16)
    masks[0, 0, :4, :4] = 1
    scores = torch.zeros(1, 256, 2)
    scores[0, 255, 1] = 2.0  # looks at the wrong corner
    scores.requires_grad_()
    optimizer = torch.optim.SGD([scores], lr=5.0)
    for _ in range(400):
        loss = grounding_loss(scores.softmax(-1), torch.tensor([[1]]), masks).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    column, inside = scores.softmax(-1)[0, :, 1], masks[0, 0].flatten() == 1
    assert column[inside].sum() / column.sum() > 0.8  # 2 % at first
    assert column[inside].min() > column[~inside].max()


def test_idle_are_padding_and_filler_words_only(tokenizer: CLIPTokenizer) -> None:
    ids = tokenizer("a red cat with a hat in the snow", padding="max_length", return_tensors="pt").input_ids
    idle = idle_tokens(tokenizer)[ids][0].tolist()
    words = ["BOS", "a", "red", "cat", "with", "a", "hat", "in", "the", "snow"]
    assert idle == [word in FILLERS for word in words] + [True] * (36 - len(words))


@pytest.mark.parametrize("trained", [False, True])
def test_all_padding_is_one_vector_in_an_ordinary_encoder(
    tokenizer: CLIPTokenizer, tmp_path: Path, trained: bool
) -> None:
    """`trained`: position embeddings far larger than training made them (0.04), weights through float16."""
    torch.manual_seed(0)
    encoder = build_text_encoder(tokenizer)
    if trained:
        nn.init.normal_(encoder.embeddings.position_embedding.weight)
    ids = tokenizer(["a cat", "a red cat and a dog"], padding="max_length", return_tensors="pt").input_ids
    padding = ids == tokenizer.pad_token_id

    def spread(encoder: CLIPTextModel) -> float:
        with torch.no_grad():
            states = encoder(ids).last_hidden_state[padding]
        return float((states - states[0]).abs().max() / states[0].std())

    assert spread(encoder) > 0.5
    share_padding(encoder)
    encoder.half().save_pretrained(tmp_path)
    assert spread(CLIPTextModel.from_pretrained(tmp_path, dtype=torch.float32)) < 0.01
    with torch.no_grad():  # words still know where they stand
        states = encoder.float()(ids).last_hidden_state
    assert float((states[1, 1] - states[1, 5]).abs().max()) > 0.1


# --- another caption's maps


@pytest.mark.parametrize(
    ("source", "target"),
    [
        ("a cat in the snow", "a dog in the snow"),
        ("a cat in the snow", "a red cat in the snow at night"),
        ("a cat and a big dog in the snow", "a cat in the snow"),
        ("a cat on the beach", "a cat with a hat on the beach"),
    ],
)
def test_taken_maps_are_the_formed_maps_of_the_edit(
    tokenizer: CLIPTokenizer, source: str, target: str
) -> None:
    """`source_map @ M * a + target_map * (1 - a)`, alignment.py's formula, in rows that take alone."""
    generator = torch.Generator().manual_seed(0)
    own, maps = (torch.rand(n, 2, 9, 36, generator=generator).softmax(-1) for n in (3, 1))
    mapper = token_mapper(source, target, tokenizer)
    got = take_maps(own, Taken(torch.tensor([1]), maps, mapper[None]))
    operator = resolve_operator("auto", source, target)
    matrix, aligned = alignment_matrix(operator, source, target, tokenizer)
    torch.testing.assert_close(got[1], maps[0] @ matrix * aligned + own[1] * (1 - aligned))
    torch.testing.assert_close(got[[0, 2]], own[[0, 2]], rtol=0, atol=0)


def test_a_longer_target_has_more_mass_than_one(tokenizer: CLIPTokenizer) -> None:
    mapper = token_mapper("a cat in the snow", "a red cat in the snow at night", tokenizer)
    even = torch.full((1, 1, 1, 36), 1 / 36)
    taken = take_maps(even * 2, Taken(torch.tensor([0]), even, mapper[None]))  # own twice the other's
    new = (mapper == -1).sum()
    assert new == 3  # "red", "at", "night"
    torch.testing.assert_close(taken.sum(), (33 + 2 * new) / 36)


def test_another_scene_is_one_edit_away_and_never_reserved() -> None:
    rng = np.random.default_rng(0)
    scenes = [draw_scene(rng) for _ in range(400)]
    others = [other_scene(scene, rng) for scene in scenes]
    assert not any(other.reserved() for other in others)
    names = {f.name for f in fields(Scene)}
    changed = [{n for n in names if getattr(a, n) != getattr(b, n)} for a, b in zip(scenes, others)]
    assert all(len(c) == 1 for c in changed)
    assert {n for c in changed for n in c} == names
    assert all(a.caption() != b.caption() for a, b in zip(scenes, others))


def test_captions_know_where_their_things_are(tokenizer: CLIPTokenizer) -> None:
    scenes = draw_scenes(20, (91, 0))
    captioned = caption_scenes(scenes, tokenizer, (91, 1))
    for i, scene in enumerate(scenes.scenes):
        for j, thing in enumerate(scene.things):
            assert tokenizer.decode(captioned.ids[i, captioned.tokens[i, j]]).strip() == thing.name
            assert captioned.covered[i, j].sum() > 32  # two cells at least
        assert captioned.covered[i, len(scene.things) :].sum() == 0
    assert captioned.covered.max() == 16


# --- a step


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
            unet, average = build_unet((16, 32)), build_unet((16, 32))
            text_encoder = build_text_encoder(tokenizer)
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


# --- scenes that are rendered meanwhile


def brightness(images: np.ndarray) -> Tensor:
    """In place of the autoencoder: a latent of which each cell is its chunk's number of pictures."""
    return torch.full((len(images), 4, 16, 16), len(images), dtype=torch.float16)


@pytest.fixture
def in_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    """Render in threads of this process: spawned ones take ten seconds to import what they need."""
    monkeypatch.setattr(examples_module, "ProcessPoolExecutor", lambda n, *_: ThreadPoolExecutor(n))


@pytest.fixture
def stream(in_threads: None) -> Iterator[Stream]:
    with closing(Stream(50, TOKENIZER, brightness, workers=1, chunk=20)) as stream:
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
    expected = caption_scenes(draw_scenes(20, (2023, 0)), tokenizer, (2023, 0, 1))
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


# --- the command


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"minutes": 0.0}, "minutes: 0.0, allowed is a number above 0"),
        ({"device": "nonsense"}, "device: 'nonsense' cannot be used"),
        ({"channels": (64, 100)}, "channels: 64,100, allowed are two multiples of 16"),
        ({"channels": (64, 160), "further": True}, "those of the shipped weights are kept"),
        ({"taken_share": 1.5}, "taken_share: 1.5, allowed is a number in"),
        ({"sink_share": 1.0}, "sink_share: 1.0, allowed is a number in"),
        ({"sink": -1.0}, "sink: -1.0, allowed is 0 or more"),
        ({"batch_size": 0}, "batch_size: 0, allowed is 1 or more"),
        ({"out": WEIGHTS / "pipeline"}, "holds the shipped weights, which ship alone replaces"),
        ({"out": WEIGHTS.parent}, "is no pipeline"),
    ],
)
def test_what_cannot_be_is_one_line(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match="^[^\n]+$") as error:
        Recipe(**wrong)
    if "out" in wrong and wrong["out"] == WEIGHTS.parent:
        return  # it lies above the shipped weights and is no pipeline
    assert message in str(error.value)


def test_the_command_line_ends_with_one_line_where_it_is_wrong(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        parse(["--minutes", "-1"])
    assert end.value.code == 2
    assert capsys.readouterr().err.splitlines()[-1].endswith("minutes: -1.0, allowed is a number above 0")


def test_every_option_reaches_the_recipe() -> None:
    given = ("--minutes=6", "--channels=64,192", "--padding=positions", "--precision=fp32", "--no-quality")
    recipe = parse(given)
    assert (recipe.minutes, recipe.channels, recipe.padding) == (6.0, (64, 192), "positions")
    assert (recipe.bf16, recipe.quality, recipe.rows, recipe.steps) == (False, False, 32, 6_000)
    assert parse([]) == Recipe()


def test_weights_are_replaced_as_a_whole_and_load_again(tokenizer: CLIPTokenizer, tmp_path: Path) -> None:
    from diffusers import AutoencoderKL

    from p2p import ModelSpec

    vae = AutoencoderKL.from_pretrained(WEIGHTS / "pipeline" / "vae", dtype=torch.float32)
    model = nn.ModuleDict({"unet": build_unet((16, 32)), "text_encoder": build_text_encoder(tokenizer)})
    for steps in (1, 2):
        save_pipeline(tmp_path / "pipeline", model, vae, tokenizer, {"recipe": f"{steps} steps"})
    assert [f.name for f in tmp_path.iterdir()] == ["pipeline"]
    assert "2 steps" in (tmp_path / "pipeline" / "README.md").read_text()
    assert next(model.parameters()).dtype == torch.float32  # the training goes on in single precision
    assert vae.dtype == torch.float32
    spec = ModelSpec("trained", str(tmp_path / "pipeline"), self_max_side=16, blend_side=16, device="cpu")
    assert spec.load().attention_sides() == [16, 8]
    text = (tmp_path / "pipeline" / "unet" / "config.json").read_text()
    assert str(WEIGHTS) not in text
