"""`p2p-bench verify`: what it tells of a folder, what it mends, and what it leaves alone."""

import json
import os
import re
import shlex
import shutil
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

import experiments.verify
from experiments.running.png_files import read_png, write_png
from results.store.records import load_metrics, load_records, write_metrics
from results.store.row_files import listed
from tests.experiments.command import Cli
from tests.results.test_records import values

Capture = pytest.CaptureFixture[str]


@pytest.fixture
def _no_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(experiments.verify, "_run", lambda *_: pytest.fail("a command was given"))


def files(folder: Path) -> dict[Path, bytes]:
    return {file: file.read_bytes() for file in folder.rglob("*") if file.is_file()}


@pytest.mark.usefixtures("_no_command")
def test_a_whole_folder_is_whole_and_nothing_is_written(
    cli: Cli, complete_run: Path, capsys: Capture
) -> None:
    before = files(complete_run)
    assert cli("verify", str(complete_run), "--repair", "--delete-orphans") == 0
    assert capsys.readouterr().out.splitlines() == [
        "5 of 5 pictures are recorded that 1 plan of 1 call asks for; 5 records in all",
        f"{complete_run}: 0 missing, 0 damaged, 0 failed, 0 left over",
    ]
    assert files(complete_run) == before


@pytest.mark.parametrize("apart", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_a_picture_exchanged_for_another_is_made_again_by_the_command_that_made_it(
    apart: bool, cli: Cli, complete_run: Path, capfd: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a process of its own, or in this one."""
    if not apart:
        monkeypatch.setattr(experiments.verify, "_run", lambda words, _: cli(*words))
    records = load_records(complete_run).set_index("method")
    picture, other = (complete_run / records.loc[name, "image"] for name in ("sdedit", "source"))
    before = read_png(picture)
    shutil.copy(other, picture)
    assert cli("verify", str(complete_run)) == 1
    name = picture.relative_to(complete_run)
    out = capfd.readouterr().out
    line = f"damaged: {name}: is not the picture that its record tells of; delete it and run again\n"
    assert out.startswith(line)
    assert "the command is `cd " in out
    assert cli("verify", str(complete_run), "--repair") == 0
    assert "running `cd " in capfd.readouterr().out
    np.testing.assert_allclose(read_png(picture), before, atol=4 / 255)
    assert picture.with_name(f"_{picture.name}.damaged").is_file()


def test_a_command_is_run_in_a_process_of_its_own_and_its_failure_is_told(
    run_dir: Path, tmp_path: Path, capfd: Capture
) -> None:
    experiments.verify._run(["nonsense"], str(tmp_path))
    told = capfd.readouterr()
    assert "nonsense" in told.err
    assert told.out == "it ended with exit code 2\n"


def test_what_was_planned_and_not_made_is_told_by_pair(
    cli: Cli, tiny: list[str], complete_run: Path, capsys: Capture
) -> None:
    for file in complete_run.glob("records/*"):
        frame = pd.read_parquet(file)
        file.unlink()
        frame[frame["method"] != "p2p"].to_parquet(file.with_name("00000009.parquet"))
    assert cli("verify", str(complete_run)) == 1
    [first, *_] = capsys.readouterr().out.splitlines()
    assert first == "missing: pair 'inline-436fa965': 2 pictures (p2p 2), planned and not recorded; run again"


def test_values_are_missing_where_a_call_asked_for_them(
    cli: Cli, tiny: list[str], complete_run: Path, capsys: Capture
) -> None:
    assert cli("run", *tiny, "tau=0.5", "~metrics.pixel") == 0
    assert cli("verify", str(complete_run)) == 0  # the second call wanted none of its picture
    for file in complete_run.glob("metrics/pixel@3/*.parquet"):
        file.unlink()
    capsys.readouterr()
    assert cli("verify", str(complete_run)) == 1
    assert "missing: metrics/pixel@3: 16 values of 4 pictures are not there" in capsys.readouterr().out


def test_a_flipped_bit_in_rows_is_seen_by_the_name_of_their_file(
    cli: Cli, complete_run: Path, capsys: Capture
) -> None:
    for folder in ("records", "metrics/pixel@3"):
        [file] = listed(complete_run / folder)
        content = bytearray(file.read_bytes())
        content[60] ^= 1
        file.write_bytes(content)
    assert cli("verify", str(complete_run)) == 1
    found = [line for line in capsys.readouterr().out.splitlines() if line.startswith("damaged: ")]
    assert [re.split("[/:]", line)[1].strip() for line in found] == ["records", "metrics"]


@pytest.mark.usefixtures("_no_command")
def test_what_is_left_over_is_told_does_no_harm_and_goes_when_told(
    cli: Cli, complete_run: Path, capsys: Capture
) -> None:
    folder = next(complete_run.glob("images/*/0"))
    orphan, own = folder / "p2p-tau0.9-0123456789abcdef.png", folder / "my own.png"
    halves = [folder / f".{letter * 32}.partial" for letter in "ab"]
    aside = complete_run / "records" / "_00000001-0123456789abcdef.parquet.damaged"
    for file in (orphan, own, aside, *halves):
        file.write_bytes(b"")
    hour = time.time() - 3601
    os.utime(halves[0], (hour, hour))
    write_metrics(complete_run, "pixel@3", values(["nowhere"], 0.5))
    count = len(load_metrics(complete_run))
    assert cli("verify", str(complete_run)) == 0
    assert capsys.readouterr().out.splitlines()[-1].endswith(" 0 failed, 5 left over")
    assert orphan.exists()
    assert cli("verify", str(complete_run), "--delete-orphans") == 0
    assert [file.exists() for file in (orphan, aside, *halves, own)] == [False, False, False, True, True]
    assert len(load_metrics(complete_run)) == count - 1
    assert capsys.readouterr().out.splitlines()[-1].endswith(" 0 failed, 1 left over")


def test_pictures_are_no_orphans_while_records_are_missing(
    cli: Cli, complete_run: Path, capsys: Capture
) -> None:
    pictures = files(complete_run / "images")
    [records] = complete_run.glob("records/*")
    records.unlink()
    assert cli("verify", str(complete_run), "--delete-orphans") == 1
    assert "left over:" not in capsys.readouterr().out
    assert files(complete_run / "images") == pictures


def test_a_folder_that_was_moved_is_repaired_where_it_is_and_of_shards_the_whole_is_made(
    cli: Cli, tiny: list[str], run_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert cli("run", *tiny, "seed=[0,1]", "shard=1/2") == 0
    moved = run_dir.rename(tmp_path / "it's moved")
    given = []
    monkeypatch.setattr(experiments.verify, "_run", lambda words, folder: given.append((words, folder)))
    assert cli("verify", str(moved), "--repair") == 1
    [(words, folder)] = given
    assert folder == os.getcwd()
    assert words[0] == "run"
    assert "shard=1/2" not in words
    assert cli(*words) == 0
    assert not run_dir.exists()
    assert cli("verify", str(moved)) == 0


@pytest.mark.parametrize("spelling", [["--run-dir", "{}"], ["--run-dir={}"]])
def test_pictures_left_out_on_purpose_are_no_fault_and_the_command_names_its_folder_once(
    spelling: list[str], cli: Cli, tmp_path: Path, capsys: Capture
) -> None:
    edits, source, run_dir = (tmp_path / name for name in ("edits", "source", "run"))
    for folder, names in ((edits, ["cat"]), (source, ["cat", "dog"])):
        folder.mkdir()
        for name in names:
            write_png(torch.rand(3, 16, 16), folder / f"{name}.png")
    pairs = tmp_path / "pairs.csv"
    pairs.write_text("id,source_prompt,target_prompt\ncat,a cat,a fox\ndog,a dog,a fox\n")
    arguments = [str(edits), "--source", str(source), "--pairs", str(pairs), "metrics=pixel", "plots=false"]
    arguments += [word.format(run_dir) for word in spelling]
    assert cli("evaluate", *arguments, "--missing=skip") == 0
    capsys.readouterr()
    assert cli("verify", str(run_dir)) == 0
    out = capsys.readouterr().out
    assert "left out on purpose (--missing=skip), which is no fault: pairs dog\n" in out
    assert f"{run_dir}: 0 missing, 0 damaged, 0 failed, 0 left over\n" in out
    next(run_dir.glob("metrics/pixel@3/*.parquet")).unlink()
    assert cli("verify", str(run_dir)) == 1
    [command] = re.findall("the command is `cd .* && p2p-bench (.*)`", capsys.readouterr().out)
    assert shlex.split(command)[-2:] == ["--run-dir", str(run_dir)]
    assert command.count("--run-dir") == 1
    assert cli(*shlex.split(command)) == 0
    assert cli("verify", str(run_dir)) == 0


def test_a_folder_from_before_calls_kept_their_commands_is_told_so(
    cli: Cli, complete_run: Path, capsys: Capture
) -> None:
    for file in complete_run.glob("provenance/*"):
        call = json.loads(file.read_text())
        file.write_text(json.dumps({name: call[name] for name in ("time", "config", "model_identity")}))
    assert cli("verify", str(complete_run)) == 0
    assert "which values they want is not known" in capsys.readouterr().out
    next(complete_run.glob("images/*/0/p2p*.png")).unlink()
    assert cli("verify", str(complete_run), "--repair") == 1
    assert "which command made this folder is not known" in capsys.readouterr().out


def test_candidates_of_an_earlier_rule_are_made_again_by_the_command_that_had_it(
    cli: Cli, tiny: list[str], run_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(experiments.verify, "_run", lambda words, _: cli(*words))
    auto = ["tau=auto", "auto_tau.taus=[0,1]", "auto_tau.target=null", "plots=false", "report=false"]
    assert cli("run", *tiny, *auto, "auto_tau.maximise=ssim@3") == 0
    [candidates] = (run_dir / "auto_tau" / "candidates").iterdir()
    before = candidates.read_bytes()
    assert cli("run", *tiny, *auto, "auto_tau.maximise=psnr@1") == 0
    candidates.unlink()
    assert cli("verify", str(run_dir)) == 1
    assert cli("verify", str(run_dir), "--repair") == 0
    assert candidates.read_bytes() == before


def test_no_folder_is_one_line(cli: Cli, run_dir: Path, capsys: Capture) -> None:
    assert cli("verify", str(run_dir)) == 2
    assert capsys.readouterr().err == f"error: {run_dir}: no such run folder\n"
