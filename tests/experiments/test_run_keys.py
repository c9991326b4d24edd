"""Keys and names of the command line: what nothing reads is one line, with the nearest there is."""

from pathlib import Path
from pkgutil import resolve_name

import pytest

import experiments.configured
from tests.experiments.command import Cli, call_task


def said(capsys: pytest.CaptureFixture[str]) -> str:
    """Return the one line of standard error."""
    [line] = capsys.readouterr().err.strip().splitlines()
    return line


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("+metric=lpips", "metric: no key of the configuration, did you mean metrics"),
        ("+foo=1", "foo: no key of the configuration"),
        ("+grid.tau=[0]", "grid.tau: no key of the configuration"),
        ("+grid.method.p2p.tau=[0]", "grid.method: no key of the configuration, did you mean grid.methods"),
        ("+metrics.mine.device=cpu", "metrics.mine: {'device': 'cpu'} names no `_target_`"),
        ("experimnt=quickstart", "experimnt: no key of the configuration, did you mean experiment"),
        ("dataset.limt=3", "dataset.limt: no key of the configuration, did you mean dataset.limit"),
        (
            "experiment=quikstart",
            "experiment=quikstart: there is none, did you mean quickstart, allowed are ",
        ),
        ("grid=tua", "grid=tua: there is none, did you mean tau, allowed are "),
        ("tau=[0,", "tau=[0,: "),
        ("+executor.foo=3", "executor: has keys with executor=ray alone"),
        ("+tracking.foo=3", "tracking: {'foo': 3} names no `_target_`"),
        ("~sampling", "sampling: is missing"),
        ("~grid.seeds", "grid.seeds: is missing"),
        ("model=null", "model=null: is not a name of those that"),
        ("~grid", "grid: is missing"),
        ("run_dir=null", "run_dir: None is no path"),
        ("cache_dir=5", "cache_dir: 5 is no path"),
        ("reference=5", "reference: 5 is not a list of names"),
        ("estimate=7", "estimate: 7 is not true or false"),
        ("tau=[]", "tau: [] has no value"),
        ("+model.revison=main", "model: revison is no parameter, did you mean revision, allowed are name, "),
        ("+grid.methods.fixed_sed={}", "no method 'fixed_sed', did you mean fixed_seed, allowed are "),
    ],
)
def test_a_key_that_nothing_reads_is_one_line(
    override: str,
    message: str,
    cli: Cli,
    run_dir: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(run_dir.parent)  # Hydra makes its own folder before the configuration is looked at
    assert cli("run", f"run_dir={run_dir}", override) == 2
    line = said(capsys)
    assert line.startswith("error: ")
    assert message in line
    assert not (run_dir / "records").exists()


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("+metric=lpips", "error: metric: no key of the configuration, did you mean metrics; "),
        ("dataset.limt=3", "error: dataset.limt: no key of the configuration, did you mean dataset.limit"),
        ("experiment=quikstart", "error: experiment=quikstart: there is none, did you mean quickstart, "),
    ],
)
def test_a_plan_says_the_same(
    override: str, message: str, cli: Cli, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli("plan", override) == 2
    assert said(capsys).startswith(message)


def test_every_key_there_is_may_be_set(tiny: list[str], run_dir: Path) -> None:
    assert call_task(*tiny, "seed=3", "metrics_device=cpu", "reference=[]", "+grid.inversions=null") == 0
    assert (run_dir / "records").is_dir()


@pytest.mark.parametrize("old", sorted(experiments.configured.MOVED))
def test_the_old_name_of_a_class_says_the_new_one(old: str) -> None:
    new = experiments.configured.MOVED[old]
    with pytest.raises(ValueError, match=f"method: {old} is now {new}"):
        experiments.configured.instantiated("method", {"_target_": old})
    assert resolve_name(new)


def test_documented_names_of_old_are_still_there() -> None:
    from p2p.denoise import Sampling
    from p2p.loading import ModelSpec

    assert (Sampling.__name__, ModelSpec.__name__) == ("Sampling", "ModelSpec")


def test_an_unknown_command_names_the_nearest(cli: Cli, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli("plna") == 2
    assert said(capsys).startswith("p2p-bench: unknown command 'plna', did you mean plan, allowed are run, ")
