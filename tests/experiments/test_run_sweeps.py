"""Axes of a grid end to end on a tiny random pipeline, and the tau that is chosen from one."""

from pathlib import Path

import pandas as pd
import pytest

from results.store.records import load, load_records
from tests.experiments.command import Cli, write_pairs


@pytest.mark.parametrize("multirun", [pytest.param(False, marks=pytest.mark.slow), True])
def test_settings_that_coincide_for_some_pairs_are_tabled_with_all_of_them(
    multirun: bool, cli: Cli, tiny_without_pair: list[str], run_dir: Path, tmp_path: Path
) -> None:
    """`auto` replaces words where it can, `refine` never: other pictures for the first pair alone."""
    write_pairs(tmp_path / "pairs.csv", ["swap", "add"])
    both = ["dataset=table", f"dataset.path={tmp_path / 'pairs.csv'}", "+grid.methods.p2p.operator=[auto]"]
    assert cli("run", *tiny_without_pair, *both) == 0
    axis = ["-m", "operator=auto,refine"] if multirun else ["operator=[auto,refine]"]
    assert cli("run", *axis, *tiny_without_pair, *both) == 0
    table = pd.read_csv(run_dir / "tables" / "main.csv").query("edit_type == 'all' and tau == 0")
    counted = table[table["metric"].eq("mse@1")].set_index("variant")
    assert counted["n"].to_dict() == {"operator=auto": 2, "operator=refine": 2}
    assert counted["mean"].nunique() == 2
    assert len(load_records(run_dir).query("method == 'p2p' and tau == 0")) == 3


def test_a_list_on_the_command_line_is_an_axis(cli: Cli, tiny: list[str], run_dir: Path) -> None:
    assert cli("run", *tiny, "cross_replace_steps=[0,[0.5,1]]") == 0
    records = load_records(run_dir)
    windows = records.loc[records["method"] == "p2p", ["cross_start", "cross_end"]]
    assert sorted(map(tuple, windows.to_numpy().tolist())) == [(0, 0), (2, 4)]


def test_a_window_in_a_grid_is_one_value(
    cli: Cli, tiny: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    tiny = [override for override in tiny if not override.startswith("grid")]
    assert cli("plan", *tiny, "grid=injection", "grid.seeds=[0]") == 0
    out = capsys.readouterr().out
    assert "1 groups, 5 edited images (5 p2p)" in out
    assert "settings give the same image" not in out


AUTO = ["tau=auto", "auto_tau.taus=[0,0.5,1]", "auto_tau.target.metric=mse@1"]


def test_auto_tau_keeps_one_of_the_taus_of_the_sweep_for_each_pair_and_seed(
    cli: Cli, tiny: list[str], run_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli("run", *tiny, "tau=[0,0.5,1]", "seed=[0,1]") == 0
    swept = load(run_dir).set_index(["method", "seed", "tau"])["mse@1"].sort_index()
    bound = swept["p2p", 0, 0.5] + 1e-9  # met at 0.5 and, as errors grow with tau here, not at 1
    assert swept["p2p", 0, 1.0] > bound
    assert cli("run", *tiny, *AUTO, f"auto_tau.target.at_most={bound}", "seed=[0,1]") == 0
    records = load_records(run_dir)
    assert len(records) == len(swept)  # the images of the sweep are the ones chosen from
    assert "p2p_auto_tau" not in set(records["method"])
    chosen = pd.read_parquet(run_dir / "auto_tau" / "chosen.parquet").set_index("seed")
    for seed in (0, 1):
        values = swept["p2p", seed]
        met = [tau for tau in (0.0, 0.5, 1.0) if values[tau] <= bound]
        assert chosen.loc[seed, "chosen_tau"] == max(met, default=values.idxmin())
        assert chosen.loc[seed, "target_missed"] == (not met)
    assert chosen.loc[0, "chosen_tau"] == 0.5
    table = pd.read_csv(run_dir / "tables" / "auto_tau.csv").query("edit_type == 'all'").set_index("metric")
    assert table.loc["chosen_tau", "mean"] == pytest.approx(chosen["chosen_tau"].mean())
    out = capsys.readouterr().out
    assert "Prompt-to-Prompt, auto τ: mse@1 ≤ " in out
    assert out.count("target missed: mse@1 is 0.") == chosen["target_missed"].sum()


def test_auto_tau_is_chosen_apart_for_each_other_setting_and_over_all_jobs_of_a_multirun(
    cli: Cli, tiny: list[str], run_dir: Path
) -> None:
    # With tau 1 nothing is injected, so the two settings share that image.
    grid = ["auto_tau.target.at_most=1", "self_replace_steps=[0,0.5]"]
    assert cli("run", "-m", *tiny, *AUTO, *grid, "seed=0,1", f"hydra.sweep.dir={run_dir}/hydra") == 0
    chosen = pd.read_parquet(run_dir / "auto_tau" / "chosen.parquet")
    assert len(chosen) == 4
    assert set(chosen["chosen_tau"]) == {1.0}
    assert not chosen.duplicated(["seed", "params"]).any()


def test_auto_tau_leaves_pairs_that_only_re_weight_alone_and_says_so(
    cli: Cli, tiny: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    pair = ["dataset.target_prompt=a cat on a bench", "dataset.weights={cat: 2}"]
    assert cli("plan", *tiny, *AUTO, "auto_tau.target.at_most=1", *pair) == 0
    assert "1 pairs only re-weight words: auto tau chooses nothing for them" in capsys.readouterr().out


def test_a_grid_keeps_both_orders_of_words_that_overlap_and_one_of_others(
    cli: Cli, tiny: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    for orders, count in (
        ("{a dog: 2, dog: 3}, {dog: 3, a dog: 2}", 2),
        ("{dog: 2, bench: 3}, {bench: 3, dog: 2}", 1),
    ):
        assert cli("plan", *tiny, "tau=[0]", f"weights=[{orders}]") == 0
        assert f"{count} p2p" in capsys.readouterr().out
