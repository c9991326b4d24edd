"""What judges the embedded world's pictures: judge, CLIP and LPIPS, how they are trained and measured."""

import json
from dataclasses import replace
from functools import partial
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.testing import assert_close

from evaluation import encoder, small_lpips
from experiments.embedded import quality_metrics, train_clip, train_judge, train_lpips
from experiments.embedded.augment import _coarse_blocks, degrade, shift_and_mirror, to_float
from experiments.embedded.input_errors import InputError
from experiments.embedded.judge import FILE, Judge, _evidence
from experiments.embedded.worlds.contract import Scenes, World
from experiments.embedded.worlds.scenes.definition import WORLD
from experiments.embedded.worlds.scenes.drawing import draw_scenes
from experiments.embedded.worlds.scenes.world import ATTRIBUTES, OBJECTS, PLACES, Scene, Thing


@pytest.fixture(scope="module")
def drawn() -> Scenes:
    return draw_scenes(40, (3, 0))


@pytest.fixture(scope="module")
def images(drawn: Scenes) -> Tensor:
    return to_float(torch.from_numpy(drawn.images))


@pytest.fixture(scope="module")
def judge() -> Judge:
    torch.manual_seed(0)
    return Judge(WORLD).eval()


@pytest.fixture
def small_training(monkeypatch, tmp_path, drawn: Scenes) -> World:
    """Let the training scripts read 40 scenes and measure on few; return a world with folders of its own."""
    for script in (train_judge, train_clip, train_lpips):
        monkeypatch.setattr(script, "load_judging_scenes", lambda world, shards: drawn)
    for script, name, n in (
        (train_judge, "judge_held_out", 20),
        (train_clip, "clip_held_out", 100),
        (train_lpips, "lpips_ranking", 10),
        (train_lpips, "lpips_monotone", 10),
    ):
        monkeypatch.setattr(script, name, partial(getattr(quality_metrics, name), n=n))
    return replace(WORLD, weights=tmp_path / "weights", checkpoints=tmp_path / "checkpoints")


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_degraded_images_stay_images_and_depend_on_the_generator_only(images: Tensor) -> None:
    first, again, other = (degrade(images, generator(seed)) for seed in (0, 0, 1))
    assert first.shape == images.shape
    assert first.min() >= 0
    assert first.max() <= 1
    assert_close(first, again, rtol=0, atol=0)
    assert not torch.equal(first, other)
    assert (first - images).square().mean() < 0.02  # recognisable


def test_block_rounding_without_rounding_is_the_image(images: Tensor) -> None:
    tiny = torch.full((len(images), 1, 1, 1), 1e-5)
    assert_close(_coarse_blocks(images, tiny), images, rtol=0, atol=1e-3)  # 15 steps of 1e-5, 64 terms


def test_pictures_and_labels_move_alike(drawn: Scenes) -> None:
    labels = torch.from_numpy(drawn.labels)
    pictures = labels[..., None].expand(-1, -1, -1, 3)
    where = shift_and_mirror(len(labels), 64, generator())
    assert_close(pictures[where], labels[where][..., None].expand(-1, -1, -1, 3))
    assert not torch.equal(labels[where], labels)
    unmoved = shift_and_mirror(len(labels), 64, generator(), most=0)
    same = (labels[unmoved] == labels).flatten(1).all(1)
    mirrored = (labels[unmoved] == labels.flip(2)).flatten(1).all(1)
    assert (same | mirrored).all()


def test_judge_answers_in_the_shapes_and_ranges_it_states(judge: Judge, images: Tensor) -> None:
    images = images[:6]
    objects, places, masks = judge.things(images), judge.settings(images), judge.masks(images)
    assert objects.shape == (len(images), len(OBJECTS))
    assert objects.min() >= 0
    assert objects.max() <= 1
    assert places.shape == (len(images), len(PLACES))
    assert_close(places.sum(1), torch.ones(len(images)))
    assert masks.shape == (len(images), 64, 64)
    assert masks.dtype == torch.bool
    each = torch.stack([judge.mask_of(images, name) for name in OBJECTS])
    assert torch.equal(each.any(0), masks)
    assert each.sum(0).max() <= 1


def test_a_judgement_does_not_depend_on_the_batch(judge: Judge, images: Tensor) -> None:
    many = images[:33].repeat(2, 1, 1, 1)
    assert_close(judge.things(many)[33:], judge.things(images[:33]), rtol=1e-4, atol=1e-5)  # float32 order


def test_judge_refuses_other_shapes_and_names(judge: Judge) -> None:
    with pytest.raises(ValueError, match=r"images: shape \(1, 3, 32, 32\)"):
        judge.things(torch.zeros(1, 3, 32, 32))
    with pytest.raises(ValueError, match="name: 'unicorn'"):
        judge.mask_of(torch.zeros(1, 3, 64, 64), "unicorn")


def test_judge_is_kept_as_float16(judge: Judge, images: Tensor, tmp_path: Path) -> None:
    judge.save(tmp_path)
    assert (tmp_path / FILE).stat().st_size < 3e6
    loaded = Judge.load(tmp_path, WORLD)
    assert_close(loaded.things(images), judge.things(images), rtol=0, atol=0.02)  # float16 weights


def test_named_objects_are_the_most_probable_ones(images: Tensor) -> None:
    class Fixed(Judge):
        def things(self, images: Tensor) -> Tensor:
            return torch.linspace(1, 0, len(OBJECTS)).expand(len(images), -1)

    cat, dog, fox = (Thing(name) for name in OBJECTS[:3])
    scenes = [Scene((cat,)), Scene((dog,)), Scene((dog, cat)), Scene((cat, fox))]
    named = quality_metrics.things_named(Fixed(WORLD), images[:4], scenes)
    assert named.tolist() == [True, False, True, False]


def test_an_object_is_evident_where_its_pixels_are() -> None:
    """A square of seven pixels is full evidence; a stray pixel is next to none."""
    logits = torch.zeros(1, 1 + len(OBJECTS), 64, 64)
    logits[:, 0] = 40.0
    logits[0, 3, 10:17, 20:27] = 80.0
    logits[0, 5, 50, 50] = 80.0
    evidence = _evidence(logits, len(OBJECTS), 7)[0]
    assert evidence[2] == pytest.approx(1)
    assert evidence[4] == pytest.approx(1 / 49)
    assert evidence.argsort(descending=True)[:2].tolist() == [2, 4]


def test_places_are_what_the_caption_says() -> None:
    places = train_judge.named_settings(WORLD, (Scene((Thing("cat"),)), Scene((Thing("dog"),), "snow")))
    assert places.tolist() == [train_judge.UNNAMED, 1]


def test_further_training_starts_from_the_shipped_weights(small_training: World, tmp_path: Path) -> None:
    train_judge.main(small_training, steps=1, batch_size=8)
    before = load_file(small_training.weights / "judge" / FILE)
    again = replace(small_training, checkpoints=tmp_path / "again")
    train_judge.main(again, steps=1, batch_size=8, lr=0.0, further=True)
    after = load_file(small_training.weights / "judge" / FILE)
    for key, value in before.items():
        if "running" not in key and "num_batches" not in key:  # statistics move whatever the learning rate
            assert_close(after[key], value, rtol=0, atol=0, msg=key)


def test_attributes_are_what_the_caption_says() -> None:
    said = Scene((Thing("cat", colour="red", wearing="hat"),), fog=True).attributes()
    words = dict(zip(ATTRIBUTES, said, strict=True))
    assert {word for word, value in words.items() if value == 1} == {"cat", "red", "hat", "fog"}
    assert {word for word, value in words.items() if value == -1} == set(PLACES)


def test_a_batch_without_repeats_keeps_each_caption_once() -> None:
    captions = ["a cat", "a dog", "a cat", "a fox"]
    assert train_clip.without_repeats(torch.tensor([3, 2, 0, 1]), captions).tolist() == [3, 2, 1]


class Lookup:
    """A perfect CLIP: an image's first pixel and a caption's number give the same unit vector."""

    @property
    def encoder(self) -> "Lookup":
        return self

    def images(self, images: Tensor) -> Tensor:
        return torch.eye(200)[(images[:, 0, 0, 0] * 1000).round().long()]

    def prompts(self, prompts: list[str]) -> Tensor:
        return torch.eye(200)[[int(prompt) for prompt in prompts]]


def test_retrieval_is_one_for_a_perfect_model_whatever_repeats() -> None:
    numbers = [i % 150 for i in range(190)]
    pictures = (torch.tensor(numbers) / 1000).view(-1, 1, 1, 1).expand(-1, 3, 64, 64)
    result = quality_metrics.clip_retrieval(Lookup(), pictures, [str(n) for n in numbers])
    assert result == (1, 1)
    with pytest.raises(InputError, match="captions: 10 different ones"):
        quality_metrics.clip_retrieval(Lookup(), pictures, [str(n % 10) for n in numbers])


class PixelDistance(torch.nn.Module):
    """Mean squared difference, called as lpips is."""

    def forward(self, a: Tensor, b: Tensor, normalize: bool) -> Tensor:
        return (a - b).square().mean((1, 2, 3), keepdim=True)


def test_lpips_measures_rank_and_grow_for_pixel_distance() -> None:
    assert set(quality_metrics.lpips_ranking(WORLD, PixelDistance(), 20)) == set(WORLD.small_changes)
    monotone = quality_metrics.lpips_monotone(WORLD, PixelDistance(), 20)
    assert monotone["noise"] == 1
    assert monotone["blur"] == 1


def test_changed_views_change_what_they_say() -> None:
    views = WORLD.views(6, (5, 5), True)
    again = WORLD.views(6, (5, 5), True)
    for kind, pictures in views.items():
        assert pictures.shape == (6, 3, 64, 64)
        assert_close(pictures, again[kind], rtol=0, atol=0)
        if kind != "source":
            assert (pictures != views["source"]).flatten(1).any(1).all(), kind
    rungs = quality_metrics.ladders(WORLD, views)["blur"]
    sharpness = [rung.diff(dim=3).square().mean() for rung in (views["source"], *rungs)]
    assert all(near > far for near, far in pairwise(sharpness))


def test_resumed_training_equals_unbroken_training(small_training: World, tmp_path: Path) -> None:
    train_judge.main(small_training, steps=2, batch_size=8)
    unbroken = load_file(small_training.weights / "judge" / FILE)
    again = replace(small_training, checkpoints=tmp_path / "again")
    train_judge.main(again, steps=1, batch_size=8)
    train_judge.main(again, steps=2, batch_size=8)
    resumed = load_file(small_training.weights / "judge" / FILE)
    assert unbroken.keys() == resumed.keys()
    for key, value in unbroken.items():
        assert_close(resumed[key], value, rtol=0, atol=0, msg=key)
    card = json.loads((small_training.weights / "judge" / "card.json").read_text())
    assert 0 <= card["IoU of the objects' area"] <= 1


def test_trained_clip_is_read_by_the_evaluation(small_training: World) -> None:
    train_clip.main(small_training, steps=1, batch_size=8)
    folder = small_training.weights / "clip"
    encoder.check_folder("clip_embedded@1", folder)
    features = encoder.load_folder(folder, "cpu", 8).prompts(["a cat in the snow"])
    assert_close(features.norm(dim=1), torch.ones(1, dtype=torch.float64))
    assert (folder / encoder.WEIGHTS).stat().st_size < 5e6


def test_trained_lpips_is_read_by_the_evaluation(small_training: World, images: Tensor) -> None:
    train_lpips.main(small_training, steps=1, batch_size=8, ranked=4)
    folder = small_training.weights / "lpips"
    model = small_lpips.load(folder)
    assert min(weight.min() for weight in model.lins.parameters()) >= 0
    assert_close(quality_metrics.distances(model, images, images), torch.zeros(len(images)))
    assert (folder / small_lpips.WEIGHTS).stat().st_size < 2e6
