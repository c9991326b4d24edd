"""Every option that can be chosen composes, instantiates and is listed."""

import re
import tomllib
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from omegaconf import OmegaConf

import experiments.configured
import experiments.options
import experiments.run
from tests.experiments.command import Cli


def test_a_run_s_folder_is_named_by_its_name() -> None:
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(experiments.run.CONF), version_base="1.3"):
        assert compose("config", ["experiment=quickstart", "name=mine"]).run_dir == "runs/mine"


def _options() -> list[str]:
    conf = experiments.run.CONF
    return [
        f"{group}={file.stem}"
        for group in experiments.options.GROUPS
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
        "experiment=pie_bench_few_step": ["dataset.path=somewhere"],
        "experiment=pie_bench_flow": ["dataset.path=somewhere"],
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
        experiments.configured.instantiated(key, plain[key])
    group, _, name = option.partition("=")
    assert group != "experiment" or plain["run_dir"] == f"runs/{name}", "each has a folder of its own"


@pytest.mark.parametrize(
    "file", sorted((experiments.run.CONF / "method").glob("*.yaml")), ids=lambda f: f.stem
)
def test_every_method_instantiates(file: Path) -> None:
    method = experiments.configured.instantiated("method", OmegaConf.to_container(OmegaConf.load(file)))
    assert method.name in (file.stem, "external")  # other pipelines share a class


def test_ls_lists_every_option_with_its_first_line(cli: Cli, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli("ls") == 0
    out = capsys.readouterr().out
    for option in _options():
        assert option.split("=")[1] in out
    assert all(len(line.split()) > 3 for line in out.splitlines() if re.match("  [a-z]", line))


@pytest.mark.parametrize(
    "file", sorted((experiments.run.CONF / "metrics").glob("*.yaml")), ids=lambda file: file.stem
)
def test_ls_tells_the_names_of_metrics(file: Path) -> None:
    nodes = OmegaConf.to_container(OmegaConf.load(file))
    assert isinstance(nodes, dict)
    metrics = [
        experiments.configured.instantiated(
            "metrics.one", {**node, **({"device": "cpu"} if "device" in node else {})}
        )
        for node in nodes.values()
    ]
    _, *notes = experiments.options.notes_of(file)
    assert " ".join(notes) == "Gives " + ", ".join(name for metric in metrics for name in metric.names)
    assert all(note in experiments.options.list_options() for note in notes)


@pytest.mark.parametrize("flag", [["--config-dir", "{}"], ["--config-dir={}"], ["-cd", "{}"]])
def test_ls_lists_a_folder_of_ones_own(
    flag: list[str], cli: Cli, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "method").mkdir()
    (tmp_path / "method" / "mine.yaml").write_text("# An edit of my own.\n_target_: mine.Mine\n")
    assert cli("ls", *(part.format(tmp_path) for part in flag)) == 0
    assert "  mine                 An edit of my own." in capsys.readouterr().out.splitlines()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--config-dir", "/nowhere"], "--config-dir: there is no folder '/nowhere'"),
        (["model"], "model: no such folder; `p2p-bench ls` alone lists what can be chosen"),
    ],
)
def test_ls_refuses_what_it_cannot_list(
    arguments: list[str], message: str, cli: Cli, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli("ls", *arguments) == 2
    assert capsys.readouterr().err == f"error: {message}\n"


def test_the_version_is_the_packages(cli: Cli, capsys: pytest.CaptureFixture[str]) -> None:
    project = tomllib.loads((experiments.run.CONF.parent / "pyproject.toml").read_text())["project"]
    assert cli("--version") == 0
    assert capsys.readouterr().out in (f"p2p-bench {project['version']}\n", "p2p-bench (not installed)\n")


@pytest.mark.parametrize("command", ["run", "plan"])
def test_help_has_a_word_for_each_key(command: str, cli: Cli, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli(command, "--help") == 0
    told, _, config = capsys.readouterr().out.partition("With what this call gives:")
    keys = {*re.findall(r"^(\w+):", config, re.MULTILINE)}
    assert keys >= {"model", "tau", "shard", "shards", "metrics_device"}
    assert all(re.search(rf"^  .*\b{key}\b", told, re.MULTILINE) for key in keys)
    assert "powered by" not in told


def test_a_job_on_slurm_has_more_than_an_hour_and_goes_on_at_its_end() -> None:
    launcher = OmegaConf.load(experiments.run.CONF / "hydra" / "launcher" / "p2p_slurm.yaml")
    assert launcher.defaults == ["submitit_slurm"]
    assert launcher.timeout_min == 24 * 60
    # submitit takes every signal in the last ten minutes for the limit's, and gives up at no retry left.
    assert launcher.max_num_timeout > 0
    assert launcher.gpus_per_node == 1


def test_a_launcher_that_is_not_installed_is_one_line(cli: Cli, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli("run", "-m", "hydra/launcher=nowhere") == 2
    assert len(capsys.readouterr().err.splitlines()) == 1


@pytest.mark.parametrize("flags", [["-m", "seed=0,1"], ["seed=0,1", "-m"]])
def test_flags_stand_anywhere(flags: list[str], cli: Cli, capsys: pytest.CaptureFixture[str]) -> None:
    """Hydra (1.3) itself takes overrides on one side of a flag alone."""
    assert cli("plan", "dataset.limit=1", *flags) == 0
    assert capsys.readouterr().out.count("1 pairs x 1 seeds") == 2
    assert cli("run", "seed=[7]", "--cfg", "job", "dataset.limit=9") == 0
    assert "limit: 9" in capsys.readouterr().out


def test_a_plan_leaves_no_trace_whatever_hydra_is_told(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The arguments of a run may be those of its plan: where Hydra writes, and that it keeps a log."""
    monkeypatch.chdir(tmp_path)
    told = ["hydra.run.dir=out", "hydra.output_subdir=.hydra", "hydra/job_logging=default"]
    assert cli("plan", "dataset.limit=1", *told) == 0
    assert cli("plan", "dataset.limit=1", "hydra.sweep.dir=sweep", "-m", "seed=0,1") == 0
    assert not [*tmp_path.iterdir()]


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        (["--multirn"], "unrecognized arguments: --multirn"),
        (["--cfg", "jobs"], "argument --cfg/-c: invalid choice: 'jobs'"),
        (["seed=0", "--config-dir"], "argument --config-dir/-cd: expected one argument"),
    ],
)
@pytest.mark.parametrize("command", ["run", "plan"])
def test_a_wrong_flag_is_one_line(
    command: str, wrong: list[str], told: str, cli: Cli, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli(command, *wrong) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: {told}")


@pytest.mark.parametrize(("metrics", "told"), [("embedded", True), ("pixel", False)])
def test_metrics_of_the_small_world_are_told_where_the_model_is_of_another(
    metrics: str, told: bool, cli: Cli, tiny: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli("plan", *tiny, f"metrics={metrics}") == 0
    assert ("metrics=standard has CLIP and LPIPS as published" in capsys.readouterr().err) == told
    assert cli("plan", "dataset.limit=1") == 0
    assert not capsys.readouterr().err
