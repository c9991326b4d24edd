"""The command line end to end on a tiny random pipeline: what a run writes, resumes and survives."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import experiments.run
import experiments.running.generate
import experiments.scoring.score_run
import results.tracking
from evaluation.pixel import Pixel
from experiments.running.png_files import read_png
from experiments.running.provenance import read_provenance
from results.store.records import load, load_records
from tests.experiments.command import Cli, forbid_generating, write_pairs


def test_a_run_leaves_images_records_metrics_tables_and_its_folder_as_last_line(
    cli: Cli, tiny: list[str], run_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli("run", *tiny) == 0
    assert capsys.readouterr().out.strip().splitlines()[-1] == str(run_dir)
    records = load(run_dir)
    assert sorted(records["method"]) == ["fixed_seed", "p2p", "p2p", "sdedit", "source"]
    assert all((run_dir / image).is_file() for image in records["image"])
    assert records.loc[records["method"] != "source", "mse@1"].notna().all()
    assert (run_dir / "tables" / "main.csv").is_file()
    [told] = read_provenance(run_dir)
    assert told["config"]["sampling"]["num_inference_steps"] == 4
    assert (told["config"]["model"]["device"], told["config"]["model"]["dtype"]) == ("cpu", "float32")
    assert {"matmul", "conv", "cudnn_benchmark"} <= set(told["float32"])
    assert len(pd.read_parquet(run_dir / "records")) == 5
    by_method = records.set_index(["method", "tau"])["key"]
    assert by_method["fixed_seed"].iloc[0] == by_method["p2p", 1.0]  # one image, two names


def test_a_finished_run_computes_nothing_and_a_lost_picture_comes_back(
    cli: Cli, tiny: list[str], complete_run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_dir = complete_run
    before = load(run_dir)
    lost = run_dir / before.loc[before["method"] == "sdedit", "image"].iloc[0]
    content = read_png(lost)
    lost.unlink()
    assert cli("run", *tiny) == 0
    # Alone it is denoised in another batch, whose last float32 digits a random network blows up.
    np.testing.assert_allclose(read_png(lost), content, atol=4 / 255)
    with monkeypatch.context() as patch:
        forbid_generating(patch)
        assert cli("run", *tiny) == 0
    order = ["key", "method"]
    after = load(run_dir).sort_values(order, ignore_index=True)
    pd.testing.assert_frame_equal(
        after[[*order, "mse@1"]], before.sort_values(order, ignore_index=True)[[*order, "mse@1"]]
    )


def test_plots_are_drawn_by_a_later_call_that_makes_nothing(
    cli: Cli, tiny: list[str], complete_run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    forbid_generating(monkeypatch)
    assert not {"plots", "strips"} & {path.name for path in complete_run.iterdir()}
    assert cli("run", *tiny, "plots=true") == 0
    assert (complete_run / "plots" / "over_tau.png").is_file()
    assert (complete_run / "strips" / "pairs.png").is_file()
    first, second = read_provenance(complete_run)
    assert first["config"] | {"run_dir": ""} == second["config"] | {"run_dir": ""}


@pytest.mark.usefixtures("no_tables")
def test_a_failing_group_is_recorded_the_others_go_on_and_the_next_call_retries(
    cli: Cli, tiny: list[str], run_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    generate = experiments.running.generate.generate

    def fail_on_seed_one(model, groups, *rest):  # type: ignore[no-untyped-def]
        if any(group.seed == 1 for group in groups):
            raise FloatingPointError("latents: not finite")
        return generate(model, groups, *rest)

    seeds = ["seed=[0,1,2]"]
    with monkeypatch.context() as patch:
        patch.setattr(experiments.running.generate, "generate", fail_on_seed_one)
        assert cli("run", *tiny, *seeds) == 1
    records = load_records(run_dir)
    failed = records[records["status"] == "failed"]
    assert set(failed["seed"]) == {1}
    assert set(failed["error"]) == {"FloatingPointError: latents: not finite"}
    assert set(records.loc[records["status"] == "ok", "seed"]) == {0, 2}
    assert cli("run", *tiny, *seeds) == 0
    records = load_records(run_dir)
    assert set(records["status"]) == {"ok"}
    assert set(records["seed"]) == {0, 1, 2}


def test_plan_prints_the_cost_and_writes_nothing(
    cli: Cli,
    tiny: list[str],
    run_dir: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli("plan", *tiny) == 0
    out = capsys.readouterr().out
    assert "1 pairs x 1 seeds: 1 groups, 4 edited images" in out
    assert "UNet evaluations" in out
    assert "model on cpu in float32, metrics on cpu; a plan for another machine must be told" in out
    assert not run_dir.exists()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("no_tables")
def test_a_group_that_cannot_be_scored_is_reported_and_the_next_call_scores_it(
    cli: Cli, tiny: list[str], run_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    score = experiments.scoring.score_run.score

    def fail_on_seed_one(run_dir: Path, metric: Any, rows: pd.DataFrame) -> pd.DataFrame:
        if (rows["seed"] == 1).any():
            raise ValueError("no score today")
        return score(run_dir, metric, rows)

    with monkeypatch.context() as patch:
        patch.setattr(experiments.scoring.score_run, "score", fail_on_seed_one)
        assert cli("run", *tiny, "seed=[0,1]") == 1
    frame = load(run_dir)
    assert set(frame.loc[frame["reason:mse@1"] == "not evaluated", "seed"]) == {1}
    assert cli("run", *tiny, "seed=[0,1]") == 0
    assert not (load(run_dir)["reason:mse@1"] == "not evaluated").any()


def test_values_of_a_batch_survive_what_ends_the_next_one(
    complete_run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_dir = complete_run
    shutil.rmtree(run_dir / "metrics")
    score, keys = experiments.scoring.score_run.score, set(load_records(run_dir)["key"])
    scored: list[int] = []

    def killed_later(run_dir: Path, metric: Any, rows: pd.DataFrame) -> pd.DataFrame:
        if scored:
            raise KeyboardInterrupt
        scored.append(len(rows))
        return score(run_dir, metric, rows)

    with monkeypatch.context() as patch:
        patch.setattr(experiments.scoring.score_run, "score", killed_later)
        with pytest.raises(KeyboardInterrupt):
            experiments.scoring.score_run.evaluate_run(run_dir, [Pixel()], keys, batch_size=2)
    assert load(run_dir).drop_duplicates("key")["reason:mse@1"].ne("not evaluated").sum() == 2


def test_a_corrected_edit_type_reaches_the_tables_and_nothing_is_made_again(
    cli: Cli, tiny_without_pair: list[str], run_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pairs = ["dataset=table", f"dataset.path={tmp_path / 'pairs.csv'}"]
    write_pairs(tmp_path / "pairs.csv", ["swap", "swap"])
    assert cli("run", *tiny_without_pair, *pairs) == 0
    forbid_generating(monkeypatch)
    write_pairs(tmp_path / "pairs.csv", ["swap", "add"])
    assert cli("run", *tiny_without_pair, *pairs) == 0
    table = pd.read_csv(run_dir / "tables" / "main.csv").query("method == 'p2p' and metric == 'mse@1'")
    assert table.groupby("edit_type")["n"].first().to_dict() == {"all": 2, "add": 1, "swap": 1}
    assert set(table["dataset"]) == {"pairs"}


def test_values_of_other_weights_are_not_mixed(
    cli: Cli, tiny: list[str], complete_run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (complete_run / "metrics" / "pixel@3" / "weights.sha256").write_text("0" * 64)  # of before a training
    assert cli("run", *tiny) == 2
    assert "holds values of other weights" in capsys.readouterr().err


@pytest.mark.usefixtures("no_tables")
def test_blend_words_bound_the_edit_and_are_recorded(cli: Cli, tiny: list[str], run_dir: Path) -> None:
    settings = ["dataset.blend_words=[cat,dog]", "+grid.methods.p2p.local_blend=[true,false]"]
    assert cli("run", *tiny, *settings, "+grid.methods.p2p.blend_threshold=0.9") == 0
    records = load_records(run_dir)
    p2p = records[records["method"] == "p2p"]
    blended = p2p[p2p["blend"] != "{}"]
    assert len(blended) == len(p2p) / 2 == 2
    assert json.loads(blended["blend"].iloc[0]) == {
        "source_words": "cat", "target_words": "dog", "start": 0, "threshold": 0.9,
    }  # fmt: skip
    error = load(run_dir).set_index("key")["mse@1"]
    for tau in (0, 1):
        rows = p2p[p2p["tau"] == tau]
        inside, everywhere = rows[rows["blend"] != "{}"]["key"], rows[rows["blend"] == "{}"]["key"]
        assert error[inside].max() < error[everywhere].min()


def test_masactrl_and_plug_and_play_run_beside_prompt_to_prompt(
    cli: Cli, tiny: list[str], run_dir: Path
) -> None:
    grid = ["+grid.methods.masactrl={start_step: [1, 4]}", "+grid.methods.plug_and_play={}"]
    assert cli("run", *tiny, *grid) == 0
    records = load(run_dir)
    assert sorted(records["method"]) == [
        "fixed_seed", "masactrl", "masactrl", "p2p", "p2p", "plug_and_play", "sdedit", "source",
    ]  # fmt: skip
    fixed = records.loc[records["method"] == "fixed_seed", "key"].iloc[0]
    own = records[records["method"] == "masactrl"]
    by_step = dict(zip(own["params"].map(lambda text: json.loads(text)["start_step"]), own["key"]))
    assert by_step[4] == fixed != by_step[1]  # 4 of 4 steps: never
    assert records.loc[records["method"] != "source", "mse@1"].gt(0).all()
    table = pd.read_csv(run_dir / "tables" / "main.csv")
    settings = set(table.loc[table["method"] == "masactrl", "setting"])
    assert settings == {"start_step=1", "start_step=4"}


def test_the_papers_templates_run_on_a_pipeline_from_disk(cli: Cli, tiny_folder: Path, run_dir: Path) -> None:
    tiny = [
        f"model.path={tiny_folder}",
        "model.self_max_side=16",
        "device=cpu",
        "sampling.num_inference_steps=4",
        "metrics=pixel",
    ]
    grid = [
        "grid.seeds=[0]",
        "dataset.per_template=1",
        "grid.methods.p2p.tau=[0.2]",
        "grid.methods.sdedit.strength=[0.5]",
    ]
    drawn = ["plots=false", "report=false", f"run_dir={run_dir}"]
    assert cli("run", "experiment=paper_templates", *tiny, *grid, *drawn) == 0
    records = load_records(run_dir)
    assert records["pair_id"].nunique() == 7
    assert set(records.loc[records["method"] == "p2p", "operator"]) == {"replace", "refine"}


def test_the_papers_templates_plan_without_the_weights(cli: Cli, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli("plan", "experiment=paper_templates") == 0
    out = capsys.readouterr().out
    assert "140 pairs x 2 seeds" in out
    assert "the weights of 'CompVis/stable-diffusion-v1-4' are not on this machine" in out


def test_a_run_is_copied_to_wandb_where_asked_for(cli: Cli, tiny: list[str], run_dir: Path) -> None:
    assert cli("run", *tiny, "tracking=wandb") == 0
    assert len(list(run_dir.glob("wandb/offline-run-*/*.wandb"))) == 1


def test_nothing_of_wandb_is_imported_otherwise(
    cli: Cli, tiny: list[str], run_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == "wandb"]:
        monkeypatch.delitem(sys.modules, name)
    assert cli("run", *tiny) == 0
    assert "wandb" not in sys.modules
    assert not hasattr(results.tracking, "wandb")  # nor with the one module that may import it
    assert (run_dir / "tables" / "main.csv").is_file()


@pytest.mark.slow
def test_nothing_of_wandb_is_imported_by_a_process_of_its_own(tiny: list[str], run_dir: Path) -> None:
    code = "import sys; from experiments.run import main; main(); assert 'wandb' not in sys.modules"
    subprocess.run([sys.executable, "-c", code, "run", *tiny], check=True, capture_output=True)
    assert (run_dir / "tables" / "main.csv").is_file()


def test_a_renamed_pair_is_not_counted_twice(cli: Cli, tiny: list[str], run_dir: Path) -> None:
    for name in ("old", "new"):
        assert cli("run", *tiny, f"dataset.id={name}") == 0
    table = pd.read_csv(run_dir / "tables" / "main.csv")
    assert set(table["n_images"] + table["n_missing"]) == {1}
