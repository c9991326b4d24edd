"""The page in a real Chromium: filters, tables, drawings and downloads say what the run's tables say."""

import io
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest

from results.tables.paper import Layout, arranged
from results.tables.statistics import estimate
from results.tables.table_files import decimals_of
from tests.results.report.browsing import CLIP, LPIPS, SETTLED, choose, counted, edits_of
from tests.results.synthetic import DIRECTIONS, METRICS

pytestmark = pytest.mark.xdist_group("browser")


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
    assert page.inner_text("#table-note").startswith("Means over pairs, edit type add, with 95 % intervals")
    page.select_option("#table-name", "difference_to_fixed_seed")
    assert page.inner_text("#table-note").startswith("Mean differences over pairs, edit type add")


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
    ranked = arranged(rows, DIRECTIONS, Layout(edit_types=True))
    for rank, mark in ((1, r"\textbf{"), (2, r"\underline{")):
        assert latex.count(mark) == ranked["rank"].eq(rank).sum() > 0
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
