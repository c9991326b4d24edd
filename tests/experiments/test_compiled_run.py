"""`model.compile` on the command line: what a run keeps of it, and one line where nothing can be compiled."""

import json
from pathlib import Path

import pytest
import torch
import torch._inductor.config

from results.store.records import load
from tests.experiments.command import Cli, call_task


def test_a_machine_without_a_compiler_is_one_line_before_anything_is_made(
    monkeypatch: pytest.MonkeyPatch,
    tiny: list[str],
    run_dir: Path,
    cli: Cli,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(torch._inductor.config.cpp, "cxx", ("/nowhere/g++",))
    monkeypatch.setattr(torch._inductor.config, "force_disable_caches", True)
    assert cli("run", *tiny, "model.compile=true") == 2
    line = capsys.readouterr().err.strip().splitlines()[-1]
    assert line.startswith("error: compile: does not work on this machine (")
    assert line.endswith("allowed is model.compile=false")
    assert not (run_dir / "images").exists()


@pytest.mark.slow
def test_a_compiled_run_is_the_same_run(
    monkeypatch: pytest.MonkeyPatch, tiny: list[str], run_dir: Path
) -> None:
    monkeypatch.setattr("p2p.compiling.BACKEND", "eager")
    assert call_task(*tiny, "model.compile=true") == 0
    [told] = [json.loads(file.read_text()) for file in (run_dir / "provenance").glob("*.json")]
    assert told["config"]["model"]["compile"] is True
    made = load(run_dir)
    monkeypatch.setattr("experiments.running.generate.run_plan", lambda *_: pytest.fail("nothing was left"))
    assert call_task(*tiny) == 0
    assert list(load(run_dir)["image"]) == list(made["image"])
