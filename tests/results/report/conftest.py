"""A run with hostile texts, its report, and a browser to open it in."""

import json
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest

from results.report.write_report import write_report
from results.summary import summarise
from tests.results.synthetic import PAIRS, make_frame, make_metrics, make_row, write_run

HOSTILE = (
    "</script><script>window.bad=1</script><!--<script> \"><img src=x onerror=window.bad=2> \u2028 ${bad} '"
)
CALL = {
    "time": "2026-01-02T03:04:05+00:00",
    "command": ["run", f"name='{HOSTILE}'"],
    "config": {"name": HOSTILE, "reference": []},
    "git": {"commit": "abc", "dirty": True},
    "versions": {"torch": "2.4"},
    "python": "3.11",
}


def make_run(run_dir: Path) -> pd.DataFrame:
    """Write a run with hostile pairs, a failure, a warning and difficulties; return its records."""
    frame = make_frame(list(PAIRS))
    hostile = make_frame(["cat-dog"]).assign(
        pair_id="=evil", source_prompt=HOSTILE, target_prompt=f"{HOSTILE} dog", edit_type="<b>x</b>"
    )
    for name in ("key", "image", "source_image", "group"):
        hostile[name] = hostile[name].str.replace("cat-dog", "evil")
    hostile["key"] = [f"e{key}" for key in hostile["key"]]
    hostile["image"] = [
        path if path.endswith("source.png") else path.replace(".png", "-e.png") for path in hostile["image"]
    ]
    hostile.loc[hostile["method"].eq("p2p"), "warnings"] = f"{HOSTILE}; word dropped"
    failed = make_row("cat-dog", 0, "p2p", status="failed", error=f"boom {HOSTILE}\nmore", tau=0.5, image="")
    frame = pd.concat([frame, hostile, pd.DataFrame([failed])], ignore_index=True)
    frame["difficulty"] = frame["pair_id"].map({"cat-dog": "easy", "=evil": "hard"}).fillna("medium")
    write_run(run_dir, frame, make_metrics(frame))
    return frame


@pytest.fixture(scope="session")
def told(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """A run's folder (`run_dir`), its records (`frame`), tables and report (`page`); read only."""
    run_dir = tmp_path_factory.mktemp("runs") / "a <b>run</b> & more"
    frame = make_run(run_dir)
    tables = summarise(run_dir, draw=False).tables
    page = write_report(run_dir, calls=[CALL, CALL], tables=tables)
    return SimpleNamespace(run_dir=run_dir, frame=frame, tables=tables, page=page)


@pytest.fixture
def visit(browser: Any, told: SimpleNamespace) -> Iterator[Any]:
    """Return a function that opens a page, by default the report, and waits until it can be used.

    Its `seen` are addresses that were asked for, its `errors` what the console said.
    """
    contexts = []

    def opened(file: Path | None = None, after: str = "", **context: Any) -> Any:
        contexts.append(browser.new_context(accept_downloads=True, **context))
        page = contexts[-1].new_page()
        page.set_default_timeout(8000)
        page.seen, page.errors = [], []
        page.on("request", lambda request: page.seen.append(request.url))
        page.on("pageerror", lambda error: page.errors.append(str(error)))
        page.on("console", lambda said: page.errors.append(said.text) if said.type != "log" else None)
        page.goto((file or told.page).as_uri() + after)
        page.wait_for_selector("html[data-ready]")
        return page

    yield opened
    for context in contexts:
        context.close()


def data_of(page: Path) -> dict[str, Any]:
    """Return the data that stands in a page."""
    text = page.read_text(encoding="utf-8")
    return json.loads(text.partition('id="data">')[2].partition("</script>")[0])
