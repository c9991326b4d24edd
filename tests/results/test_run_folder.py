"""The paths of a run folder and the columns of its records are those that README lists; records name pictures
inside of it.
"""

import inspect
import re
from pathlib import Path, PurePosixPath

import pytest

from results.store.records import RECORD_TYPES
from results.store.run_folder import RunFolder, ideal_path, ideals_folder, pair_folder, picture_path

README = (Path(__file__).parents[2] / "results" / "README.md").read_text()
NAMES = {"family": "<family@version>", "asked": "<asked>"}


def made() -> dict[str, str]:
    """Return every path that a run folder has, by the name of what makes it, as README writes them."""
    folder = RunFolder("runs/quickstart")
    paths = {}
    for name, member in vars(RunFolder).items():
        if isinstance(member, property):
            paths[name] = getattr(folder, name)
        elif not name.startswith("_"):
            parameters = list(inspect.signature(getattr(folder, name)).parameters)
            paths[name] = getattr(folder, name)(*(NAMES[parameter] for parameter in parameters))
    pair = pair_folder("<pair>")
    pictures = {
        "mask": picture_path(pair, "mask", "*"),
        "ideal": ideal_path(ideals_folder(pair, "*"), 0).replace("000", "*"),
        "edit": picture_path(pair_folder("<pair>", "<seed>"), "p2p", "*").replace("p2p-*", "*"),
    }
    return {name: str(path) for name, path in paths.items()} | {
        name: f"runs/quickstart/{path}" for name, path in pictures.items()
    }


def test_readme_lists_every_path_and_no_other() -> None:
    listed = {path.rstrip("/") for path in re.findall(r"^    (runs/quickstart/\S+)", README, re.MULTILINE)}
    paths = set(made().values())
    above = {str(parent) for path in listed for parent in PurePosixPath(path).parents}
    inside = {f"tables/{name}" for name in re.findall(r"tables/(summary\.\w+)", README)}
    assert paths - listed - above == {f"runs/quickstart/{path}" for path in inside}
    # A file named after its content has its folder here.
    assert {path for path in listed - paths if not path.endswith("/*.parquet")} == set()
    assert {path.removesuffix("/*.parquet") for path in listed - paths} <= paths


def test_readme_tells_every_column_of_the_records_and_no_other() -> None:
    [section] = re.findall(r"^## Records\n(.*?)^## ", README, re.MULTILINE | re.DOTALL)
    cells = re.findall(r"^\| (`.*?`) \| ", section, re.MULTILINE)
    assert sorted(re.findall(r"`(\w+)`", " ".join(cells))) == sorted(RECORD_TYPES)


def test_the_name_of_a_picture_holds_the_beginning_of_its_key() -> None:
    path = picture_path(pair_folder("cat-0123456789", 7), "p2p", "f" * 16 + "0" * 48)
    assert path == f"images/cat-0123456789/7/p2p-{'f' * 16}.png"


@pytest.mark.parametrize(
    ("method", "params", "name"),
    [
        ("p2p", {"tau": 0.4}, "p2p-tau0.4"),
        ("mine", {"x": 20240101, "y": 1e30, "z": 1e-30}, "mine-x20240101-y1e30-z1e-30"),
        ("p2p", {"tau": 1, "local_blend": True}, "p2p-tau1-local_blend-true"),
        ("p2p", {"cross_replace_steps": [0.2, 1.0]}, "p2p-cross_replace_steps-0.2-1"),
        ("p2p", {"weights": {"Dog": 2.0, "../x": 1}}, "p2p-weights-dog2-..-x1"),
        ("p2p", {"operator": "refine", "tau": {"default_": 0.2}}, "p2p-operator-refine-tau-default_0.2"),
        ("Mine", {"path": "/home/me/weights", "note": "a text of more words"}, "mine"),
        ("a/b: \n*", {}, "a-b"),
        ("m" * 90, {"tau": 0.5}, "m" * 60),
    ],
)
def test_the_name_of_a_picture_tells_its_setting_in_safe_letters(
    method: str, params: dict[str, object], name: str
) -> None:
    path = picture_path("images/cat", method, "f" * 64, params)
    assert path == f"images/cat/{name}-{'f' * 16}.png"
    assert re.fullmatch(r"[a-z0-9._/-]{1,100}", path)


@pytest.mark.parametrize("root", ["runs/one", Path("runs/one")])
def test_a_family_with_a_slash_is_a_folder_in_a_folder(root: str | Path) -> None:
    assert RunFolder(root).metrics_folder("pie/lpips@1") == Path("runs/one/metrics/pie/lpips@1")
