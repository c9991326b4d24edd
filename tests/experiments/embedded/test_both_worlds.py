"""What every world has to keep of the contract, so that training and measuring know it by that alone."""

import json
import re
from dataclasses import asdict

import numpy as np
import pytest
import torch
from safetensors import safe_open
from torch import nn
from transformers import CLIPTextModel, CLIPTokenizer

from experiments.embedded.denoiser import build_text_encoder, build_unet, idle_tokens
from experiments.embedded.examples import covered_cells, named_masks, named_tokens
from experiments.embedded.judge import Judge
from experiments.embedded.tokenizer import build_tokenizer
from experiments.embedded.train_vae import build_vae
from experiments.embedded.worlds import NAMES, load_world
from experiments.embedded.worlds.contract import SIDE, Scenes, World


@pytest.fixture(scope="module", params=NAMES)
def world(request: pytest.FixtureRequest) -> World:
    return load_world(request.param)


@pytest.fixture(scope="module")
def drawn(world: World) -> Scenes:
    return world.draw(60, (17, 3), False)


def test_a_draw_depends_on_its_seed_alone(world: World, drawn: Scenes) -> None:
    again, other = world.draw(60, (17, 3), False), world.draw(60, (17, 4), False)
    assert drawn.images.shape == (60, SIDE, SIDE, 3)
    assert drawn.images.dtype == drawn.labels.dtype == np.uint8
    assert drawn.labels.shape == (60, SIDE, SIDE)
    assert drawn.labels.max() <= len(world.labels)
    np.testing.assert_array_equal(drawn.images, again.images)
    np.testing.assert_array_equal(drawn.labels, again.labels)
    assert drawn.scenes == again.scenes != other.scenes


def test_reserved_scenes_come_when_asked_for_and_never_else(world: World, drawn: Scenes) -> None:
    assert not any(scene.reserved() for scene in drawn.scenes)
    assert all(scene.reserved() for scene in world.draw(30, (17, 3), True).scenes)


def test_captions_are_the_worlds_words_one_token_each(world: World, drawn: Scenes) -> None:
    tokenizer = build_tokenizer(world)
    assert tokenizer.model_max_length == world.max_length
    for caption in (scene.caption() for scene in drawn.scenes):
        assert set(caption.split()) <= set(world.words)
        assert len(tokenizer(caption).input_ids) == len(caption.split()) + 2 <= world.max_length


def test_a_scene_survives_json(world: World, drawn: Scenes) -> None:
    for scene in drawn.scenes:
        assert world.read(json.loads(json.dumps(asdict(scene)))) == scene


def test_what_a_scene_says_of_itself_fits_the_world(world: World, drawn: Scenes) -> None:
    for scene in drawn.scenes:
        assert scene.setting() in ("", *world.settings)
        assert len(scene.attributes()) == len(world.attributes)
        assert set(scene.attributes()) <= {-1, 0, 1}
        named = scene.named()
        assert len(named) <= world.slots
        for place, (word, labels) in enumerate(named):
            assert scene.caption().split().count(word) == bool(word)
            assert bool(word) == bool(labels)
            assert all(1 <= label <= len(world.labels) for label in labels)
            assert place >= world.subjects or all(label <= world.things for label in labels)


def test_subjects_are_seen_where_their_labels_are(world: World, drawn: Scenes) -> None:
    for scene, labels in zip(drawn.scenes, drawn.labels, strict=True):
        shown = {int(label) for label in np.unique(labels)} & set(range(1, 1 + world.things))
        assert shown == {label for _, own in scene.named()[: world.subjects] for label in own}


def test_named_words_are_tokens_and_cells(world: World, drawn: Scenes) -> None:
    tokenizer = build_tokenizer(world)
    captions = [scene.caption() for scene in drawn.scenes]
    ids = tokenizer(captions, padding="max_length", return_tensors="pt").input_ids
    tokens, cells = named_tokens(world, drawn, ids, tokenizer), covered_cells(world, drawn)
    masks = named_masks(world, torch.from_numpy(drawn.labels), drawn, torch.arange(60))
    assert cells.shape == masks.shape == (60, world.slots, 16, 16)
    assert torch.equal(cells.float() / 16, masks)
    for row, scene in enumerate(drawn.scenes):
        said = [word for word, _ in scene.named()] + [""] * world.slots
        for slot in range(world.slots):
            token = int(tokens[row, slot])
            assert tokenizer.decode([int(ids[row, token])]).strip() == said[slot] if token else not said[slot]
            labels = scene.named()[slot][1] if said[slot] else ()
            expected = np.isin(drawn.labels[row], labels).reshape(16, 4, 16, 4).mean((1, 3))
            np.testing.assert_allclose(masks[row, slot], expected, atol=1e-6)


def test_another_scene_is_new_and_not_reserved(world: World, drawn: Scenes) -> None:
    rng = np.random.default_rng(0)
    for scene in drawn.scenes:
        other = world.other(scene, rng)
        assert other.caption() != scene.caption()
        assert not other.reserved()


def test_views_change_the_source(world: World) -> None:
    views = world.views(4, (5, 6), True)
    assert {*views} == {"source", *world.small_changes, *world.growing_changes}
    for name, pictures in views.items():
        assert pictures.shape == (4, 3, SIDE, SIDE)
        assert 0 <= pictures.min() <= pictures.max() <= 1
        if name != "source":
            assert (pictures != views["source"]).flatten(1).any(1).all(), name


def test_idle_tokens_are_words_of_the_world(world: World) -> None:
    tokenizer = build_tokenizer(world)
    idle = idle_tokens(tokenizer)
    words = {tokenizer.decode([i]).strip() for i in idle.nonzero().flatten().tolist()}
    assert {"a", "with", "in"} <= words <= {*world.words, tokenizer.eos_token, tokenizer.pad_token}


def parameters(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


def test_phantoms_take_8_megabytes() -> None:
    """Two bytes a parameter; open_clip and lpips are counted as they ship."""
    world = load_world("phantoms")
    tokenizer = build_tokenizer(world)
    pipeline = (
        build_vae(world.sizes.vae),
        build_unet(world.sizes.unet, world.sizes.text[0]),
        build_text_encoder(tokenizer, world.sizes.text),
        Judge(world),
    )
    assert 2 * sum(map(parameters, pipeline)) < 6.8e6
    shipped = list(world.weights.rglob("*.safetensors"))
    assert sum(file.stat().st_size for file in shipped) <= 8e6


def test_shipped_weights_are_safe_half_precision_with_cards(world: World) -> None:
    for file in world.weights.rglob("*.safetensors"):
        with safe_open(file, "pt") as weights:
            types = {weights.get_slice(name).get_dtype() for name in weights.keys()}  # noqa: SIM118
        assert types <= {"F16", "I64"}, file
    for name in ("pipeline", "pipeline/vae", "clip", "lpips", "judge"):
        card = json.loads((world.weights / name / "card.json").read_text())
        assert {"data", "recipe", "time"} <= set(card)
    assert json.loads((world.weights / "pipeline" / "card.json").read_text()).items() >= world.facts.items()


def test_an_edited_word_changes_its_own_token_and_nothing_after_it(world: World) -> None:
    """Padding shares one vector in the second world, so that nothing but the word moves in any edit."""
    pipeline = world.weights / "pipeline"
    tokenizer = CLIPTokenizer.from_pretrained(pipeline / "tokenizer")
    encoder = CLIPTextModel.from_pretrained(pipeline / "text_encoder", dtype=torch.float32)
    words = world.words[:2]
    ids = tokenizer(
        [f"a {word} in the" for word in words], padding="max_length", return_tensors="pt"
    ).input_ids
    with torch.no_grad():
        first, second = encoder(ids).last_hidden_state
    assert (first != second).any(-1).nonzero().flatten().tolist() == [2]
    if world.name != "scenes":
        torch.testing.assert_close(first[8:], first[7:8].expand_as(first[8:]), rtol=0, atol=0.05)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("moon", "world: 'moon', allowed are scenes, phantoms, or a module"),
        (
            "my_package.moon",
            "world: 'my_package.moon' cannot be imported (ModuleNotFoundError: No module named 'my_package')",
        ),
        ("experiments.embedded.judge", "world: the module 'experiments.embedded.judge' holds no World"),
    ],
)
def test_a_world_that_is_not_there_is_told_in_one_line(name: str, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        load_world(name)
