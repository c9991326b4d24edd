"""Every model's YAML composes and instantiates, whether or not its weights are on this machine."""

from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.utils import instantiate

from experiments.run import CONF
from tests.p2p.families.yamls import from_yaml


@pytest.mark.parametrize("file", sorted((CONF / "model").glob("*.yaml")), ids=lambda file: file.stem)
def test_a_model_composes_and_instantiates(file: Path) -> None:
    spec = from_yaml(file.stem, *(["path=/my/pipeline"] if file.stem == "folder" else []))
    assert spec.name == file.stem
    assert spec.device == "cpu"


OWN_SAMPLING = {
    "embedded_flow": (28, 3),
    "lcm": (4, 8.5),
    "lcm_guided": (15, 2),
    "sd_turbo": (4, 1),
    "sdxl_turbo": (4, 1),
    "sd35_medium": (40, 4.5),
    "sd35_large": (28, 3.5),
    "sd35_large_turbo": (4, 1),
    "flux_schnell": (4, 1),
    "phantoms": (50, 4),
}


@pytest.mark.parametrize("name", [*OWN_SAMPLING, "sd14"])
def test_a_model_may_have_steps_and_guidance_of_its_own(name: str) -> None:
    steps, scale = OWN_SAMPLING.get(name, (50, 7.5))
    assert composed(f"model={name}") == (steps, scale)
    assert composed(f"model={name}", "sampling.num_inference_steps=2") == (2, scale)  # the command line's


def test_an_experiments_steps_win_over_a_models() -> None:
    assert composed("experiment=tau_sweep", "model=sd_turbo") == (4, 1)
    assert composed("experiment=quickstart", "model=sd_turbo") == (30, 1)


def composed(*overrides: str) -> tuple[int, float]:
    """Return steps and guidance scale of what the overrides compose to."""
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        sampling = instantiate(compose("config", overrides=list(overrides)).sampling)
    return sampling.num_inference_steps, sampling.guidance_scale
