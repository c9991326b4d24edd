"""`p2p-bench study`: the page of a finished run, the answers to it, and a run that ends with its page."""

import json
from pathlib import Path

import pytest

from p2p import ModelSpec
from results.study.items import read_study
from results.study.study_folder import StudyFolder
from tests.experiments.command import Cli
from tests.results.study.studies import COMPARED, attentive, make_run, make_study, sheet, write_sheet

ROWS = ["p2p:tau=0", "sdedit:strength=0.5"]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder without a study; read only."""
    run_dir = tmp_path_factory.mktemp("runs") / "run"
    make_run(run_dir)
    return run_dir


def test_the_study_is_made_of_the_folder_alone_and_evaluated(
    cli: Cli, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ModelSpec, "load", lambda _: pytest.fail("the model was loaded"))
    make_run(tmp_path / "run")
    run, folder = str(tmp_path / "run"), StudyFolder(tmp_path / "run")
    asked = ["--compare", *COMPARED[1:], "--pairs", "4", "--checks", "1", "--seed", "3"]
    assert cli("study", run, *asked) == 0
    told = (
        "Prompt-to-Prompt, τ 0.4 / SDEdit, strength 0.5, on 4 pairs: 4 comparisons and 1 attention checks\n"
    )
    assert capsys.readouterr().out == f"{told}{folder.page}\n"
    study = read_study(folder.key)
    for again in (asked, []):  # with no choice the one that is there
        assert cli("study", run, *again) == 0
        assert capsys.readouterr().out == f"{told}{folder.page}\n"
    write_sheet(tmp_path / "answers", "a.json", sheet(study, 1, attentive((0, 1))))
    assert cli("study", run, str(tmp_path / "answers")) == 0
    out = capsys.readouterr().out
    assert "| overall | Prompt-to-Prompt, τ 0.4 | SDEdit, strength 0.5 | 100 % [51, 100] | 4 | 1 | 4 |" in out
    assert out.splitlines()[-1] == str(folder.results)
    assert sorted(file.name for file in folder.results.iterdir()) == [
        *("agreement.csv", "preferences.csv", "preferences.pdf", "preferences.png", "raters.csv"),
        *("scores.csv", "summary.md"),
    ]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--compare", "p2p"], "compare: ['p2p'] is one row, allowed are two or more, or none"),
        (
            ["--compare", "p2p:tau=0", "nothing"],
            "compare: 'nothing' is no row of the run, allowed are fixed_seed ",
        ),
        (["--pairs", "0"], "pairs: 0 is not a whole number from 1 to 1000"),
        (["--port", "80"], "--port: is of the server, allowed is --serve with it"),
        (["--serve", "--port", "99999"], "--port: 99999 is not a whole number from 0 to 65535"),
        (["answers"], "study/study.json: there is none; `p2p-bench study RUN` makes the study"),
        (
            ["answers", "--seed", "1"],
            "study: ANSWERS are of a study that is there, allowed is nothing beside",
        ),
    ],
)
def test_wrong_input_is_one_line_and_nothing_is_written(
    cli: Cli, finished: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    assert cli("study", str(finished), *arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert message in error
    assert len(error.splitlines()) == 1
    assert not StudyFolder(finished).root.exists()


def test_a_folder_without_records_is_one_line(
    cli: Cli, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli("study", str(tmp_path / "none")) == 2
    assert capsys.readouterr().err == f"error: {tmp_path / 'none'}: no such run folder\n"
    assert not list(tmp_path.iterdir())


def test_answers_to_another_study_are_one_line(
    cli: Cli, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make_run(tmp_path / "run")
    study = make_study(tmp_path / "run")
    file = write_sheet(
        tmp_path / "answers", "a.json", {**sheet(study, 1, attentive((0, 1, 2))), "study": "f" * 16}
    )
    assert cli("study", str(tmp_path / "run"), str(tmp_path / "answers")) == 2
    told = f"error: {file}: answers another study, '{'f' * 16}'; this one is {study.digest}\n"
    assert capsys.readouterr().err == told


def study_keys(*compare: str) -> list[str]:
    return [
        "+study._target_=results.study.choice.StudyChoice",
        f"+study.compare={json.dumps(list(compare))}",
        "+study.checks=0",
    ]


def test_a_run_ends_with_its_study_and_one_that_is_there_stays(
    cli: Cli, tiny: list[str], complete_run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli("run", *tiny, *study_keys(*ROWS)) == 0
    folder = StudyFolder(complete_run)
    assert str(folder.page) in capsys.readouterr().out.splitlines()
    [item] = read_study(folder.key).items
    assert item.source_prompt == "a cat on a bench"
    before = folder.key.stat().st_mtime_ns
    assert cli("run", *tiny, *study_keys("p2p:tau=1", ROWS[1])) == 0
    assert folder.key.stat().st_mtime_ns == before


def test_a_study_that_fails_does_not_fail_the_run(
    cli: Cli, tiny: list[str], complete_run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli("run", *tiny, *study_keys("magic", ROWS[1])) == 0
    assert "no study: ValueError: compare: 'magic' is no row of the run" in capsys.readouterr().out
    assert not StudyFolder(complete_run).root.exists()


@pytest.mark.parametrize(
    ("key", "message"),
    [
        ("study.pairs=0", "study: pairs: 0 is not a whole number from 1 to 1000"),
        ("study.compare=[p2p]", "study: compare: ['p2p'] is one row"),
        ("study=3", "study: 3 is none of its choices"),
        ("study.sides=1", "study: sides is no parameter, allowed are compare, pairs, checks, seed"),
    ],
)
def test_the_experiment_s_study_is_checked_before_anything_is_made(
    cli: Cli, run_dir: Path, capsys: pytest.CaptureFixture[str], key: str, message: str
) -> None:
    given = f"+{key}" if "sides" in key else key
    assert cli("plan", "experiment=user_study", f"run_dir={run_dir}", given) == 2
    assert message in capsys.readouterr().err
