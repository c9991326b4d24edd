"""The README's Python runs as printed, and what it names is there."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text()
EXPERIMENTS = (ROOT / "experiments" / "README.md").read_text()


def test_the_python_example_runs(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    [code] = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    assert len([line for line in code.splitlines() if line]) <= 10
    exec(compile(code, "README.md", "exec"), {})
    shape, *errors = capsys.readouterr().out.splitlines()
    assert shape == "torch.Size([3, 64, 64])"
    p2p, _, fixed_seed = (float(text[7:-1]) for text in errors)
    assert 0 < p2p < fixed_seed


def test_pictures_folders_and_make_targets_exist() -> None:
    for picture in re.findall(r"!\[.*?\]\((.*?)\)", README):
        assert (ROOT / picture).is_file()
    for folder in re.findall(r"^\| `(\w+)/` ", README, re.MULTILINE):
        assert (ROOT / folder).is_dir()
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"make ([a-z-]+)", README):
        assert target in makefile


@pytest.mark.parametrize("group", ["experiment", "dataset", "inversion", "grid", "metrics"])
def test_options_that_the_text_names_exist(group: str) -> None:
    named = set(re.findall(rf"\b{group}=(\w+)", README + EXPERIMENTS)) - {"mine"}
    assert named <= {file.stem for file in (ROOT / "conf" / group).glob("*.yaml")}
    assert named


def test_every_published_set_is_described() -> None:
    kept = {
        "embedded",
        "inline",
        "p2p_templates",
        "rendered",
        "table",
    }  # not published, or described elsewhere
    described = set(re.findall(r"^- `dataset=(\w+)`: ", EXPERIMENTS, re.MULTILINE))
    assert described == {file.stem for file in (ROOT / "conf" / "dataset").glob("*.yaml")} - kept


def test_experiments_are_those_of_the_configuration() -> None:
    listed = set(re.findall(r"^\| `(\w+)` \| ", README, re.MULTILINE))
    assert listed == {file.stem for file in (ROOT / "conf" / "experiment").glob("*.yaml")}
