"""Odd inputs, and what may come of them: ValueError or OSError, which the command line tells in one line.

300 are tried in all, the same ones each time; `make fuzz` tries 10,000, others each time. Nothing is kept
between two runs: what fails prints its smallest form.
"""

import json
import os
from collections.abc import Callable
from typing import Any

from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st

EXAMPLES = int(os.environ.get("P2P_FUZZ", 300))

words = st.sampled_from(
    ["a cat", "a dog", "a red dog", "cat", "dog", "red", "", " ", "a  cat", "a cat ", "ä", "\0"]
)
texts = words | st.text(max_size=12)
numbers = (
    st.integers(-3, 3)
    | st.floats()
    | st.sampled_from([0.5, 10**400, -(10**400), 2**63, 1e308, 1e-320, float("nan"), float("inf")])
)
values = st.recursive(
    st.none() | st.booleans() | numbers | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=6,
)
halves = st.sampled_from(["\ud83d", "a \udcff", "dog\ud800"])
"""Texts that hold half of a surrogate pair, as JSON can write them."""


def examples(share: float, shrink: bool = True) -> settings:
    """Return how a test tries its share of all examples; without `shrink` what fails is told as it is."""
    return settings(
        max_examples=max(1, round(EXAMPLES * share)),
        database=None,
        phases=[Phase.generate, *([Phase.shrink] if shrink else [])],
        deadline=None,
        derandomize="P2P_FUZZ" not in os.environ,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
    )


@st.composite
def damaged(draw: st.DrawFn, content: bytes) -> bytes:
    """Return the bytes, one time in three with a few of them changed, cut out, or put in."""
    if draw(st.integers(0, 2)):
        return content
    data = bytearray(content)
    for _ in range(draw(st.integers(0, 4))):
        start = draw(st.integers(0, max(0, len(data) - 1)))
        length = draw(st.integers(0, 8))
        data[start : start + length] = draw(st.binary(max_size=8))
    if draw(st.integers(0, 5)) == 0:
        del data[draw(st.integers(0, len(data))) :]
    return bytes(data)


def as_json(value: Any) -> str:
    return json.dumps(value, default=str)


def refused_or_done(action: Callable[[], Any]) -> Any:
    """Return what comes of an action, None where it refuses its input. Any other error is the test's."""
    try:
        return action()
    except (ValueError, OSError) as error:
        said = str(error).strip()
    assert said, "an error says what is wrong"
    return None
