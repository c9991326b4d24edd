"""The phantoms' data sets: what their pairs promise, and their ideal edits."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from experiments.datasets.phantom_pairs import (
    COUNTS,
    RENDERED_TYPES,
    PhantomPair,
    Phantoms,
    RenderedPhantoms,
    ReweightedPhantoms,
    phantom_pairs,
)
from experiments.datasets.world_pairs import render_pair
from experiments.embedded.worlds.phantoms.layout import draw_layout
from experiments.embedded.worlds.phantoms.world import Lesion, Phantom
from experiments.inputs.ideals import read_ideals

TUMOR = Lesion("tumor", "left lung")


def test_pairs_cover_all_edit_types_and_no_edited_lesion_was_trained_on() -> None:
    pairs = phantom_pairs()
    assert Counter(pair.edit_type for pair in pairs) == COUNTS
    assert len({pair.id for pair in pairs}) == len(pairs) == 104
    assert all((pair.source if pair.edit_type == "remove" else pair.target).reserved() for pair in pairs)
    assert {pair.difficulty for pair in pairs} == {"easy", "medium"}


def test_pairs_are_valid_and_always_the_same() -> None:
    pairs = Phantoms(name="phantoms").load()
    assert pairs == Phantoms(name="phantoms").load()
    assert all(bool(pair.weights) == (pair.edit_type == "reweight") for pair in pairs)
    assert all(pair.source_prompt != pair.target_prompt for pair in pairs if not pair.weights)
    assert all(pair.blend_words is None for pair in pairs)


def test_all_but_a_change_of_modality_is_bounded_where_asked_for() -> None:
    for pair in Phantoms(name="phantoms", blend_words=True).load():
        assert (pair.blend_words is None) == (pair.edit_type == "style")


@pytest.mark.parametrize(
    ("source", "target", "words"),
    [
        (Phantom("ct", "chest"), Phantom("ct", "chest", TUMOR), (None, "tumor")),
        (Phantom("ct", "chest", TUMOR), Phantom("ct", "chest"), ("tumor", None)),
        (Phantom("ct", lesion=TUMOR), Phantom("ct", lesion=Lesion("cyst", "left lung")), ("tumor", "cyst")),
        (
            Phantom("ct", lesion=TUMOR),
            Phantom("ct", lesion=Lesion("tumor", "right lung")),
            ("tumor", "tumor"),
        ),
        (Phantom("ct", lesion=TUMOR), Phantom("mri", lesion=TUMOR), None),
    ],
)
def test_what_bounds_an_edit(
    source: Phantom, target: Phantom, words: tuple[str | None, str | None] | None
) -> None:
    assert PhantomPair("one", "", source, target).pair(blend_words=True).blend_words == words


@pytest.mark.parametrize("edit_type", RENDERED_TYPES)
def test_the_ideal_edit_differs_inside_its_mask_and_nowhere_else(edit_type: str) -> None:
    rng = np.random.default_rng(0)
    for pair in phantom_pairs({edit_type: 6}):
        rendered = render_pair(pair, pair.draw_layout(rng))
        assert rendered.mask.any()
        np.testing.assert_array_equal(rendered.source[~rendered.mask], rendered.ideal[~rendered.mask])
        if edit_type != "style":  # two lesions of at most 14 pixels, and what the blur carries on
            assert rendered.mask.mean() < 0.25


def test_rendered_phantoms_have_one_ideal_or_one_for_each_placement(tmp_path: Path) -> None:
    pairs = RenderedPhantoms(path=tmp_path, per_edit=1).load()
    assert Counter(pair.edit_type for pair in pairs) == dict.fromkeys(RENDERED_TYPES, 1)
    for pair in pairs:
        assert pair.ideal is not None
        assert (pair.mask is None) == (pair.edit_type in ("add", "place"))
        pictures = read_ideals(pair.ideal, (64, 64))
        assert len(pictures) == (63 if pair.mask is None else 1)
        if pair.mask is None:  # the body around a lesion that may lie anywhere in its organ stays
            assert pair.image is not None
            with Image.open(pair.image) as image:
                source = np.moveaxis(np.asarray(image), -1, 0) / 255
            np.testing.assert_allclose(pictures[..., :4], source[None, ..., :4].repeat(63, 0), atol=1e-6)


def test_placements_are_of_added_and_moved_lesions_alone() -> None:
    layout = draw_layout(np.random.default_rng(0))
    for pair in phantom_pairs(dict.fromkeys(COUNTS, 1)):
        placed = list(pair.placements(layout))
        assert bool(placed) == (pair.edit_type in ("add", "place"))
        assert len({(*one.spot, one.size) for one in placed}) == len(placed)


def test_reweighted_pairs_weigh_the_word_that_their_type_says() -> None:
    pairs = ReweightedPhantoms(name="phantoms_reweighted").load()
    assert Counter(pair.edit_type for pair in pairs) == {"reweight large": 12, "reweight tumor": 12}
    for pair in pairs:
        (word,) = pair.weights
        assert pair.edit_type == f"reweight {word}"
        added = word if word == "large" else ""
        assert pair.source_prompt.split() == [w for w in pair.target_prompt.split() if w != added] or (
            "an abscess" in pair.source_prompt
        )


def test_too_few_pairs_are_refused_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="per_edit = 0: must be at least 1"):
        RenderedPhantoms(path=tmp_path, per_edit=0).load()
