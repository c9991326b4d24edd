"""The page in a real Chromium: what it shows, by pointer and by keyboard, is what the run holds."""

import io
import re
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest

from results.report.write_report import write_report
from results.store.records import load, write_records
from results.tables.statistics import estimate
from results.tables.table_files import decimals_of
from tests.results.report.conftest import HOSTILE
from tests.results.synthetic import METRICS, make_frame, make_metrics, make_row, windows, write_run

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
    return int(page.inner_text("#count").split(" of ")[0].replace(",", ""))


def cells(page: Any) -> dict[str, list[str]]:
    """Return the means of the table by row, a heading before the settings that it is over."""
    rows, heading = {}, ""
    for row in page.locator("#table tbody tr").all():
        if row.locator("th[scope=rowgroup]").count():
            heading = row.locator("th").inner_text()
            continue
        first = row.locator("th")
        inset = "inset" in (first.get_attribute("class") or "")
        name = f"{heading}, {first.inner_text()}" if inset else first.inner_text()
        rows[name] = [(cell.split("\n") or [""])[0] for cell in row.locator("td").all_inner_texts()]
    return rows


def test_filters_leave_what_the_records_say(visit: Any, told: SimpleNamespace) -> None:
    page, edits = visit(), edits_of(told)
    assert counted(page) == len(edits)
    for name, column in (("edit_type", "edit_type"), ("difficulty", "difficulty"), ("seed", "seed")):
        for value, rows in edits.groupby(column):
            choose(page, name, str(value))
            assert counted(page) == len(rows)
        choose(page, name, "all")
    choose(page, "method", "SDEdit")
    choose(page, "seed", "1")
    assert counted(page) == len(edits[edits["method"].eq("sdedit") & edits["seed"].eq(1)])
    assert page.url.endswith("#method=SDEdit&seed=1")
    page.fill("[name=words]", "TOWER")
    page.evaluate(SETTLED)
    assert counted(page) == 4
    page.fill("[name=words]", "nothing of the kind")
    page.evaluate(SETTLED)
    assert counted(page) == 0
    assert page.locator("#cards li").count() == 0
    page.click("text=Clear filters")
    page.evaluate(SETTLED)
    assert counted(page) == len(edits)
    assert page.errors == []


def test_what_was_filtered_stands_in_the_address(visit: Any, told: SimpleNamespace) -> None:
    page = visit(after="#edit_type=swap&method=SDEdit")
    assert counted(page) == len(edits_of(told).query("edit_type == 'swap' and method == 'sdedit'"))
    assert page.input_value("[name=method]") != ""


def test_the_table_shows_the_run_s_means_and_those_of_an_edit_type(visit: Any, told: SimpleNamespace) -> None:
    page, main = visit(), told.tables["main"]
    plain = main[main["weighting"].eq("")]
    for edit_type, label in (("all", "all"), ("add", "add")):
        choose(page, "edit_type", label)
        rows = plain[plain["edit_type"].eq(edit_type)]
        shown = cells(page)
        assert len(shown) == rows.drop_duplicates(["method", "setting"]).shape[0]
        own = rows[rows["method"].eq("p2p") & rows["setting"].eq("τ 0.4")].set_index("metric")["mean"]
        digits = {name: decimals_of(plain.loc[plain["metric"].eq(name), "mean"]) for name in METRICS}
        metrics = sorted(METRICS)
        assert shown["Prompt-to-Prompt, τ 0.4"][:4] == [f"{own[name]:.{digits[name]}f}" for name in metrics]
    assert "95 %" in page.inner_text("#table-note")


def test_means_under_a_filter_are_over_pairs_as_the_tables_are(visit: Any, told: SimpleNamespace) -> None:
    page, edits = visit(), edits_of(told)
    choose(page, "difficulty", "medium")
    rows = edits[edits["difficulty"].eq("medium") & edits["method"].eq("sdedit") & edits["strength"].eq(0.5)]
    rows = rows[rows["source_prompt"].ne(rows["target_prompt"])]
    mean = estimate(rows[CLIP], rows["pair_id"]).mean
    place = sorted(METRICS).index(CLIP)
    assert float(cells(page)["SDEdit, strength 0.5"][place]) == pytest.approx(mean, abs=5.1e-4)
    assert "intervals are given for whole edit types" in page.inner_text("#table-note")


def test_a_column_sorts_and_says_so(visit: Any) -> None:
    page = visit()
    button = page.locator("#table thead button", has_text="LPIPS")
    button.focus()
    page.keyboard.press("Enter")
    assert page.locator("#table th[aria-sort]").get_attribute("aria-sort") == "ascending"
    place = sorted(METRICS).index(LPIPS)
    values = [row[place] for row in cells(page).values()]
    numbers = [float(value) for value in values if value != "–"]
    assert numbers == sorted(numbers)
    assert len(numbers) > 10
    assert values[len(numbers) :] == ["–"] * (len(values) - len(numbers))
    assert page.evaluate("document.activeElement.textContent").startswith("LPIPS")


def saved(page: Any, button: str) -> str:
    with page.expect_download() as download:
        page.click(button)
    return Path(download.value.path()).read_text(encoding="utf-8")


def test_downloads_are_what_is_shown(visit: Any, told: SimpleNamespace) -> None:
    page, main = visit(), told.tables["main"]
    rows = main[main["weighting"].eq("") & main["edit_type"].eq("swap") & main["method"].eq("p2p")]
    choose(page, "edit_type", "swap")
    choose(page, "method", "Prompt-to-Prompt")
    table = pd.read_csv(io.StringIO(saved(page, "#save-csv")))
    np.testing.assert_array_equal(table["mean"], rows["mean"])
    assert table["metric"].tolist() == rows["metric"].tolist()
    assert set(table["edit_type"]) == {"swap"}
    latex = saved(page, "#save-latex")
    assert latex.count(r" \\") == 1 + rows["setting"].nunique()
    assert r"lpips\_embedded@1 $\downarrow$" in latex
    assert r"$\tau$ 0.2" in latex
    bibtex = saved(page, "#save-bibtex")
    assert re.findall(r"@\w+\{(\w+),", bibtex)[0] == "hertz2023prompt"
    assert "zhang2018unreasonable" in bibtex
    assert "meng2022sdedit" not in bibtex
    assert page.errors == []


def test_a_hostile_text_stays_a_text_in_downloads_too(visit: Any) -> None:
    page = visit()
    choose(page, "edit_type", "<b>x</b>")
    table = pd.read_csv(io.StringIO(saved(page, "#save-csv")))
    assert set(table["edit_type"]) == {"<b>x</b>"}


def test_a_point_shows_its_pictures_by_pointer_and_by_keyboard(visit: Any) -> None:
    page = visit()
    page.locator("#plot").scroll_into_view_if_needed()
    before = page.inner_text("#plot-behind h3")
    assert before.startswith("Prompt-to-Prompt")
    assert page.locator("#plot-behind img").count() == 8
    page.focus("#plot")
    page.keyboard.press("ArrowRight")
    heading = page.inner_text("#plot-behind h3")
    assert heading != before
    assert heading in page.inner_text("#say")
    [x, y] = page.evaluate(
        "() => { const box = document.querySelectorAll('#plot g[fill=\"var(--m1)\"] path')[0]"
        ".getBoundingClientRect(); return [box.x + box.width / 2, box.y + box.height / 2]; }"
    )
    page.keyboard.press("Escape")
    page.mouse.move(x, y)
    assert page.inner_text("#plot-behind h3").startswith("SDEdit, strength")
    assert page.locator("#plot-behind img").evaluate_all("all => all.every(one => one.naturalWidth > 0)")
    page.focus("#plot")
    page.keyboard.press("Enter")
    assert counted(page) == 8
    assert page.locator("#cards li").count() == 8
    assert "of SDEdit, strength" in page.inner_text("#count")


def test_single_edits_are_dots_that_can_be_reached(visit: Any, told: SimpleNamespace) -> None:
    page = visit()
    page.check("#dots")
    page.focus("#plot")
    painted = "const c = document.querySelector('#plot canvas');" + (
        "return c.getContext('2d').getImageData(0, 0, c.width, c.height).data.some(value => value > 0)"
    )
    assert page.evaluate(f"() => {{ {painted} }}")
    for _ in range(30):
        page.keyboard.press("ArrowLeft")
        if page.locator("#plot-behind img").count() == 1:
            break
    assert page.locator("#plot-behind img").count() == 1


def test_the_map_of_windows_holds_the_table_s_means(visit: Any, told: SimpleNamespace) -> None:
    page, main = visit(), told.tables["main"]
    rows = main[main["method"].eq("p2p") & main["edit_type"].eq("all") & main["weighting"].eq("")]
    means = rows.loc[rows["metric"].eq(CLIP), "mean"].dropna()
    digits = decimals_of(main.loc[main["metric"].eq(CLIP), "mean"])
    shown = page.locator("#map button").all_inner_texts()
    assert sorted(shown) == sorted(f"{mean:.{digits}f}" for mean in means)
    page.locator("#map button").first.focus()
    assert page.inner_text("#map-behind h3") == "cross 40 %, self 40 %"
    assert page.locator("#map-behind img").count() == 8


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
        write_records(tmp_path, str(row["group"]), pd.DataFrame([row]))
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


def test_the_drawing_follows_the_width_and_outlives_being_hidden(visit: Any) -> None:
    page = visit(viewport={"width": 1300, "height": 800})
    wide = page.locator("#plot svg").get_attribute("width")
    page.evaluate("document.querySelector('main').style.display = 'none'")
    choose(page, "edit_type", "swap")
    page.evaluate("document.querySelector('main').style.display = ''")
    assert page.locator("#plot svg").count() == 1
    page.set_viewport_size({"width": 700, "height": 800})
    page.wait_for_function(
        "wide => document.querySelector('#plot svg').getAttribute('width') < +wide", arg=wide
    )
    page.emulate_media(media="print")
    page.screenshot(full_page=True)
    assert page.locator("#plot svg").count() == 1
    assert page.errors == []
