"""Every YAML of conf/metrics builds metrics whose columns can stand side by side."""

import re
from pathlib import Path

import pytest
from hydra.utils import instantiate
from omegaconf import OmegaConf

FILES = sorted((Path(__file__).parents[2] / "conf" / "metrics").glob("*.yaml"))


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_builds_without_weights(file: Path) -> None:
    metrics = instantiate(OmegaConf.load(file), _convert_="all")
    names = [name for metric in metrics.values() for name in metric.names]
    assert len(set(names)) == len(names) > 0
    for name in [*names, *(metric.name for metric in metrics.values())]:
        assert re.fullmatch(r"[\w.-]+@\d+", name)
    for metric in metrics.values():
        assert set(metric.higher_is_better) <= set(metric.names)


def test_the_device_of_the_run_is_taken() -> None:
    config = OmegaConf.create(
        {"device": "cuda", "metrics": OmegaConf.load(FILES[0].with_name("standard.yaml"))}
    )
    assert all(metric.device == "cuda" for metric in instantiate(config.metrics, _convert_="all").values())
