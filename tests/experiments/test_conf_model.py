"""Every model's YAML composes and instantiates, whether or not its weights are on this machine."""

from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate

from experiments.run import CONF
from p2p import ModelSpec


@pytest.mark.parametrize("file", sorted((CONF / "model").glob("*.yaml")), ids=lambda file: file.stem)
def test_a_model_composes_and_instantiates(file: Path) -> None:
    overrides = [f"model={file.stem}", "device=cpu"]
    if file.stem == "folder":
        overrides.append("model.path=/my/pipeline")
    with initialize_config_dir(str(CONF.resolve()), version_base=None):
        spec = instantiate(compose("config", overrides).model, _convert_="all")
    assert isinstance(spec, ModelSpec)
    assert spec.name == file.stem
    assert spec.device == "cpu"
