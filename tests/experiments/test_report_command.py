"""`p2p-bench report`, and the report at the end of a run: of the rows of its tables, and never in its way."""

import shutil
from pathlib import Path

import pytest
from PIL import Image

import results.report.write_report
from experiments.pictures import heat_maps
from p2p import ModelSpec
from results.report.heat_map_files import heat_map_files
from tests.experiments.command import Cli
from tests.results.report.conftest import data_of


def test_a_run_ends_with_its_report_and_one_that_made_nothing_leaves_it(
    cli: Cli, tiny: list[str], complete_run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = complete_run / "report" / "index.html"
    assert not page.exists()  # report=false
    assert cli("run", *tiny, "report=true") == 0
    assert str(page) in capsys.readouterr().out.splitlines()
    data = data_of(page)
    assert len(data["edits"]["key"]) == 5
    assert data["tables"][0]["name"] == "main"
    before = page.stat().st_mtime_ns
    assert cli("run", *tiny, "report=true") == 0
    assert page.stat().st_mtime_ns == before
    assert cli("run", *tiny, "report=true", "grid.methods.sdedit.strength=[0.25,0.5]") == 0
    assert len(data_of(page)["edits"]["key"]) == 6


def test_the_report_of_a_plan_is_of_its_rows_and_the_command_s_of_the_whole_folder(
    cli: Cli, tiny: list[str], complete_run: Path
) -> None:
    page = complete_run / "report" / "index.html"
    assert cli("run", *tiny, "report=true", "grid.methods.p2p.tau=[0]") == 0
    assert len(data_of(page)["edits"]["key"]) == 4
    assert "1 images of other configurations" in page.read_text(encoding="utf-8")
    thumbnails = {file: file.stat().st_mtime_ns for file in page.parent.rglob("*.webp")}
    assert len(thumbnails) == 4
    assert cli("report", str(complete_run)) == 0
    assert len(data_of(page)["edits"]["key"]) == 5
    assert cli("run", *tiny, "report=true", "grid.methods.p2p.tau=[1]") == 0
    there = {file: file.stat().st_mtime_ns for file in page.parent.rglob("*.webp")}
    assert thumbnails.items() <= there.items()  # those of other configurations stay


def test_the_report_is_made_of_the_folder_alone(
    cli: Cli, complete_run: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ModelSpec, "load", lambda _: pytest.fail("the model was loaded"))
    shutil.rmtree(complete_run / "tables")
    assert cli("report", str(complete_run)) == 0
    page = complete_run / "report" / "index.html"
    assert capsys.readouterr().out == f"{page}\n"
    text = page.read_text(encoding="utf-8")
    assert "p2p-bench run model=folder" in text
    assert "report=false" in text


def test_a_report_that_fails_does_not_fail_the_run(
    cli: Cli,
    tiny: list[str],
    complete_run: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise KeyError("broken")

    monkeypatch.setattr(results.report.write_report, "write_report", fail)
    assert cli("run", *tiny, "report=true") == 0
    out = capsys.readouterr().out
    assert f"no report: KeyError: 'broken'; `p2p-bench report {complete_run}` tries again" in out


def test_a_folder_without_records_is_one_line(
    cli: Cli, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli("report", str(tmp_path / "none")) == 2
    assert capsys.readouterr().err == f"error: {tmp_path / 'none'}: no such run folder\n"
    assert cli("report", str(tmp_path)) == 2
    assert capsys.readouterr().err == f"error: {tmp_path}: the run has no records yet\n"
    assert not list(tmp_path.iterdir())


def test_heat_maps_that_are_put_into_a_run_say_what_they_are_of(
    tmp_path: Path, tiny_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    few = ["--model", str(tiny_folder), "--self-max-side", "16", "--num-inference-steps", "2"]
    asked = ["a cat", "a dog", "--words", "cat", "dog", "--seed", "3", *few, "--device", "cpu"]
    assert heat_maps.main([*asked, "--run", str(tmp_path / "none")]) == 2
    assert "no such run folder" in capsys.readouterr().err
    heat_maps.main([*asked, "--run", str(tmp_path)])
    [found] = heat_map_files(tmp_path)
    told = {name: found[name] for name in ("source_prompt", "target_prompt", "seed", "title")}
    assert told == {
        "source_prompt": "a cat",
        "target_prompt": "a dog",
        "seed": 3,
        "title": "Where cat, dog are attended to",
    }
    (tmp_path / "heat_maps" / "other.png").write_bytes(b"no picture")
    Image.new("RGB", (4, 4)).save(tmp_path / "heat_maps" / "untold.png")
    assert heat_map_files(tmp_path) == [found]
