"""Scripted raters in a real Chromium: from the page to the tables, by a file and through the server."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest

from results.study.answers import load_sheets
from results.study.items import QUESTIONS, Study
from results.study.outcome import write_outcome
from results.study.study_folder import StudyFolder
from tests.results.browsing import CONTEXTS, violations
from tests.results.study.studies import LABELS, Rule, attentive, careless, make_run, make_study
from tests.results.study.test_server import serving

pytestmark = pytest.mark.xdist_group("browser")

# Answers as many comparisons as told, by clicks in the page: `picks` says by item and question which picture.
ANSWER = """([picks, most]) => {
  const name = id => document.getElementById(id).src.match(/([0-9a-f]{16})\\.png$/)[1];
  const seen = [];
  for (let count = 0; count < most; count++) {
    const item = document.documentElement.dataset.shown;
    if (!(item in picks)) break;
    const sides = {left: name('left'), right: name('right')};
    seen.push([item, sides.left, sides.right]);
    for (const [question, picture] of Object.entries(picks[item])) {
      const side = sides.left === picture ? 'left' : 'right';
      document.querySelector(`input[name=${question}][value=${side}]`).click();
    }
    document.getElementById('next').click();
  }
  return seen;
}"""

SAVED = "() => document.getElementById('saved').textContent === 'Saved.'"
TOLD = "words => document.getElementById('end-text').textContent.includes(words)"


def picks(study: Study, rule: Rule) -> dict[str, dict[str, str]]:
    return {item.id: {name: item.pictures[rule(item, name)] for name in QUESTIONS} for item in study.items}


def answer(page: Any, study: Study, rule: Rule, most: int = 1000) -> list[list[str]]:
    """Let a rater answer; return the item and both pictures of each comparison, in the order seen."""
    seen = page.evaluate(ANSWER, [picks(study, rule), most])
    assert isinstance(seen, list)
    return seen


@pytest.fixture
def visit(browser: Any) -> Iterator[Any]:
    """Return a function that opens a study's page as a person with a browser of their own."""
    contexts = []

    def opened(address: str, **context: Any) -> Any:
        contexts.append(browser.new_context(accept_downloads=True, **context))
        page = contexts[-1].new_page()
        page.set_default_timeout(8000)
        page.errors = []
        page.on("pageerror", lambda error: page.errors.append(str(error)))
        page.on("console", lambda said: page.errors.append(said.text) if said.type != "log" else None)
        page.goto(address)
        page.wait_for_selector("html[data-ready]")
        return page

    yield opened
    for context in contexts:
        context.close()


def reload(page: Any) -> None:
    page.reload()
    page.wait_for_selector("html[data-ready]")


def saved(page: Any) -> dict[str, Any]:
    with page.expect_download() as download:
        page.click("#save")
    name = download.value.suggested_filename
    assert re.fullmatch(r"answers-[0-9a-f]{32}\.json", name)
    told = json.loads(Path(download.value.path()).read_text(encoding="utf-8"))
    assert name == f"answers-{told['rater']}.json"
    return dict(told)


def test_raters_with_a_file_come_to_the_rates_they_were_told(
    visit: Any, studied: SimpleNamespace, tmp_path: Path
) -> None:
    study, address = studied.study, studied.folder.page.as_uri()
    orders = []
    for number, rule in enumerate([attentive((1, 2, 0)), careless, attentive((2, 1, 0))]):
        page = visit(address)
        page.click("#begin")
        seen = answer(page, study, rule, most=6)
        reload(page)  # goes on where it was
        assert page.inner_text("#progress-text") == "7 of 20"
        seen += answer(page, study, rule)
        assert page.is_visible("#end")
        told = saved(page)
        assert [(one["item"], one["left"]) for one in told["answers"]] == [(a, b) for a, b, _ in seen]
        reload(page)
        assert saved(page) == told  # handed in twice
        for copy in ("a", "b"):
            (tmp_path / f"{copy}{number}.json").write_text(json.dumps(told), encoding="utf-8")
        orders.append(seen)
        assert page.errors == []
    # Each sees all, in an order and on sides of their own; both sides are of one item.
    assert all({one[0] for one in order} == {item.id for item in study.items} for order in orders)
    assert len({tuple(one[0] for one in order) for order in orders}) == 3
    lefts = [{one[0]: one[1] for one in order} for order in orders]
    assert any(lefts[0][item] != lefts[1][item] for item in lefts[0])
    text = write_outcome(study, tmp_path, tmp_path / "results")
    assert "3 raters, 2 of them counted" in text
    assert "3 came more than once" in text
    rates = pd.read_csv(tmp_path / "results" / "preferences.csv").query("question == 'overall'")
    assert rates.set_index(["first", "second"])["rate"].to_dict() == {
        (LABELS[0], LABELS[1]): 0.0,
        (LABELS[0], LABELS[2]): 0.0,
        (LABELS[1], LABELS[2]): 0.5,
    }


LOOK = """async picks => {
  const seen = [], words = text => text.split(/\\s+/).filter(Boolean);
  const text = id => words(document.getElementById(id).textContent).join(' ');
  while (!document.getElementById('item').hidden) {
    const item = document.documentElement.dataset.shown;
    const images = [...document.querySelectorAll('#item img')];
    await Promise.all(images.map(image => image.decode()));
    const left_out = [...document.querySelectorAll('#wanted del')].map(one => one.textContent).join(' ');
    seen.push({item, images: images.map(image => image.getAttribute('src')), source: text('source-prompt'),
      wanted: words(text('wanted')).length - words(left_out).length,
      all: document.querySelector('main').innerText.toLowerCase()});
    document.getElementById('next').click();  // without an answer nothing goes on
    if (document.documentElement.dataset.shown !== item) return 'went on without an answer';
    for (const [name, side] of Object.entries(picks))
      document.querySelector(`input[name=${name}][value=${side}]`).click();
    document.getElementById('next').click();
  }
  return seen;
}"""


def test_what_is_seen_is_what_is_asked_and_tells_no_method(visit: Any, studied: SimpleNamespace) -> None:
    study, items = studied.study, {item.id: item for item in studied.study.items}
    page = visit(studied.folder.page.as_uri())
    page.click("#begin")
    seen = page.evaluate(LOOK, dict.fromkeys(QUESTIONS, "left"))
    assert [one["item"] for one in seen] != [item.id for item in study.items]
    assert {one["item"] for one in seen} == items.keys()
    for one in seen:
        item = items[one["item"]]
        assert one["images"][0] == f"pictures/{item.source}.png"
        assert {*one["images"][1:]} == {f"pictures/{name}.png" for name in item.pictures}
        assert one["source"] == " ".join(item.source_prompt.split())
        assert one["wanted"] == len(item.target_prompt.split())
        assert not re.search("p2p|prompt-to-prompt|sdedit|fixed|seed|strength|τ", one["all"])
    assert page.evaluate("window.bad ?? null") is None
    assert page.errors == []


def test_an_answer_can_be_changed_until_the_end(visit: Any, studied: SimpleNamespace) -> None:
    study = studied.study
    page = visit(studied.folder.page.as_uri())
    page.click("#begin")
    first = answer(page, study, attentive((0, 1, 2)), most=1)[0][0]
    page.click("#back")
    given = page.evaluate("Object.fromEntries(new FormData(document.getElementById('answer')))")
    assert set(given) == set(QUESTIONS)
    answer(page, study, lambda item, question: 1 - attentive((0, 1, 2))(item, question), most=1)
    answer(page, study, attentive((0, 1, 2)))
    told = saved(page)
    assert len(told["answers"]) == 20
    changed = next(one for one in told["answers"] if one["item"] == first)
    assert all(side != given[name] for name, side in changed["choices"].items())


def test_by_keyboard_alone(visit: Any, studied: SimpleNamespace) -> None:
    page = visit(studied.folder.page.as_uri())
    page.focus("#begin")
    page.keyboard.press("Enter")
    for _ in QUESTIONS:
        page.keyboard.press("Tab")
        page.keyboard.press("Space")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Enter")
    assert page.inner_text("#progress-text") == "2 of 20"
    assert page.evaluate("document.activeElement.id") == "item-title"
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.name") == "preservation"


@pytest.fixture
def served(tmp_path: Path) -> tuple[Path, Study]:
    make_run(tmp_path / "run")
    return tmp_path / "run", make_study(tmp_path / "run")


def test_raters_at_the_server_survive_reloads_and_its_end(visit: Any, served: tuple[Path, Study]) -> None:
    run_dir, study = served
    folder = StudyFolder(run_dir).answers
    rule = attentive((1, 2, 0))
    with serving(run_dir) as port:
        page = visit(f"http://127.0.0.1:{port}/")
        page.click("#begin")
        answer(page, study, rule, most=4)
        page.wait_for_function(SAVED)
        [sheet], _ = load_sheets(folder, study)
        assert 1 <= len(sheet.answers) <= 4
        reload(page)
        assert page.inner_text("#progress-text") == "5 of 20"
    answer(page, study, rule)  # while nobody listens
    page.wait_for_function(
        "() => /not reached the server/.test(document.getElementById('end-text').textContent)"
    )
    told = saved(page)
    assert len(told["answers"]) == 20
    assert all("ERR_CONNECTION_REFUSED" in error for error in page.errors)
    with serving(run_dir, port):
        page.click("#again")
        page.wait_for_function(TOLD, arg="are saved")
        reload(page)  # sends them a second time
        page.wait_for_function(TOLD, arg="are saved")
        page.click("#other")
        page.click("#other-yes")
        page.click("#begin")
        answer(page, study, careless)
        page.wait_for_function(TOLD, arg="are saved")
    sheets, doubles = load_sheets(folder, study)
    assert doubles == 0
    assert sorted(len(sheet.answers) for sheet in sheets) == [20, 20]
    assert json.loads((folder / f"{told['rater']}.json").read_text(encoding="utf-8")) == told
    assert "2 raters, 1 of them counted" in write_outcome(study, folder, run_dir / "results")


FOREIGN = """async address => {
  const body = '{}', tries = [
    {method: 'POST', body, mode: 'no-cors'},
    {method: 'POST', body, headers: {'Content-Type': 'application/json'}},
    {method: 'POST', body, mode: 'no-cors', headers: {'Content-Type': 'text/plain'}},
  ];
  for (const how of tries) await fetch(address + 'answers', how).catch(() => {});
  navigator.sendBeacon(address + 'answers', new Blob([body], {type: 'text/plain'}));
  await new Promise(done => setTimeout(done, 200));
}"""


def test_a_foreign_page_cannot_answer(
    visit: Any, browser: Any, served: tuple[Path, Study], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_dir, study = served
    taken: list[bytes] = []
    monkeypatch.setattr("results.study.server.Desk.take", lambda desk, content: taken.append(content))
    (tmp_path / "evil.html").write_text("<!doctype html><title>x</title>", encoding="utf-8")
    with serving(run_dir) as port:
        page = browser.new_page()
        page.goto((tmp_path / "evil.html").as_uri())
        page.evaluate(FOREIGN, f"http://127.0.0.1:{port}/")
        page.context.close()
        assert taken == []
        own = visit(f"http://127.0.0.1:{port}/")
        own.click("#begin")
        answer(own, study, careless, most=1)
        own.wait_for_function(SAVED)
    assert len(taken) == 1


@pytest.mark.parametrize(
    "name", ["light", "dark", "narrow", pytest.param("forced colours", marks=pytest.mark.slow)]
)
def test_axe_finds_nothing_and_no_page_scrolls_sideways(
    visit: Any, axe: str, studied: SimpleNamespace, name: str
) -> None:
    page = visit(studied.folder.page.as_uri(), **CONTEXTS[name])
    if name == "light":
        assert violations(page, axe) == []
    page.click("#begin")
    assert violations(page, axe) == []
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    if name == "light":
        answer(page, studied.study, careless)
        page.click("#other")
        assert violations(page, axe) == []
    assert page.errors == []


def test_a_picture_that_is_missing_stops_the_comparison(visit: Any, served: tuple[Path, Study]) -> None:
    run_dir, study = served
    for item in study.items:
        StudyFolder(run_dir).picture(item.source).unlink(missing_ok=True)
    page = visit(StudyFolder(run_dir).page.as_uri())
    page.click("#begin")
    page.wait_for_selector("#broken:not([hidden])")
    assert page.is_disabled("#next")
