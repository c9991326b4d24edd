"""The paper's seven templates: its counts, its wording, and draws that stay the same."""

from collections import Counter

import pytest

from experiments.datasets.pair import validate_pairs
from experiments.datasets.templates import Templates, p2p_templates


def test_templates_have_the_papers_counts() -> None:
    pairs = p2p_templates(None)
    validate_pairs(pairs)
    counts = Counter(pair.id.split("-")[0] for pair in pairs)
    assert counts == {"t1": 150, "t2": 120, "t3": 1210, "t4": 150, "t5": 42, "t6": 81, "t7": 42}
    assert len({(pair.source_prompt, pair.target_prompt) for pair in pairs}) == len(pairs) == 1795


@pytest.mark.parametrize(
    ("source", "target", "edit_type"),
    [
        ("Image of apples inside a pot.", "Image of candies inside a pot.", "swap"),
        (
            "A box full of kittens is lying on the table.",
            "A nest full of kittens is lying on the table.",
            "swap",
        ),
        ("Photo of a cow plays at the playground.", "Photo of a lion plays at the playground.", "swap"),
        ("Photo of a tree with a bug on it.", "Photo of a tree made of wax with a bug on it.", "add"),
        ("Image of car on the side of the road.", "Image of wooden car on the side of the road.", "add"),
        ("A landscape image of a lake.", "A landscape image of a lake in rainy day.", "add"),
        ("The tram is passing in the street.", "The tram is passing in the snowy street.", "add"),
    ],
)
def test_template_wording_is_the_papers(source: str, target: str, edit_type: str) -> None:
    triples = {(pair.source_prompt, pair.target_prompt, pair.edit_type) for pair in p2p_templates(None)}
    assert (source, target, edit_type) in triples


def test_swaps_keep_the_word_count_and_additions_only_add() -> None:
    for pair in p2p_templates(None):
        source, target = pair.source_prompt.rstrip(".").split(), pair.target_prompt.rstrip(".").split()
        if pair.edit_type == "swap":
            assert sum(old != new for old, new in zip(source, target, strict=True)) == 1
        else:
            remaining = iter(target)
            assert len(target) > len(source)
            assert all(word in remaining for word in source)  # a subsequence


def test_a_draw_is_twenty_of_each_fixed_by_its_seed() -> None:
    draw = p2p_templates(20, seed=0)
    assert Counter(pair.id.split("-")[0] for pair in draw) == dict.fromkeys(
        ["t1", "t2", "t3", "t4", "t5", "t6", "t7"], 20
    )
    assert len({pair.id for pair in draw}) == 140
    assert draw == p2p_templates(20, seed=0) == Templates().load()
    assert draw != p2p_templates(20, seed=1)
    everything = {pair.id: pair for pair in p2p_templates(None)}
    assert all(everything[pair.id] == pair for pair in draw)
    assert {pair.id for pair in p2p_templates(5)} < {pair.id for pair in draw}


def test_the_default_draw_stays_what_it_is() -> None:
    # The data set of every stored run: a change here is another data set.
    assert " ".join(pair.id for pair in p2p_templates(2)) == (
        "t1-0038 t1-0088 t2-0070 t2-0097 t3-0526 t3-0628 t4-0012 t4-0115 t5-0005 t5-0027 t6-0018 t6-0042 "
        "t7-0022 t7-0034"
    )


@pytest.mark.parametrize("per_template", [0, 43, -1])
def test_a_template_gives_no_more_than_it_has(per_template: int) -> None:
    with pytest.raises(ValueError, match=r"per_template = -?\d+: must be 1 to 42, or null for all 1,795"):
        p2p_templates(per_template)
