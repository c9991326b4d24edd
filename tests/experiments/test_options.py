"""Every option that can be chosen composes, instantiates and is listed."""

from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from omegaconf import OmegaConf

import experiments.run
from tests.experiments.command import Cli


def test_each_experiment_has_a_run_folder_of_its_own() -> None:
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(experiments.run.CONF), version_base="1.3"):
        for file in (experiments.run.CONF / "experiment").glob("*.yaml"):
            assert compose("config", [f"experiment={file.stem}"]).run_dir == f"runs/{file.stem}"
        assert compose("config", ["experiment=quickstart", "name=mine"]).run_dir == "runs/mine"


def _options() -> list[str]:
    conf = experiments.run.CONF
    return [
        f"{group}={file.stem}"
        for group in experiments.run.GROUPS
        if group != "method"
        for file in sorted((conf / group).glob("*.yaml"))
    ]


@pytest.mark.parametrize("option", _options())
def test_every_option_composes_and_instantiates(option: str) -> None:
    GlobalHydra.instance().clear()
    needed = {
        "dataset=inline": ["dataset.source_prompt=a", "dataset.target_prompt=b"],
        "dataset=table": ["dataset.path=pairs.csv"],
        "model=folder": ["model.path=somewhere"],
        "dataset=pie_bench": ["dataset.path=somewhere"],
        "experiment=pie_bench_main": ["dataset.path=somewhere"],
        "dataset=pie_bench_pp": ["dataset.path=somewhere"],
        "dataset=ti2i": ["dataset.path=a.yaml"],
        "dataset=caption_pairs": ["dataset.path=a.csv", "dataset.images=somewhere"],
        "dataset=magicbrush": ["dataset.path=somewhere", "dataset.captions=a.json"],
        "dataset=emu_edit": ["dataset.path=somewhere"],
        "dataset=tedbench": ["dataset.path=somewhere"],
        "dataset=instruct_prompts": ["dataset.path=a.jsonl"],
    }
    with initialize_config_dir(str(experiments.run.CONF), version_base="1.3"):
        config = compose("config", overrides=[option, *needed.get(option, [])])
    OmegaConf.set_struct(config, False)
    plain = OmegaConf.to_container(
        OmegaConf.masked_copy(config, [k for k in config if k != "hydra"]), resolve=True
    )
    assert isinstance(plain, dict)
    for key in ("model", "dataset", "inversion", "metrics", "tracking", "sampling", "auto_tau"):
        experiments.run._instantiate(key, plain[key])


@pytest.mark.parametrize(
    "file", sorted((experiments.run.CONF / "method").glob("*.yaml")), ids=lambda f: f.stem
)
def test_every_method_instantiates(file: Path) -> None:
    method = experiments.run._instantiate("method", OmegaConf.to_container(OmegaConf.load(file)))
    assert method.name in (file.stem, "external")  # other pipelines share a class


def test_ls_lists_every_option_with_its_first_line(cli: Cli, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli("ls") == 0
    out = capsys.readouterr().out
    for option in _options():
        assert option.split("=")[1] in out
    assert all(len(line.split()) > 3 for line in out.splitlines() if line.startswith("  "))


def test_a_job_on_slurm_gets_more_than_the_hour_that_submitit_gives() -> None:
    launcher = OmegaConf.load(experiments.run.CONF / "hydra" / "launcher" / "p2p_submitit.yaml")
    assert launcher.defaults == ["submitit_slurm"]
    assert launcher.timeout_min == 24 * 60


def test_a_launcher_that_is_not_installed_is_one_line(cli: Cli, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli("run", "-m", "hydra/launcher=nowhere") == 2
    assert len(capsys.readouterr().err.splitlines()) == 1
