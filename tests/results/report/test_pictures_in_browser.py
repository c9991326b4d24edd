"""The page in a real Chromium: sliders, wipe, orders and cases show the pictures that they say they show."""

import re
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from results.report.heat_map_files import heat_map_text
from results.report.write_report import write_report
from results.store.records import write_records
from tests.results.report.browsing import CLIP, LPIPS, SETTLED, counted, edits_of
from tests.results.report.conftest import HOSTILE
from tests.results.synthetic import make_frame, make_metrics, make_row, windows, write_run

pytestmark = pytest.mark.xdist_group("browser")


def test_the_slider_of_a_card_goes_through_its_taus(visit: Any) -> None:
    page = visit()
    card = page.locator(".card").first
    slider, edit = card.locator("input[type=range]"), card.locator("img").nth(1)
    assert slider.get_attribute("max") == "5"
    slider.focus()
    page.keyboard.press("Home")
    seen = []
    for _ in range(6):
        seen.append((slider.get_attribute("aria-valuetext"), edit.get_attribute("src")))
        assert seen[-1][0] in (edit.get_attribute("alt") or "")
        page.keyboard.press("ArrowRight")
    assert [tau for tau, _ in seen] == [f"τ {tau}" for tau in ("0", "0.2", "0.4", "0.6", "0.8", "1")]
    assert len({source for _, source in seen}) == 6
    card.locator("select").select_option(label="SDEdit")
    assert slider.get_attribute("aria-valuetext") == "strength 0.5"


def test_one_slider_sets_all_cards(visit: Any) -> None:
    page = visit()
    page.locator(".card input").first.focus()
    page.keyboard.press("Home")
    page.focus("#all-at")
    page.keyboard.press("End")
    settings = page.locator(".card input").evaluate_all("all => all.map(one => one.ariaValueText)")
    # The pair that re-weights words alone has no tau of its own without weights.
    assert len(settings) > 5
    assert set(settings) <= {"τ 1", "fixed seed, weights ×1"}


def test_the_viewer_wipes_between_any_two_pictures(visit: Any) -> None:
    page = visit()
    first = page.locator(".card .shot").first
    first.focus()
    page.keyboard.press("Enter")
    assert page.inner_text("#left-tag") == "source image"
    assert "Prompt-to-Prompt" in page.inner_text("#right-tag")
    loaded = "() => ['left', 'right'].every(id => document.getElementById(id).naturalWidth > 0)"
    page.wait_for_function(loaded)
    page.focus("#wipe")
    page.keyboard.press("End")
    assert page.evaluate("document.getElementById('stage').style.getPropertyValue('--at')") == "100%"
    box = page.locator("#stage").bounding_box()
    page.mouse.click(box["x"] + box["width"] * 0.25, box["y"] + 20)
    assert float(page.input_value("#wipe")) == pytest.approx(25, abs=1)
    page.select_option("#left-series", label="SDEdit")
    page.focus("#left-at")
    page.keyboard.press("Home")
    assert page.inner_text("#left-tag") == "SDEdit, strength 0.3"
    page.wait_for_function(loaded)
    assert page.locator("#film .shot").count() == 12
    page.locator("#film .shot").nth(1).click()
    assert page.inner_text("#right-tag") == "fixed seed"
    title = page.inner_text("#viewer-title")
    page.click("#viewer-after")
    assert page.inner_text("#viewer-title") != title
    assert page.inner_text("#left-tag") == "SDEdit, strength 0.3"
    page.keyboard.press("Escape")
    assert page.locator("dialog[open]").count() == 0
    assert page.evaluate("document.activeElement.className") == "shot two"
    assert page.errors == []


def test_best_worst_and_disputed_edits_are_those_of_the_values(visit: Any, told: SimpleNamespace) -> None:
    page, edits = visit(), edits_of(told)
    page.select_option("#case-metric", CLIP)
    page.select_option("#case-other", LPIPS)
    best = edits.sort_values(CLIP, ascending=False).drop_duplicates("pair_id")
    rows = page.locator("#case-rows .case-row")
    assert [text.split("\n")[0] for text in rows.nth(0).locator(".under").all_inner_texts()] == [
        f"{value:.3f}" for value in best[CLIP]
    ]
    worst = edits.sort_values(CLIP).drop_duplicates("pair_id")
    assert [text.split("\n")[0] for text in rows.nth(1).locator(".under").all_inner_texts()] == [
        f"{value:.3f}" for value in worst[CLIP]
    ]
    ranks = edits[CLIP].rank() - edits[LPIPS].rank(ascending=False)
    gap = 100 * ranks.abs().max() / (len(edits) - 1)
    [told_first, *_] = rows.nth(2).locator(".under").all_inner_texts()
    [one, other] = map(int, re.findall(r"\d+", told_first.split("\n")[0]))
    assert abs(one - other) == pytest.approx(gap, abs=1.01)


def test_single_edits_in_an_order_and_only_those_in_view(visit: Any, told: SimpleNamespace) -> None:
    page, edits = visit(viewport={"width": 900, "height": 500}), edits_of(told)
    page.locator(".switch label").last.click()
    page.select_option("#order", f"{LPIPS}\n-1")
    first = page.locator("#cards li").first
    assert first.get_attribute("aria-setsize") == str(len(edits))
    assert f"{edits[LPIPS].max():.3f}" in first.inner_text()
    assert page.locator("#cards li").count() < 40
    page.locator("#cards").evaluate("box => { box.scrollTop = box.scrollHeight; }")
    page.wait_for_function(
        "last => [...document.querySelectorAll('#cards li')].some(one => one.ariaPosInSet === last)",
        arg=str(len(edits)),
    )
    assert page.locator("#cards li[aria-posinset='1']").count() == 0
    assert page.locator("#cards li").count() < 40


def test_without_the_run_s_images_thumbnails_stand_in(
    visit: Any, told: SimpleNamespace, tmp_path: Path
) -> None:
    shutil.copytree(told.page.parent, tmp_path / "site" / "report")
    page = visit(tmp_path / "site" / "report" / "index.html")
    page.locator(".card .shot").first.click()
    page.wait_for_function("() => document.getElementById('right').naturalWidth > 0")
    assert "thumbnails/" in (page.get_attribute("#right", "src") or "")


def test_what_is_hostile_is_shown_as_it_is_and_runs_nowhere(visit: Any, told: SimpleNamespace) -> None:
    page = visit()
    page.fill("[name=words]", "=evil")
    page.evaluate(SETTLED)
    page.locator(".card .shot").first.click()
    assert page.inner_text("#viewer-title").startswith("=evil (<b>x</b>, hard, seed 0)")
    shown = page.locator("#viewer-prompts").text_content()
    assert " ".join(shown.split()) == " ".join(f"{HOSTILE} dog".split())
    assert page.evaluate("window.bad") is None
    assert page.title() == f"{told.run_dir.name} – p2p-bench report"
    assert HOSTILE in page.locator("#origin pre").first.text_content()
    assert page.locator("footer").count() == 1
    assert page.locator("img[src=x]").count() == 0
    assert page.errors == []


def test_a_run_over_windows_without_tau_has_sliders_and_labels_too(visit: Any, tmp_path: Path) -> None:
    settings = [windows((0, 40), (0, 0)), windows((0, 0), (0, 20)), windows((10, 40), (0, 20))]
    rows = [make_row(pair, 0, "source") for pair in ("cat-dog", "house-2")]
    rows += [make_row(pair, 0, "p2p", **one) for pair in ("cat-dog", "house-2") for one in settings]
    frame = pd.DataFrame(rows)
    write_run(tmp_path, frame, make_metrics(frame.assign(tau=frame["tau"].fillna(0.5))))
    page = visit(write_report(tmp_path))
    labels = page.locator("#plot .point-label text").all_text_contents()
    assert sorted(labels) == ["cross 0–40", "cross 10–40, self 0–20", "self 0–20"]
    page.focus("#all-at")
    page.keyboard.press("Home")
    seen = set()
    for _ in settings:
        told = page.inner_text("#all-told")
        cards = page.locator(".card input").evaluate_all("all => all.map(one => one.ariaValueText)")
        assert cards == [told, told]
        seen.add(told)
        page.keyboard.press("ArrowRight")
    assert seen == set(labels)
    assert page.errors == []


@pytest.mark.parametrize("failed", [False, True], ids=["no values", "no pictures"])
def test_a_run_without_values_or_pictures_has_a_page_that_works(
    visit: Any, tmp_path: Path, failed: bool
) -> None:
    if failed:
        row = make_row("cat-dog", 0, "p2p", status="failed", error="out of memory", image="", source_image="")
        write_records(tmp_path, pd.DataFrame([row]))
    else:
        write_run(tmp_path, make_frame(["cat-dog"]), None)
    page = visit(write_report(tmp_path))
    assert counted(page) == (0 if failed else 22)
    assert page.locator(".card").count() == (0 if failed else 2)
    assert "out of memory" in page.inner_text("#problems") or not failed
    if not failed:
        page.locator(".card .shot").first.click()
        page.click("#viewer-after")
    assert page.errors == []


def test_the_viewer_shows_the_mask_and_the_word_heat_maps_of_its_pair(visit: Any, tmp_path: Path) -> None:
    mask = "images/cat-dog/mask 50%#1.png"
    frame = make_frame(["cat-dog", "house-2"], range(1))
    frame["mask"] = frame["pair_id"].map({"cat-dog": mask}).fillna("")
    write_run(tmp_path, frame, None)
    Image.new("L", (64, 64), 255).save(tmp_path / mask)
    (tmp_path / "heat_maps").mkdir()
    told = PngInfo()
    for name, text in heat_map_text("a cat on the grass", "a dog on the grass", 0, ["<i>cat</i>"]).items():
        told.add_text(name, text)
    Image.new("RGB", (80, 40)).save(tmp_path / "heat_maps" / "maps #1.png", pnginfo=told)
    page = visit(write_report(tmp_path))
    page.locator(".card .shot").first.click()
    page.check("#mask")
    loaded = "one => new Promise(done => one.complete ? done(one.naturalWidth) : one.onload = () => done(1))"
    assert page.locator("#stage .mask").evaluate(loaded) > 0
    assert page.inner_text("#viewer-maps h3") == "Where <i>cat</i> is attended to"
    page.locator("#viewer-maps img").scroll_into_view_if_needed()
    assert page.locator("#viewer-maps img").evaluate(loaded) > 0
    page.click("#viewer-after")
    assert page.locator("#viewer-maps img").count() == 0
    assert page.is_hidden("#mask-choice")
    assert page.errors == []
