"""The embedded data set: what its pairs promise, and its ideal edits."""

from collections import Counter

import numpy as np
import pytest

from experiments.datasets.embedded_pairs import COUNTS, Embedded, ScenePair, scene_pairs
from experiments.datasets.world_pairs import render_pair
from experiments.embedded.worlds.scenes.layout import draw_layout
from experiments.embedded.worlds.scenes.world import COLOURS, Scene, Thing


def test_pairs_cover_all_edit_types_and_no_target_was_trained_on() -> None:
    pairs = scene_pairs()
    assert Counter(pair.edit_type for pair in pairs) == COUNTS
    assert len({pair.id for pair in pairs}) == len(pairs) == 120
    assert all(pair.target.reserved() for pair in pairs)
    assert {pair.difficulty for pair in pairs} == {"easy", "medium", "hard"}


def test_pairs_are_valid_and_always_the_same() -> None:
    pairs = Embedded(name="embedded").load()
    assert pairs == Embedded(name="embedded").load()
    assert len({(p.source_prompt, p.target_prompt, *p.weights.items()) for p in pairs}) == len(pairs)
    assert all(bool(pair.weights) == (pair.edit_type == "reweight") for pair in pairs)
    assert all(pair.source_prompt != pair.target_prompt for pair in pairs if not pair.weights)


def test_local_edits_alone_have_blend_words_and_only_where_asked_for() -> None:
    assert all(pair.blend_words is None for pair in Embedded(name="embedded").load())
    asked = Embedded(name="embedded", blend_words=True).load()
    local = Counter(pair.edit_type for pair in asked if pair.blend_words)
    colours = sum(pair.weights.keys() <= set(COLOURS) for pair in asked if pair.weights)
    assert 0 < colours < COUNTS["reweight"]
    assert local == {name: COUNTS[name] for name in ("swap", "add", "remove", "attribute")} | {
        "reweight": colours
    }


@pytest.mark.parametrize(
    ("edit_type", "source", "target", "words"),
    [
        ("swap", Scene((Thing("cat"),), "snow"), Scene((Thing("fox"),), "snow"), ("cat", "fox")),
        ("add", Scene((Thing("cat"),)), Scene((Thing("cat", wearing="hat"),)), ("cat", "hat")),
        ("add", Scene((Thing("cat"),)), Scene((Thing("cat"), Thing("bus"))), ("cat", "bus")),
        ("remove", Scene((Thing("cat"), Thing("bus"))), Scene((Thing("cat"),)), ("bus", "cat")),
        ("attribute", Scene((Thing("cat"),)), Scene((Thing("cat", colour="red"),)), ("cat", "cat")),
        (
            "attribute",
            Scene((Thing("cat"), Thing("bus"))),
            Scene((Thing("cat"), Thing("bus", "big"))),
            ("bus", "bus"),
        ),
        ("place", Scene((Thing("cat"),), "snow"), Scene((Thing("cat"),), "beach"), None),
        ("time", Scene((Thing("cat"),)), Scene((Thing("cat"),), fog=True), None),
        ("style", Scene((Thing("cat"),)), Scene((Thing("cat"),), style="sketch"), None),
    ],
)
def test_what_bounds_an_edit(
    edit_type: str, source: Scene, target: Scene, words: tuple[str, str] | None
) -> None:
    assert ScenePair("one", edit_type, source, target).pair(blend_words=True).blend_words == words


def test_blend_words_are_asked_for_and_not_given() -> None:
    with pytest.raises(ValueError, match=r"blend_words = \['cat', 'fox'\]: must be true or false"):
        Embedded(name="embedded", blend_words=["cat", "fox"]).load()  # type: ignore[arg-type]


def test_blend_words_stand_once_in_their_captions() -> None:
    for pair in Embedded(name="embedded", blend_words=True).load():
        for prompt, word in zip(
            (pair.source_prompt, pair.target_prompt), pair.blend_words or (), strict=False
        ):
            assert prompt.split(" ").count(word) == 1


def test_per_type_keeps_the_first_of_each() -> None:
    few = Embedded(name="embedded", per_type=2).load()
    assert Counter(pair.edit_type for pair in few) == dict.fromkeys(COUNTS, 2)
    everything = Embedded(name="embedded").load()
    assert all(pair in everything for pair in few)


@pytest.mark.parametrize("edit_type", [name for name in COUNTS if name != "reweight"])
def test_the_ideal_edit_differs_inside_its_mask_and_nowhere_else(edit_type: str) -> None:
    rng = np.random.default_rng(0)
    for pair in (p for p in scene_pairs(dict.fromkeys(COUNTS, 6)) if p.edit_type == edit_type):
        layout = draw_layout(rng, max(len(pair.source.things), len(pair.target.things)))
        rendered = render_pair(pair, layout)
        assert rendered.mask.any()
        np.testing.assert_array_equal(rendered.source[~rendered.mask], rendered.ideal[~rendered.mask])
        if edit_type in ("swap", "add", "remove"):
            assert rendered.mask.mean() < 0.75


def test_a_reweighting_has_no_ideal() -> None:
    pair = next(p for p in scene_pairs(dict.fromkeys(COUNTS, 1)) if p.weights)
    with pytest.raises(ValueError, match="no ideal image"):
        render_pair(pair, draw_layout(np.random.default_rng(0), 1))
