"""A second summary of equal rows leaves files as they are; anything that changed makes them again."""

from pathlib import Path

import pytest

from results.store import made_from
from results.store.run_folder import RunFolder
from results.summary import summarise
from tests.results.synthetic import make_frame, make_metrics, write_run


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    frame = make_frame(["cat-dog", "house-2"], seeds=range(1))
    write_run(tmp_path / "run", frame, make_metrics(frame))
    return tmp_path / "run"


def times(run_dir: Path) -> dict[str, int]:
    files = [*run_dir.glob("tables/*"), *run_dir.glob("plots/*")]
    return {file.name: file.stat().st_mtime_ns for file in files}


def test_equal_rows_are_not_tabulated_again(run_dir: Path) -> None:
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


@pytest.mark.parametrize(
    "change", ["a file is gone", "a file is damaged", "other rows", "other code", "plots", "not asked for"]
)
def test_what_changed_makes_them_again(change: str, run_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    summarise(run_dir, reuse=True, draw=False)
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
    summarise(run_dir, reuse=True, draw=False)
    RunFolder(run_dir).made_from.write_text(content)
    assert summarise(run_dir, reuse=True, draw=False).tables
