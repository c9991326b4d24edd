"""Values of another kind than is meant, a number where a text, a text where a list: one line, exit code 2."""

from pathlib import Path
from typing import Any

import pytest

from experiments.config_types import misfits
from p2p import ModelSpec
from tests.experiments.command import Cli, call_task

LONG = "1" * 400


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("dataset.source_prompt=5", 'source_prompt: 5 is not a text; in quotes it is one: source_prompt="5"'),
        ("dataset.target_prompt=true", "target_prompt: True is not a text"),
        ("dataset.id=5", "id: 5 is not a text, or null"),
        ("dataset.image=5", "image: 5 is not a text, or null"),
        ("dataset.mask=[a]", "mask: ['a'] is not a text, or null"),
        ("dataset.edit_type=1.5", "edit_type: 1.5 is not a text"),
        ("dataset.instruction=5", "instruction: 5 is not a text"),
        ('dataset.source_prompt="a \udcff"', "source_prompt: 'a \\udcff' is not a text"),
        (
            "dataset.blend_words=[[cat],[dog]]",
            "blend_words: [['cat'], ['dog']] is not a list of 2, each a text",
        ),
        ("dataset.blend_words=cat dog", "blend_words: 'cat dog' is not a list of 2, each a text"),
        ("dataset.blend_words=3", "blend_words: 3 is not a list of 2"),
        ("dataset.weights={true: 2}", "weights: {True: 2} is not a mapping from a text to a finite number"),
        (f"dataset.weights={{dog: {LONG}}}", "is not a mapping from a text to a finite number"),
        ("dataset.ids={a: b}", "ids: {'a': 'b'} is not a list, each a text, or a whole number, or a text"),
        ("+grid.inversions=5", "inversions: 5 is not a list of names"),
        ("inversions={ddim: 1}", "inversions: {'ddim': 1} is not a list of names"),
        ("grid.methods.p2p=5", "grid.methods.p2p: 5 does not map parameters to values"),
        ("++grid.methods=5", "grid.methods: 5 does not map methods to their axes"),
        ("operator=os.path.join", "operator 'os.path.join': cannot align the prompts"),
        ("operator=[replace,[a]]", "grid.methods.p2p: operator: ['a'] is not a text"),
        ("auto_tau.target=5", "auto_tau: target: 5 is not a configuration of Target, with its `_target_`"),
        ("auto_tau.target.metric=5", "auto_tau: target: metric: 5 is not a text"),
        ("auto_tau.taus=5", "auto_tau: taus: 5 is not a list, each a finite number"),
        ("auto_tau.taus=abc", "auto_tau: taus: 'abc' is not a list"),
        ("auto_tau.maximise=5", "auto_tau: maximise: 5 is not a text"),
        ("sampling=5", "sampling: 5 is none of its choices"),
        (f"sampling.guidance_scale={LONG}", "is not a finite number"),
        ("sampling.guidance_scale=inf", "guidance_scale: inf is not a finite number"),
        ("model.self_max_side=abc", "model: self_max_side: 'abc' is not a whole number"),
        ("model.path=5", "model: path: 5 is not a text"),
        ("+model.height=[1]", "model: height: [1] is not a whole number, or null"),
        ("+model.revision=5", "model: revision: 5 is not a text, or null"),
        ("+model.leave_out=5", "model: leave_out: 5 is not a list, each a text"),
        ("+model.upscaler=5", "model: upscaler: 5 is not a configuration of ModelSpec"),
        ("+metrics.mine._target_=builtins.dict", "metrics.mine: 'builtins.dict' makes no object that serves"),
        ("model._target_=no.such", "model: Error loading 'no.such'"),
        ("executor=[]", "shard: is missing, and nothing can be left out"),
        ("name=[a]", "name: ['a'] is no name"),
        ("name=", "name: '' is no name of a folder in runs/; run_dir=PATH takes any place"),
        ("name=..", "name: '..' is no name of a folder"),
        ("name=../../x", "name: '../../x' is no name of a folder"),
        ("tau={}", "tau: {} names no word"),
        ("inversions=[]", "inversions: [] is not a list of names"),
    ],
)
def test_a_value_of_another_kind_is_one_line(
    override: str, message: str, tiny: list[str], run_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call_task(*tiny, override) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert message in error
    assert len(error.splitlines()) == (2 if "the plan has" in error else 1)
    assert not (run_dir / "records").exists()


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("metrics=null", "metrics=null: is not a name of those that `p2p-bench ls` lists"),
        ("model=5", "model=5: is not a name of those that `p2p-bench ls` lists"),
        ("inversion=[a]", "inversion=a: there is none, allowed are ddim, "),
        ("metrics=[]", "metrics: is missing"),
        ("grid=[]", "grid: is missing"),
        ("run_dir=", "run_dir: '' is no path"),
        ("reference=[5]", "reference: [5] is not a list of names"),
        ("reference={a: b}", "Error merging override reference={a: b} (Cannot merge "),
        ("sampling=[a]", "Error merging override sampling=[a] (Cannot merge "),
        ("auto_tau.target=[a]", "Error merging override auto_tau.target=[a] (Cannot merge "),
        ("auto_tau.target={cat: 1}", "auto_tau.target.cat: no key of the configuration"),
        ("tau=[a\x85-$]", "tau=[a\\x85-$]: "),
        ("dataset=[null]", "dataset=[null]: is not a name of those that `p2p-bench ls` lists"),
        ("dataset=[[]]", "dataset=[[]]: is not a name of those that"),
        ("dataset=table", "dataset.path: is missing, and has no default"),
    ],
)
def test_what_cannot_be_composed_is_one_line(
    override: str, message: str, cli: Cli, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli("plan", override) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: {message}")


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["metrics=null"], "metrics=null: is not a name"),
        (["metrics.foo=3"], "metrics.foo: no key of the configuration"),
        (["reference=5"], "reference: 5 is not a list of names"),
    ],
)
def test_evaluate_says_the_same(
    overrides: list[str], message: str, cli: Cli, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli("evaluate", str(tmp_path), "--pairs", "pairs.csv", *overrides) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: {message}")


@pytest.mark.parametrize(
    ("node", "wrong"),
    [
        ({"name": "a", "loras": [{"path": "a", "scale": 2}], "height": None, "scheduler_config": {}}, []),
        ({"loras": "abc", "scheduler_config": [1], "height": True}, ["loras", "scheduler_config", "height"]),
        ({"loras": [[1]]}, ["loras"]),
        ({"unknown": 5}, []),
        ({"upscaler": {"_target_": "p2p.ModelSpec", "name": 5}}, ["upscaler: name"]),
        ({"name": "half of a character \ud83d"}, ["name"]),
    ],
)
def test_values_are_held_against_the_types_of_the_class(node: dict[str, Any], wrong: list[str]) -> None:
    found = [problem for _, problem in misfits(ModelSpec, node)]
    assert len(found) == len(wrong)
    assert all(problem.startswith(f"{key}: ") for problem, key in zip(found, wrong, strict=True))


def test_a_class_without_types_is_not_checked() -> None:
    def untyped(name, *_):  # type: ignore[no-untyped-def]
        return name

    assert not list(misfits(untyped, {"name": 5}))


def test_a_plan_of_several_leaves_no_file(
    cli: Cli, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    few = ["dataset.limit=1", "sampling.num_inference_steps=2", "grid=single", "metrics=pixel"]
    assert cli("plan", "-m", "seed=0,1", *few) == 0
    assert capsys.readouterr().out.count("edited image") == 2
    assert not list(tmp_path.iterdir())
