"""Odd values of the command line's keys: `plan` ends with 0, or with 2 and one error."""

import contextlib
import io
import json
from functools import cache
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from hypothesis import given
from hypothesis import strategies as st
from omegaconf import OmegaConf

import experiments.options
import experiments.run
from tests.experiments.command import p2p_bench
from tests.fuzz.odd import examples, numbers, texts

BASE = ("grid=single", "metrics=pixel", "sampling.num_inference_steps=3", "sampling.guidance_scale=2")
PAIR = ("dataset=inline", "dataset.source_prompt=a cat", "dataset.target_prompt=a dog")
MORE = (
    *("+grid.inversions", "+grid.methods.p2p.blend_threshold", "+grid.methods.p2p.substruct_words"),
    *("+grid.methods.p2p.blend_weight", "+grid.methods.p2p.profile", "+grid.methods.p2p.local_blend"),
    *("+grid.methods.sdedit.strength", "+grid.methods.masactrl.start_step", "+grid.methods.fixed_seed"),
    *(
        "+model.height",
        "+model.loras",
        "+model.leave_out",
        "+model.upscaler",
        "+model.variant",
        "+model.revision",
    ),
    *(
        "+metrics.mine",
        "+mine",
        "+metrics.pixel.batch_size",
        "grid.methods",
        "shard",
        *experiments.options.GROUPS,
    ),
)
LEFT_OUT = ("estimate",)  # loads the model


@cache
def keys() -> list[str]:
    """Return every key of a plan's configuration, but for those that name a class or load weights."""
    with initialize_config_dir(str(experiments.run.CONF), version_base="1.3"):
        config = OmegaConf.to_container(compose("config", [*BASE, *PAIR]))
    found = sorted({*paths("", config), *MORE})
    return [key for key in found if key not in LEFT_OUT and not key.endswith("_target_")]


def paths(level: str, node: Any) -> list[str]:
    if not isinstance(node, dict):
        return []
    own = [f"{level}{key}" for key in node]
    return own + [path for key, inner in node.items() for path in paths(f"{level}{key}.", inner)]


def written(value: Any) -> str:
    """Return a value as Hydra's grammar has it, texts now with quotes and now without."""
    if isinstance(value, dict):
        return "{" + ",".join(f"{key}:{written(inner)}" for key, inner in value.items()) + "}"
    if isinstance(value, list):
        return f"[{','.join(map(written, value))}]"
    if value is None:
        return "null"
    return value if isinstance(value, str) else str(value)[:500]


plain = st.sampled_from(
    ["abc", "a dog", "cat", "dog", "0", "none", "ddim", "auto", "os.path.join", "${name}", "${", "'"]
)
quoted = texts.map(json.dumps)
odd = st.recursive(
    st.none() | st.booleans() | numbers | plain | quoted | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(plain, inner, max_size=2),
    max_leaves=4,
).map(written)


@examples(0.1, shrink=False)  # a plan takes half a second
@given(st.data())
def test_a_plan(data: st.DataObject) -> None:
    chosen = data.draw(st.lists(st.tuples(st.sampled_from(keys()), odd), min_size=1, max_size=2))
    overrides = [f"{key}={value}" for key, value in chosen]
    said = io.StringIO()
    with contextlib.redirect_stderr(said), contextlib.redirect_stdout(io.StringIO()):
        code = p2p_bench("plan", *BASE, *PAIR, *(one for one in overrides if "\0" not in one))
    assert code in (0, 2), said.getvalue()
    if code == 2:
        first, *rest = said.getvalue().splitlines()
        assert first.startswith("error: "), said.getvalue()
        assert not rest or "problem" in first, said.getvalue()


@pytest.fixture(autouse=True)
def _without_its_traces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HYDRA_FULL_ERROR", raising=False)  # which the command sets
