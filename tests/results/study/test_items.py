"""What a study asks: the right pictures side by side, drawn from a seed; nothing tells the method."""

import json
import re
import shutil
from collections import Counter
from itertools import combinations
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from results.store.records import load_records
from results.study import items
from results.study.choice import StudyChoice, chosen_rows, comparable
from results.study.items import Study, read_study
from results.study.study_folder import StudyFolder
from results.study.write_study import write_study
from results.summary import run_cells, run_rows
from results.tables import auto_tau
from results.tables.cells import with_cells
from tests.results.study.studies import COMPARED, LABELS, make_study, method_of
from tests.results.synthetic import make_row, p2p, windows, write_run

METHODS = ["fixed_seed", "p2p", "sdedit"]


def cells_of(run_dir: Path) -> pd.DataFrame:
    return run_cells(run_rows(run_dir)[0], auto_tau.load_candidates(run_dir))


def rows_of(run_dir: Path) -> pd.DataFrame:
    return comparable(cells_of(run_dir))


@pytest.fixture
def run_copy(empty_run: Path, tmp_path: Path) -> Path:
    return shutil.copytree(empty_run, tmp_path / "run")


def test_both_sides_are_of_one_pair_seed_and_source_and_of_the_rows_said(studied: SimpleNamespace) -> None:
    study, records = studied.study, load_records(studied.run_dir).set_index("image")
    assert study.rows == LABELS
    asked = [item for item in study.items if not item.right]
    for item in asked:
        first, second = (records.loc[study.files[picture]] for picture in item.pictures)
        for name in ("pair_id", "seed", "source_image", "source_prompt", "target_prompt", "edit_type"):
            assert first[name] == second[name]
        assert (first["source_prompt"], first["target_prompt"]) == (item.source_prompt, item.target_prompt)
        assert study.files[item.source] == first["source_image"]
        assert [METHODS[row] for row in item.rows] == [first["method"], second["method"]]
        settings = [(row["tau"], row["strength"]) for row in (first, second)]
        assert {"p2p": (0.4,), "sdedit": (0.5,), "fixed_seed": ()}[first["method"]] == tuple(
            value for value in settings[0] if not np.isnan(value)
        )
    # Each pair once, with all three comparisons; re-weighting is apart.
    compared = Counter(tuple(sorted(item.rows)) for item in asked)
    assert compared == dict.fromkeys(combinations(range(3), 2), 6)
    assert len({item.pair for item in asked}) == 6
    assert "a snowy field" not in {item.source_prompt for item in asked}


def test_sides_order_and_pairs_are_drawn_from_the_seed(studied: SimpleNamespace) -> None:
    cells = cells_of(studied.run_dir)

    def made(**choice: Any) -> Study:
        return items.make_study(
            cells, {}, StudyChoice(**{"compare": COMPARED, "pairs": 7, "checks": 2, **choice})
        )

    study = made()
    assert made() == study
    assert made(seed=0, pairs=700) == study
    assert made(seed=1).digest != study.digest
    first = Counter(item.rows[0] < item.rows[1] for item in study.items if not item.right)
    assert min(first.values()) >= 3
    few = made(pairs=3, compare=COMPARED[:2], checks=0)
    assert {item.edit_type for item in few.items} == {"swap", "add", "<b>x</b>"}  # of each type in turn
    chosen = {
        tuple(item.source_prompt for item in made(pairs=2, checks=0, seed=seed).items) for seed in range(4)
    }
    assert len(chosen) > 1


def test_a_check_has_the_pair_s_own_source_beside_that_of_another_pair(studied: SimpleNamespace) -> None:
    study, records = studied.study, load_records(studied.run_dir).set_index("image")
    checks = [item for item in study.items if item.right]
    assert len(checks) == 2
    for item in checks:
        [wrong] = {*item.pictures} - {item.right}
        assert item.right == item.source
        assert method_of(study, studied.run_dir, wrong) == "source"
        assert item.rows == ()
        other = set(records.loc[[study.files[wrong]], "source_prompt"])
        assert item.source_prompt not in other


def test_nothing_that_raters_get_tells_the_method(studied: SimpleNamespace) -> None:
    folder = studied.folder.page.parent
    names = [file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.is_file()]
    assert len(names) == 1 + len(studied.study.files)
    assert all(re.fullmatch(r"index\.html|pictures/[0-9a-f]{16}\.png", name) for name in names)
    page = studied.folder.page.read_text(encoding="utf-8")
    text = re.sub(r"<style>.*?</style>", "", page, flags=re.DOTALL)
    told = ["p2p:", "prompt-to-prompt", "sdedit", "fixed_seed", "fixed seed", "strength", "tau=", "τ", "0.4"]
    told += [value for name in ("key", "pair_id", "image") for value in studied.records[name] if "-" in value]
    assert [word for word in told if word in text.lower()] == []
    for item in studied.study.items:  # both sides look alike to whoever reads the files' sizes and parts
        for name in item.pictures:
            with Image.open(studied.folder.picture(name)) as picture:
                assert picture.info == {}


def test_what_a_picture_s_file_says_of_itself_stays_behind(run_copy: Path) -> None:
    words = PngInfo()
    words.add_text("parameters", "SDEdit, strength 0.5")
    for image in set(load_records(run_copy)["image"]):
        with Image.open(run_copy / image) as picture:
            picture.load()
            picture.save(run_copy / image, pnginfo=words)
    study = make_study(run_copy)
    for name, path in study.files.items():
        own = StudyFolder(run_copy).picture(name)
        assert b"SDEdit" not in own.read_bytes()
        assert np.array_equal(
            np.asarray(Image.open(own)), np.asarray(Image.open(run_copy / path).convert("RGB"))
        )


@pytest.mark.parametrize(
    ("asked", "found"),
    [
        ([], ["p2p:tau=0.4", "sdedit:strength=0.5"]),
        (["sdedit:strength=0.9", "p2p:τ 0"], ["p2p:tau=0", "sdedit:strength=0.9"]),
        (["fixed_seed", "p2p:tau=1"], ["fixed_seed", "p2p:tau=1"]),
    ],
)
def test_rows_are_named_as_they_are_typed(empty_run: Path, asked: list[str], found: list[str]) -> None:
    assert chosen_rows(rows_of(empty_run), asked) == found


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        (["p2p", "sdedit"], r"compare: 'p2p' is 7 rows of the run, allowed are p2p:tau=0 p2p:tau=0\.4 "),
        (["magic", "sdedit"], "compare: 'magic' is no row of the run, allowed are fixed_seed"),
        (["p2p:tau=0.3", "fixed_seed"], r"compare: 'p2p:tau=0\.3' is no row of the run"),
        (["p2p:tau=0.4", "p2p:τ 0.4"], r"compare: p2p:tau=0\.4 stands twice"),
    ],
)
def test_a_name_of_no_row_or_several_is_one_line(empty_run: Path, asked: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        chosen_rows(rows_of(empty_run), asked)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"compare": "p2p"}, "compare: 'p2p' is one row, allowed are two or more"),
        ({"compare": ["p2p"]}, "compare: .* is one row"),
        ({"pairs": 0}, "pairs: 0 is not a whole number from 1 to 1000"),
        ({"checks": -1}, "checks: -1 is not a whole number from 0 to 100"),
        ({"seed": 0.5}, "seed: 0.5 is not a whole number"),
        ({"pairs": True}, "pairs: True is not a whole number"),
    ],
)
def test_a_choice_checks_itself(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        StudyChoice(**values)


def small_run(run_dir: Path, *rows: dict[str, object]) -> Path:
    source = [make_row(pair, 0, "source") for pair in ("cat-dog", "house-2")]
    write_run(run_dir, pd.DataFrame([*source, *rows]), None)
    return run_dir


def test_where_both_pictures_are_equal_nobody_is_asked(tmp_path: Path) -> None:
    pairs = ("cat-dog", "house-2")
    rows = [make_row(pair, 0, "fixed_seed") for pair in pairs]
    rows += [make_row(pair, 0, "p2p", **p2p(1.0)) for pair in pairs]
    rows[2] = {**rows[2], "image": rows[0]["image"], "key": rows[0]["key"]}
    study, _ = write_study(small_run(tmp_path / "a", *rows), StudyChoice(checks=0))
    assert len(study.items) == 1
    rows[3] = {**rows[3], "image": rows[1]["image"], "key": rows[1]["key"]}
    with pytest.raises(ValueError, match="all pictures of fixed_seed and p2p:tau=1 are equal"):
        write_study(small_run(tmp_path / "b", *rows), StudyChoice(checks=0))


def test_the_row_in_the_middle_is_that_of_the_first_variant(tmp_path: Path) -> None:
    taus = (0.0, 0.5, 1.0)
    rows = [
        make_row(
            "cat-dog", 0, "p2p", **{**p2p(tau), "params": json.dumps({"tau": tau, "local_blend": blend})}
        )
        for blend in (False, True)
        for tau in taus
    ]
    rows += [make_row("cat-dog", 0, "sdedit", strength=s, params=json.dumps({"strength": s})) for s in taus]
    found = chosen_rows(rows_of(small_run(tmp_path, *rows)), ())
    assert found == ["p2p:tau=0.5,local_blend=false", "sdedit:strength=0.5"]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([], "study: the run has no edit, and people compare two rows or more"),
        ([make_row("cat-dog", 0, "fixed_seed")], "study: the run has one row of edits"),
        (
            [make_row("cat-dog", 0, "fixed_seed"), make_row("house-2", 0, "p2p", **p2p(0.4))],
            r"study: no pair, seed and source has pictures of each of fixed_seed p2p:tau=0\.4",
        ),
        (
            [make_row("cat-dog", 0, "fixed_seed"), make_row("cat-dog", 1, "p2p", **p2p(0.4))],
            "study: no pair, seed and source",
        ),
        (
            [make_row("cat-dog", 0, "fixed_seed"), make_row("cat-dog", 0, "p2p", **p2p(0.4))],
            "checks: shows another pair's source, and the rows have one source; allowed is checks 0",
        ),
    ],
)
def test_a_run_with_nothing_to_compare_is_one_line_before_anything_is_written(
    tmp_path: Path, rows: list[dict[str, object]], message: str
) -> None:
    run_dir = small_run(tmp_path / "run", *rows)
    before = sorted(run_dir.rglob("*"))
    with pytest.raises(ValueError, match=message):
        write_study(run_dir, StudyChoice())
    assert sorted(run_dir.rglob("*")) == before


def test_a_picture_that_is_gone_leaves_nothing_half_made(run_copy: Path, studied: SimpleNamespace) -> None:
    before = sorted(run_copy.iterdir())
    gone = run_copy / next(path for path in studied.study.files.values() if "source" not in path)
    gone.write_bytes(gone.read_bytes()[:100])
    with pytest.raises(ValueError, match=f"{gone.name}: is no whole picture"):
        make_study(run_copy)
    gone.unlink()
    with pytest.raises(FileNotFoundError, match=gone.name):
        make_study(run_copy)
    assert sorted(run_copy.iterdir()) == before


def test_a_study_that_is_there_stays_and_no_other_takes_its_place(run_copy: Path) -> None:
    study = make_study(run_copy)
    folder = StudyFolder(run_copy)
    before = {file: file.stat().st_mtime_ns for file in folder.root.rglob("*")}
    assert make_study(run_copy) == study == read_study(folder.key)
    with pytest.raises(ValueError, match="holds another study, .* move it away first"):
        make_study(run_copy, seed=5)
    assert {file: file.stat().st_mtime_ns for file in folder.root.rglob("*")} == before


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda text: text[:-10], "is no study; move its folder away"),
        (lambda text: "[]", "is no study"),
        (lambda text: text.replace("a red house", "a new house"), "was changed by hand"),
    ],
)
def test_a_damaged_key_is_one_line(run_copy: Path, change: Any, message: str) -> None:
    make_study(run_copy)
    key = StudyFolder(run_copy).key
    key.write_text(change(key.read_text(encoding="utf-8")), encoding="utf-8")
    with pytest.raises(ValueError, match=message):
        read_study(key)


def test_names_are_of_signs_that_a_keyboard_has() -> None:
    frame = pd.DataFrame([make_row("cat-dog", 0, "p2p", **windows((0, end), (0, 20))) for end in (40, 50)])
    frame.loc[1, "params"] = '{"local_blend": true}'
    frame.loc[0, "tau"] = 0.2
    names = set(comparable(with_cells(frame))["row"])
    assert names == {"p2p:cross=0-40,self=0-20,tau=0.2", "p2p:cross=0-50,self=0-20,local_blend=true"}
