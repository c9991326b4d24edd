"""Folders that are not what the configuration takes them for: one line, before anything is computed."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.experiments.command import PAIR, Cli, on_tiny


@pytest.fixture
def folder(tiny_folder: Path, tmp_path: Path) -> Path:
    """A copy of the tiny pipeline, to be changed."""
    return shutil.copytree(tiny_folder, tmp_path / "pipeline")


def change(file: Path, **changes: Any) -> None:
    """Change a JSON file; None takes a key out."""
    content = json.loads(file.read_text()) | changes
    file.write_text(json.dumps({name: value for name, value in content.items() if value is not None}))


def refusal(cli: Cli, capsys: pytest.CaptureFixture[str], command: str, *overrides: str) -> str:
    """Return the one line of a command that is refused."""
    capsys.readouterr()
    assert cli(command, *overrides) == 2
    lines = capsys.readouterr().err.splitlines()
    [line] = [line for line in lines if line.startswith("error: ")]
    return line


@pytest.mark.parametrize(
    ("model", "own", "message"),
    [
        ("sd21", {}, "prediction_type: 'v_prediction' was written for other weights, {} has 'epsilon'"),
        (
            "sdxl",
            {"timestep_spacing": "trailing"},
            "timestep_spacing: 'leading' was written for other weights, {} has 'trailing'",
        ),
        (
            "sdxl",
            {"_class_name": "EulerAncestralDiscreteScheduler", "timestep_spacing": None},
            "timestep_spacing: 'leading' was written for other weights, {} has 'linspace'",
        ),
    ],
)
def test_a_scheduler_that_was_written_for_other_weights_is_refused_unless_it_is_asked_for(
    model: str,
    own: dict[str, Any],
    message: str,
    cli: Cli,
    folder: Path,
    run_dir: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    change(folder / "scheduler" / "scheduler_config.json", **own)
    tiny = [*on_tiny(folder, run_dir), *PAIR]
    its = [f"model={model}", "model.pipeline=StableDiffusionPipeline", "model.blend_side=16"]
    its = ["+" * ("pipeline" in one and model == "sd21") + one for one in [*its, "model.self_max_side=16"]]
    tiny = [one for one in tiny if one != "model=folder"]
    for command in ("plan", "run"):
        line = refusal(cli, capsys, command, *tiny, *its)
        assert message.format(repr(str(folder))) in line
    name = message.partition(":")[0]
    value = {"prediction_type": "v_prediction", "timestep_spacing": "leading"}[name]
    assert cli("plan", *tiny, *its, f"model.scheduler_config.{name}={value}") == 0
    assert cli("plan", *tiny, "model=folder", f"+model.scheduler_config.{name}={value}") == 0


@pytest.mark.parametrize("own", ["PNDMScheduler", "EulerDiscreteScheduler"])
def test_the_published_settings_of_a_model_go_on_top_of_a_folder(
    own: str, cli: Cli, folder: Path, run_dir: Path
) -> None:
    settings = {"_class_name": own, "steps_offset": 0, "timestep_spacing": None, "skip_prk_steps": True}
    change(folder / "scheduler" / "scheduler_config.json", **settings)
    tiny = [one for one in (*on_tiny(folder, run_dir), *PAIR) if one != "model=folder"]
    assert cli("plan", *tiny, "model=sd14", "model.blend_side=16") == 0
