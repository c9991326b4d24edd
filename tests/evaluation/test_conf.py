"""Every YAML of conf/metrics builds metrics whose columns can stand side by side."""

import re
from pathlib import Path
from typing import Any

import pytest
from hydra.utils import instantiate
from omegaconf import OmegaConf

FOLDER = Path(__file__).parents[2] / "conf" / "metrics"


def _build(file: Path, device: str = "cpu") -> dict[str, Any]:
    config = OmegaConf.create({"metrics_device": device, "metrics": OmegaConf.load(file)})
    return instantiate(config.metrics, _convert_="all")


@pytest.mark.parametrize("file", sorted(FOLDER.glob("*.yaml")), ids=lambda file: file.stem)
def test_builds_without_weights(file: Path) -> None:
    metrics = _build(file).values()
    names = [name for metric in metrics for name in metric.names]
    assert len(set(names)) == len(names) > 0
    for name in [*names, *(metric.name for metric in metrics)]:
        assert re.fullmatch(r"((pie|ideal|judge)/)?[\w.-]+@\d+", name)
    for metric in metrics:
        assert set(metric.higher_is_better) <= set(metric.names)


@pytest.mark.parametrize("name", ["standard", "pie", "pie_embedded"])
def test_the_device_of_the_run_is_taken(name: str) -> None:
    assert {metric.device for metric in _build(FOLDER / f"{name}.yaml", "cuda").values()} == {"cuda"}
