"""Records: what is written comes back, nothing successful is lost, no reader ever sees half a file."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from results.store.records import (
    RECORD_TYPES,
    load,
    load_metrics,
    load_records,
    merge_rows,
    metric_columns,
    reason_column,
    write_metrics,
    write_records,
)
from results.store.run_folder import RunFolder
from results.store.setting_rows import SETTING_TYPES, load_settings, write_settings
from results.tables.cells import with_cells
from results.tables.tables import main_table
from tests.results.synthetic import make_row, p2p

METRIC = "lpips_embedded@1"


def rows(*taus: float, **settings: object) -> pd.DataFrame:
    return pd.DataFrame([make_row("cat-dog", 0, "p2p", **{**p2p(tau), **settings}) for tau in taus])


def values(keys: pd.Series, value: float, reason: str = "") -> pd.DataFrame:
    return pd.DataFrame({"key": keys, "metric": METRIC, "value": value, "reason": reason})


def failed(frame: pd.DataFrame) -> pd.DataFrame:
    return frame.assign(status="failed", error="out of memory", image="")


def test_what_is_written_comes_back_with_its_types(tmp_path: Path) -> None:
    frame = rows(0.0, 0.5).assign(source_prompt='a "çat" | 猫\n', cross_start=[pd.NA, 3])
    write_records(tmp_path, frame)
    loaded = load_records(tmp_path)
    assert {name: str(kind) for name, kind in loaded.dtypes.items()} == RECORD_TYPES
    for name in RECORD_TYPES:
        assert loaded[name].astype(object).where(loaded[name].notna(), None).tolist() == (
            frame[name].astype(object).where(frame[name].notna(), None).tolist()
        )


def test_pandas_loads_all_groups_at_once(tmp_path: Path) -> None:
    # All windows missing in one file and none in the other: the files must still share a schema.
    write_records(tmp_path, rows(0.0, 0.5, group="a"))
    write_records(tmp_path, pd.DataFrame([make_row("b", 1, "sdedit", strength=0.5, group="b")]))
    (tmp_path / "records" / ".b.half.tmp").write_bytes(b"PAR1 half a file")
    assert len(pd.read_parquet(tmp_path / "records")) == len(load_records(tmp_path)) == 3


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda frame: frame.drop(columns="tau"), r"missing columns \['tau'\]"),
        (lambda frame: frame.assign(colour=1), r"unknown columns \['colour'\]"),
        (lambda frame: frame.assign(seed="first"), "column seed is not int64"),
        (lambda frame: frame.assign(error=None), "column error has missing values"),
        (lambda frame: frame.assign(status="done"), "status is 'done'"),
        (lambda frame: frame.assign(image=""), "exactly if its status is 'ok'"),
        (lambda frame: frame.assign(image="../../etc/passwd"), "not a path inside the run folder"),
        (lambda frame: frame.assign(weights="dog: 2"), "weights is not a JSON object"),
        (lambda frame: pd.concat([frame, frame]), "repeated rows"),
    ],
)
def test_a_frame_that_breaks_the_schema_is_one_clear_line(tmp_path: Path, change, message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        write_records(tmp_path, change(rows(0.5)))
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.rglob("*.parquet"))


@pytest.mark.parametrize("name", ["", ".hidden", "a//b", "a/..", "a b", "ü"])
def test_a_family_must_be_a_safe_path(tmp_path: Path, name: str) -> None:
    with pytest.raises(ValueError, match="file name"):
        write_metrics(tmp_path, name, values(rows(0.5)["key"], 0.5))


def test_a_success_replaces_a_failure_and_never_the_other_way_round(tmp_path: Path) -> None:
    good = rows(0.2, 0.4)
    write_records(tmp_path, failed(good))
    write_records(tmp_path, good)
    write_records(tmp_path, failed(good.assign(seconds=9.0)))
    loaded = load_records(tmp_path)
    assert loaded["status"].tolist() == ["ok", "ok"]
    assert loaded["seconds"].tolist() == [0.5, 0.5]


def test_of_two_successful_records_the_newer_one_counts(tmp_path: Path) -> None:
    first = rows(0.2, 0.4)
    write_records(tmp_path, first)
    write_records(tmp_path, first.iloc[:1].assign(seconds=9.0))
    assert sorted(load_records(tmp_path)["seconds"]) == [0.5, 9.0]


def test_a_missing_value_gives_way_and_needs_a_reason(tmp_path: Path) -> None:
    frame = rows(0.2)
    write_records(tmp_path, frame)
    with pytest.raises(ValueError, match="no reason"):
        write_metrics(tmp_path, METRIC, values(frame["key"], np.nan))
    write_metrics(tmp_path, METRIC, values(frame["key"], np.nan, "images are equal"))
    assert load(tmp_path)[reason_column(METRIC)].tolist() == ["images are equal"]
    write_metrics(tmp_path, METRIC, values(frame["key"], 0.25))
    write_metrics(tmp_path, METRIC, values(frame["key"], np.nan, "images are equal"))
    assert load_metrics(tmp_path)["value"].tolist() == [0.25]


def test_every_missing_value_of_a_loaded_run_has_a_reason(tmp_path: Path) -> None:
    frame = rows(0.2, 0.4, 0.6)
    frame.loc[1, ["status", "error", "image"]] = ["failed", "out of memory", ""]
    write_records(tmp_path, frame)
    write_metrics(tmp_path, "pie/structure@1", values(frame["key"].head(2), 0.5))
    loaded = load(tmp_path)
    assert metric_columns(loaded) == [METRIC]
    assert loaded[METRIC].isna().tolist() == [False, True, True]
    assert loaded[reason_column(METRIC)].tolist() == ["", "generation failed", "not evaluated"]


def test_runs_without_records_say_so(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no such run folder"):
        load(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match="no records yet"):
        load(tmp_path)


def file_of(run_dir: Path) -> Path:
    [file] = (run_dir / "records").glob("*.parquet")
    return file


@pytest.mark.parametrize("layout", ["numbered", "a file a group"])
def test_a_damaged_file_among_others_is_named_in_one_line(tmp_path: Path, layout: str) -> None:
    write_records(tmp_path, rows(0.2))
    damaged = file_of(tmp_path)
    if layout == "a file a group":
        damaged = damaged.rename(damaged.with_name("cat-dog-0.parquet"))
    damaged.write_bytes(b"PAR1")
    write_records(tmp_path, rows(0.4))
    for read in (load_records, merge_rows):
        with pytest.raises(ValueError, match=rf"{damaged.name}: cannot be read .*; delete it and run again$"):
            read(tmp_path)


def test_a_worker_killed_while_writing_leaves_what_was_there(tmp_path: Path) -> None:
    write_records(tmp_path, rows(0.2))
    script = (
        "import os, signal, sys; os.fsync = lambda file: os.kill(os.getpid(), signal.SIGKILL)\n"
        "from pathlib import Path; from results.store.records import write_records\n"
        "from tests.results.test_records import rows\n"
        "write_records(Path(sys.argv[1]), rows(0.2, 0.4))\n"
    )
    root = Path(__file__).parents[2]
    ended = subprocess.run([sys.executable, "-c", script, str(tmp_path)], cwd=root, capture_output=True)
    assert ended.returncode == -9, ended.stderr
    assert len(load_records(tmp_path)) == len(pd.read_parquet(tmp_path / "records")) == 1
    write_records(tmp_path, rows(0.2, 0.4))
    assert len(load_records(tmp_path)) == 2


def test_records_of_before_there_were_masks_have_none(tmp_path: Path) -> None:
    write_records(tmp_path, rows(0.0, 0.5))
    path = file_of(tmp_path)
    pd.read_parquet(path).drop(columns=["mask", "uses_mask"]).to_parquet(path)
    loaded = load_records(tmp_path)
    assert loaded["mask"].tolist() == ["", ""]
    assert loaded["uses_mask"].tolist() == [False, False]
    write_records(tmp_path, rows(0.2))
    assert len(load_records(tmp_path)) == 3


def test_records_of_before_starts_were_told_have_none_and_stay_in_their_cells(tmp_path: Path) -> None:
    write_records(tmp_path, rows(0.5))
    path = file_of(tmp_path)
    pd.read_parquet(path).drop(columns=["start_timestep", "start_noise"]).to_parquet(path)
    later = pd.DataFrame([make_row("house-2", 0, "p2p", **p2p(0.5), start_timestep=251.0, start_noise=0.3)])
    write_records(tmp_path, later)
    loaded = load_records(tmp_path)
    assert sorted(loaded["start_noise"].fillna(-1)) == [-1, 0.3]
    table = main_table(with_cells(loaded.assign(m=1.0, **{"reason:m": ""})), ["m"])
    [cell] = table[table["edit_type"].eq("all")].to_dict("records")
    assert (cell["n"], cell["start_noise"]) == (2, 0.3)


def test_equal_settings_are_one_file_whatever_else_the_records_hold(tmp_path: Path) -> None:
    """Its name hashes the rows: columns in another order would write every plan of a folder once more."""
    settings = rows(0.2, key="k")[list(SETTING_TYPES)]
    write_settings(tmp_path, settings)
    write_settings(tmp_path, settings[settings.columns[::-1]])
    assert [file.name for file in RunFolder(tmp_path).settings.iterdir()] == ["7e1615731ca22989.parquet"]
    assert load_settings(tmp_path)["tau"].tolist() == [0.2]
