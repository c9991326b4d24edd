"""Curves at equal preservation, the front, win rates and what cannot be, as the page shows them."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest

from results.report.comparisons import matched_rows
from results.report.write_report import write_report
from results.store.records import write_metrics
from results.tables.matched import COLUMNS
from tests.results.report.browsing import LPIPS
from tests.results.report.conftest import data_of
from tests.results.synthetic import PAIRS, make_frame, make_metrics, write_run

BROWSER = pytest.mark.xdist_group("browser")


def texts(page: Any, table: str) -> list[list[str]]:
    """Return the rows of a table as the page shows them."""
    rows = page.locator(f"{table} tbody tr").all()
    return [row.locator("th, td").all_inner_texts() for row in rows]


@BROWSER
def test_curves_at_equal_preservation_are_the_table_s(visit: Any, told: SimpleNamespace) -> None:
    page, gaps = visit(), told.tables["matched"]
    gaps = gaps[gaps["edit_type"].eq("all")]
    rows = texts(page, "#matched")
    assert len(rows) == len(gaps) > 0
    for shown, row in zip(rows, gaps.to_dict("records"), strict=True):
        assert shown[:2] == [row["first"], row["second"]]
        difference, *interval = shown[2].split("\n")
        assert float(difference.replace("−", "-")) == pytest.approx(row["difference"], abs=5.1e-4)
        ends = [float(end.replace("−", "-")) for one in interval for end in one.split(" to ")]
        known = [row[end] for end in ("low", "high") if not pd.isna(row[end])]
        assert ends == pytest.approx(known, abs=5.1e-4)
        p = "–" if pd.isna(row["p_holm"]) else f"{row['p_holm']:.2g}"
        assert shown[3:5] == [p, f"{row['n']} of {row['n_pairs']}"]
    assert page.errors == []


@BROWSER
def test_the_front_is_the_table_s(visit: Any, told: SimpleNamespace) -> None:
    page, front = visit(), told.tables["pareto"]
    rows = texts(page, "#front")
    assert len(rows) == len(front)
    on = front["standing"].eq("front")
    assert [row[3] for row in rows if row[4] == "on the front"] == [
        str(place) for place in front.loc[on, "place"]
    ]
    means = [float(row[2].split("\n")[0]) for row in rows if row[2] != "–"]
    known = front[LPIPS].dropna()
    assert means == pytest.approx(list(known), abs=5.1e-4)


@BROWSER
def test_win_rates_are_a_table_of_the_page(visit: Any, told: SimpleNamespace) -> None:
    page, table = visit(), told.tables["difference_to_fixed_seed"]
    page.select_option("#table-name", "wins")
    note = page.inner_text("#table-note")
    assert note.startswith("In which share of pairs a setting is better than fixed seed (a tie counts half)")
    [wins] = [one for one in data_of(told.page)["tables"] if one["name"] == "wins"]
    for shown, column in (("mean", "wins"), ("low", "wins_low"), ("high", "wins_high")):
        known = [None if pd.isna(value) else value for value in table[column]]
        assert wins[shown] == known
    assert any(0 < value < 1 for value in wins["mean"] if value is not None)


def test_a_comparison_is_spelled_with_its_interval() -> None:
    row = dict.fromkeys(COLUMNS, 0.5) | {"first": "a", "second": "b", "dataset": "d", "edit_type": "all"}
    row |= {"difference": 0.035, "low": -0.036, "high": 0.1344, "p_holm": 0.72, "n": 14, "n_pairs": 16}
    row |= {"level_low": 0.139, "level_high": 0.2314, "pairs_to_tell": 64}
    apart = row | {
        "difference": None,
        "low": None,
        "high": None,
        "p_holm": None,
        "n": 0,
        "pairs_to_tell": None,
    }
    whole = {"n": "Int64", "n_pairs": "Int64", "pairs_to_tell": "Int64"}
    shown, nothing = matched_rows(pd.DataFrame([row, apart]).astype(whole | {"difference": float}))
    assert (shown["difference"], shown["interval"]) == ("+0.035", "−0.036 to +0.134")
    assert (shown["p"], shown["pairs"], shown["to_tell"]) == ("0.72", "14 of 16", "64")
    assert shown["reach"] == "0.139 to 0.231"
    assert (nothing["difference"], nothing["interval"], nothing["reach"]) == ("–", "", "–")


def test_a_page_made_alone_says_the_same(told: SimpleNamespace) -> None:
    before = told.page.read_text()
    again = write_report(told.run_dir).read_text()
    told.page.write_text(before)
    for part in ('<table id="matched"', '<table id="front"'):
        cut = [text.partition(part)[2].partition("</table>")[0] for text in (before, again)]
        assert cut[0] == cut[1] != ""


def test_numbers_that_cannot_be_stand_under_problems(tmp_path: Path) -> None:
    frame = make_frame(list(PAIRS)[:2])
    values = [
        {"key": key, "metric": metric, "value": value, "reason": ""}
        for key in frame["key"].unique()
        for metric, value in (("mse@1", 0.001), ("psnr@1", 20.0))
    ]
    write_run(tmp_path / "run", frame, make_metrics(frame))
    assert 'id="impossible"' not in write_report(tmp_path / "run").read_text()
    write_metrics(tmp_path / "run", "pixel@1", pd.DataFrame(values))
    page = write_report(tmp_path / "run").read_text()
    told = page.partition('id="impossible">')[2].partition("</ul>")[0]
    assert "<li>p2p, τ 0.2: mse@1 is 0.001, below what images of its PSNR can have</li>" in told
    assert "None: every picture was made" not in page
