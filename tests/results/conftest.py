"""A finished synthetic run, and a browser to open pages in, that the tests of this folder share."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from experiments.bench.report_page import FLAGS
from results.plots import run_plots
from tests.results.synthetic import PAIRS, make_frame, make_metrics, write_run


@pytest.fixture(scope="session")
def finished_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A complete run folder; read only."""
    run_dir = tmp_path_factory.mktemp("runs") / "finished"
    frame = make_frame(list(PAIRS))
    write_run(run_dir, frame, make_metrics(frame))
    return run_dir


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    """Headless Chromium, to which no other machine exists."""
    playwright = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed")
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("Chromium is not installed (Debian: apt-get install chromium)")
    with playwright.sync_playwright() as driver:
        opened = driver.chromium.launch(executable_path=chromium, args=list(FLAGS), chromium_sandbox=False)
        yield opened
        opened.close()


@pytest.fixture(scope="session")
def axe() -> str:
    """The source of axe-core."""
    package = pytest.importorskip("axe_playwright_python", reason="axe-playwright-python is not installed")
    return (Path(package.__file__).parent / "axe.min.js").read_text(encoding="utf-8")


@pytest.fixture
def one_plot(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a summary draw trade-offs alone of what it draws of its main table."""
    monkeypatch.setattr(run_plots, "PLOTS", (run_plots.trade_offs,))
