"""A run of Prompt-to-Prompt, LocalBlend, SDEdit, an inversion, a mask, an ideal and another pipeline, beside
what it held before: whatever moves, its files, keys, pictures and numbers stay.
"""

import json
from typing import Any

import pytest
from hydra.core.global_hydra import GlobalHydra

import experiments.run
from tests.experiments.mixed_run import STORED, STORES, overrides, told

pytestmark = pytest.mark.xdist_group("mixed_run")

Told = dict[str, Any]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Told:
    folder = tmp_path_factory.mktemp("mixed")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.argv", ["p2p-bench", "run", *overrides(folder)])
        GlobalHydra.instance().clear()
        experiments.run.main()
    return told(folder / "run", folder)


@pytest.fixture(scope="module")
def stored() -> Told:
    return json.loads(STORED.read_text())


def test_the_same_files(made: Told, stored: Told) -> None:
    assert made["files"] == stored["files"]


def test_the_same_pictures(made: Told, stored: Told) -> None:
    """Equal but for pixels that another processor's roundings put a level higher or lower."""
    assert made["pixels"].keys() == stored["pixels"].keys()
    for name, parts in made["pixels"].items():
        assert parts == pytest.approx(stored["pixels"][name], abs=0.05), name
    assert len(set(map(tuple, stored["pixels"].values()))) > 20  # else they would tell little


@pytest.mark.parametrize("store", STORES)
def test_the_same_rows(store: str, made: Told, stored: Told) -> None:
    """Equal but for metrics of pixels that are a level off, summed in an order that the processor chooses."""
    assert len(made[store]) == len(stored[store])
    for row, before in zip(made[store], stored[store], strict=True):
        assert row.keys() == before.keys()
        for name, value in row.items():
            assert value == about(before[name])


def about(value: object) -> object:
    return pytest.approx(value, rel=1e-4, abs=1e-6) if isinstance(value, float) else value
