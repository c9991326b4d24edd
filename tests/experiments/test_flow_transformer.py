"""The flow transformer of the embedded world: what it reads of a caption, and its training, in small."""

import json
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKL
from torch import Tensor
from transformers import CLIPTokenizer

from experiments.embedded import shards, train_flow
from experiments.embedded.flow_quality import SPEC, reconstruction
from experiments.embedded.flow_transformer import FlowModel, build_transformer, save_pipeline
from experiments.embedded.input_errors import InputError
from experiments.embedded.train_flow import (
    LEVELS,
    FlowExamples,
    FlowObjective,
    FlowRecipe,
    build_model,
    draw_levels,
    flow_examples,
    main,
    parse,
)
from experiments.embedded.training import WEIGHTS, ResumeError, run_minutes
from experiments.embedded.worlds.scenes.definition import WORLD
from experiments.embedded.worlds.scenes.drawing import draw_scenes
from p2p import Model, Projections, ReverseEuler, Sampling, edit
from p2p.families.model import stack_rows
from tests.experiments.training_parts import embedded_tokenizer

TINY = FlowRecipe(minutes=0.06, batch_size=4, shards=1, width=32, blocks=2)
CAPTIONS = ["a red cat and a big blue dog on the beach at night", "a dog"]


@pytest.fixture(scope="module")
def tokenizer() -> CLIPTokenizer:
    return embedded_tokenizer()


def moved(tokenizer: CLIPTokenizer) -> FlowModel:
    """A tiny model in which everything acts: fresh, its blocks do nothing and its output is 0."""
    model = build_model(TINY, tokenizer)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.transformer.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
            parameter.copy_(parameter.half())  # as it is kept
        model.words.copy_(model.words.half())
    return model


@pytest.fixture(scope="module")
def trained(tokenizer: CLIPTokenizer) -> FlowModel:
    return moved(tokenizer)


@pytest.fixture(scope="module")
def model(trained: FlowModel, tokenizer: CLIPTokenizer, tmp_path_factory: pytest.TempPathFactory) -> Model:
    folder = tmp_path_factory.mktemp("flow") / "pipeline"
    vae = AutoencoderKL.from_pretrained(WEIGHTS / "pipeline" / "vae", dtype=torch.float32)
    save_pipeline(folder, trained, vae, tokenizer)
    return replace(SPEC, path=str(folder)).load()


def ids_of(tokenizer: CLIPTokenizer, captions: list[str]) -> Tensor:
    ids: Tensor = tokenizer(captions, padding="max_length", return_tensors="pt").input_ids
    return ids


def test_training_sees_what_the_pipeline_does(
    trained: FlowModel, model: Model, tokenizer: CLIPTokenizer
) -> None:
    """292 tokens, most of them alike, against the few that training counts instead."""
    latents = torch.randn(2, 4, 16, 16, generator=torch.Generator().manual_seed(1))
    sigmas = torch.tensor([0.3, 0.9])
    text = trained.text(ids_of(tokenizer, CAPTIONS))
    assert text.embeds.shape[1] == 16  # the longer caption, its end and the zeros
    assert text.counts.sum(1).tolist() == [36 + 256, 36 + 256]
    whole = stack_rows([model.encode_prompt(caption) for caption in CAPTIONS])
    assert whole["encoder_hidden_states"].shape[1] == 36 + 256
    with torch.no_grad():
        counted = trained(latents, sigmas, text)
        plain = model.network(None)(latents, timestep=sigmas * 1000, return_dict=False, **whole)[0]
    # Padding differs by its places' thousandth.
    torch.testing.assert_close(plain, counted, atol=2e-3, rtol=0)
    assert counted.std() > 0.1


def test_a_changed_word_changes_its_own_token_alone(model: Model) -> None:
    first, second = (model.encode_prompt(f"a {name} in the snow") for name in ("cat", "dog"))
    changed = (first["encoder_hidden_states"] != second["encoder_hidden_states"]).any(-1)
    assert changed.nonzero().tolist() == [[2]]  # the start token, "a", the noun
    assert not first["pooled_projections"].any()


def test_a_word_that_moves_changes_its_place_alone(model: Model) -> None:
    here, there = (model.encode_prompt(p)["encoder_hidden_states"] for p in ("a cat", "a big cat"))
    torch.testing.assert_close(here[2, :128], there[3, :128])
    assert (here[2, 128:] - there[3, 128:]).abs().max() > 0.1


def test_a_fresh_transformer_gives_nothing(tokenizer: CLIPTokenizer) -> None:
    fresh = build_model(TINY, tokenizer)
    text = fresh.text(ids_of(tokenizer, CAPTIONS))
    with torch.no_grad():
        assert not fresh(torch.randn(2, 4, 16, 16), torch.tensor([0.3, 0.9]), text).any()
    assert sum(p.numel() for p in build_transformer().parameters()) <= 5e6


def test_noise_levels_are_logit_normal_one_from_each_part() -> None:
    logits = draw_levels(1_000, torch.Generator().manual_seed(0)).logit()
    assert (logits.diff() > 0).all()
    assert float(logits.mean()) == pytest.approx(LEVELS[0], abs=0.01)
    assert float(logits.std()) == pytest.approx(LEVELS[1], abs=0.02)


class Known(torch.nn.Module):
    """A model whose velocity is a stated one."""

    attention: tuple[Any, ...] = ()

    def __init__(self, velocity: Tensor) -> None:
        super().__init__()
        self.velocity = velocity

    def text(self, ids: Tensor) -> None: ...

    def forward(self, noisy: Tensor, sigmas: Tensor, text: None) -> Tensor:
        self.noisy = noisy
        return self.velocity


def batch_of(tokenizer: CLIPTokenizer) -> FlowExamples:
    latents = torch.randn(4, 4, 16, 16, generator=torch.Generator().manual_seed(2)).half()
    return flow_examples(WORLD, draw_scenes(4, (90, 0)), latents, tokenizer)


def test_the_loss_is_the_velocitys_error_weighed_where_things_are(tokenizer: CLIPTokenizer) -> None:
    batch, empty = batch_of(tokenizer), ids_of(tokenizer, [""])
    noise, sigmas = torch.randn(4, 4, 16, 16), torch.tensor([0.0, 0.25, 0.5, 1.0])
    dropped = torch.zeros(4, dtype=torch.bool)
    known = Known(noise - batch.latents.float())
    objective = FlowObjective(known, empty, bf16=False, grounding=0)  # type: ignore[arg-type]
    assert objective(batch, noise, sigmas, dropped)["velocity"] == 0
    torch.testing.assert_close(known.noisy[0], batch.latents[0].float())
    torch.testing.assert_close(known.noisy[3], noise[3])
    known.velocity = known.velocity + 1
    covered = batch.covered.float().sum(1) / 16
    expected = (1 + 3 * (1 - sigmas)[:, None, None] * covered).mean()
    torch.testing.assert_close(objective(batch, noise, sigmas, dropped)["velocity"], expected)


def test_grounding_moves_a_words_attention_to_its_thing(tokenizer: CLIPTokenizer) -> None:
    batch, model = batch_of(tokenizer), moved(tokenizer)
    objective = FlowObjective(model, ids_of(tokenizer, [""]), bf16=False, grounding=1.0)
    noise, dropped = torch.randn(4, 4, 16, 16), torch.zeros(4, dtype=torch.bool)
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    seen = []
    for _ in range(20):
        losses = objective(batch, noise, torch.full((4,), 0.3), dropped)
        optimizer.zero_grad()
        losses["grounding"].backward()
        optimizer.step()
        seen.append(losses["grounding"].item())
    assert seen[-1] < 0.8 * seen[0]
    all_dropped = objective(batch, noise, torch.full((4,), 0.3), ~dropped)
    assert all_dropped["grounding"] == 0


def half_a_second_a_step(file: Path, minutes: float, _: float, *rest: Any) -> tuple[int, float]:
    """Train by a clock that moves on by half a second whenever it is read."""
    readings = count(step=0.5)
    return run_minutes(file, minutes, next(readings), *rest, clock=lambda: next(readings))


def test_a_training_is_kept_goes_on_and_edits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(shards, "SHARD", 16)
    main(TINY)
    card = json.loads((TINY.folder / "card.json").read_text())
    assert card["data"].startswith("16 rendered")
    kept = torch.load(TINY.checkpoint, weights_only=True)
    torch.save({**kept, "progress": 0.5}, TINY.checkpoint)  # as if it had been broken off half-way
    monkeypatch.setattr(train_flow, "run_minutes", half_a_second_a_step)
    main(replace(TINY, minutes=0.3))
    assert f"{kept['step']} steps" in capsys.readouterr().out
    assert torch.load(TINY.checkpoint, weights_only=True)["step"] > kept["step"]
    with pytest.raises(ResumeError, match="width 32, now 64"):
        main(replace(TINY, width=64))
    model = replace(SPEC, path=str(TINY.folder)).load()
    edited = edit(model, "a cat", [("a dog", Projections(replace_steps=0.5))], 0, Sampling(2, 2.0))
    assert edited.source.shape == edited.images[0].shape == (3, 64, 64)
    alone, again = reconstruction(model, (ReverseEuler(),), 2, steps=4)
    assert 0 < again.value <= alone.value + 1


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--minutes", "0"], "minutes: 0.0, allowed is a number above 0"),
        (["--lr", "nan"], "lr: nan, allowed is a number above 0"),
        (["--grounding", "-1"], "grounding: -1.0, allowed is 0 or more"),
        (["--shards", "0"], "shards: 0, allowed is 1 or more"),
        (["--width", "40"], "width: 40, allowed is a multiple of 32"),
        (["--blocks", "0"], "blocks: 0, allowed is 1 or more"),
        (["--out", "tests"], "out: tests is no pipeline"),
    ],
)
def test_what_cannot_be_trained_is_one_line(
    arguments: list[str], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stopped:
        parse(arguments)
    assert stopped.value.code == 2
    assert told in capsys.readouterr().err


def test_a_training_goes_further_from_anothers_average(
    tokenizer: CLIPTokenizer, trained: FlowModel, tmp_path: Path
) -> None:
    state = tmp_path / "earlier.pt"
    torch.save({"ema": trained.state_dict()}, state)
    further = replace(TINY, further=state, seed=5)
    for name, value in build_model(further, tokenizer).state_dict().items():
        assert torch.equal(value, trained.state_dict()[name]), name
    assert further.identity() == {**replace(TINY, seed=5).identity(), "further": str(state)}
    with pytest.raises(InputError, match="further: .* is not of width 64 and 2 blocks"):
        build_model(replace(further, width=64), tokenizer)
    with pytest.raises(InputError, match="further: .* is not there"):
        replace(TINY, further=tmp_path / "none.pt")
