"""The arrows experiments -> {p2p, evaluation, results}; Hydra, Ray and W&B are known to few files; what an
engine's function is told.
"""

import ast
from collections.abc import Iterator
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("p2p", "experiments", "evaluation", "results")
LEAVES = ("p2p", "evaluation", "results")
ONLY_IN = {
    "hydra": (
        "experiments/run.py",
        "experiments/run_arguments.py",
        "experiments/configured.py",
        "experiments/hydra_errors.py",
    ),
    "omegaconf": ("experiments/run.py", "experiments/configured.py", "experiments/hydra_errors.py"),
    "ray": ("experiments/executors/on_ray.py", "experiments/executors/ray_cluster.py"),
    "wandb": ("results/tracking.py",),
}
MOST_PARAMETERS = 6
MAY_HAVE_MORE = {
    "p2p/families/joint_processors.py: __call__": "diffusers names them, and drops what is not named",
    "p2p/engine.py: edit": "the public entry: all but three are options, each with a default",
    "p2p/word_heat_maps.py: heat_maps": "a public entry: `edit`'s options and its own, by name alone",
}


def imported(source: str) -> Iterator[str]:
    """Yield the top-level name of every import of a module, at whatever depth it stands."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (name.name.split(".")[0] for name in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module.split(".")[0]
        elif isinstance(node, ast.Call) and ast.unparse(node.func).split(".")[-1] in (
            "import_module",
            "__import__",
        ):
            yield from (str(a.value).split(".")[0] for a in node.args if isinstance(a, ast.Constant))


@cache
def imports(package: str) -> dict[str, set[str]]:
    """Map the path of each of a package's files to what it imports."""
    files = sorted((ROOT / package).rglob("*.py"))
    return {
        file.relative_to(ROOT).as_posix(): set(imported(file.read_text(encoding="utf-8"))) for file in files
    }


def module(file: Path) -> str:
    parts = file.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def arrows(source: str, modules: set[str]) -> set[str]:
    """Return which of the modules a file imports, at whatever depth, for types alone too."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {name.name for name in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            inner = {f"{node.module}.{name.name}" for name in node.names}
            found |= inner & modules or {node.module}
    return found & modules


@pytest.mark.parametrize("package", PACKAGES)
def test_no_import_leads_back_to_where_it_began(package: str) -> None:
    files = {module(file): file for file in sorted((ROOT / package).rglob("*.py"))}
    graph = {name: arrows(file.read_text(encoding="utf-8"), set(files)) for name, file in files.items()}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(" imports ".join(reversed(error.args[1])))


def test_a_circle_of_imports_is_seen() -> None:
    both = {"p2p.a", "p2p.b"}
    graph = {
        "p2p.a": arrows("if TYPE_CHECKING:\n    from p2p.b import B", both),
        "p2p.b": arrows("def f():\n    from p2p import a", both),
    }
    with pytest.raises(CycleError):
        TopologicalSorter(graph).prepare()


@pytest.mark.parametrize("package", LEAVES)
def test_leaf_packages_import_nothing_of_ours(package: str) -> None:
    others = {*PACKAGES, "tests"} - {package}
    assert {path: names & others for path, names in imports(package).items() if names & others} == {}


def test_experiments_do_not_import_tests() -> None:
    assert [path for path, names in imports("experiments").items() if "tests" in names] == []


@pytest.mark.parametrize(("library", "home"), ONLY_IN.items())
def test_few_files_know_the_library(library: str, home: tuple[str, ...]) -> None:
    knowing = [path for package in PACKAGES for path, names in imports(package).items() if library in names]
    assert set(knowing) <= set(home)


def test_no_file_collects_leftovers() -> None:
    paths = [path for package in PACKAGES for path in imports(package)]
    assert [path for path in paths if Path(path).stem in ("utils", "util", "helpers", "misc", "common")] == []


def parameters(source: str) -> Iterator[tuple[str, int]]:
    """Yield every function's name and how many parameters it has beside `self` or `cls`."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)):
            given = node.args
            named = [*given.posonlyargs, *given.args, *given.kwonlyargs, given.vararg, given.kwarg]
            names = [one.arg for one in named if one is not None]
            yield (
                getattr(node, "name", "lambda"),
                len([name for name in names if name not in ("self", "cls")]),
            )


def test_no_function_of_the_engine_is_told_too_much() -> None:
    files = sorted((ROOT / "p2p").rglob("*.py"))
    told = {
        f"{file.relative_to(ROOT).as_posix()}: {name}"
        for file in files
        for name, count in parameters(file.read_text(encoding="utf-8"))
        if count > MOST_PARAMETERS
    }
    assert told == set(MAY_HAVE_MORE)


@pytest.mark.parametrize(
    "source",
    [
        "def f(a, b, c): pass",
        "class A:\n    def f(self, a, b, *, c): pass",
        "class A:\n    @classmethod\n    async def f(cls, a, /, *b, **c): pass",
        "def outer():\n    def f(a, b=0, *, c=None): pass",
    ],
)
def test_every_parameter_is_counted(source: str) -> None:
    assert ("f", 3) in parameters(source)


@pytest.mark.parametrize(
    "source",
    [
        "import wandb",
        "import os, wandb.sdk as sdk",
        "from wandb.sdk import x",
        "def f():\n    import wandb",
        "if TYPE_CHECKING:\n    import wandb",
        "importlib.import_module('wandb.sdk')",
    ],
)
def test_every_way_to_import_is_seen(source: str) -> None:
    assert "wandb" in imported(source)


def test_names_that_only_look_alike_are_not_imports() -> None:
    assert list(imported("wandb = 1\nfrom . import wandb\nprint('import wandb')")) == []
