"""The page asks nothing of any network, its policy holds, and axe finds nothing in any theme or width."""

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from tests.results.browsing import CONTEXTS, SCREENS, violations

pytestmark = pytest.mark.xdist_group("browser")


@pytest.mark.parametrize("name", SCREENS)
def test_axe_finds_nothing(visit: Any, axe: str, name: str) -> None:
    page = visit(**CONTEXTS[name])
    assert violations(page, axe) == []
    page.locator(".card .shot").first.click()
    assert violations(page, axe) == []
    assert page.errors == []


@pytest.mark.parametrize("name", ["phone", "narrow"])
def test_a_phone_scrolls_down_alone(visit: Any, name: str) -> None:
    page = visit(**CONTEXTS[name])
    width = CONTEXTS[name]["viewport"]["width"]
    assert page.evaluate("document.documentElement.scrollWidth") == width
    page.locator(".card .shot").first.click()
    assert page.locator("#viewer").evaluate("box => box.scrollWidth <= box.clientWidth")


def test_the_theme_is_chosen_and_kept(visit: Any) -> None:
    page = visit(color_scheme="light")
    ground = "getComputedStyle(document.body).backgroundColor"
    light = page.evaluate(ground)
    page.click("#theme")
    assert page.inner_text("#theme") == "Theme: light"
    assert page.evaluate(ground) == light
    page.click("#theme")
    assert page.inner_text("#theme") == "Theme: dark"
    assert page.evaluate(ground) != light
    page.reload()
    page.wait_for_selector("html[data-ready]")
    assert page.inner_text("#theme") == "Theme: dark"


def test_only_files_beside_the_page_are_asked_for(visit: Any, told: Any) -> None:
    page = visit()
    for section in page.locator("section").all():
        section.scroll_into_view_if_needed()
    page.locator(".card .shot").first.click()
    page.wait_for_function("() => document.getElementById('right').naturalWidth > 0")
    folder = told.run_dir.as_uri() + "/"
    asked = [address for address in page.seen if not address.startswith(("data:", "blob:"))]
    assert len(asked) > 10
    assert all(address.startswith(folder) for address in asked)
    assert page.errors == []


@pytest.fixture
def listener() -> Iterator[tuple[str, list[str]]]:
    """A server on this machine, with its address and what was asked of it."""
    hits: list[str] = []

    class Counting(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            hits.append(self.path)
            self.send_response(200)
            self.end_headers()

        do_POST = do_GET

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Counting)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/", hits
    server.shutdown()
    thread.join()
    server.server_close()


WAYS_OUT = """async address => {
  const add = (name, values) => new Promise(done => {
    const node = document.createElement(name);
    node.onload = node.onerror = done;
    setTimeout(done, 300);
    Object.assign(node, values);
    document.head.append(node);
  });
  await Promise.all([
    add('img', {src: address + 'img'}), add('script', {src: address + 'js'}),
    add('link', {rel: 'stylesheet', href: address + 'css'}), add('iframe', {src: address + 'iframe'}),
    add('link', {rel: 'prefetch', href: address + 'prefetch'}),
  ]);
  await fetch(address + 'fetch', {mode: 'no-cors'}).catch(() => {});
  navigator.sendBeacon(address + 'beacon', 'x');
  try { new WebSocket(address.replace('http', 'ws') + 'socket'); } catch { /* refused at once */ }
  const inline = document.createElement('p');
  inline.setAttribute('style', `background: url(${address}style)`);
  const sheet = document.createElement('style');
  sheet.textContent = `h1 { background: url(${address}sheet) }`;
  const script = document.createElement('script');
  script.textContent = 'window.bad = 1';
  const handler = document.createElement('div');
  handler.innerHTML = '<img src="x" onerror="window.bad = 2">';
  document.body.append(inline, sheet, script, handler);
  const form = document.createElement('form');
  Object.assign(form, {action: address + 'form', method: 'post'});
  document.body.append(form);
  form.submit();
  await new Promise(done => setTimeout(done, 400));
  return window.bad ?? null;
}"""


def test_the_policy_stops_every_way_out(visit: Any, listener: tuple[str, list[str]]) -> None:
    address, hits = listener
    assert visit().evaluate(WAYS_OUT, address) is None
    assert hits == []


def test_the_listener_counts_where_there_is_no_policy(
    browser: Any, listener: tuple[str, list[str]], tmp_path: Path
) -> None:
    address, hits = listener
    (tmp_path / "open.html").write_text("<!doctype html><title>open</title><body>", encoding="utf-8")
    page = browser.new_page()
    page.goto((tmp_path / "open.html").as_uri())
    with pytest.raises(Exception, match="context|navigat"):  # the form takes the page away
        page.evaluate(WAYS_OUT, address)
    page.context.close()
    assert {"/img", "/js", "/css", "/fetch", "/beacon", "/form"} <= set(hits)
