"""A model as its YAML makes it."""

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.utils import instantiate

from experiments.run import CONF
from p2p import ModelSpec


def from_yaml(name: str, *overrides: str) -> ModelSpec:
    """Return what `model=name` and overrides such as "path=/tiny/pipeline" of its keys make."""
    GlobalHydra.instance().clear()
    changes = [f"{o[0]}model.{o[1:]}" if o[0] in "~+" else f"model.{o}" for o in overrides]
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = compose("config", overrides=[f"model={name}", "device=cpu", *changes])
    spec = instantiate(config.model, _convert_="all")
    assert isinstance(spec, ModelSpec)
    return spec
