"""A pipeline's folder whose JSON files are damaged, or hold what nobody expects."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from experiments.planning.model_facts import ModelFacts
from p2p import ModelSpec
from tests.fuzz.odd import as_json, damaged, examples, refused_or_done, texts, values

FILES = ("model_index.json", "scheduler/scheduler_config.json", "unet/config.json")


@pytest.fixture(scope="module")
def spec(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> ModelSpec:
    folder = shutil.copytree(tiny_folder, tmp_path_factory.mktemp("damaged") / "pipeline")
    return ModelSpec("tiny", str(folder), 16, 16, device="cpu")


@st.composite
def contents(draw: st.DrawFn, good: dict[str, Any]) -> bytes:
    """Return a file with other values of its keys, other keys, fewer, or other bytes."""
    odd = dict(good)
    for key in draw(st.lists(st.sampled_from(sorted(good)) | texts, max_size=3)):
        odd[key] = draw(values)
    for key in draw(st.lists(st.sampled_from(sorted(good)), max_size=2)):
        odd.pop(key, None)
    whole = draw(st.just(odd) | values) if draw(st.integers(0, 4)) == 0 else odd
    return draw(damaged(as_json(whole).encode()))


def damage(spec: ModelSpec, name: str, data: st.DataObject) -> bytes:
    """Write an odd form of the file, draw no weights; return the good one."""
    file = Path(spec.path) / name
    good = file.read_bytes()
    file.write_bytes(data.draw(contents(json.loads(good)), label=name))
    return good


@examples(0.1)
@given(st.sampled_from(FILES), st.data())
def test_what_a_plan_reads(spec: ModelSpec, name: str, data: st.DataObject) -> None:
    good = damage(spec, name, data)
    try:
        refused_or_done(lambda: ModelFacts.of(spec, 3))
    finally:
        (Path(spec.path) / name).write_bytes(good)


@examples(0.05)
@given(st.sampled_from(FILES), st.data())
def test_what_a_run_loads(spec: ModelSpec, name: str, data: st.DataObject) -> None:
    good = damage(spec, name, data)
    try:
        refused_or_done(spec.load)
    finally:
        (Path(spec.path) / name).write_bytes(good)
