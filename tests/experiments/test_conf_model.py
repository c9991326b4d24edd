"""Every model's YAML composes and instantiates, whether or not its weights are on this machine."""

from pathlib import Path

import pytest

from experiments.run import CONF
from tests.p2p.families.yamls import from_yaml


@pytest.mark.parametrize("file", sorted((CONF / "model").glob("*.yaml")), ids=lambda file: file.stem)
def test_a_model_composes_and_instantiates(file: Path) -> None:
    spec = from_yaml(file.stem, *(["path=/my/pipeline"] if file.stem == "folder" else []))
    assert spec.name == file.stem
    assert spec.device == "cpu"
