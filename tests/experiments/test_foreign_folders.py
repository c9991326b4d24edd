"""Folders that are not what the configuration takes them for: one line, before anything is computed."""

import importlib.metadata
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from p2p import ModelSpec
from p2p.loading.pipeline_files import PipelineFiles
from results.store.records import load_records
from tests.experiments.command import PAIR, Cli, on_tiny
from tests.p2p.test_lora_files import half_misspelt, layers, saved, wider

__all__ = ["layers"]  # a fixture


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
        ("sd_turbo", {}, "timestep_spacing: 'trailing' was written for other weights, {} has 'leading'"),
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
    new = "+" * (model != "sdxl")  # the others state no pipeline
    its = [new * ("pipeline" in one) + one for one in [*its, "model.self_max_side=16"]]
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


@pytest.mark.parametrize(
    ("file", "changes", "message"),
    [
        (
            "model_index.json",
            {"_class_name": "StableDiffusionXLPipeline"},
            "it holds a StableDiffusionXLPipeline, the model's pipeline is StableDiffusionPipeline; "
            "allowed is model.pipeline=StableDiffusionXLPipeline",
        ),
        ("unet/config.json", {"in_channels": 9}, "its denoiser takes 9 channels, its latents have 4"),
        ("unet/config.json", {"in_channels": 8}, "its denoiser takes 8 channels, its latents have 4"),
        (
            "unet/config.json",
            {"quantization_config": {"quant_method": "bitsandbytes", "load_in_4bit": True}},
            "its unet is quantised (bitsandbytes), for which the package bitsandbytes is missing",
        ),
        (
            "text_encoder/config.json",
            {"quantization_config": {"quant_method": "gguf"}},
            "its text_encoder is quantised (gguf), for which the package gguf is missing",
        ),
    ],
)
def test_a_folder_that_cannot_be_run_is_one_line_of_the_plan(
    file: str,
    changes: dict[str, Any],
    message: str,
    cli: Cli,
    folder: Path,
    run_dir: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    change(folder / file, **changes)
    line = refusal(cli, capsys, "plan", *on_tiny(folder, run_dir), *PAIR)
    assert line.startswith(f"error: model folder: {str(folder)!r} cannot be run, ")
    assert message in line
    with pytest.raises(ValueError, match="cannot be run"):
        ModelSpec("python", str(folder), 16, 16, device="cpu").load()


def test_a_folder_without_a_tokenizer_as_sdxls_refiner_is_one_line(
    cli: Cli, folder: Path, run_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.rmtree(folder / "tokenizer")
    change(
        folder / "model_index.json", tokenizer=[None, None], _class_name="StableDiffusionXLImg2ImgPipeline"
    )
    line = refusal(
        cli, capsys, "plan", *on_tiny(folder, run_dir), *PAIR, "model.pipeline=StableDiffusionXLPipeline"
    )
    assert "it has no tokenizer, by which StableDiffusionXLPipeline reads its prompts" in line


def test_a_missing_package_is_one_line_whatever_diffusers_raises(tmp_path: Path) -> None:
    def missing() -> None:
        raise importlib.metadata.PackageNotFoundError("bitsandbytes")

    files = PipelineFiles("model quantised", "somewhere", lambda: None, {})
    with pytest.raises(OSError, match="model quantised: no weights at 'somewhere'.*bitsandbytes"):
        files.checked(missing)


@pytest.mark.usefixtures("no_tables")
@pytest.mark.parametrize("kind", ["LatentConsistencyModelPipeline", "MyOwnPipeline"])
def test_an_unknown_class_and_a_pruned_safety_checker_load(
    kind: str, cli: Cli, folder: Path, run_dir: Path
) -> None:
    pruned = {"feature_extractor": ["transformers", "CLIPImageProcessor"]}
    checker = ["stable_diffusion", "StableDiffusionSafetyChecker"]
    change(folder / "model_index.json", _class_name=kind, safety_checker=checker, **pruned)
    assert not (folder / "feature_extractor").exists()
    assert cli("run", *on_tiny(folder, run_dir), *PAIR) == 0
    assert (load_records(run_dir)["status"] == "ok").all()


@pytest.mark.usefixtures("no_tables")
def test_a_lora_of_which_layers_fit_nothing_is_told_in_the_records(
    layers: dict[str, Any], cli: Cli, tiny: list[str], run_dir: Path, tmp_path: Path
) -> None:
    file = saved(tmp_path, half_misspelt(layers))
    assert cli("run", *tiny, f"model.loras=[{{path: {file}}}]") == 0
    assert set(load_records(run_dir)["warnings"]) == {f"{file}: 8 of 28 layers of this LoRA fit nothing"}


def test_a_lora_of_another_width_is_one_line(
    layers: dict[str, Any], cli: Cli, tiny: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = saved(tmp_path, wider(layers))
    line = refusal(cli, capsys, "run", *tiny, f"model.loras=[{{path: {file}}}]")
    assert f"loras: {str(file)!r} does not fit" in line


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("scheduler/scheduler_config.json", "{}", "scheduler: None is no scheduler of diffusers"),
        (
            "scheduler/scheduler_config.json",
            "null",
            "scheduler_config.json: holds NoneType, allowed is",
        ),
        (
            "scheduler/scheduler_config.json",
            '{"_class_name": 2.1}',
            "scheduler: 2.1 is no scheduler of",
        ),
        (
            "model_index.json",
            '{"unet": ["diffusers", "UNet2DConditionModel"]}',
            "names no class ('_class_name",
        ),
        ("model_index.json", "{", "model_index.json: is not JSON (Expecting property name"),
        ("unet/config.json", "[1]", "unet/config.json: holds list, allowed is a JSON object"),
        ("unet/config.json", '{"sample_size": null}', "its UNet tells no size (sample_size); allowed are"),
    ],
)
def test_a_file_of_a_folder_that_is_not_what_it_should_be_is_named(
    file: str,
    content: str,
    message: str,
    cli: Cli,
    folder: Path,
    run_dir: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (folder / file).write_text(content)
    tiny = [*on_tiny(folder, run_dir), *PAIR]
    assert message in refusal(cli, capsys, "plan", *tiny)
