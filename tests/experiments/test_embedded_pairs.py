"""The embedded data set: what its pairs promise, and its ideal edits."""

from collections import Counter

import numpy as np
import pytest

from experiments.datasets.embedded_pairs import COUNTS, Embedded, render_pair, scene_pairs
from experiments.embedded.layout import draw_layout


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
