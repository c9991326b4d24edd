"""The shipped weights: a gate on the figures that everything else rests on (all of them: `make quality`)."""

import json

import pytest
import torch
from safetensors import safe_open

from evaluation.clip import Clip
from experiments.embedded import flow_quality
from experiments.embedded.judge import Judge
from experiments.embedded.quality import pointing_game, spec
from experiments.embedded.quality_metrics import clip_held_out, judge_held_out
from experiments.embedded.train_vae import psnr
from experiments.embedded.training import WEIGHTS
from experiments.embedded.worlds.scenes.definition import WORLD
from p2p import FixedSeed, Model, PromptToPrompt, RFSolver, Sampling, StableDiffusion, edit


@pytest.fixture(scope="module")
def model() -> StableDiffusion:
    return spec(WORLD).load()


@pytest.fixture(scope="module")
def flow() -> Model:
    return flow_quality.SPEC.load()


def test_weights_are_safe_half_precision_and_small() -> None:
    files = list(WEIGHTS.rglob("*.safetensors"))
    assert sum(file.stat().st_size for file in files) < 35e6
    for file in files:
        with safe_open(file, "pt") as weights:
            types = {weights.get_slice(name).get_dtype() for name in weights.keys()}  # noqa: SIM118
        assert types <= {"F16", "I64"}, file
    allowed = {".safetensors", ".json", ".md", ".txt"}
    assert {file.suffix for file in WEIGHTS.rglob("*") if file.is_file()} <= allowed


def test_every_model_has_a_card() -> None:
    for name in ("pipeline", "pipeline/vae", "flow", "clip", "lpips", "judge"):
        card = json.loads((WEIGHTS / name / "card.json").read_text())
        assert {"data", "recipe", "time"} <= set(card)


def test_the_autoencoder_keeps_pictures(model: StableDiffusion) -> None:
    assert psnr(model.pipeline.vae, WORLD.draw(100, (7, 5), True)) > 28


def test_the_text_encoder_is_blind_to_context(model: StableDiffusion) -> None:
    """Else a word's meaning moves into the words after it, and re-weighting acts on the wrong map."""
    first, second = (
        model.encode_prompt(prompt)["encoder_hidden_states"]
        for prompt in ("a cat in the snow", "a dog in the snow")
    )
    changed = (first != second).any(-1).nonzero().flatten().tolist()
    assert changed == [2]  # BOS, "a", the noun


@pytest.mark.slow
def test_words_point_at_their_things(model: StableDiffusion) -> None:
    """For regressions only, a little below what was measured; the goal at t = 600 is 0.95 (QUALITY.md)."""
    early, middle = (figure.value for figure in pointing_game(WORLD, model, timesteps=(300, 600)))
    assert early >= 0.94
    assert middle >= 0.75


@pytest.mark.slow
def test_the_judge_is_worth_asking() -> None:
    measured = judge_held_out(Judge.load(WEIGHTS / "judge", WORLD), 300)
    assert measured["object accuracy, one object"] >= 0.95
    assert measured["object accuracy, both of two"] >= 0.87
    assert measured["place accuracy"] >= 0.97
    assert measured["IoU of the objects' area"] >= 0.86


@pytest.mark.slow
def test_clip_finds_caption_and_render() -> None:
    measured = clip_held_out(WORLD, Clip(backbone="embedded", folder=str(WEIGHTS / "clip")), 640)
    assert min(measured.values()) >= 0.95


def test_injection_keeps_the_picture(model: StableDiffusion) -> None:
    """Most of eight swaps stay nearer to the source than the fixed seed does; QUALITY.md has the figure."""
    swaps = [("a cat in the snow", "a dog in the snow"), ("a bus in a field", "a castle in a field")]
    kept = []
    for source, target in swaps:
        for seed in range(4):
            edited = edit(
                model, source, [(target, PromptToPrompt(tau=0.2)), (target, FixedSeed())], seed, Sampling(5)
            )
            p2p, fixed = ((image - edited.source).square().mean() for image in edited.images)
            kept.append(p2p < fixed)
    assert torch.stack(kept).float().mean() >= 0.75


def test_along_the_flow_a_picture_is_found_again(flow: Model) -> None:
    alone, again = flow_quality.reconstruction(flow, (RFSolver(),), 4, steps=8)
    assert again.value >= 25
    assert again.value >= alone.value - 1


def test_injected_maps_of_the_flow_transformer_keep_the_picture(flow: Model) -> None:
    for source, target in (
        ("a cat in the snow", "a dog in the snow"),
        ("a bus in a field", "a castle in a field"),
    ):
        edits = [(target, PromptToPrompt(tau=0.2)), (target, FixedSeed())]
        edited = edit(flow, source, edits, 0, Sampling(8, guidance_scale=3.0))
        p2p, fixed = ((image - edited.source).square().mean() for image in edited.images)
        assert p2p < 0.8 * fixed
