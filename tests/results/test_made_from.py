"""A second summary of equal rows leaves files as they are; anything that changed makes them again."""

import shutil
from pathlib import Path

import pytest

from results.store import made_from
from results.store.run_folder import RunFolder
from results.summary import summarise
from tests.results.synthetic import make_frame, make_metrics, write_run


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run_dir = tmp_path_factory.mktemp("written") / "run"
    frame = make_frame(["cat-dog", "house-2"], seeds=range(1))
    write_run(run_dir, frame, make_metrics(frame))
    return run_dir


@pytest.fixture(scope="module")
def summarised(written: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run_dir = shutil.copytree(written, tmp_path_factory.mktemp("summarised") / "run")
    summarise(run_dir, reuse=True, draw=False)
    return run_dir


@pytest.fixture
def run_dir(summarised: Path, tmp_path: Path) -> Path:
    """A run whose tables are those of its rows, where they are too."""
    run_dir = shutil.copytree(summarised, tmp_path / "run")
    assert not summarise(run_dir, reuse=True, draw=False).tables
    return run_dir


def times(run_dir: Path) -> dict[str, int]:
    files = [*run_dir.glob("tables/*"), *run_dir.glob("plots/*")]
    return {file.name: file.stat().st_mtime_ns for file in files}


@pytest.mark.usefixtures("one_plot")
def test_equal_rows_are_not_tabulated_again(written: Path, tmp_path: Path) -> None:
    run_dir = shutil.copytree(written, tmp_path / "run")
    first = summarise(run_dir, reuse=True)
    before = times(run_dir)
    second = summarise(run_dir, reuse=True)
    assert times(run_dir) == before
    assert second.markdown == first.markdown
    assert set(second.paths) == set(first.paths)
    assert second.images == first.images
    assert (second.n_images, second.n_failed) == (first.n_images, first.n_failed)
    assert first.tables
    assert not second.tables


@pytest.mark.usefixtures("one_plot")
@pytest.mark.parametrize(
    "change", ["a file is gone", "a file is damaged", "other rows", "other code", "plots", "not asked for"]
)
def test_what_changed_makes_them_again(change: str, run_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if change == "a file is gone":
        (run_dir / "tables" / "main.csv").unlink()
    elif change == "a file is damaged":
        (run_dir / "tables" / "main.csv").write_text("")
    elif change == "other rows":
        next((run_dir / "records").glob("*.parquet")).unlink()
    elif change == "other code":
        monkeypatch.setattr(made_from, "_code", lambda: "other")
    again = summarise(run_dir, reuse=change != "not asked for", draw=change == "plots")
    assert again.tables
    assert (run_dir / "tables" / "main.csv").read_text()


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"files": 3, "inputs": "x"}'])
def test_a_damaged_note_only_makes_them_again(content: str, run_dir: Path) -> None:
    RunFolder(run_dir).made_from.write_text(content)
    assert summarise(run_dir, reuse=True, draw=False).tables
