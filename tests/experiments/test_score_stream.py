"""Scoring while pictures are made: equal values, and whatever it leaves is scored at the end."""

import shutil
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch

import experiments.running.generate
from evaluation.edits import Edits
from evaluation.metric import Scores
from evaluation.pixel import Pixel
from experiments.scoring.score_run import evaluate_run
from experiments.scoring.score_stream import ScoreStream
from p2p import Model
from results.store.records import load, load_metrics, load_records
from tests.experiments.command import Cli

PATIENCE = 60.0  # seconds after which a test fails that would else wait for ever


@pytest.fixture
def records(complete_run: Path) -> list[dict[str, Any]]:
    """The records of a run whose values are gone, one of each picture."""
    shutil.rmtree(complete_run / "metrics")
    return load_records(complete_run).drop_duplicates("key").to_dict("records")


def streamed(run_dir: Path, records: list[dict[str, Any]], metrics: list[Any], size: int = 2) -> None:
    """Score records in a stream until nothing waits."""
    with ScoreStream(run_dir, metrics, size) as scores:
        scores.add(records)
        scores._thread.submit(lambda: None).result(PATIENCE)


def values(run_dir: Path) -> pd.DataFrame:
    return load_metrics(run_dir).sort_values(["key", "metric"], ignore_index=True)


def test_a_stream_gives_the_values_that_scoring_afterwards_gives(
    complete_run: Path, records: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = {row["key"] for row in records}
    assert evaluate_run(complete_run, [Pixel()], keys) == 0
    before = values(complete_run)
    shutil.rmtree(complete_run / "metrics")
    streamed(complete_run, records, [Pixel()])
    pd.testing.assert_frame_equal(values(complete_run), before)
    with monkeypatch.context() as patch:
        patch.setattr(Pixel, "__call__", lambda *_: pytest.fail("nothing was left to score"))
        assert evaluate_run(complete_run, [Pixel()], keys) == 0
        streamed(complete_run, records, [Pixel()])


class Watched:
    """A metric of one constant column, which is looked at before it is given."""

    higher_is_better: Mapping[str, bool] = {}

    def __init__(self, name: str, look: Any = lambda edits: None) -> None:
        self.name, self.names, self.look = name, (name,), look
        self.sizes: list[int] = []

    def check(self) -> None:
        pass

    def __call__(self, edits: Edits) -> dict[str, Scores]:
        self.sizes.append(len(edits))
        self.look(edits)
        return {self.name: Scores.of(torch.ones(len(edits)))}


def test_what_waits_is_scored_together(complete_run: Path, records: list[dict[str, Any]]) -> None:
    """The first record is being scored when the others come, one by one."""
    others = threading.Event()
    metric = Watched("one@1", lambda _: others.wait(PATIENCE))
    with ScoreStream(complete_run, [metric], 64) as scores:
        scores.add(records[:1])
        while not metric.sizes:
            pass
        for row in records[1:]:
            scores.add([row])
        scores.add(records)  # known by now
        others.set()
        scores._thread.submit(lambda: None).result(PATIENCE)
    assert metric.sizes == [1, len(records) - 1]
    assert values(complete_run)["value"].tolist() == [1.0] * len(records)


def test_the_end_of_a_stream_leaves_the_rest_for_later(
    complete_run: Path, records: list[dict[str, Any]]
) -> None:
    """The end comes within the first metric's first batch, before several: that one's values are kept."""
    begun = threading.Event()
    first, second = Watched("first@1"), Watched("second@1")
    scores = ScoreStream(complete_run, [first, second], 1)

    def until_the_end(_: Edits) -> None:
        begun.set()
        while not scores._ends:
            pass

    first.look = until_the_end
    with scores:
        scores.add(records)
        assert begun.wait(PATIENCE)
    assert (first.sizes, second.sizes) == ([1], [])
    assert len(values(complete_run)) == 1
    assert evaluate_run(complete_run, [first, second], {row["key"] for row in records}) == 0
    assert sum(first.sizes) == sum(second.sizes) == len(records)


@pytest.mark.parametrize("raises", [False, True])
def test_the_end_of_a_stream_scores_one_batch_that_waits_unless_its_body_raises(
    complete_run: Path, records: list[dict[str, Any]], raises: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The end comes within the first of two metrics, while all records but one wait."""
    begun, ends = threading.Event(), threading.Event()
    first = Watched("first@1", lambda _: (begun.set(), ends.wait(PATIENCE)))
    second = Watched("second@1")

    def scored() -> None:
        with ScoreStream(complete_run, [first, second], 64) as scores:
            shutdown = scores._thread.shutdown

            def goes_on(**options: bool) -> None:
                """Let the metric go on once the end of the context has been reached."""
                ends.set()
                shutdown(**options)

            monkeypatch.setattr(scores._thread, "shutdown", goes_on)
            scores.add(records[:1])
            assert begun.wait(PATIENCE)
            scores.add(records[1:])
            if raises:
                raise KeyboardInterrupt

    if raises:
        with pytest.raises(KeyboardInterrupt):
            scored()
        assert (first.sizes, second.sizes) == ([1], [])
    else:
        scored()
        assert first.sizes == second.sizes == [1, len(records) - 1]
        assert len(values(complete_run)) == 2 * len(records)


def test_what_fails_in_a_stream_is_told_at_the_end(
    complete_run: Path, records: list[dict[str, Any]], caplog: pytest.LogCaptureFixture
) -> None:
    def fail(_: Edits) -> None:
        raise ValueError("no score today")

    metric = Watched("one@1", fail)
    streamed(complete_run, records, [metric])
    assert not caplog.messages
    assert evaluate_run(complete_run, [metric], {row["key"] for row in records}) == 1
    assert "no score today" in caplog.text


@pytest.mark.usefixtures("no_tables")
def test_a_run_on_another_device_scores_while_it_makes(
    cli: Cli, tiny: list[str], run_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last batch is begun when there are values, here on the CPU as if it were another device."""
    generate = experiments.running.generate.generate
    there: list[Path] = []

    def wait_for_values(model: Model, groups: Any, *given: Any) -> Any:
        until = time.monotonic() + PATIENCE
        while groups[0].seed == 1 and not there and time.monotonic() < until:
            there.extend(run_dir.glob("metrics/pixel@3/*.parquet"))
        return generate(model, groups, *given)

    monkeypatch.setattr(experiments.running.generate, "generate", wait_for_values)
    monkeypatch.setattr("results.store.row_files.GATHERED_ROWS", 1)
    monkeypatch.setattr("experiments.scoring.score_stream.same_cores", lambda model: False)
    assert cli("run", *tiny, "sampling.max_batch=2", "seed=[0,1]") == 0
    assert there
    assert not load(run_dir)["reason:mse@1"].isin(["not evaluated"]).any()
