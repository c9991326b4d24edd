"""How heavy a report's page is and how fast it answers in headless Chromium: `python -m
experiments.bench.report_page RUN/report`.

Each figure is the median of several loads or filters. Chromium is Debian's; Playwright drives it.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

FLAGS = (
    *("--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"),
    *("--disable-component-update", "--disable-sync", "--disable-dev-shm-usage"),
    "--host-resolver-rules=MAP * ~NOTFOUND , EXCLUDE 127.0.0.1 , EXCLUDE localhost",
)
"""With these Chromium asks nothing of the network, and any outside host fails at once."""
_PAINTED = "performance.getEntriesByName('first-contentful-paint')[0].startTime"
_READY = "document.documentElement.dataset.ready && performance.now()"
# Until the browser has drawn what the choice changed, and until the pictures in view are decoded too.
_FILTER = """async value => {
  const select = document.querySelector('#filters select'), start = performance.now();
  select.value = value;
  select.dispatchEvent(new Event('input', {bubbles: true}));
  const frame = () => new Promise(resolve => requestAnimationFrame(() => setTimeout(resolve)));
  await frame();
  const drawn = performance.now() - start;
  const seen = [...document.querySelectorAll('#cards img')].filter(image => image.src);
  await Promise.all(seen.map(image => image.decode().catch(() => {})));
  return [drawn, performance.now() - start];
}"""


def measure(page_file: Path, repeats: int = 5) -> dict[str, Any]:
    """Return weights in kB and times in ms of a page."""
    from playwright.sync_api import sync_playwright

    painted, ready, drawn, pictures = [], [], [], []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=shutil.which("chromium"), args=list(FLAGS), chromium_sandbox=False
        )
        for _ in range(repeats):
            page = browser.new_context(viewport={"width": 1280, "height": 800}).new_page()
            page.goto(page_file.resolve().as_uri())
            ready.append(page.wait_for_function(_READY).json_value())
            painted.append(page.evaluate(_PAINTED))
            page.wait_for_timeout(300)
            options = page.evaluate("document.querySelector('#filters select').options.length")
            for value in [*range(min(options - 1, 4)), ""]:
                times = page.evaluate(_FILTER, str(value))
                drawn.append(times[0])
                pictures.append(times[1])
            page.context.close()
        browser.close()
    thumbnails = list(page_file.parent.rglob("*.webp"))
    return {
        "page_kB": page_file.stat().st_size / 1000,
        "thumbnails": len(thumbnails),
        "thumbnails_kB": sum(file.stat().st_size for file in thumbnails) / 1000,
        "first_paint_ms": statistics.median(painted),
        "ready_ms": statistics.median(ready),
        "filter_ms": statistics.median(drawn),
        "filter_worst_ms": max(drawn),
        "filter_with_pictures_ms": statistics.median(pictures),
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the figures of a report's folder as JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("report", type=Path)
    parser.add_argument("--repeats", type=int, default=5)
    given = parser.parse_args(arguments)
    figures = measure(given.report / "index.html", given.repeats)
    print(json.dumps({name: round(value, 1) for name, value in figures.items()}, indent=1))


if __name__ == "__main__":
    main()
