"""Content keys and refusals of a plan, made from a tokenizer alone."""

import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from experiments.datasets.pair import Pair
from experiments.embedded.training import WEIGHTS
from experiments.inputs.content_hash import Beginning, content_hash
from experiments.planning.make_plan import plan_of
from experiments.planning.model_facts import ModelFacts
from experiments.planning.plan import NamedMethod, Plan
from experiments.planning.setting_rows import plan_settings
from experiments.planning.sweep import make_sweep
from p2p import (
    DDIM,
    EditFriendly,
    External,
    FixedSeed,
    Inversion,
    MasaCtrl,
    ModelSpec,
    PlugAndPlay,
    Projections,
    PromptToPrompt,
    Sampling,
    SDEdit,
)
from results.store.records import RECORD_IDENTITY
from results.tables.cells import GIVEN

SAMPLING = Sampling(6, 7.5)
EMBEDDED = ModelSpec("embedded", str(WEIGHTS / "pipeline"), 16, 16)


def plan(sampling: Sampling, calls: int = 6, strength: float = 0.5, embedded: bool = False) -> Plan:
    pair = Pair("one", "a cat on the beach", "a dog on the beach")
    methods = [NamedMethod("fixed_seed", FixedSeed(), {}), NamedMethod("sdedit", SDEdit(strength), {})]
    facts = ModelFacts("identity", EMBEDDED.load_tokenizers(), calls, embedded)
    return plan_of(make_sweep([pair], [0], methods, facts, sampling))


def test_a_beginning_hashed_once_gives_the_hash_of_the_whole() -> None:
    base, rest = ["model", {"b": 2.0, "a": None}], ["a cat", 0, {"d": [1], "c": "é"}]
    assert Beginning(base).hash(rest) == content_hash([*base, *rest])


def test_guidance_rescale_is_part_of_the_keys_and_off_leaves_them_as_they_were() -> None:
    off, on, more = (plan(replace(SAMPLING, guidance_rescale=phi)) for phi in (0.0, 0.7, 0.8))
    content = ["identity", 6, 7.5, "", "a cat on the beach", 0, "source"]
    assert off.groups[0].source_file_key == hashlib.sha256(json.dumps(content).encode()).hexdigest()
    assert len(off.keys() | on.keys() | more.keys()) == 3 * len(off.keys())


def test_a_unet_that_is_told_the_guidance_scale_costs_half() -> None:
    one, two = plan(SAMPLING, embedded=True), plan(SAMPLING)
    assert 2 * one.evaluations == two.evaluations
    assert 2 * one.unshared_evaluations == two.unshared_evaluations
    with pytest.raises(ValueError, match="negative_prompt: 'fog' does nothing"):
        plan(replace(SAMPLING, negative_prompt="fog"), embedded=True)


def other_pipeline() -> External:
    """Another pipeline; a plan reads of it no more than its files' hashes."""
    return External("StableDiffusionPipeline", EMBEDDED.path, {"prompt": "{target_prompt}"})


@pytest.mark.parametrize("upscaler_calls", [0, 4])
def test_a_branch_alone_costs_the_same_shared_and_unshared(upscaler_calls: int) -> None:
    methods = [FixedSeed(), PromptToPrompt(tau=0.5), SDEdit(0.5), other_pipeline()]
    facts = ModelFacts("identity", EMBEDDED.load_tokenizers(), 6, upscaler_calls=upscaler_calls)
    pair = Pair("one", "a cat on the beach", "a dog on the beach")
    alone = [
        plan_of(make_sweep([pair], [0], [NamedMethod("m", method, {})], facts, SAMPLING))
        for method in methods
    ]
    assert [one.evaluations for one in alone] == [one.unshared_evaluations for one in alone]
    steps = [(12, 2), (12, 2), (9, 2), (6, 1)]  # of the denoiser, and pictures that an upscaler enlarges
    assert [one.evaluations for one in alone] == [2 * (n + m * upscaler_calls) for n, m in steps]
    named = [NamedMethod(f"m{number}", method, {}) for number, method in enumerate(methods)]
    together = plan_of(make_sweep([pair], [0], named, facts, SAMPLING))
    assert together.evaluations < together.unshared_evaluations == sum(one.evaluations for one in alone)


@pytest.mark.parametrize("inversion", [DDIM(), EditFriendly(skip=0.25)])
def test_a_branch_of_a_real_image_alone_costs_the_same_shared_and_unshared(
    real: Pair, inversion: Inversion
) -> None:
    by_inversion = inverted(real, [NamedMethod("fixed_seed", FixedSeed(), {})], [0], inversion)
    assert by_inversion.evaluations == by_inversion.unshared_evaluations > by_inversion.inversion_evaluations
    sdedit, other = (
        inverted(real, [NamedMethod("m", method, {})], [0]) for method in (SDEdit(0.5), other_pipeline())
    )
    assert sdedit.evaluations == sdedit.unshared_evaluations == 2 * 3
    assert other.evaluations == other.unshared_evaluations == 0


def test_sdedit_at_a_middle_step_of_plms_is_refused_by_the_plan() -> None:
    assert plan(SAMPLING, calls=7, strength=1.0).images == 2
    with pytest.raises(ValueError, match="pair 'one', sdedit: strength: SDEdit would start at step 3"):
        plan(SAMPLING, calls=7)


def test_what_takes_from_single_layers_is_refused_by_the_plan_of_a_model_without_them() -> None:
    pairs = [Pair(name, "a cat on the beach", "a dog on the beach") for name in ("one", "two")]
    methods = [
        NamedMethod("fixed_seed", FixedSeed(), {}),
        NamedMethod("masactrl", MasaCtrl(2), {}),
        NamedMethod("plug_and_play", PlugAndPlay(), {}),
    ]
    facts = ModelFacts("identity", EMBEDDED.load_tokenizers(), 6)
    known = plan_of(make_sweep(pairs, [0], methods, facts, SAMPLING))
    assert known.images == 6
    assert len(known.keys()) == 1 + 3
    with pytest.raises(ValueError, match="masactrl: takes from single layers of a UNet") as refused:
        plan_of(make_sweep(pairs, [0], methods, replace(facts, single_layers=False), SAMPLING))
    assert str(refused.value).count("takes from single layers") == 2  # once a method
    assert "fixed_seed" not in str(refused.value)


def test_heads_that_a_transformer_has_not_are_refused_by_its_plan() -> None:
    """Injected, shared or read; a UNet's heads differ from layer to layer and are not known yet."""
    pairs = [Pair("one", "a cat on the beach", "a dog on the beach", blend_words=("cat", "dog"))]
    facts = ModelFacts("identity", EMBEDDED.load_tokenizers(), 6, joint_blocks={"double": 2}, heads=4)
    for method in (
        PromptToPrompt(tau=0.5, heads="2..4"),
        PromptToPrompt(tau=0.5, blend_heads=4),
        Projections(0.5, heads=[0, 4]),
    ):
        named = [NamedMethod("method", method, {})]
        message = (
            "method: (blend_)?heads: 4 is no head of every layer that is meant, the least has 4, allowed"
        )
        with pytest.raises(ValueError, match=message):
            plan_of(make_sweep(pairs, [0], named, facts, SAMPLING))
        assert plan_of(make_sweep(pairs, [0], named, replace(facts, heads=None), SAMPLING)).images == 1


@pytest.fixture
def real(tmp_path: Path) -> Pair:
    """A pair with an image."""
    Image.new("RGB", (64, 64)).save(tmp_path / "image.png")
    return Pair("real", "a cat on the beach", "a dog on the beach", image=tmp_path / "image.png")


def inverted(
    pair: Pair, methods: list[NamedMethod], seeds: list[int], *inversions: Inversion, **facts: Any
) -> Plan:
    model = replace(ModelFacts.of(EMBEDDED, SAMPLING.num_inference_steps), **facts)
    return plan_of(make_sweep([pair], seeds, methods, model, SAMPLING, inversions or (None,)))


def test_a_group_lists_the_pictures_of_each_pair_given_ones_first(real: Pair) -> None:
    pairs = [replace(real, id="with", ideal=real.image), replace(real, id="without")]
    methods = [NamedMethod("fixed_seed", FixedSeed(), {}), NamedMethod("sdedit", SDEdit(0.5), {})]
    model = ModelFacts.of(EMBEDDED, SAMPLING.num_inference_steps)
    made = plan_of(make_sweep(pairs, [0], methods, model, SAMPLING, [DDIM()]))
    inverted, not_inverted = made.groups
    assert [(picture.pair.id, picture.method) for picture in inverted.pictures()] == [
        *(("with", name) for name in ("source", "reconstruction", "ideal", "fixed_seed")),
        *(("without", name) for name in ("source", "reconstruction", "fixed_seed")),
    ]
    assert [picture.method for picture in not_inverted.pictures()] == [
        *("source", "ideal", "sdedit"),
        *("source", "sdedit"),
    ]
    pictures = [picture for group in made.groups for picture in group.pictures()]
    assert {picture.method for picture in pictures if picture.given} == set(GIVEN)
    settings = plan_settings(made, "toy", "embedded")
    assert set(settings[RECORD_IDENTITY].itertuples(index=False, name=None)) == made.rows()
    assert len(settings) == len(made.rows()) == len(pictures)


def test_auto_tau_of_an_inverted_image_has_each_candidate_once(real: Pair) -> None:
    methods = [NamedMethod("p2p", PromptToPrompt(tau=tau), {"tau": tau}, "{}") for tau in (0.0, 0.5)]
    made = inverted(real, methods, [0, 1], DDIM(), EditFriendly(skip=0.25))
    # Only edit-friendly inversion depends on the seed.
    assert made.images == len(made.candidates) == 2 + 4
    assert {candidate["key"] for candidate in made.candidates} < made.keys()
    assert made.inversion_evaluations == 6 + 2 * 2 * 5  # edit-friendly leaves out 1 of its 6 steps


def test_a_real_image_is_refused_where_it_cannot_be_the_source(real: Pair) -> None:
    sdedit, fixed = NamedMethod("sdedit", SDEdit(0.5), {}), NamedMethod("fixed_seed", FixedSeed(), {})
    with pytest.raises(ValueError, match="pair 'real': has an image, which cannot be the source of a model"):
        inverted(real, [sdedit], [0], upscaler_calls=6)
    with pytest.raises(ValueError, match="ddim: guidance: a model that takes the guidance scale as an input"):
        inverted(real, [fixed], [0], DDIM(), guidance_embedded=True)


def drawn_plan(ids: list[str], drawn: int | None, seeds: tuple[int, ...] = (0, 1, 2)) -> Plan:
    pairs = [Pair(name, f"a {name} on the beach", "a fox on the beach") for name in ids]
    methods = [NamedMethod("sdedit", SDEdit(s), {"strength": s}) for s in (0.2, 0.4, 0.6, 0.8)]
    methods.append(NamedMethod("fixed_seed", FixedSeed(), {}))
    facts = ModelFacts("identity", EMBEDDED.load_tokenizers(), 6)
    return plan_of(make_sweep(pairs, seeds, methods, facts, SAMPLING, drawn=drawn))


def test_drawn_settings_are_so_many_of_each_method_and_of_all_that_there_are() -> None:
    ids = ["cat", "dog", "pig", "owl", "lion", "frog"]
    every, two = drawn_plan(ids, None), drawn_plan(ids, 2)
    assert two.keys() < every.keys()
    made = [(g.seed, b) for g in two.groups for b in g.branches]
    for name in ids:
        own = [(seed, b.method) for seed, b in made if b.pair.id == name]
        assert sorted(method for _, method in own) == ["fixed_seed"] * 2 + ["sdedit"] * 2
    drawn = {(seed, b.params["strength"]) for seed, b in made if b.method == "sdedit"}
    assert len({seed for seed, _ in drawn}) == 3
    assert len({strength for _, strength in drawn}) == 4
    assert drawn_plan(ids, 12).keys() == every.keys()


def test_what_a_pair_draws_does_not_depend_on_other_pairs() -> None:
    alone, among = drawn_plan(["dog"], 1), drawn_plan(["cat", "dog", "pig"], 1)
    assert alone.keys() < among.keys()


@pytest.mark.parametrize("drawn", [0, True, "1", 1.0])
def test_how_many_are_drawn_is_a_whole_number(drawn: Any) -> None:
    with pytest.raises(ValueError, match=rf"grid.drawn: {drawn!r} must be a whole number from 1"):
        drawn_plan(["cat"], drawn)


def test_auto_tau_is_not_drawn_from() -> None:
    facts = ModelFacts("identity", EMBEDDED.load_tokenizers(), 6)
    auto = [NamedMethod("p2p", PromptToPrompt(tau=0.2), {"tau": 0.2}, "a rule")]
    with pytest.raises(ValueError, match="grid.drawn: tau=auto chooses from all of its taus"):
        plan_of(make_sweep([Pair("one", "a cat", "a dog")], [0], auto, facts, SAMPLING, drawn=1))


def test_settings_are_told_apart_by_the_order_of_words_that_overlap_and_by_no_other_order() -> None:
    pair = Pair("one", "a cat on the beach", "a cat on the beach")
    orders = [{"the beach": 2.0, "beach": 3.0}, {"beach": 3.0, "the beach": 2.0}]
    apart = [{"cat": 2.0, "the beach": 3.0, "beach": 2.0}, {"the beach": 3.0, "beach": 2.0, "cat": 2.0}]
    facts = ModelFacts("identity", EMBEDDED.load_tokenizers(), 6)
    for weights, count in ((orders, 2), (apart, 1)):
        methods = [NamedMethod("p2p", PromptToPrompt(weights=one), {"weights": one}) for one in weights]
        settings = plan_settings(
            plan_of(make_sweep([pair], [0], methods, facts, SAMPLING)), "toy", "embedded"
        )
        edits = settings[settings["method"].eq("p2p")]
        assert edits["key"].nunique() == edits["params"].nunique() == edits["weights"].nunique() == count
