"""`p2p-bench ls RUN` and `compare`: what runs there are, how far they are, and how they differ."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from results.store.records import forget_records
from tests.experiments.command import Cli

ROOT = Path(__file__).parents[2]


def test_a_run_is_listed_with_its_state_size_and_means(
    cli: Cli, tiny: list[str], complete_run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli("ls", str(complete_run)) == 0
    first, *methods = capsys.readouterr().out.splitlines()
    size = sum(file.stat().st_size for file in (complete_run / "images").rglob("*.png")) / 1000
    assert first.startswith(f"{complete_run}: finished; 5 pictures of 1 pair, {size:.3g} kB; last call 20")
    assert {line.split(":")[0].strip() for line in methods} == {
        *("SDEdit", "Prompt-to-Prompt (2 settings)", "fixed seed"),
    }
    assert all(": ms_ssim@2 0" in line for line in methods)
    forget_records(complete_run, lambda rows: rows["method"].eq("sdedit"))
    assert cli("ls", str(complete_run.parent)) == 0, "a folder of runs"
    assert ": 1 of 5 left; 4 pictures" in capsys.readouterr().out


def test_failures_and_runs_that_made_nothing_are_told(
    cli: Cli,
    tiny: list[str],
    run_dir: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fails(*_: object) -> None:
        raise ValueError("a bad day")

    with monkeypatch.context() as patch:
        patch.setattr("experiments.running.generate.generate", fails)
        assert cli("run", *tiny) == 1
    capsys.readouterr()
    assert cli("ls", str(run_dir)) == 0
    assert ": 1 of 5 left, 4 of 5 failed; 0 pictures of 0 pairs, 0 bytes" in capsys.readouterr().out
    for file in (run_dir / "records").glob("*.parquet"):
        file.unlink()
    assert cli("ls", str(run_dir)) == 0
    assert ": 5 of 5 left; 0 pictures of 1 pair" in capsys.readouterr().out


@pytest.mark.parametrize("folder", ["nowhere", "empty"])
def test_what_is_no_run_is_one_line(
    cli: Cli, tmp_path: Path, folder: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "empty").mkdir()
    assert cli("ls", str(tmp_path / folder)) == 2
    assert capsys.readouterr().err.startswith(f"error: {tmp_path / folder}: ")


def test_ls_imports_neither_torch_nor_a_plotting_library(complete_run: Path) -> None:
    code = (
        "import atexit, sys; atexit.register(lambda: "
        "print([name for name in ('torch', 'matplotlib', 'diffusers', 'scipy') if name in sys.modules])); "
        "from experiments.run import main; main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, "ls", str(complete_run)],
        capture_output=True, text=True, timeout=120, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert done.stdout.splitlines()[-1] == "[]", done.stderr


def test_two_runs_are_compared_and_told_apart(
    cli: Cli, tiny: list[str], complete_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = tmp_path / "other"
    shown = ["plots=false", "report=false", "tables.digits=2"]  # which make no other pictures
    assert cli("run", *tiny, "sampling.guidance_scale=3", f"run_dir={other}", *shown) == 0
    capsys.readouterr()
    assert cli("compare", str(complete_run), str(other), "--csv", str(tmp_path / "all.csv")) == 0
    out = capsys.readouterr().out
    rows = [line for line in out.splitlines() if line.startswith("| sampling")]
    assert rows == ["| sampling.guidance_scale | 7.5 | 3 |"] or rows == [
        "| sampling.guidance\\_scale | 7.5 | 3 |",
    ]
    assert "run_dir" not in out
    assert "digits" not in out
    assert "other: Prompt-to-Prompt, τ 0" in out
    assert "| — | — | 1 |" in out, "one pair: neither an interval nor a p"
    assert (tmp_path / "all.csv").read_text().startswith("run,method,setting,of_run")
    assert cli("compare", str(complete_run), str(tmp_path / "none")) == 2
    assert "no such run folder" in capsys.readouterr().err
