"""Several calls on one run folder: shards, and the jobs of a multirun."""

from pathlib import Path

import pandas as pd
import pytest

from results.store.records import load_records
from tests.experiments.command import Cli


def test_runs_that_share_cells_share_work_and_multirun_fills_the_same_store(
    cli: Cli, tiny: list[str], complete_run: Path
) -> None:
    run_dir = complete_run
    first = load_records(run_dir)
    assert cli("run", "-m", *tiny, "tau=0,0.5,1", "seed=0,1", f"hydra.sweep.dir={run_dir}/hydra") == 0
    both = load_records(run_dir)
    assert sorted(both.loc[both["method"] == "p2p", "tau"].unique()) == [0, 0.5, 1]
    assert set(first["key"]) < set(both["key"])
    assert not both.duplicated(["key", "pair_id", "method", "group"]).any()
    p2p = both[both["method"] == "p2p"]
    assert len(p2p) == len(p2p.drop_duplicates(["seed", "tau"])) == 6


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


def test_tables_of_a_part_of_the_plan_say_so(
    cli: Cli, tiny: list[str], run_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    seeds, summary = "seed=[0,1,2]", run_dir / "tables" / "summary.md"
    assert cli("run", *tiny, seeds, "shard=0/2") == 0
    told = "shard 0 of 2: 2 of 3 groups are there, and tables are of these alone."
    assert summary.read_text().startswith(told)
    assert told in capsys.readouterr().out
    assert cli("run", *tiny, seeds, "shard=1/2") == 0
    assert "groups are there" not in summary.read_text()
    assert cli("run", *tiny, "seed=0") == 0  # fewer rows than before
    assert "10 more images of other configurations: in records/, not in these tables." in summary.read_text()
