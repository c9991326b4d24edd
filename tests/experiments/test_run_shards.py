"""Several calls on one run folder: shards, and the jobs of a multirun."""

import shutil
from pathlib import Path

import pandas as pd
import pytest

import experiments.planning.asked
import experiments.running.generate
import experiments.scoring.score_run
from results.store.records import load_records
from tests.experiments.command import Cli


def test_runs_that_share_cells_share_work_and_multirun_fills_the_same_store(
    cli: Cli, tiny: list[str], complete_run: Path
) -> None:
    run_dir = complete_run
    first = load_records(run_dir)
    assert cli("run", "-m", *tiny, "tau=0.5", "seed=0,1", f"hydra.sweep.dir={run_dir}/hydra") == 0
    both = load_records(run_dir)
    assert sorted(both.loc[both["method"] == "p2p", "tau"].unique()) == [0, 0.5, 1]
    assert set(first["key"]) < set(both["key"])
    assert not both.duplicated(["key", "pair_id", "method", "group"]).any()
    p2p = both[both["method"] == "p2p"]
    assert len(p2p) == len(p2p.drop_duplicates(["seed", "tau"])) == 4


def test_shards_part_the_groups(cli: Cli, tiny: list[str], run_dir: Path) -> None:
    for index in range(2):
        assert cli("run", *tiny, "seed=[0,1,2]", f"shard={index}/2") == 0
        assert set(load_records(run_dir)["seed"]) == ({0, 2} if index == 0 else {0, 1, 2})


def test_a_plan_of_a_shard_counts_its_own_groups(
    cli: Cli, tiny: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli("plan", *tiny, "seed=[0,1,2]", "shard=0/2") == 0
    told = capsys.readouterr().out
    assert "1 pairs x 2 seeds: 2 groups" in told
    assert "there already" not in told


def test_a_shard_without_groups_leaves_an_empty_folder(
    cli: Cli, tiny: list[str], run_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli("run", *tiny, "shard=1/2") == 0
    assert capsys.readouterr().out.strip().splitlines()[-1] == str(run_dir)


def test_other_schedulers_are_other_rows_of_a_table(cli: Cli, tiny: list[str], run_dir: Path) -> None:
    multirun = [
        "-m",
        f"hydra.sweep.dir={run_dir}/hydra",
        "model.scheduler=DDIMScheduler,EulerDiscreteScheduler",
    ]
    assert cli("run", *multirun, *tiny) == 0
    table = pd.read_csv(run_dir / "tables" / "main.csv")
    p2p = table.query("method == 'p2p' and metric == 'mse@1' and edit_type == 'all'")
    assert p2p["setup"].nunique() == 2
    assert set(p2p["n_images"]) == {1}


def test_the_shard_that_ends_last_makes_the_tables_of_the_whole_plan(
    cli: Cli, tiny: list[str], run_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    seeds, tables = "seed=[0,1,2]", run_dir / "tables"
    assert cli("run", *tiny, seeds, "shard=0/2") == 0
    out = capsys.readouterr().out.splitlines()
    assert out[-2:] == [
        "shard 0 of 2: done; 10 of 15 images are there; the last to end makes the tables, "
        f"`p2p-bench tables {run_dir}` makes them of what is there",
        str(run_dir),
    ]
    assert not tables.exists()
    assert cli("run", *tiny, seeds, "shard=1/2") == 0
    told = "shard 1 of 2: done; 15 of 15 images are there; this one, the last to end, makes the tables"
    assert told in capsys.readouterr().out.splitlines()
    by_shards = {file.name: file.read_bytes() for file in tables.iterdir()}
    assert by_shards["summary.md"].startswith(b"15 images of 1 pair.\n")
    shutil.rmtree(tables)
    assert cli("run", *tiny, seeds) == 0
    assert {file.name: file.read_bytes() for file in tables.iterdir()} == by_shards


def test_one_shard_plans_the_whole_and_the_others_their_parts(
    cli: Cli,
    tiny: list[str],
    run_dir: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    auto = [
        "seed=[0,1,2]",
        "tau=auto",
        "auto_tau.taus=[0,0.5]",
        "auto_tau.target.metric=mse@1",
        "metrics=pixel",
    ]
    whole = experiments.planning.asked.plan_of
    planned = []
    monkeypatch.setattr(
        experiments.planning.asked, "plan_of", lambda sweep: planned.append(sweep) or whole(sweep)
    )
    assert cli("run", *tiny, *auto, "shard=0/2") == 0
    assert len(planned) == 1
    assert cli("run", *tiny, *auto, "shard=1/2") == 0
    assert len(planned) == 1
    assert "this one, the last to end, makes the tables" in capsys.readouterr().out
    tables = {file.name: file.read_bytes() for file in (run_dir / "tables").iterdir()}
    assert "auto_tau.csv" in tables
    shutil.rmtree(run_dir / "tables")
    assert cli("run", *tiny, *auto) == 0
    assert {file.name: file.read_bytes() for file in (run_dir / "tables").iterdir()} == tables
    assert cli("verify", str(run_dir)) == 0


@pytest.mark.parametrize("damaged", ["*.json", "*.parquet"])
@pytest.mark.parametrize("content", [b"", b"{}", None])
def test_a_whole_plan_that_was_damaged_is_made_again(
    damaged: str, content: bytes | None, cli: Cli, tiny: list[str], run_dir: Path
) -> None:
    seeds = "seed=[0,1]"
    assert cli("run", *tiny, seeds, "shard=0/2") == 0
    [file] = (run_dir / "settings").glob(damaged)
    before = file.read_bytes()
    if content is None:
        file.unlink()
    else:
        file.write_bytes(content)
    assert cli("run", *tiny, seeds, "shard=1/2") == 0
    assert file.read_bytes() == before
    summary = (run_dir / "tables" / "summary.md").read_text()
    assert summary.startswith("10 images of 1 pair.")


def test_labels_are_those_of_the_latest_call_also_where_its_plan_is_an_older_file(
    cli: Cli, tiny: list[str], run_dir: Path
) -> None:
    for name, index in (("first", 0), ("second", 0), ("first", 1)):
        assert cli("run", *tiny, "seed=[0,1]", f"dataset.edit_type={name}", f"shard={index}/2") == 0
    assert cli("tables", str(run_dir), "--no-plots") == 0
    assert set(pd.read_csv(run_dir / "tables" / "main.csv")["edit_type"]) == {"all", "first"}


def test_shards_of_another_sweep_have_a_whole_of_their_own(
    cli: Cli, tiny: list[str], run_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli("run", *tiny, "seed=[0,1]", "shard=0/2") == 0
    assert cli("run", *tiny, "seed=[0,1,2,3]", "shard=1/2") == 0
    assert capsys.readouterr().out.count("15 of 20 images are there") == 1
    assert cli("run", *tiny, "seed=[0,1,2,3]", "shard=0/2") == 0
    assert "20 of 20 images are there; this one, the last" in capsys.readouterr().out
    assert len(list((run_dir / "settings").glob("*.json"))) == 2


def test_a_shard_waits_for_the_scores_of_the_others(
    cli: Cli,
    tiny: list[str],
    run_dir: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(experiments.scoring.score_run, "evaluate_run", lambda *_: 0)  # killed before its end
        assert cli("run", *tiny, "seed=[0,1]", "shard=0/2") == 0
    capsys.readouterr()
    assert cli("run", *tiny, "seed=[0,1]", "shard=1/2") == 0
    assert "10 of 10 images are there, 4 images are not scored; the last" in capsys.readouterr().out
    assert not (run_dir / "tables").exists()
    assert cli("run", *tiny, "seed=[0,1]", "shard=0/2") == 0
    assert "this one, the last to end, makes the tables" in capsys.readouterr().out
    assert "not evaluated" not in (run_dir / "tables" / "summary.md").read_text()


def test_a_group_that_failed_keeps_no_shard_waiting(
    cli: Cli,
    tiny: list[str],
    run_dir: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(experiments.running.generate, "generate", lambda *_: 1 / 0)
        assert cli("run", *tiny, "seed=[0,1]", "shard=0/2") == 1
    told = "shard 0 of 2: 1 groups failed, the next call tries them again; 0 of 10 images are there; the last"
    assert told in capsys.readouterr().out
    assert cli("plan", *tiny, "seed=[0,1]", "shards=2", "shard=0/2") == 2
    assert "allowed is one of the two" in capsys.readouterr().err
    assert cli("plan", *tiny, "seed=[0,1]", "shards=2") == 0
    assert capsys.readouterr().out.splitlines()[-2:] == [
        "shard 0/2: 1 groups, 28 evaluations; 0 groups are there, 1 failed",
        "shard 1/2: 1 groups, 28 evaluations; 0 groups are there",
    ]
    assert cli("run", *tiny, "seed=[0,1]", "shard=1/2") == 0
    summary = (run_dir / "tables" / "summary.md").read_text()
    assert summary.startswith("5 of 10 images are there, and tables are of these alone.")
    assert "ZeroDivisionError" in summary


def test_shards_are_jobs_of_a_multirun(
    cli: Cli, tiny: list[str], run_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli("run", *tiny, "seed=[0,1,2]", "shards=2") == 0
    told = capsys.readouterr().out
    assert "shard 0 of 2: done; 10 of 15" in told
    assert "shard 1 of 2: done; 15 of 15" in told
    assert set(load_records(run_dir)["seed"]) == {0, 1, 2}
    [sweep] = (run_dir / "hydra").iterdir()
    overrides = [(sweep / str(job) / ".hydra" / "overrides.yaml").read_text() for job in range(2)]
    assert ["shard=0/2" in overrides[0], "shard=1/2" in overrides[1]] == [True, True]


@pytest.mark.parametrize("command", ["run", "plan"])
@pytest.mark.parametrize("count", ["0", "-1", "two", "1.5", "4/2", "", "100000"])
def test_a_number_of_shards_that_is_none_is_one_line(
    command: str, count: str, cli: Cli, tiny: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli(command, *tiny, f"shards={count}") == 2
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith("error: shards: ")
    assert line.endswith("is not a whole number from 1 to 1000")


def test_shards_beside_a_shard_or_in_a_file_are_refused(
    cli: Cli, tiny: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli("run", *tiny, "shards=2", "shard=0/2") == 2
    assert "shard: is one of the parts that shards= makes" in capsys.readouterr().err
    assert cli("run", *tiny, "++shards=2") == 2
    assert "shards: stands on the command line alone" in capsys.readouterr().err


def test_tables_tell_of_what_else_the_folder_holds(cli: Cli, tiny: list[str], run_dir: Path) -> None:
    summary = run_dir / "tables" / "summary.md"
    assert cli("run", *tiny, "seed=[0,1,2]") == 0
    assert "images are there" not in summary.read_text()
    assert cli("run", *tiny, "seed=0") == 0  # fewer rows than before
    assert "10 more images of other configurations: in records/, not in these tables." in summary.read_text()
