"""What a sweeper gets from a job: the mean of its objective, or an error where that is undefined."""

import shutil
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from hydra._internal.hydra import Hydra
from hydra._internal.utils import create_config_search_path
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import MissingConfigException
from omegaconf import OmegaConf

import experiments.configured
import experiments.hydra_errors
import experiments.run
from experiments.job import check_search
from results.store.records import load, load_metrics, write_metrics
from tests.experiments.command import Cli, call_task


def returned(*overrides: str) -> Any:
    """Launch the task as Hydra does under multirun; return what a sweeper gets of its one job."""
    GlobalHydra.instance().clear()
    path = create_config_search_path(str(experiments.run.CONF))
    hydra = Hydra.create_main_hydra2(task_name="run", config_search_path=path)
    [[job]] = hydra.multirun("config", experiments.run._run, list(overrides), with_log_configuration=False)
    return job.return_value


def test_a_job_returns_the_mean_over_pairs_of_what_it_is_searched_for(
    tiny: list[str], complete_run: Path
) -> None:
    sweep = [one for one in tiny if "grid.methods" not in one and one != "grid=trade_off"]
    sweep += [f"hydra.sweep.dir={complete_run}/hydra", "grid=single", "tau=0"]
    rows = load(complete_run).query("method == 'p2p' and tau == 0")
    assert returned(*sweep, "objective=mse@1") == pytest.approx(rows["mse@1"].mean())
    both = returned(*sweep, "objective=[mse@1,ssim@3]")
    assert both == pytest.approx((rows["mse@1"].mean(), rows["ssim@3"].mean()))
    assert returned(*sweep) is None


def test_an_undefined_objective_is_an_error_and_no_number(
    cli: Cli, tiny: list[str], complete_run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    values = load_metrics(complete_run).assign(value=float("nan"), reason="an empty mask")
    shutil.rmtree(complete_run / "metrics")
    write_metrics(complete_run, "pixel@3", values)
    assert cli("run", *tiny, "objective=mse@1") == 1
    assert "error: objective: mse@1 is undefined for all 3 edits (an empty mask)" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["objective=lpips"], "objective: 'lpips' is not computed, allowed are "),
        (["objective=[mse@1,2]"], "objective: ['mse@1', 2] is no metric"),
        (["objective=mse@1", "shard=0/2"], "objective: a shard has a part of the pairs alone"),
        (["objective=mse@1", "tau=auto", "auto_tau.target.metric=mse@1"], "objective: tau=auto chooses"),
    ],
)
def test_an_objective_that_no_job_can_give_is_refused(
    overrides: list[str], message: str, tiny: list[str], run_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call_task(*tiny, *overrides) == 2
    assert message in capsys.readouterr().err
    assert not (run_dir / "records").exists()


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ([], ""),
        (["maximize", "minimize"], ""),
        (["minimize", "minimize"], "hydra.sweeper.direction: minimize for ssim@3, allowed is maximize"),
        (["maximize", "maximize"], "hydra.sweeper.direction: maximize for mse@1, allowed is minimize"),
        (["maximize"], r"objective: 2 metrics, while hydra.sweeper.direction has 1 entries \(maximize\)"),
    ],
)
def test_a_search_for_the_worst_of_a_metric_is_refused(
    asked: list[str], message: str, tiny: list[str]
) -> None:
    GlobalHydra.instance().clear()
    overrides = [*tiny, "objective=[ssim@3,mse@1]"]
    with initialize_config_dir(str(experiments.run.CONF), version_base="1.3"):
        config = compose("config", overrides, return_hydra_config=True)
    HydraConfig.instance().set_config(config)
    OmegaConf.set_struct(config, False)
    own = [key for key in config if key != "hydra"]
    job = experiments.configured.job_of(OmegaConf.masked_copy(config, own))
    if not message:
        check_search(job, asked)
    else:
        with pytest.raises(ValueError, match=message):
            check_search(job, asked)


@pytest.mark.parametrize(
    ("missing", "extra"),
    [
        ("hydra/sweeper/optuna", "optuna"),
        ("hydra/launcher/submitit_slurm", "slurm"),
        ("hydra/launcher/joblib", "joblib"),
    ],
)
def test_what_is_not_installed_is_named_with_its_extra(missing: str, extra: str) -> None:
    told = experiments.hydra_errors.told_of_hydra(MissingConfigException("", missing))
    assert told.endswith(f": needs the extra {extra}: pip install 'p2p-bench[{extra}]'")


def test_jobs_that_a_sweeper_went_on_beyond_are_told_at_the_end(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def tolerant(**_: Any) -> Any:
        """Stand for Hydra under a sweeper that books failures and goes on."""
        return lambda task: lambda: experiments.run._failed_jobs.append("job 3: no room")

    monkeypatch.setattr(experiments.run.hydra, "main", tolerant)
    with pytest.raises(SystemExit) as stop:
        experiments.run._with_hydra(experiments.run._run)
    assert stop.value.code == 1
    assert capsys.readouterr().err == "error: 1 jobs failed, the first: job 3: no room\n"
