"""`p2p-bench tables`: all that can be made again, of a folder alone."""

import io
import re
import shutil
from pathlib import Path

import pandas as pd
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


@pytest.mark.parametrize("option", ["--half-width", "--digits"])
def test_a_metric_that_stands_there_twice_is_refused(
    option: str, cli: Cli, complete_run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli("tables", str(complete_run), option, "mse=1", "mse=2") == 2
    assert capsys.readouterr().err == f"error: {option}: mse stands there twice, allowed is once\n"


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
    run_dir.write_text("a file")
    for command in ("tables", "report"):
        assert cli(command, str(run_dir)) == 2
        assert capsys.readouterr().err == f"error: {run_dir}: no such run folder\n"
    run_dir.unlink()
    run_dir.mkdir()
    assert cli("tables", str(run_dir)) == 2
    assert capsys.readouterr().err == f"error: {run_dir}: the run has no records yet\n"
    assert not list(run_dir.iterdir())


def test_a_table_for_a_paper_is_printed_and_nothing_is_written(
    cli: Cli, complete_run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = {file: file.stat().st_mtime_ns for file in complete_run.rglob("*")}
    asked = ["tables", str(complete_run), "--metrics", "ssim", "psnr", "--settings", "p2p", "sdedit"]
    assert cli(*asked, "--digits", "psnr=1") == 0
    head, _, *rows = capsys.readouterr().out.splitlines()
    assert head == "|  | ssim@3 ↑ | psnr@1 ↑ |"
    marked = re.findall(r"\| \*\*(\d\.\d{3})\*\* \| \*\*(\d+\.\d)\*\* \|", "\n".join(rows))
    assert len(marked) == 1, "one of the two edits is best in both"
    assert rows[-1].startswith("Mean over 1 pair; fewer than 6 pairs give no interval.")
    assert cli(*asked, "--format", "latex") == 0
    assert r"\begin{tabular}" in capsys.readouterr().out
    assert cli(*asked, "--format", "csv", "--table", "difference_to_fixed_seed") == 0
    assert set(pd.read_csv(io.StringIO(capsys.readouterr().out))["metric"]) == {"ssim@3", "psnr@1"}
    assert cli("tables", str(complete_run), "--baseline", "sdedit", "--format", "csv") == 0
    differences = pd.read_csv(io.StringIO(capsys.readouterr().out))
    assert set(differences["baseline"]) == {"SDEdit, strength 0.5"}
    assert "sdedit" not in set(differences["method"])
    assert cli("tables", str(complete_run), "--baseline", "sdedit") == 0
    assert "Mean difference to SDEdit, strength 0.5 over 1 pair" in capsys.readouterr().out
    assert {file: file.stat().st_mtime_ns for file in complete_run.rglob("*")} == before


def test_differences_of_a_run_are_to_its_baseline(
    cli: Cli, tiny: list[str], complete_run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli("run", *tiny, 'tables.baseline="sdedit: strength 0.5"') == 0
    tables = complete_run / "tables"
    assert not (tables / "difference_to_fixed_seed.md").exists()
    assert set(pd.read_csv(tables / "difference_to_baseline.csv")["baseline"]) == {"SDEdit, strength 0.5"}
    assert cli("report", str(complete_run)) == 0
    page = (complete_run / "report" / "index.html").read_text()
    assert "Difference to the baseline: SDEdit, strength 0.5" in page
    capsys.readouterr()
    assert cli("run", *tiny, 'tables.baseline="sdedit: strength 0.7"') == 0
    assert "No differences: tables.baseline: no row is 'sdedit: strength 0.7'" in capsys.readouterr().out
    assert cli("run", *tiny, "tables.baseline=masactrl") == 2
    assert "tables.baseline: 'masactrl' is no method here" in capsys.readouterr().err
    assert cli("run", *tiny, "tables.baseline=null") == 2
    assert "baseline" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        (["--metrics", "ssin"], "tables.columns: 'ssin' is no metric here"),
        (["--settings", "p2p: tau 0.3"], "tables.settings: no row is 'p2p: tau 0.3'"),
        (["--table", "pie"], "'pie' is no table of"),
        (["--half-width", "lpips"], "--half-width: 'lpips' is not METRIC=N with N above 0"),
        (["--half-width", "ssim=0"], "--half-width: 'ssim=0' is not METRIC=N with N above 0"),
        (["--half-width", "lpips=0.1"], "half width: 'lpips' is no metric here, allowed are"),
        (["--half-width", "ssim=0.1", "--interval", "none"], "--half-width: goes with --baseline, --table"),
        (["--half-width", "ssim=0.1", "--format", "latex"], "--format: latex has no table of --half-width"),
        (["--baseline", "p2p: tau 0.3"], "tables.baseline: no row is 'p2p: tau 0.3', of"),
        (["--digits", "ssim=two"], "--digits: 'two' is no number"),
        (["--width", "wide"], "--width: 'wide' is no number"),
        (["--width", "50"], "width: 50.0 inches, allowed are 1 to 30"),
        (["--format", "csv", "--no-plots"], "--no-plots: nothing is drawn where a table is printed"),
        (
            ["--metrics", "ssim", "mse", "--format", "latex", "--width", "1"],
            "--metrics: 1 inches have no room for",
        ),
    ],
)
def test_what_cannot_be_shown_is_one_line(
    cli: Cli, complete_run: Path, capsys: pytest.CaptureFixture[str], asked: list[str], told: str
) -> None:
    assert cli("tables", str(complete_run), *asked) == 2
    out, err = capsys.readouterr()
    assert not out
    assert err.startswith(f"error: {told}")
    assert err.count("\n") == 1


def test_a_run_lays_its_tables_out_as_told_and_later_calls_keep_to_it(
    cli: Cli, tiny: list[str], complete_run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main = complete_run / "tables" / "main.tex"
    assert cli("run", *tiny, "tables.columns=[mse,ssim]", "tables.digits={mse: 5}") == 0
    assert [name for name in ("MSE", "SSIM", "PSNR") if name in main.read_text()] == ["MSE", "SSIM"]
    told = main.read_bytes()
    main.unlink()
    assert cli("tables", str(complete_run), "--no-plots") == 0
    assert main.read_bytes() == told
    capsys.readouterr()
    for wrong, why in (
        ("tables.columns=[lpips]", "tables.columns: 'lpips' is no metric here"),
        ("tables.settings=[p2q]", "tables.settings: 'p2q' is no method here, did you mean p2p"),
        ("tables.interval=sd", "tables: interval: 'sd' is none of"),
        ("tables.digits=many", "tables: digits: 'many' is no number of decimals"),
    ):
        assert cli("run", *tiny, wrong) == 2
        assert why in capsys.readouterr().err
