"""The embedded world: a caption says one scene, and a picture changes only where its description does."""

import re
from dataclasses import replace

import numpy as np
import pytest

from experiments.embedded import shards
from experiments.embedded.shards import load_training_scenes
from experiments.embedded.tokenizer import build_tokenizer
from experiments.embedded.worlds.contract import SIDE
from experiments.embedded.worlds.scenes.definition import WORLD
from experiments.embedded.worlds.scenes.drawing import draw_scenes
from experiments.embedded.worlds.scenes.layout import Layout, draw_layout, place_thing
from experiments.embedded.worlds.scenes.render import render
from experiments.embedded.worlds.scenes.world import (
    COLOURS,
    OBJECTS,
    PATTERNS,
    PLACES,
    SIZES,
    STYLES,
    TIMES,
    Scene,
    Thing,
    draw_scene,
    reserved,
)

SIZE, COLOUR, PATTERN, NAME, STYLE, PLACE, TIME = (
    f"(?:{'|'.join(words)})"
    for words in (SIZES, COLOURS, PATTERNS, OBJECTS, STYLES, PLACES.values(), TIMES.values())
)
THING = f"an? ({SIZE} )?({COLOUR} )?({PATTERN} )?{NAME}( with a (hat|crown))?"
GRAMMAR = re.compile(f"(a {STYLE} of )?{THING}( and {THING})?( {PLACE})?( {TIME})?( in the fog)?")


def drawn(n: int, held_out: bool = False) -> list[Scene]:
    rng = np.random.default_rng(0)
    return [draw_scene(rng, held_out) for _ in range(n)]


def layout_of(seed: int, things: int) -> Layout:
    return draw_layout(np.random.default_rng(seed), things)


def where_changed(a: Scene, b: Scene, layout: Layout, tolerance: int = 0) -> np.ndarray:
    first, second = (render(scene, layout).image.astype(int) for scene in (a, b))
    return (np.abs(first - second) > tolerance).any(-1)


def where_shown(scene: Scene, layout: Layout) -> np.ndarray:
    return render(scene, layout).masks.sum(0) > 0


def where_shaded(thing: Thing, layout: Layout, slot: int) -> np.ndarray:
    """The box of the soft shadow at a thing's foot: beyond it the shadow is less than one level of 255."""
    x, y, diameter = place_thing(thing, layout.slots[slot], layout)
    rows, columns = np.mgrid[0:SIDE, 0:SIDE]
    return (np.abs(columns - x) < 0.65 * diameter) & (np.abs(rows - y - 0.47 * diameter) < 3.5)


def grown(mask: np.ndarray, by: int) -> np.ndarray:
    for axis in (0, 1):
        mask = np.any(
            [np.roll(np.pad(mask, by), d, axis)[by:-by, by:-by] for d in range(-by, by + 1)], axis=0
        )
    return mask


def test_world_is_as_large_as_promised() -> None:
    assert (len(OBJECTS), len(PLACES), len(COLOURS)) == (32, 7, 5)
    assert len(STYLES) >= 4


def test_captions_follow_the_grammar_and_say_one_scene_each() -> None:
    scenes = drawn(3000)
    assert not [s.caption() for s in scenes if not GRAMMAR.fullmatch(s.caption())]
    said: dict[str, Scene] = {}
    for scene in scenes:
        assert said.setdefault(scene.caption(), scene) == scene


def test_a_before_consonants_and_an_before_vowels() -> None:
    assert Thing("apple").words() == "an apple"
    assert Thing("apple", colour="red").words() == "a red apple"
    assert Thing("owl", size="big", wearing="hat").words() == "a big owl with a hat"


def test_every_word_is_one_token_and_every_caption_fits() -> None:
    tokenizer = build_tokenizer(WORLD)
    captions = [scene.caption() for scene in drawn(500)]
    lengths = [len(tokenizer(caption).input_ids) for caption in captions]
    assert lengths == [len(caption.split()) + 2 for caption in captions]
    assert max(lengths) <= tokenizer.model_max_length


def test_training_never_shows_a_reserved_combination_and_held_out_always() -> None:
    combinations = [(name, place) for name in OBJECTS for place in PLACES if reserved(name, place)]
    assert len(combinations) == 28
    assert all(sum(place == p for _, p in combinations) == 4 for place in PLACES)
    assert not any(reserved(t.name, s.place) for s in drawn(2000) if s.place for t in s.things)
    assert all(any(reserved(t.name, s.place) for t in s.things) for s in drawn(300, held_out=True))


def test_render_is_a_function_of_scene_and_layout() -> None:
    for seed, scene in enumerate(drawn(20)):
        layout = layout_of(seed, len(scene.things))
        first, second = render(scene, layout), render(scene, layout)
        assert first.image.shape == (SIDE, SIDE, 3)
        assert first.image.dtype == np.uint8
        assert first.masks.shape == (len(scene.things), SIDE, SIDE)
        np.testing.assert_array_equal(first.image, second.image)
        np.testing.assert_array_equal(first.masks, second.masks)


def test_masks_are_shares_of_pixels_and_things_are_inside() -> None:
    for seed, scene in enumerate(drawn(200)):
        masks = render(scene, layout_of(seed, len(scene.things))).masks
        assert masks.min() >= 0
        assert masks.max() <= 1
        assert masks.sum(0).max() <= 1 + 1e-5  # two things share no pixel
        assert ((masks > 0.5).sum((1, 2)) > 40).all()  # each thing can be seen


@pytest.mark.parametrize("seed", range(8))
def test_a_swap_changes_only_the_two_objects_pixels(seed: int) -> None:
    layout = layout_of(seed, 1)
    source, target = (Scene((Thing(name),), place="beach") for name in ("cat", "balloon"))
    allowed = where_shown(source, layout) | where_shown(target, layout)
    changed = where_changed(source, target, layout)
    assert changed.any()
    assert not (changed & ~allowed).any()


@pytest.mark.parametrize("style", STYLES)
def test_a_swap_in_any_style_changes_only_the_objects_neighbourhood(style: str) -> None:
    layout = layout_of(3, 2)
    source = Scene((Thing("cat"), Thing("tree")), place="field", style=style)
    target = replace(source, things=(Thing("robot"), Thing("tree")))
    allowed = grown(where_shown(source, layout) | where_shown(target, layout), 4)  # the widest style filter
    assert not (where_changed(source, target, layout) & ~allowed).any()


def test_an_added_object_changes_only_itself_and_its_shadow() -> None:
    layout = layout_of(5, 2)
    source = Scene((Thing("dog"),), place="room")
    target = Scene((Thing("dog"), Thing("cake")), place="room")
    allowed = (render(target, layout).masks[1] > 0) | where_shaded(Thing("cake"), layout, 1)
    assert not (where_changed(source, target, layout, tolerance=1) & ~allowed).any()


def test_a_resized_object_changes_only_both_sizes_and_shadows() -> None:
    layout = layout_of(6, 1)
    small, big = (Scene((Thing("house", size=size),), place="snow") for size in SIZES[::-1])
    allowed = where_shown(small, layout) | where_shown(big, layout)
    for scene in (small, big):
        allowed |= where_shaded(scene.things[0], layout, 0)
    assert not (where_changed(small, big, layout, tolerance=1) & ~allowed).any()
    assert where_shown(small, layout).sum() < where_shown(big, layout).sum()


def test_another_place_leaves_the_object_as_it_is() -> None:
    layout = layout_of(7, 1)
    beach, city = (Scene((Thing("car"),), place=place) for place in ("beach", "city"))
    inside = render(beach, layout).masks[0] > 0.999
    assert inside.sum() > 100
    changed = where_changed(beach, city, layout)
    assert not (changed & inside).any()
    assert changed.any()


@pytest.mark.parametrize(
    "change", [{"time": "night"}, {"fog": True}, {"style": "sketch"}, {"place": "desert"}]
)
def test_what_is_not_an_object_moves_no_object(change: dict[str, object]) -> None:
    layout = layout_of(8, 2)
    source = Scene((Thing("fox"), Thing("bus", colour="red")), place="snow")
    np.testing.assert_array_equal(
        render(source, layout).masks, render(replace(source, **change), layout).masks
    )


def test_a_layout_tells_the_place_only_where_the_caption_does_not() -> None:
    layout = replace(layout_of(9, 1), place="desert")
    open_scene, named = Scene((Thing("cat"),)), Scene((Thing("cat"),), place="desert")
    np.testing.assert_array_equal(render(open_scene, layout).image, render(named, layout).image)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Thing("unicorn"), "name: 'unicorn' is not one of"),
        (lambda: Thing("cat", colour="pink"), "colour: 'pink'"),
        (lambda: Thing("cat", wearing="scarf"), "wearing: 'scarf'"),
        (lambda: Scene(()), "things: 0 given"),
        (lambda: Scene((Thing("cat"),) * 3), "things: 3 given"),
        (lambda: Scene((Thing("cat"),), place="moon"), "place: 'moon'"),
        (lambda: Scene((Thing("cat"),), time="noon"), "time: 'noon'"),
        (lambda: Scene((Thing("cat"),), style="cubist"), "style: 'cubist'"),
        (
            lambda: render(Scene((Thing("cat"), Thing("dog"))), layout_of(0, 1)),
            "layout: 1 slots for 2 things",
        ),
    ],
)
def test_what_the_world_lacks_is_refused_by_name(make, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        make()


def test_labels_say_which_object_each_pixel_shows() -> None:
    first, again = draw_scenes(30, (1, 2)), draw_scenes(30, (1, 2))
    np.testing.assert_array_equal(first.images, again.images)
    np.testing.assert_array_equal(first.labels, again.labels)
    assert first.scenes == again.scenes
    for labels, scene in zip(first.labels, first.scenes, strict=True):
        assert set(np.unique(labels)) == {0, *(1 + OBJECTS.index(thing.name) for thing in scene.things)}


def test_a_shard_is_what_its_number_draws_and_is_read_back(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(shards, "SHARD", 6)
    for index in (0, 1):
        shards._render_shard(WORLD, tmp_path / "scenes", index)
    world = replace(WORLD, checkpoints=tmp_path)
    loaded = load_training_scenes(world, shards=2)
    for index in (0, 1):
        part, expected = slice(6 * index, 6 * index + 6), draw_scenes(6, (2022, index))
        np.testing.assert_array_equal(loaded.images[part], expected.images)
        np.testing.assert_array_equal(loaded.labels[part], expected.labels)
        assert loaded.scenes[part] == expected.scenes
    assert load_training_scenes(world, shards=1, first=1).scenes == loaded.scenes[6:]
