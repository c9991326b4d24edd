"""The page's numbers are those of the tables; its pictures, pairs and reasons are those of the records."""

import json
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest

from results.report import thumbnails
from results.report.columns import numbered
from results.report.page import PLOT_STYLE, json_in_html
from results.report.problems import problems
from results.report.scenes import scene_columns
from results.report.thumbnails import make_thumbnails
from results.report.write_report import made_of, write_report
from results.store.picture_files import read_picture
from results.store.records import load, load_records, write_metrics, write_records
from results.summary import current_metrics, run_cells, run_rows
from results.tables.auto_tau import load_candidates
from tests.results.report.conftest import HOSTILE, data_of
from tests.results.synthetic import METRICS, make_frame, make_metrics, make_row, p2p, write_run


def table_frame(data: dict, name: str) -> pd.DataFrame:
    """Return a table of the page's data as a frame, with the labels of its rows."""
    [table] = [one for one in data["tables"] if one["name"] == name]
    columns = ("cell", "edit_type", "metric", "mean", "low", "high", "n", "n_images", "n_missing")
    frame = pd.DataFrame({column: table[column] for column in columns})
    return frame.assign(
        metric=[table["metrics"][place]["name"] for place in frame["metric"]],
        setting=[data["cells"]["setting"][cell] for cell in frame["cell"]],
        method=[data["series"]["method"][data["cells"]["series"][cell]] for cell in frame["cell"]],
    )


@pytest.mark.parametrize("name", ["main", "difference_to_fixed_seed", "reweight"])
def test_every_number_of_a_table_is_the_table_s(told: SimpleNamespace, name: str) -> None:
    table = told.tables[name]
    if name == "main":
        table = table[table["weighting"].eq("")]
    shown = table_frame(data_of(told.page), name)
    columns = [
        "method",
        "setting",
        "edit_type",
        "metric",
        "mean",
        "low",
        "high",
        "n",
        "n_images",
        "n_missing",
    ]
    pd.testing.assert_frame_equal(
        shown[columns].reset_index(drop=True),
        table[columns].reset_index(drop=True),
        check_dtype=False,
        check_exact=True,
        check_column_type=False,
    )


def test_every_picture_has_its_values_its_pair_and_its_reason(told: SimpleNamespace) -> None:
    data, records = data_of(told.page), load(told.run_dir)
    made = records[records["status"].eq("ok")]
    edits = data["edits"]
    assert sorted(edits["key"]) == sorted(key[:16] for key in made["key"])
    by_key = made.assign(short=made["key"].str[:16]).set_index(["short", "method"])
    for place, key in enumerate(edits["key"]):
        method = data["series"]["method"][data["cells"]["series"][edits["cell"][place]]]
        row = by_key.loc[(key, method)]
        assert data["pairs"]["target_prompt"][edits["pair"][place]] == row["target_prompt"]
        assert "/".join([data["folders"][edits["folder"][place]], edits["file"][place]]) == row["image"]
        for metric in METRICS:
            value = data["values"][metric][place]
            assert value == (None if pd.isna(row[metric]) else pytest.approx(row[metric], rel=1e-5))
            told_why = [why for name, why, which in data["reasons"] if name == metric and place in which]
            assert told_why == ([row[f"reason:{metric}"]] if value is None else [])


def test_a_card_holds_a_pair_s_source_and_all_its_edits_of_one_seed(told: SimpleNamespace) -> None:
    data = data_of(told.page)
    of_pair = told.frame[told.frame["status"].eq("ok")].groupby(["pair_id", "seed"]).size()
    cards = {
        (data["pairs"]["pair_id"][pair], seed): len(edits)
        for pair, seed, edits in zip(
            *(data["scenes"][name] for name in ("pair", "seed", "edits")), strict=True
        )
    }
    assert cards == of_pair.to_dict()
    pairs = [data["pairs"]["pair_id"][pair] for pair in data["scenes"]["pair"]]
    assert pairs.index("house-2") < pairs.index("house-10")


def test_pictures_of_other_tools_stand_on_each_card_of_their_pair() -> None:
    frame = make_frame(["cat-dog", "house-2"])
    other = make_row("cat-dog", 0, "their tool", setup="", model="")
    alone = make_row("far", 0, "their tool", setup="", model="")
    rows = pd.concat([frame, pd.DataFrame([other, alone])], ignore_index=True)
    scenes = scene_columns(rows, [0] * len(rows))
    holding = [set(rows["pair_id"][edits]) for edits in scenes["edits"] if len(frame) in edits]
    assert holding == [{"cat-dog"}, {"cat-dog"}]
    assert [len(frame) + 1] in scenes["edits"]


def test_a_slider_runs_along_tau_and_a_series_keeps_what_else_differs() -> None:
    rows = [make_row("cat-dog", 0, "p2p", **{**p2p(tau), "params": json.dumps({"tau": tau, "kind": kind})})
            for kind in ("a", "b") for tau in (1.0, 0.0, 0.5)]  # fmt: skip
    cells = run_cells(pd.DataFrame(rows), load_candidates(Path("none")))
    told = numbered(cells)
    assert told.groupby("series", sort=False)["tau"].agg(list).tolist() == [[0, 0.5, 1]] * 2


def test_problems_tell_each_cause_its_count_and_whom_it_hit(told: SimpleNamespace) -> None:
    frame, _ = run_rows(told.run_dir)
    found = problems(frame, current_metrics(frame), {})
    [failure] = found["Failed"]
    assert failure.count == 1
    assert failure.cause.startswith("boom </script>")
    assert "more" not in failure.cause
    assert {problem.count for problem in found["Warnings"]} == {12}
    undefined = int(frame.loc[frame["status"].eq("ok"), METRICS[1]].isna().sum())
    assert [problem.count for problem in found["Missing values"]] == [undefined]
    assert "snow, seed 0, Prompt-to-Prompt" in found["Missing values"][0].which


def test_json_in_html_ends_nothing_and_reads_back() -> None:
    value = {"text": HOSTILE + "\u2029\ud800&amp;", "number": None}
    text = json_in_html(value)
    assert not set("<>&\u2028\u2029") & set(text)
    assert text.encode("utf-8")
    assert json.loads(text) == value
    with pytest.raises(ValueError, match="JSON"):
        json_in_html(float("nan"))


def test_plot_s_own_style_is_the_one_that_the_policy_lets_through() -> None:
    source = Path("results/report/vendor/plot.min.js").read_text(encoding="utf-8")
    for part in PLOT_STYLE.replace(".chart", "\0").split("\0"):
        assert part.replace("\n", r"\n") in source


def test_a_report_is_made_of_a_run_without_values_and_of_one_that_failed(tmp_path: Path) -> None:
    write_run(tmp_path / "plain", make_frame(["cat-dog"]), None)
    assert data_of(write_report(tmp_path / "plain"))["metrics"] == []
    row = make_row("cat-dog", 0, "p2p", status="failed", error="out of memory", image="", source_image="")
    write_records(tmp_path / "failed", pd.DataFrame([row]))
    page = write_report(tmp_path / "failed")
    assert data_of(page)["scenes"]["edits"] == []
    assert "out of memory" in page.read_text(encoding="utf-8")
    with pytest.raises(FileNotFoundError):
        write_report(tmp_path / "none")


def test_published_numbers_stand_beside_the_run_s(tmp_path: Path) -> None:
    frame = make_frame(["cat-dog", "house-2"])
    write_run(tmp_path, frame, None)
    values = make_metrics(frame).assign(metric="pie/structure_distance@1").drop_duplicates("key")
    write_metrics(tmp_path, "pie@1", values)
    text = write_report(tmp_path, published=["pie_bench"]).read_text(encoding="utf-8")
    assert 'id="published"' in text
    assert "69.43" in text
    assert "cure-lab/PnPInversion" in text


def test_thumbnails_are_made_once_and_only_the_missing_ones_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    frame = make_frame(["cat-dog"])
    write_run(tmp_path, frame, None, side=512)
    records = load_records(tmp_path)
    assert make_thumbnails(tmp_path, records) == {}
    files = {file: file.stat().st_mtime_ns for file in tmp_path.glob("report/thumbnails/*/*.webp")}
    assert len(files) == records["image"].nunique()
    gone = sorted(files)[0]
    gone.unlink()
    read = []
    monkeypatch.setattr(thumbnails, "read_picture", lambda *told: read.append(told) or read_picture(*told))
    make_thumbnails(tmp_path, records)
    again = {file: file.stat().st_mtime_ns for file in tmp_path.glob("report/thumbnails/*/*.webp")}
    assert set(again) == set(files)
    assert {file for file in again if again[file] != files[file]} == {gone}
    assert len(read) == 1


def test_a_picture_that_is_gone_or_damaged_is_told_and_the_report_made(tmp_path: Path) -> None:
    frame = make_frame(["cat-dog"])
    write_run(tmp_path, frame, None)
    (tmp_path / frame["image"][3]).unlink()
    (tmp_path / frame["image"][4]).write_bytes(b"no picture")
    page = write_report(tmp_path)
    thumbs = dict(zip(data_of(page)["edits"]["file"], data_of(page)["edits"]["thumb"], strict=True))
    assert {name for name, thumb in thumbs.items() if thumb is None} == {
        Path(frame["image"][place]).name for place in (3, 4)
    }
    assert "Pictures that cannot be shown" in page.read_text(encoding="utf-8")


def test_thumbnails_of_pictures_that_the_run_lost_are_removed(tmp_path: Path) -> None:
    write_run(tmp_path, make_frame(["cat-dog"]), None)
    write_report(tmp_path)
    stale = tmp_path / "report" / "thumbnails" / "0" / "stale.webp"
    stale.parent.mkdir(exist_ok=True)
    stale.write_bytes(b"")
    write_report(tmp_path)
    assert not stale.exists()


def test_the_page_names_no_folder_of_the_machine(told: SimpleNamespace) -> None:
    text = told.page.read_text(encoding="utf-8")
    assert str(told.run_dir.parent) not in text
    assert str(Path.home()) not in text


def test_a_stamp_tells_what_a_report_was_made_of(tmp_path: Path) -> None:
    assert made_of(tmp_path) == ""
    write_run(tmp_path, make_frame(["cat-dog"]), None)
    write_report(tmp_path, stamp="0a1b")
    assert made_of(tmp_path) == "0a1b"
