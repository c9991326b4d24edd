"""Every script trains every world, a folder of captioned pictures too: one step, to files as they ship."""

import csv
import json
import sys
from argparse import ArgumentParser
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from experiments.embedded import (
    quality,
    quality_metrics,
    recipe,
    shards,
    train_clip,
    train_diffusion,
    train_judge,
    train_lpips,
    train_vae,
)
from experiments.embedded.input_errors import InputError
from experiments.embedded.train_diffusion import DiffusionRecipe
from experiments.embedded.worlds import NAMES, load_world, start
from experiments.embedded.worlds.captioned import captioned_world, read_captions
from experiments.embedded.worlds.contract import World

TINY = replace(
    load_world("phantoms").sizes,
    vae=(8, 8, 8),
    unet=(16, 16),
    text=(16, 1, 2),
    clip_image=(2, 16),
    clip_text=(16, 1, 2),
    lpips=(4, 4, 4, 4, 4),
    judge=(8, 8, 8),
)


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shards of twelve scenes, rendered in this process, and figures of few."""
    monkeypatch.setattr(shards, "SHARD", 12)
    monkeypatch.setattr(shards, "ProcessPoolExecutor", Here)
    for script, name, n in (
        (train_judge, "judge_held_out", 8),
        (train_clip, "clip_held_out", 400),
        (train_lpips, "lpips_ranking", 4),
        (train_lpips, "lpips_monotone", 4),
    ):
        monkeypatch.setattr(script, name, partial(getattr(quality_metrics, name), n=n))
    monkeypatch.setattr(train_vae, "psnr", lambda vae, scenes: 1.0)


class Here:
    """A pool of processes that is this process."""

    def __init__(self, workers: int) -> None:
        self.map = map

    def __enter__(self) -> "Here":
        return self

    def __exit__(self, *_: object) -> None:
        pass


@pytest.fixture(params=NAMES)
def world(request: pytest.FixtureRequest, tmp_path: Path) -> World:
    shipped = load_world(request.param)
    return replace(shipped, weights=tmp_path / "weights", checkpoints=tmp_path / "checkpoints", sizes=TINY)


def train_denoiser(world: World, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(recipe, "load_world", lambda name: world)
    told = DiffusionRecipe(steps=1, batch_size=4, shards=1)
    train_diffusion.main(told)
    return told.folder


ONE_WORLD = pytest.mark.parametrize(
    "world",
    [name if name == "phantoms" else pytest.param(name, marks=pytest.mark.slow) for name in NAMES],
    indirect=True,
)


@ONE_WORLD
def test_a_pipeline_is_trained_of_every_world(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    train_vae.main(world, steps=1, batch_size=2, shards=1)
    folder = train_denoiser(world, monkeypatch)
    assert folder == world.checkpoints / "pipeline"
    card = json.loads((folder / "card.json").read_text())
    assert card.items() >= world.facts.items()
    assert "data" in card
    tokenizer = json.loads((folder / "tokenizer" / "tokenizer.json").read_text())
    assert {f"{word}</w>" for word in world.words} <= set(tokenizer["model"]["vocab"])


@ONE_WORLD
@pytest.mark.parametrize(
    ("train", "name"),
    [
        (partial(train_judge.main, steps=1, batch_size=4, shards=1), "judge"),
        (partial(train_clip.main, steps=1, batch_size=4, shards=1), "clip"),
        (partial(train_lpips.main, steps=1, batch_size=4, shards=1, ranked=4), "lpips"),
    ],
    ids=["judge", "clip", "lpips"],
)
def test_what_judges_is_trained_of_every_world(
    train: Callable[[World], None], name: str, world: World
) -> None:
    train(world)
    assert world.title in (world.weights / name / "README.md").read_text()


def test_what_judges_is_shown_reserved_scenes_where_the_world_says_so(world: World) -> None:
    scenes = shards.load_judging_scenes(world, 2)
    reserved = [scene.reserved() for scene in scenes.scenes]
    assert len(scenes.images) == len(scenes.labels) == len(reserved)
    assert not any(reserved[:24])
    assert reserved[24:] == [True] * (12 if world.judged_all else 0)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Twenty pictures, ten green, ten red."""
    made = tmp_path / "birds"
    made.mkdir()
    rng = np.random.default_rng(0)
    rows = [("file", "caption")]
    for i in range(20):
        picture = rng.integers(0, 90, (50, 70, 3), dtype=np.uint8)
        picture[..., i % 2] += 150
        Image.fromarray(picture).save(made / f"{i}.png")
        rows.append((f"{i}.png", f"A {('red', 'green')[i % 2]}  bird"))
    with (made / "captions.csv").open("w", newline="") as table:
        csv.writer(table).writerows(rows)
    return made


def test_a_folder_of_captioned_pictures_is_a_world(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    world = captioned_world("birds.world", folder, tmp_path / "weights", TINY)
    assert (world.words, world.max_length) == (("a", "bird", "green", "red"), 5)
    drawn, kept = world.draw(30, (1,), False), world.draw(30, (1,), True)
    assert {scene.file for scene in kept.scenes} == {"9.png", "19.png"}
    assert not {scene.file for scene in drawn.scenes} & {"9.png", "19.png"}
    for image, scene in zip(drawn.images, drawn.scenes, strict=True):
        red, green, _ = image.reshape(-1, 3).mean(0)
        assert scene.caption() == ("a red bird" if red > green else "a green bird")
    train_vae.main(world, steps=1, batch_size=2, shards=1)
    assert (train_denoiser(world, monkeypatch) / "model_index.json").is_file()
    monkeypatch.setattr(quality, "psnr", lambda vae, scenes: 30.0)
    monkeypatch.setattr(quality, "Clip", lambda **_: None)
    monkeypatch.setattr(quality_metrics, "clip_retrieval", lambda clip, images, captions: (1.0, 1.0))
    figures = [figure.name for figure in quality.measure(world, world.checkpoints / "pipeline")]
    assert [name for name in figures if "pointing" in name or "judge" in name or "LPIPS" in name] == []
    assert "attention at t = 600: share of padding" in figures
    for train, message in ((train_judge.main, "labels"), (train_lpips.main, "attributes")):
        with pytest.raises(InputError, match=f"{message}: the world 'birds.world' has none"):
            train(world)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("20.png,a bird", "line 22: file '20.png', caption 'a bird'; needed are a picture that exists"),
        ("3.png, ", "line 22: file '3.png', caption ''"),
    ],
)
def test_a_row_that_names_nothing_is_told(folder: Path, row: str, message: str) -> None:
    with (folder / "captions.csv").open("a") as table:
        table.write(f"{row}\n")
    with pytest.raises(InputError, match=message):
        read_captions(folder)


def test_files_that_cannot_be_read_are_told_by_their_names(folder: Path, tmp_path: Path) -> None:
    world = captioned_world("birds.world", folder, tmp_path / "weights", TINY)
    (folder / "0.png").write_bytes((folder / "0.png").read_bytes()[:200])
    with pytest.raises(InputError, match=r"birds/0\.png cannot be read \(image file is truncated"):
        world.draw(100, (1,), False)
    with pytest.raises(InputError, match=r"none/captions\.csv cannot be read \(\[Errno 2\] No such file"):
        read_captions(tmp_path / "none")


def test_too_few_pictures_are_told(folder: Path) -> None:
    table = folder / "captions.csv"
    table.write_text("".join(table.read_text().splitlines(keepends=True)[:6]))
    with pytest.raises(InputError, match="5 rows; needed are 10 and two different captions"):
        read_captions(folder)


@pytest.mark.parametrize(
    ("written", "message"),
    [
        ("def f(:", r"world: 'mine.broken' cannot be imported \(SyntaxError: "),
        ("WORLD = nothing", r"cannot be imported \(NameError: name 'nothing' is not defined\)"),
        ("raise OSError('a folder\\nis missing')", r"cannot be imported \(OSError: a folder is missing\)"),
        ("WORLD = 1", "the module 'mine.broken' holds no World as WORLD"),
    ],
)
def test_a_broken_module_is_told_in_one_line(
    written: str,
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "broken.py").write_text(written)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "mine", raising=False)
    with pytest.raises(InputError, match=message):
        load_world("mine.broken")
    with pytest.raises(SystemExit, match="2"):
        start(train_vae.main, ArgumentParser("train_vae.py"), ["--world", "mine.broken"])
    assert capsys.readouterr().err.splitlines()[-1].startswith("train_vae.py: error: world: ")


def test_a_name_that_is_relative_is_told() -> None:
    with pytest.raises(InputError, match=r"world: '\.broken' cannot be imported"):
        load_world(".broken")


def test_what_a_script_cannot_train_is_told_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["embedded/train_judge.py"])

    def main(world: World, steps: int) -> None:
        raise InputError(f"labels: {world.name} has none, for {steps} steps")

    parser = ArgumentParser("train_judge.py")
    parser.add_argument("--steps", type=int)
    with pytest.raises(SystemExit, match="^train_judge: labels: phantoms has none, for 3 steps$"):
        start(main, parser, ["--world", "phantoms", "--steps", "3"])


def test_captions_are_read_as_spreadsheets_write_them(folder: Path) -> None:
    table = folder / "captions.csv"
    rows = read_captions(folder)
    table.write_text(table.read_text(), encoding="utf-8-sig")
    read_captions.cache_clear()
    assert read_captions(folder) == rows
    table.write_bytes(table.read_bytes() + "9.png,ein gr\u00fcner vogel\n".encode("latin-1"))
    read_captions.cache_clear()
    with pytest.raises(InputError, match=r"captions\.csv: is no CSV in UTF-8"):
        read_captions(folder)
