"""What the tests of the page in a browser share: the edits it should show, and how a filter is chosen."""

from types import SimpleNamespace
from typing import Any

import pandas as pd

from results.store.records import load
from tests.results.synthetic import METRICS

CLIP, LPIPS = METRICS[0], METRICS[2]
SETTLED = (
    "() => new Promise(done => requestAnimationFrame(() => requestAnimationFrame(() => setTimeout(done))))"
)


def edits_of(told: SimpleNamespace) -> pd.DataFrame:
    """Return the records of the edits that were made, with their values."""
    records = load(told.run_dir)
    return records[records["status"].eq("ok") & records["method"].ne("source")]


def choose(page: Any, name: str, label: str) -> None:
    """Choose in a filter, and wait until the page has followed."""
    page.select_option(f"[name={name}]", label=label)
    page.evaluate(SETTLED)


def counted(page: Any) -> int:
    """Return how many edits the page says it shows."""
    return int(page.inner_text("#count").split(" of ")[0].replace(",", ""))
