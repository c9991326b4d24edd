"""The world of phantoms: its language, and pictures that show what captions say."""

import json
from dataclasses import asdict, replace
from itertools import product

import numpy as np
import pytest

from experiments.embedded.worlds.phantoms.changes import LESION_CHANGE, SMALL_CHANGE, changed_views
from experiments.embedded.worlds.phantoms.definition import WORLD
from experiments.embedded.worlds.phantoms.drawing import draw_phantoms, phantom_and_layout, read_phantom
from experiments.embedded.worlds.phantoms.layout import draw_layout, shown_place
from experiments.embedded.worlds.phantoms.render import labels, render
from experiments.embedded.worlds.phantoms.world import (
    ATTRIBUTES,
    CONTRASTS,
    KINDS,
    LABELS,
    MODALITIES,
    PLACES,
    REGIONS,
    SIZES,
    WORDS,
    Lesion,
    Phantom,
    draw_phantom,
    other_phantom,
    region_of,
    reserved,
)


@pytest.mark.parametrize(
    ("phantom", "caption"),
    [
        (Phantom("ct", "chest"), "a ct slice of the chest"),
        (Phantom("mri", "head", quality="noisy"), "a noisy mri slice of the head"),
        (
            Phantom("mri", "chest", Lesion("tumor", "left lung", "large")),
            "an mri slice of the chest with a large tumor in the left lung",
        ),
        (Phantom("pet", "", Lesion("abscess", "liver")), "a pet slice with an abscess in the liver"),
        (
            Phantom("ct", "head", Lesion("bleed", size="small", contrast="faint")),
            "a ct slice of the head with a small faint bleed",
        ),
    ],
)
def test_captions(phantom: Phantom, caption: str) -> None:
    assert phantom.caption() == caption


@pytest.mark.parametrize(
    ("made", "told"),
    [
        (lambda: Phantom("xray", "chest"), "modality: 'xray' is not one of 'ct', 'mri', 'pet'"),
        (lambda: Phantom("ct", "leg"), "region: 'leg' is not one of"),
        (lambda: Phantom("ct"), "region: '' is allowed only where the lesion has a place"),
        (
            lambda: Phantom("ct", "head", Lesion("cyst", "liver")),
            "place in the head: 'liver' is not one of 'left hemisphere', 'right hemisphere'",
        ),
        (lambda: Lesion("wart"), "kind: 'wart' is not one of"),
        (lambda: Lesion("cyst", size="tiny"), "size: 'tiny' is not one of"),
        (lambda: region_of("leg"), "place: 'leg' is not one of"),
    ],
)
def test_what_the_world_does_not_hold_is_refused_in_one_line(made: object, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        made()  # type: ignore[operator]


def test_drawn_phantoms_speak_the_worlds_words_and_hold_out_what_is_reserved() -> None:
    rng = np.random.default_rng(0)
    drawn = [draw_phantom(rng) for _ in range(2000)]
    held_out = [draw_phantom(rng, held_out=True) for _ in range(100)]
    captions = [phantom.caption() for phantom in drawn]
    assert {word for caption in captions for word in caption.split()} == set(WORDS)
    assert max(len(caption.split()) for caption in captions) + 2 <= WORLD.max_length
    assert not any(phantom.reserved() for phantom in drawn)
    assert all(phantom.reserved() for phantom in held_out)
    assert len({p.caption(): p for p in drawn}) == len(set(drawn))  # two phantoms never share a caption


def test_16_combinations_are_reserved_and_every_word_is_in_one() -> None:
    held_out = [one for one in product(MODALITIES, KINDS, PLACES) if reserved(*one)]
    assert len(held_out) == 16
    assert {word for one in held_out for word in one} == {*MODALITIES, *KINDS, *PLACES}


def test_what_is_shown_without_being_said_is_not_reserved_either() -> None:
    rng = np.random.default_rng(1)
    for _ in range(500):
        phantom, layout = phantom_and_layout(rng)
        if phantom.lesion:
            assert not reserved(phantom.modality, phantom.lesion.kind, shown_place(phantom, layout))


def test_another_caption_differs_by_one_edit_in_the_same_region() -> None:
    rng = np.random.default_rng(2)
    kinds = set()
    for _ in range(500):
        phantom = draw_phantom(rng)
        other = other_phantom(phantom, rng)
        assert other != phantom
        assert not other.reserved()
        assert other.shown_region() == phantom.shown_region()
        a, b = (asdict(p) | (asdict(p)["lesion"] or {}) for p in (phantom, other))
        changed = {k for k in a if a[k] != b.get(k)} - {"lesion", "region"}
        kinds.add("lesion" if (phantom.lesion is None) != (other.lesion is None) else changed.pop())
        assert not changed or (phantom.lesion is None) != (other.lesion is None)
    assert kinds == {"lesion", "kind", "place", "size", "contrast", "modality", "quality"}


def test_a_phantom_is_read_as_it_is_written() -> None:
    rng = np.random.default_rng(3)
    for phantom in (draw_phantom(rng) for _ in range(50)):
        assert read_phantom(json.loads(json.dumps(asdict(phantom)))) == phantom


def test_named_words_stand_in_the_caption_and_their_pixels_in_the_picture() -> None:
    drawn = draw_phantoms(60, (4,))
    for phantom, shown in zip(drawn.scenes, drawn.labels, strict=True):
        named = phantom.named()
        assert len(named) == WORLD.slots
        assert bool(named[0][0]) == (phantom.lesion is not None)
        for word, numbers in named:
            assert bool(word) == bool(numbers)
            assert phantom.caption().split().count(word) == bool(word)
            assert not word or np.isin(shown, numbers).any()


def test_attributes_say_what_holds_and_leave_open_what_the_caption_does() -> None:
    phantom = Phantom("ct", "", Lesion("tumor", "left lung", "large"))
    said = dict(zip(ATTRIBUTES, phantom.attributes(), strict=True))
    assert {name for name, value in said.items() if value == 1} == {
        *("ct", "chest", "tumor", "left lung", "large")
    }
    assert {name for name, value in said.items() if value == -1} == set(CONTRASTS)
    healthy = dict(zip(ATTRIBUTES, Phantom("ct", "head").attributes(), strict=True))
    assert {name for name, value in healthy.items() if value} == {"ct", "head"}


@pytest.mark.parametrize(("modality", "place"), product(MODALITIES, PLACES))
def test_lesions_are_as_large_as_their_words_say_and_lie_in_their_place(modality: str, place: str) -> None:
    rng = np.random.default_rng(5)
    for kind in KINDS:
        layout = replace(draw_layout(rng), spot=(0.0, 0.0))
        areas = []
        for size in ("", *SIZES, "none"):
            lesion = None if size == "none" else Lesion(kind, place, size)
            rendered = render(Phantom(modality, region_of(place), lesion), layout)
            areas.append(float(rendered.lesion.sum()))
            if lesion:
                healthy = render(Phantom(modality, region_of(place)), layout)
                inside = rendered.lesion > 0.5
                assert healthy.organs[place][inside].mean() > 0.4  # of a kidney's 11 pixels, 14 stand out
                where = np.argwhere(inside)
                assert (np.ptp(where, axis=0) + 1 >= 5).all()
        unsaid, small, large, none = areas
        assert none == 0
        assert small < unsaid < large
        assert np.pi / 4 * 5**2 < small < np.pi / 4 * 8**2
        assert np.pi / 4 * 9**2 < large < np.pi / 4 * 15**2


@pytest.mark.parametrize(("modality", "contrast"), product(MODALITIES, ("", *CONTRASTS)))
def test_lesions_are_seen_against_the_healthy_organ(modality: str, contrast: str) -> None:
    rng = np.random.default_rng(6)
    steps = {}
    for kind, place in product(KINDS, PLACES):
        layout = replace(draw_layout(rng), spot=(0.0, 0.0), noise=0.0)
        lesion = Lesion(kind, place, "large", contrast)
        ill, healthy = (
            render(Phantom(modality, region_of(place), one), layout).image[..., 0].astype(float)
            for one in (lesion, None)
        )
        inside = render(Phantom(modality, region_of(place), lesion), layout).lesion > 0.9
        steps[kind, place] = np.abs(ill - healthy)[inside].mean() / 255
    # The weakest are dark where the organ is dark, and the body around a kidney is another grey than it is.
    assert min(steps.values()) > (0.05 if contrast == "faint" else 0.09)
    assert np.mean(list(steps.values())) > (0.1 if contrast == "faint" else 0.2)


def test_left_is_on_the_pictures_right() -> None:
    layout = replace(draw_layout(np.random.default_rng(7)), shift=(0.5, 0.5))
    for place in (place for place in PLACES if " " in place):
        shown = render(Phantom("ct", "", Lesion("tumor", place)), layout).lesion
        assert (np.argwhere(shown > 0.5)[:, 1].mean() > 31.5) == place.startswith("left")


def test_pictures_are_grey_and_the_same_on_every_call() -> None:
    drawn, again = draw_phantoms(6, (8, 0)), draw_phantoms(6, (8, 0))
    np.testing.assert_array_equal(drawn.images, again.images)
    np.testing.assert_array_equal(drawn.labels, again.labels)
    assert (drawn.images == drawn.images[..., :1]).all()


def test_labels_are_of_the_lesion_and_of_organs_of_the_region() -> None:
    rng = np.random.default_rng(9)
    for region, places in REGIONS.items():
        phantom = Phantom("ct", region, Lesion("cyst", places[0], "small"))
        shown = labels(phantom, render(phantom, draw_layout(rng)))
        assert {LABELS[n - 1] for n in np.unique(shown) if n} == {"cyst", *places}


def test_views_are_of_lesions_and_all_changes_change_something() -> None:
    views = changed_views(8, (10,), True)
    assert set(views) == {"source", *SMALL_CHANGE, *LESION_CHANGE}
    for name, images in views.items():
        assert images.shape == (8, 3, 64, 64)
        differs = (images != views["source"]).flatten(1).any(1)
        assert differs.all() == (name != "source")
    nearness = [(views[name] - views["source"]).square().mean() for name in LESION_CHANGE]
    assert nearness == sorted(nearness)
