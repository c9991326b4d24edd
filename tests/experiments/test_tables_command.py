"""`p2p-bench tables`: all that can be made again, of a folder alone."""

import shutil
from pathlib import Path

import pytest

from p2p import ModelSpec
from tests.experiments.command import Cli


@pytest.fixture
def _no_model(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ModelSpec, "load", lambda _: pytest.fail("the model was loaded"))
    monkeypatch.setattr(ModelSpec, "load_tokenizers", lambda _: pytest.fail("the run was planned"))


@pytest.mark.usefixtures("_no_model")
def test_tables_of_a_folder_are_those_of_its_run(
    cli: Cli, complete_run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tables = complete_run / "tables"
    names = ("main.csv", "main.md", "summary.md")
    before = [(tables / name).read_bytes() for name in names]
    shutil.rmtree(tables)
    assert cli("tables", str(complete_run), "--no-plots") == 0
    assert [(tables / name).read_bytes() for name in names] == before
    out = capsys.readouterr().out
    assert out.startswith("5 images of 1 pair.\n")
    assert out.splitlines()[-1] == str(complete_run)
    assert not (complete_run / "plots").exists()
    assert cli("tables", str(complete_run)) == 0
    assert list((complete_run / "plots").glob("*.png"))
    assert list((complete_run / "strips").glob("*.png"))
    drawn = {file: file.stat().st_mtime_ns for file in (complete_run / "plots").iterdir()}
    assert cli("tables", str(complete_run), "--no-plots") == 0
    assert {file: file.stat().st_mtime_ns for file in (complete_run / "plots").iterdir()} == drawn


def test_published_numbers_of_the_last_call_stay(
    cli: Cli, tiny: list[str], complete_run: Path, tmp_path: Path
) -> None:
    assert cli("run", *tiny, "reference=[pie_bench]") == 0
    published = complete_run / "tables" / "published.md"
    before = published.read_bytes()
    shutil.rmtree(complete_run / "tables")
    assert cli("tables", str(complete_run), "--no-plots") == 0
    assert published.read_bytes() == before


def test_a_folder_without_records_is_one_line(
    cli: Cli, run_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli("tables", str(run_dir)) == 2
    assert capsys.readouterr().err == f"error: {run_dir}: no such run folder\n"
    run_dir.mkdir()
    assert cli("tables", str(run_dir)) == 2
    assert capsys.readouterr().err == f"error: {run_dir}: the run has no records yet\n"
    assert not list(run_dir.iterdir())
