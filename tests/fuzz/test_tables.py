"""Odd tables of pairs: a plan, or one error that names what is wrong."""

import csv
import io
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from experiments.datasets.pair import Pair, slug
from experiments.datasets.tabular import COLUMNS, Table
from experiments.planning.make_plan import plan_of
from experiments.planning.model_facts import ModelFacts
from experiments.planning.plan import NamedMethod
from experiments.planning.sweep import make_sweep
from p2p import FixedSeed, ModelSpec, PromptToPrompt, Sampling
from tests.fuzz.odd import as_json, damaged, examples, halves, refused_or_done, texts, values

METHODS = [
    NamedMethod("p2p", PromptToPrompt(tau=0.2), {"tau": 0.2}),
    NamedMethod("fixed_seed", FixedSeed(), {}),
]
GOOD = {"id": "one", "source_prompt": "a cat", "target_prompt": "a dog"}
cells = texts | values.map(as_json) | st.sampled_from(['{"dog": 2}', '["cat", "dog"]', "\n", '"', "\ufeff"])
columns = st.sampled_from(COLUMNS) | st.sampled_from(["prompt", ""])


@pytest.fixture(scope="module")
def facts(tiny_folder: Path) -> ModelFacts:
    return ModelFacts.of(ModelSpec("tiny", str(tiny_folder), 16, 16, device="cpu"), 3)


good = st.sampled_from([GOOD, GOOD, GOOD, {}])
others = st.sampled_from(COLUMNS[3:]) | columns


@st.composite
def csv_files(draw: st.DrawFn) -> bytes:
    header = list(dict.fromkeys([*draw(good), *draw(st.lists(others, max_size=3))]))
    rows = [
        [GOOD.get(name) if draw(st.integers(0, 3)) and name in GOOD else draw(cells) for name in header]
        for _ in range(draw(st.integers(1, 3)))
    ]
    rows += draw(st.lists(st.lists(cells, max_size=6), max_size=1))
    text = io.StringIO()
    csv.writer(text).writerows([header, *rows])
    return draw(damaged(text.getvalue().encode(errors="surrogatepass")))


@st.composite
def jsonl_files(draw: st.DrawFn) -> bytes:
    odd = values | halves | cells
    rows = [
        {**draw(good), "id": number, **draw(st.dictionaries(others | columns | texts, odd, max_size=2))}
        for number in range(draw(st.integers(1, 3)))
    ]
    lines = [as_json(row) for row in rows] + draw(st.lists(odd.map(as_json), max_size=1))
    return draw(damaged("\n".join(lines).encode()))


def planned(path: Path, facts: ModelFacts) -> Any:
    pairs = Table(path=path).load()
    return plan_of(make_sweep(pairs, [0], METHODS, facts, Sampling(3)))


def check(name: str, content: bytes, facts: ModelFacts) -> None:
    Path(name).write_bytes(content)
    plan = refused_or_done(lambda: planned(Path(name), facts))
    for group in plan.groups if plan else ():
        for branch in group.branches:
            assert_written(branch.pair)


def assert_written(pair: Pair) -> None:
    """What a plan takes can stand in file names and in a table."""
    assert slug(pair.id)
    for text in (pair.id, pair.edit_type, pair.difficulty, pair.source_prompt, pair.target_prompt):
        text.encode()


@examples(0.25)
@given(csv_files())
def test_csv(facts: ModelFacts, content: bytes) -> None:
    check("pairs.csv", content, facts)


@examples(0.25)
@given(jsonl_files())
def test_jsonl(facts: ModelFacts, content: bytes) -> None:
    check("pairs.jsonl", content, facts)
