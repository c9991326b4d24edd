"""What the command line refuses: one clear line and exit code 2, before anything is computed."""

from pathlib import Path

import pytest

from p2p import ModelSpec
from tests.experiments.command import Cli, call_task


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("dataset.target_prompt=a dog on a sunny bench", "operator"),
        ("dataset.weights={horse: 2}", "horse"),
        ("tau=1.5", "tau"),
        ("strength=0.01", "is no step"),
        ("model.path=/nowhere", "no weights at '/nowhere'"),
        ("+grid.methods.p2p.steps=3", "steps is no parameter, allowed are operator"),
        ("+grid.methods.imagic={}", "no method 'imagic', allowed are fixed_seed, "),
        ("+grid.methods.masactrl.start_step=9", "start_step: 9 of 4 steps, allowed are 0 to 4"),
        (
            "+grid.methods.masactrl={start_step: 0, start_layer: 9}",
            "start_layer: 9 is no self-attention layer of this UNet",
        ),
        ("+grid.methods.plug_and_play.feature_block=last", "feature_block: 'last' is not 'auto' or a whole"),
        ("seed=-1", "seeds: -1"),
        ("inversion=direct +grid.inversions=[ddim]", "inversion: the grid names inversions already"),
        ("seed=4294967296", "seeds: 4294967296"),
        ("dataset.blend_words=[dog, dog]", "blend_words: 'dog' is not in source_prompt"),
        ("+grid.methods.p2p.profile=community", "profile: 'community' is not one of 'google-stable'"),
        ("+grid.methods.p2p.blend_threshold=1.5", "blend_threshold: 1.5 is not in"),
        ("sampling.negative_prompt=" + "very " * 80 + "bad", "tokens, allowed are 77"),
        ("dataset.source_prompt=???", "source_prompt"),
        ("model.scheduler=HeunDiscreteScheduler", "HeunDiscreteScheduler calls the UNet 7 times"),
        ("shard=3/2", "shard: 3/2 is not i/n"),
        ("shard=4", "shard: 4 is not i/n"),
        (
            "+executor.workers=2",
            "executor: has keys with executor=ray alone, as in executor=ray executor.workers=2",
        ),
        (
            "+grid.methods.p2p.blocks=[[mid,up-32]]",
            "blocks: no layer of this UNet is in up-32, allowed are down",
        ),
        (
            "dataset.blend_words=[cat, dog] +grid.methods.p2p.blend_layers=up-32",
            "no layer of this UNet is in up-32, allowed are down",
        ),
        ("weights=abc", "weights: 'abc' is not a finite number"),
        ("weights=2", "weights = 2, but no pair re-weights a word"),
        ("device=foo", "device: 'foo' is not"),
        ("model.scheduler=UNet2DModel", "'UNet2DModel' is no scheduler"),
        ("dataset.per_type=abc", "per_type: 'abc'"),
        ("dataset.weights=2", "weights: 2 is not a mapping"),
        ("sampling.guidance_rescale=2", "guidance_rescale: 2 is not a number in [0, 1]"),
        ("sampling.guidance_scale=abc", "guidance_scale: 'abc' is not a finite number of at least 1"),
        ("strength=abc", "strength: 'abc'"),
        ("sampling.num_inference_steps=0", "num_inference_steps"),
        ("model.self_max_side=7", "self_max_side: 7 is no side"),
        ("plots=maybe", "plots: 'maybe' is not true or false"),
    ],
)
def test_bad_input_is_one_clear_error_before_anything_is_computed(
    override: str, message: str, tiny: list[str], run_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    more = ["operator=replace"] if message == "operator" else []
    given = override.split(" +") if " +" in override else [override]
    assert call_task(*tiny, given[0], *(f"+{one}" for one in given[1:]), *more) == 2
    error = capsys.readouterr().err.strip().splitlines()[-3:]
    assert message in "\n".join(error)
    assert not (run_dir / "records").exists()


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            ["auto_tau.target.metric=lpips_embedded@1"],
            "'lpips_embedded@1' is no metric of this run, allowed are",
        ),
        (["auto_tau.target=null"], "neither is given"),
        (["auto_tau.target.at_most=null"], "allowed is one of them"),
        (["auto_tau.target.metric=psnr@1"], "'psnr@1' is better where it is higher, allowed are mse@1"),
        (["auto_tau.target=null", "auto_tau.maximise=mse@1"], "'mse@1' is better where it is lower"),
        (["auto_tau.taus=[0,2]"], "taus: 2 is not a number in [0, 1]"),
    ],
)
def test_an_auto_tau_that_cannot_be_chosen_is_an_error_before_anything_is_computed(
    overrides: list[str], message: str, tiny: list[str], run_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call_task(*tiny, "tau=auto", "auto_tau.target.metric=mse@1", *overrides) == 2
    assert message in capsys.readouterr().err
    assert not (run_dir / "records").exists()


@pytest.mark.parametrize(
    ("override", "message"),
    [
        pytest.param("tau=1.5", "tau must be a number in [0, 1], got 1.5", id="as it is planned"),
        pytest.param("model.self_max_side=7", "self_max_side: 7 is no side", id="once the model is loaded"),
    ],
)
def test_a_refused_command_has_exit_code_2_and_says_why_on_standard_error(
    override: str, message: str, cli: Cli, tiny: list[str], run_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli("run", *tiny, override) == 2
    [line] = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert message in line
    assert not (run_dir / "records").exists()


def test_bad_input_under_multirun_says_so_in_one_line(
    cli: Cli, tiny: list[str], run_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli("run", "-m", *tiny, f"hydra.sweep.dir={run_dir}/hydra", "tau=0,2") == 1
    lines = capsys.readouterr().err.splitlines()
    assert sum(line.startswith("error: ") and "tau" in line for line in lines) == 1


def test_help_and_unknown_commands(cli: Cli, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli("--help") == 0
    assert "p2p-bench run" in capsys.readouterr().out
    assert cli("edit") == 2


def test_nothing_is_fetched_for_pairs_that_cannot_be_read(
    tiny_without_pair: list[str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    fetched: list[ModelSpec] = []
    monkeypatch.setattr(ModelSpec, "fetch", fetched.append)
    (tmp_path / "pairs.csv").write_text("id,source_prompt\none,a cat\n")
    assert call_task(*tiny_without_pair, "dataset=table", f"dataset.path={tmp_path / 'pairs.csv'}") == 2
    assert "target_prompt" in capsys.readouterr().err
    assert not fetched
