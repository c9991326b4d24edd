"""Content keys and refusals of a plan, made from a tokenizer alone."""

import hashlib
import json
from dataclasses import replace

import pytest

from experiments.datasets.pair import Pair
from experiments.embedded.training import WEIGHTS
from experiments.plan import NamedMethod, Plan, make_plan
from p2p import FixedSeed, ModelSpec, Sampling, SDEdit

SAMPLING = Sampling(6, 7.5)


def plan(sampling: Sampling, calls: int = 6, strength: float = 0.5, embedded: bool = False) -> Plan:
    tokenizers = ModelSpec("embedded", str(WEIGHTS / "pipeline"), 16, 16).load_tokenizers()
    pair = Pair("one", "a cat on the beach", "a dog on the beach")
    methods = [NamedMethod("fixed_seed", FixedSeed(), {}), NamedMethod("sdedit", SDEdit(strength), {})]
    return make_plan([pair], [0], methods, "identity", tokenizers, calls, sampling, embedded)


def test_guidance_rescale_is_part_of_the_keys_and_off_leaves_them_as_they_were() -> None:
    off, on, more = (plan(replace(SAMPLING, guidance_rescale=phi)) for phi in (0.0, 0.7, 0.8))
    content = ["identity", 6, 7.5, "", "a cat on the beach", 0, "source"]
    assert off.groups[0].source_key == hashlib.sha256(json.dumps(content).encode()).hexdigest()
    assert len(off.keys() | on.keys() | more.keys()) == 3 * len(off.keys())


def test_a_unet_that_is_told_the_guidance_scale_costs_half() -> None:
    one, two = plan(SAMPLING, embedded=True), plan(SAMPLING)
    assert 2 * one.evaluations == two.evaluations
    assert 2 * one.unshared_evaluations == two.unshared_evaluations
    with pytest.raises(ValueError, match="negative_prompt: 'fog' does nothing"):
        plan(replace(SAMPLING, negative_prompt="fog"), embedded=True)


def test_sdedit_at_a_middle_step_of_plms_is_refused_by_the_plan() -> None:
    assert plan(SAMPLING, calls=7, strength=1.0).images == 2
    with pytest.raises(ValueError, match="pair 'one', sdedit: strength: SDEdit would start at step 3"):
        plan(SAMPLING, calls=7)
