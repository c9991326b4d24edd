"""Provenance: a file per call, so that none is lost; damaged ones are left out, those of before are read."""

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from experiments.running.provenance import read_provenance, write_provenance


def test_calls_at_the_same_moment_are_all_kept(tmp_path: Path) -> None:
    with ThreadPoolExecutor(4) as workers:
        list(workers.map(lambda i: write_provenance(tmp_path, {"call": i}, "model"), range(8)))
    calls = read_provenance(tmp_path)
    assert sorted(call["config"]["call"] for call in calls) == list(range(8))
    assert len(list((tmp_path / "provenance").iterdir())) == 8


def test_the_calls_of_before_each_had_a_file_come_first(tmp_path: Path) -> None:
    before = [{"config": {"call": "first"}}, {"config": {"call": "second"}}]
    (tmp_path / "provenance.json").write_text(json.dumps(before))
    write_provenance(tmp_path, {"call": "third"}, "model")
    assert [call["config"]["call"] for call in read_provenance(tmp_path)] == ["first", "second", "third"]


@pytest.mark.parametrize("content", ["", "{", "{}", "[1]", '[{"config": 1}]', "null"])
def test_a_damaged_file_is_left_out_and_named(
    tmp_path: Path, content: str, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "provenance.json").write_text(content)
    write_provenance(tmp_path, {"call": "third"}, "model")
    (tmp_path / "provenance" / "0.json").write_text(content)
    assert [call["config"] for call in read_provenance(tmp_path)] == [{"call": "third"}]
    named = [tmp_path / "provenance.json", tmp_path / "provenance" / "0.json"]
    assert [str(file) in record.message for file, record in zip(named, caplog.records)] == [True, True]
