"""README is short, its Python runs as printed, and what it and the packages' READMEs name is there."""

import ast
import re
import shlex
import sys
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from experiments.config_keys import CONF, check_keys
from experiments.configured import MOVED

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text()
EXPERIMENTS = (ROOT / "experiments" / "README.md").read_text()
FOLDERS = ("conf", "p2p", "experiments", "evaluation", "results", "findings", "tests")
FILES = [*ROOT.glob("*.*"), *(file for folder in FOLDERS for file in (ROOT / folder).rglob("*.*"))]
PAGES = [file for file in FILES if file.suffix == ".md"]
NAMES = {file.name for file in FILES}
FORBIDDEN, FORMS = {"utils.py"}, {"FILE.csv", "NAME.sh"}
OF_OTHERS = {"run_editing_p2p.py", "mapping_file.json", "global_descriptions.json", "card.json"}
MADE = {"pairs.csv", "captions.csv", "columns.json", "bench.json", "bench_gpu.json", "summary.md"}
MADE_FOLDERS = {"runs", "checkpoints"}


def test_readme_is_short_and_begins_with_code() -> None:
    assert len(README.split()) <= 900
    assert any(line.startswith("    make demo ") for line in README.splitlines()[:12])


def test_the_python_example_runs(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    [code] = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    assert len([line for line in code.splitlines() if line]) <= 10
    exec(compile(code, "README.md", "exec"), {})
    shape, *errors = capsys.readouterr().out.splitlines()
    assert shape == "torch.Size([3, 64, 64])"
    p2p, _, fixed_seed = (float(text[7:-1]) for text in errors)
    assert 0 < p2p < fixed_seed


def test_folders_and_make_targets_exist() -> None:
    folders = set(re.findall(r"^\| `(\w+)/` ", README, re.MULTILINE))
    assert folders == set(FOLDERS)
    assert all((ROOT / folder).is_dir() for folder in folders)
    makefile = (ROOT / "Makefile").read_text()
    for page in PAGES:
        for target in re.findall(r"[`\n] *make ([a-z-]+)", page.read_text()):
            assert f"\n{target}: " in makefile or target in makefile.split(".PHONY:")[1].splitlines()[0]


def stale(page: Path) -> list[str]:
    """Return which of the paths that a page names, in links, backticks or lists of files, are not there."""
    text = page.read_text()
    here = (page.parent, ROOT)
    links = [link for link in re.findall(r"\]\(([^)\s]*)\)", text) if ":" not in link]
    missing = [link for link in links if not (page.parent / link.partition("#")[0]).exists()]
    for link in (link for link in links if "#" in link):
        file, _, heading = link.partition("#")
        target = (page.parent / file).read_text() if file else text
        titles = [title.lower().replace(" ", "-") for title in re.findall(r"^#+ (.+)$", target, re.MULTILINE)]
        missing += [link] if heading not in titles else []
    for path in re.findall(r"`([\w.-]+/[\w./-]*)`", text):
        first = path.split("/")[0]
        owners = [folder for folder in here if first not in MADE_FOLDERS and (folder / first).is_dir()]
        if owners and not any((folder / path).exists() for folder in owners):
            missing.append(path)
    named = set(re.findall(r"(?<![\w/*-])[A-Za-z_]\w*\.(?:py|md|yaml|sh|json|csv)\b", text))
    return [*missing, *sorted(named - NAMES - OF_OTHERS - MADE - FORBIDDEN - FORMS)]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_path_that_a_page_names_is_there(page: Path) -> None:
    assert stale(page) == []


def test_a_path_that_is_gone_is_seen(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("`p2p/attention.py`, [a](no.md), [b](#Nowhere), `p2p/engine.py` and schedule.py\n# Here")
    assert stale(page) == ["no.md", "#Nowhere", "p2p/attention.py", "no.md", "schedule.py"]


def overrides_of(text: str) -> list[list[str]]:
    """Return the overrides of each `p2p-bench run` and `plan` that a text shows, of a sweep its first job.

    Those of Hydra itself are left out: its plugins need not be here.
    """
    lines = re.findall(r"^ {4}p2p-bench (?:run|plan) (.*?)(?:  +#.*)?$", text, re.MULTILINE)
    parts = [shlex.split(line) for line in lines]
    assert parts
    return [
        [
            re.sub(r"=(?:interval\()?([^\[]*?),.*", r"=\1", one) if "-m" in part else one
            for one in part
            if one != "-m" and not one.startswith("hydra")
        ]
        for part in parts
    ]


@pytest.mark.parametrize("overrides", overrides_of(README + EXPERIMENTS), ids=" ".join)
def test_every_command_is_a_sound_configuration(overrides: list[str]) -> None:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = OmegaConf.to_container(compose("config", overrides), resolve=True)
    check_keys(config)  # a path that the reader supplies may still be missing


@pytest.mark.parametrize("package", ["p2p", "experiments"])
def test_the_readme_of_a_package_lists_its_rooms(package: str) -> None:
    text = (ROOT / package / "README.md").read_text()
    listed = set(re.findall(r"\b(\w+(?:\.py|/))(?=[\s,])", "".join(re.findall(r"^ {4}.*\n", text, re.M))))
    rooms = {f"{path.parent.name}/" for path in (ROOT / package).glob("*/__init__.py")}
    files = {path.name for path in (ROOT / package).glob("*.py")} - {"__init__.py"}
    assert rooms | files <= listed


def test_no_page_names_a_class_by_its_old_place() -> None:
    assert [old for old in MOVED for page in PAGES if old in page.read_text()] == []


@pytest.mark.parametrize("group", ["experiment", "dataset", "inversion", "grid", "metrics"])
def test_options_that_the_text_names_exist(group: str) -> None:
    texts = "".join(page.read_text() for page in PAGES if page.name == "README.md")
    named = set(re.findall(rf"\b{group}=([a-z]\w*)", texts))
    assert named <= {file.stem for file in (ROOT / "conf" / group).glob("*.yaml")}
    assert named


def test_every_published_set_is_described() -> None:
    kept = {
        "embedded",
        "embedded_training",
        "inline",
        "p2p_templates",
        "phantoms",
        "phantoms_rendered",
        "phantoms_reweighted",
        "rendered",
        "table",
    }  # not published, or described elsewhere
    described = set(re.findall(r"^- `dataset=(\w+)`: ", EXPERIMENTS, re.MULTILINE))
    assert described == {file.stem for file in (ROOT / "conf" / "dataset").glob("*.yaml")} - kept


def test_experiments_are_those_of_the_configuration() -> None:
    [section] = re.findall(r"^## Command line\n(.*?)^## ", README, re.MULTILINE | re.DOTALL)
    listed = set(re.findall(r"^\| `(\w+)` \| ", section, re.MULTILINE))
    assert listed == {file.stem for file in (ROOT / "conf" / "experiment").glob("*.yaml")}


def test_documented_quotes_give_the_prompts() -> None:
    lines = re.findall(r"^    p2p-bench plan dataset=inline (.*)", EXPERIMENTS, re.MULTILINE)
    prompts = []
    with initialize_config_dir(str(CONF), version_base="1.3"):
        for line in lines:
            pair = compose("config", ["dataset=inline", *shlex.split(line)]).dataset
            prompts += [pair.source_prompt, pair.target_prompt]
    assert prompts == [
        *("1 cat, asleep (#2 = a | b!)", "1 dog, asleep (#2 = a | b!)", "一只猫", "一只狗"),
        *("a cat's ear", "a dog's ear", 'a "big" cat', "a ${name} cat"),
    ]


def test_what_the_engine_imports_is_named() -> None:
    trees = [ast.parse(file.read_text()) for file in (ROOT / "p2p").rglob("*.py")]
    nodes = [node for tree in trees for node in ast.walk(tree)]
    names = {name.name for node in nodes if isinstance(node, ast.Import) for name in node.names}
    names |= {str(node.module) for node in nodes if isinstance(node, ast.ImportFrom)}
    others = {name.partition(".")[0] for name in names} - {*sys.stdlib_module_names, "p2p"}
    [told] = re.findall(r"It imports (.*?);", (ROOT / "p2p" / "README.md").read_text())
    assert set(re.split(", | and ", told)) == others
