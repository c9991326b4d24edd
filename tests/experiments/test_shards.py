"""How a plan is parted: by what its groups cost, each group once, alike on every machine."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pytest
from PIL import Image

from experiments.datasets.pair import Pair
from experiments.embedded.training import WEIGHTS
from experiments.planning.make_plan import plan_of
from experiments.planning.model_facts import ModelFacts
from experiments.planning.plan import NamedMethod, Plan, shard
from experiments.planning.sweep import Sweep, make_sweep
from p2p import DDIM, External, FixedSeed, ModelSpec, NullText, PromptToPrompt, Sampling, SDEdit
from p2p.trajectory import Method

SAMPLING = Sampling(6, 7.5)
EMBEDDED = ModelSpec("embedded", str(WEIGHTS / "pipeline"), 16, 16)


def swept(
    pairs: list[Pair], *methods: Method, seeds: Sequence[int] = (0,), drawn: int | None = None
) -> Sweep:
    named = [NamedMethod(f"m{number}", method, {"m": number}) for number, method in enumerate(methods)]
    facts = ModelFacts.of(EMBEDDED, SAMPLING.num_inference_steps)
    inversions = (DDIM(), NullText(2)) if pairs[0].image else (None,)
    return make_sweep(pairs, seeds, named, facts, SAMPLING, inversions, drawn=drawn)


def planned(pairs: list[Pair], *methods: Method) -> Plan:
    return plan_of(swept(pairs, *methods))


def photographs(folder: Path) -> list[Pair]:
    """Seven pairs with pictures."""
    pairs = []
    for number in range(7):
        image = folder / f"{number}.png"
        Image.new("RGB", (64, 64), (number, 0, 0)).save(image)
        pairs.append(Pair(f"{number}", "a cat on the beach", "a dog on the beach", image=image))
    return pairs


@pytest.fixture
def uneven(tmp_path: Path) -> Plan:
    """Seven pictures by two inversions, one of which costs more, and by SDEdit, which costs least."""
    return planned(photographs(tmp_path), FixedSeed(), PromptToPrompt(tau=0.5), SDEdit(0.5))


@pytest.mark.parametrize("count", [2, 3, 4, 5])
def test_shards_have_equal_shares_of_the_evaluations_and_each_group_once(uneven: Plan, count: int) -> None:
    assert len(set(uneven.costs)) == 3
    shares = [shard(uneven, index, count) for index in range(count)]
    assert Counter(g.id for share in shares for g in share.groups) == Counter(g.id for g in uneven.groups)
    evaluations = [share.evaluations for share in shares]
    assert sum(evaluations) == uneven.evaluations
    assert max(evaluations) - min(evaluations) <= max(uneven.costs)
    by_count = [sum(uneven.costs[index::count]) for index in range(count)]
    assert max(evaluations) <= max(by_count)
    assert min(evaluations) / max(evaluations) > 0.85


def test_a_shard_keeps_the_order_of_the_plan_and_is_the_same_each_time(uneven: Plan) -> None:
    places = {group.id: place for place, group in enumerate(uneven.groups)}
    for index in range(4):
        mine = [places[group.id] for group in shard(uneven, index, 4).groups]
        assert mine == sorted(mine) == [places[group.id] for group in shard(uneven, index, 4).groups]


@pytest.mark.parametrize("count", [1, 2, 3, 7, 100])
@pytest.mark.parametrize("drawn", [None, 1])
@pytest.mark.parametrize("real", [False, True])
def test_a_part_is_planned_alone_as_it_is_of_the_whole(
    real: bool, drawn: int | None, count: int, tmp_path: Path
) -> None:
    words = ["cat", "dog", "bird", "dog"]
    told = [
        Pair(f"{n}", f"a {word} on the beach", "a cow on the beach", weights={"cow": n + 1.0})
        for n, word in enumerate(words)
    ]
    methods = [FixedSeed(), PromptToPrompt(tau=0.5), PromptToPrompt(tau=0.6), SDEdit(0.5)]
    sweep = swept(photographs(tmp_path) if real else told, *methods, seeds=(3, 4), drawn=drawn)
    whole = plan_of(sweep)
    assert sweep.costs == whole.costs
    assert len(whole.groups) > 5
    parts = [plan_of(sweep, index, count) for index in range(count)]
    for index, part in enumerate(parts):
        assert part.groups == shard(whole, index, count).groups
    assert sum(part.merged for part in parts) == whole.merged
    assert (whole.merged > 0) == (real and not drawn)  # a picture's path is one for all seeds


def test_evaluations_by_other_pipelines_count_as_well() -> None:
    pairs = [Pair(f"{n}", f"a cat on beach {n}", f"a dog on beach {n}") for n in range(2)]
    other = External("StableDiffusionPipeline", EMBEDDED.path, {"prompt": "{target_prompt}"})
    [group, _] = planned(pairs, FixedSeed(), other).costs
    [without, _] = planned(pairs, FixedSeed()).costs
    assert group == without + 2 * 6


def test_equal_groups_are_dealt_in_turn_and_more_shards_than_groups_leave_some_empty() -> None:
    pairs = [Pair(f"{n}", f"a cat on beach {n}", f"a dog on beach {n}") for n in range(3)]
    equal = planned(pairs, FixedSeed())
    dealt = [[g.source_prompt[-1] for g in shard(equal, index, 2).groups] for index in range(2)]
    assert dealt == [["0", "2"], ["1"]]
    assert [len(shard(equal, index, 5).groups) for index in range(5)] == [1, 1, 1, 0, 0]
    assert shard(equal, 0, 1) is equal
