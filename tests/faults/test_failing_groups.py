"""A group whose pictures are not numbers, and one that raises: it fails alone, and is made once it can be."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import experiments.running.generate
from p2p import ModelSpec
from results.store.records import load_records
from tests.experiments.command import on_tiny, p2p_bench
from tests.faults.conftest import Told
from tests.faults.processes import held

Patch = pytest.MonkeyPatch
WORD = "dog"


def gives_nan(patch: Patch) -> str:
    """Let the model know nothing of a word; return the cause that is to be told."""
    load = ModelSpec.load

    def loaded(spec: ModelSpec) -> Any:
        model: Any = load(spec)
        [_, word, _] = model.pipeline.tokenizer(WORD).input_ids
        with torch.no_grad():
            model.pipeline.text_encoder.get_input_embeddings().weight[word] = float("nan")
        return model

    patch.setattr(ModelSpec, "load", loaded)
    return "FloatingPointError: "


def raises(patch: Patch) -> str:
    """Let a group of the word raise; return the cause that is to be told."""
    generate = experiments.running.generate.generate

    def made(model: Any, groups: Any, *rest: Any) -> Any:
        if any(WORD in group.source_prompt for group in groups):
            raise ArithmeticError("this one cannot be made")
        return generate(model, groups, *rest)

    patch.setattr(experiments.running.generate, "generate", made)
    return "ArithmeticError: this one cannot be made"


@pytest.mark.parametrize("fault", [gives_nan, pytest.param(raises, marks=pytest.mark.slow)])
def test_a_group_that_fails_is_listed_with_its_cause_and_made_by_the_next_call(
    fault: Callable[[Patch], str],
    tiny_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    told: Told,
) -> None:
    table = tmp_path / "pairs.csv"
    pairs = ["1,a cat on a bench,a horse on a bench", "2,a dog on a bench,a horse on a bench"]
    table.write_text("\n".join(["id,source_prompt,target_prompt", *pairs]))
    folders = [tmp_path / name for name in ("undisturbed", "run")]
    left_alone, disturbed = (
        [*on_tiny(tiny_folder, folder), "dataset=table", f"dataset.path={table}", "sampling.max_batch=2"]
        for folder in folders
    )
    assert p2p_bench("run", *left_alone) == 0
    with monkeypatch.context() as patch:
        cause = fault(patch)
        assert p2p_bench("run", *disturbed) == 1
    records = load_records(folders[1])
    failed = records[records["status"] != "ok"]
    assert all(WORD in prompt for prompt in failed["source_prompt"])
    assert len(failed) == 4
    assert failed["error"].str.startswith(cause).all()
    assert cause in (folders[1] / "tables" / "summary.md").read_text()
    capsys.readouterr()
    assert p2p_bench("verify", str(folders[1])) == 1
    lines = capsys.readouterr().out.splitlines()
    assert any(line.startswith("failed: ") and cause in line for line in lines)
    assert "0 damaged, 1 failed" in lines[-1]
    assert p2p_bench("run", *disturbed) == 0
    expected, found = map(held, folders)
    assert {name: found[name] == expected[name] for name in expected} == dict.fromkeys(expected, True)
    told(f"a group that {fault.__name__.replace('_', ' ')}, then made", 1, "equal; listed with its cause")
