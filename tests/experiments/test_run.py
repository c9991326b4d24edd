"""The command line end to end on a tiny random pipeline: what it writes, resumes, refuses and survives."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from omegaconf import OmegaConf

import experiments.run
import experiments.running.generate
import experiments.scoring.score_run
from evaluation.pixel import Pixel
from experiments.running.png_files import read_png
from results.store.records import load, load_records

Cli = Callable[..., int]


@pytest.fixture
def cli(monkeypatch: pytest.MonkeyPatch) -> Cli:
    """Call `p2p-bench` in this process; return its exit code."""

    def call(*arguments: str) -> int:
        monkeypatch.setattr(sys, "argv", ["p2p-bench", *arguments])
        GlobalHydra.instance().clear()
        try:
            experiments.run.main()
        except SystemExit as stop:
            return stop.code if isinstance(stop.code, int) else 1
        return 0

    return call


@pytest.fixture
def tiny(tiny_folder: Path, tmp_path: Path) -> list[str]:
    """Overrides for a run of one pair on the tiny pipeline."""
    return [
        *(
            "model=folder",
            f"model.path={tiny_folder}",
            "model.self_max_side=16",
            "device=cpu",
            "sampling.num_inference_steps=4",
        ),
        *(
            "dataset=inline",
            "dataset.source_prompt=a cat on a bench",
            "dataset.target_prompt=a dog on a bench",
        ),
        *("grid=trade_off", "grid.seeds=[0]", "metrics=pixel", f"run_dir={tmp_path / 'run'}"),
        *("grid.methods.p2p.tau=[0,1]", "grid.methods.sdedit.strength=[0.5]"),
    ]


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    return tmp_path / "run"


def forbid_generating(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise AssertionError("nothing was left to generate")

    monkeypatch.setattr(experiments.run, "run_plan", fail)


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
    assert (
        json.loads((run_dir / "provenance.json").read_text())[0]["config"]["sampling"]["num_inference_steps"]
        == 4
    )
    assert len(pd.read_parquet(run_dir / "records")) == 5
    by_method = records.set_index(["method", "tau"])["key"]
    assert by_method["fixed_seed"].iloc[0] == by_method["p2p", 1.0]  # one image, two names


def test_a_finished_run_computes_nothing_and_a_lost_picture_comes_back(
    cli: Cli, tiny: list[str], run_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert cli("run", *tiny) == 0
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


def test_runs_that_share_cells_share_work_and_multirun_fills_the_same_store(
    cli: Cli, tiny: list[str], run_dir: Path
) -> None:
    assert cli("run", *tiny) == 0
    first = load_records(run_dir)
    assert cli("run", "-m", *tiny, "tau=0,0.5,1", "seed=0,1", f"hydra.sweep.dir={run_dir}/hydra") == 0
    both = load_records(run_dir)
    assert sorted(both.loc[both["method"] == "p2p", "tau"].unique()) == [0, 0.5, 1]
    assert set(first["key"]) < set(both["key"])
    assert not both.duplicated(["key", "pair_id", "method", "group"]).any()
    p2p = both[both["method"] == "p2p"]
    assert len(p2p) == len(p2p.drop_duplicates(["seed", "tau"])) == 6


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
        ("weights=abc", "weights: 'abc' is not a number"),
        ("weights=2", "weights = 2, but no pair re-weights a word"),
        ("device=foo", "device: 'foo' is not"),
        ("model.scheduler=UNet2DModel", "'UNet2DModel' is no scheduler"),
        ("dataset.per_type=abc", "per_type = 'abc'"),
        ("dataset.weights=2", "weights = 2"),
        ("sampling.guidance_rescale=2", "guidance_rescale: 2 is not a number in [0, 1]"),
        ("sampling.guidance_scale=abc", "guidance_scale: 'abc' is not a number of at least 1"),
        ("strength=abc", "strength: 'abc'"),
        ("sampling.num_inference_steps=0", "num_inference_steps"),
        ("model.self_max_side=7", "self_max_side: 7 is no side"),
    ],
)
def test_bad_input_is_one_clear_error_before_anything_is_computed(
    override: str, message: str, cli: Cli, tiny: list[str], run_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    more = ["operator=replace"] if message == "operator" else []
    given = override.split(" +") if " +" in override else [override]
    assert cli("run", *tiny, given[0], *(f"+{one}" for one in given[1:]), *more) == 2
    error = capsys.readouterr().err.strip().splitlines()[-3:]
    assert message in "\n".join(error)
    assert not (run_dir / "records").exists()


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
    assert not run_dir.exists()
    assert list(tmp_path.iterdir()) == []


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


def test_values_of_a_batch_survive_a_kill_in_the_next_one(
    cli: Cli, tiny: list[str], run_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert cli("run", *tiny, "metrics=pixel", "~metrics.pixel") == 0
    score, keys = experiments.scoring.score_run.score, set(load_records(run_dir)["key"])

    def killed_later(run_dir: Path, metric: Any, rows: pd.DataFrame) -> pd.DataFrame:
        if (run_dir / "metrics").exists():
            raise KeyboardInterrupt
        return score(run_dir, metric, rows)

    with monkeypatch.context() as patch:
        patch.setattr(experiments.scoring.score_run, "score", killed_later)
        with pytest.raises(KeyboardInterrupt):
            experiments.scoring.score_run.evaluate_run(run_dir, [Pixel()], keys, batch_size=2)
    assert load(run_dir).drop_duplicates("key")["reason:mse@1"].ne("not evaluated").sum() == 2


@pytest.mark.parametrize("multirun", [False, True])
def test_settings_that_coincide_for_some_pairs_are_tabled_with_all_of_them(
    multirun: bool, cli: Cli, tiny: list[str], run_dir: Path, tmp_path: Path
) -> None:
    """`auto` replaces words where it can, `refine` never: other pictures for the first pair alone."""
    write_pairs(tmp_path / "pairs.csv", ["swap", "add"])
    both = ["dataset=table", f"dataset.path={tmp_path / 'pairs.csv'}", "+grid.methods.p2p.operator=[auto]"]
    assert cli("run", *tiny[:5], *tiny[8:], *both) == 0
    axis = ["-m", "operator=auto,refine"] if multirun else ["operator=[auto,refine]"]
    assert cli("run", *axis, *tiny[:5], *tiny[8:], *both) == 0
    table = pd.read_csv(run_dir / "tables" / "main.csv").query("edit_type == 'all' and tau == 0")
    counted = table[table["metric"].eq("mse@1")].set_index("variant")
    assert counted["n"].to_dict() == {"operator=auto": 2, "operator=refine": 2}
    assert counted["mean"].nunique() == 2
    assert len(load_records(run_dir).query("method == 'p2p' and tau == 0")) == 3


def test_a_corrected_edit_type_reaches_the_tables_and_nothing_is_made_again(
    cli: Cli, tiny: list[str], run_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pairs = ["dataset=table", f"dataset.path={tmp_path / 'pairs.csv'}"]
    write_pairs(tmp_path / "pairs.csv", ["swap", "swap"])
    assert cli("run", *tiny[:5], *tiny[8:], *pairs) == 0
    forbid_generating(monkeypatch)
    write_pairs(tmp_path / "pairs.csv", ["swap", "add"])
    assert cli("run", *tiny[:5], *tiny[8:], *pairs) == 0
    table = pd.read_csv(run_dir / "tables" / "main.csv").query("method == 'p2p' and metric == 'mse@1'")
    assert table.groupby("edit_type")["n"].first().to_dict() == {"all": 2, "add": 1, "swap": 1}
    assert set(table["dataset"]) == {"pairs"}


def write_pairs(path: Path, edit_types: list[str]) -> None:
    prompts = [("a cat on a bench", "a dog on a bench"), ("a cat on a bench", "a cat on a red bench")]
    rows = [(i, *texts, kind) for i, (texts, kind) in enumerate(zip(prompts, edit_types, strict=True))]
    columns = ["id", "source_prompt", "target_prompt", "edit_type"]
    pd.DataFrame(rows, columns=columns).to_csv(path, index=False)


def test_values_of_other_weights_are_not_mixed(
    cli: Cli, tiny: list[str], run_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli("run", *tiny) == 0
    (run_dir / "metrics" / "pixel@1" / "weights.sha256").write_text("of before a training")
    assert cli("run", *tiny) == 2
    assert "holds values of other weights" in capsys.readouterr().err


def test_a_list_on_the_command_line_is_an_axis(cli: Cli, tiny: list[str], run_dir: Path) -> None:
    assert cli("run", *tiny, "cross_replace_steps=[0,[0.5,1]]") == 0
    records = load_records(run_dir)
    windows = records.loc[records["method"] == "p2p", ["cross_start", "cross_end"]]
    assert sorted(map(tuple, windows.to_numpy().tolist())) == [(0, 0), (2, 4)]


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
    overrides: list[str], message: str, cli: Cli, tiny: list[str], run_dir: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    assert cli("run", *tiny, "tau=auto", "auto_tau.target.metric=mse@1", *overrides) == 2
    assert message in capsys.readouterr().err
    assert not (run_dir / "records").exists()


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


def test_a_window_in_a_grid_is_one_value(
    cli: Cli, tiny: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    tiny = [override for override in tiny if not override.startswith("grid")]
    assert cli("plan", *tiny, "grid=injection", "grid.seeds=[0]") == 0
    out = capsys.readouterr().out
    assert "1 groups, 5 edited images (5 p2p)" in out
    assert "settings come to the same steps" not in out


def test_shards_part_the_groups(cli: Cli, tiny: list[str], run_dir: Path) -> None:
    for index in range(2):
        assert cli("run", *tiny, "seed=[0,1,2]", f"shard={index}/2") == 0
        assert set(load_records(run_dir)["seed"]) == ({0, 2} if index == 0 else {0, 1, 2})


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
    assert cli("run", "experiment=paper_templates", *tiny, *grid, f"run_dir={run_dir}") == 0
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


def test_nothing_of_wandb_is_imported_otherwise(tiny: list[str], run_dir: Path) -> None:
    code = "import sys; from experiments.run import main; main(); assert 'wandb' not in sys.modules"
    subprocess.run([sys.executable, "-c", code, "run", *tiny], check=True, capture_output=True)
    assert (run_dir / "tables" / "main.csv").is_file()


def test_each_experiment_has_a_run_folder_of_its_own() -> None:
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(experiments.run.CONF), version_base="1.3"):
        for file in (experiments.run.CONF / "experiment").glob("*.yaml"):
            assert compose("config", [f"experiment={file.stem}"]).run_dir == f"runs/{file.stem}"
        assert compose("config", ["experiment=quickstart", "name=mine"]).run_dir == "runs/mine"


def test_a_shard_without_groups_leaves_an_empty_folder(
    cli: Cli, tiny: list[str], run_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli("run", *tiny, "shard=1/2") == 0
    assert capsys.readouterr().out.strip().splitlines()[-1] == str(run_dir)


def test_a_renamed_pair_is_not_counted_twice(cli: Cli, tiny: list[str], run_dir: Path) -> None:
    for name in ("old", "new"):
        assert cli("run", *tiny, f"dataset.id={name}") == 0
    table = pd.read_csv(run_dir / "tables" / "main.csv")
    assert set(table["n_images"] + table["n_missing"]) == {1}


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


def test_bad_input_under_multirun_says_so_in_one_line(
    cli: Cli, tiny: list[str], run_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli("run", "-m", *tiny, f"hydra.sweep.dir={run_dir}/hydra", "tau=0,2") == 1
    lines = capsys.readouterr().err.splitlines()
    assert sum(line.startswith("error: ") and "tau" in line for line in lines) == 1


def _options() -> list[str]:
    conf = experiments.run.CONF
    return [
        f"{group}={file.stem}"
        for group in experiments.run.GROUPS
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
        experiments.run._instantiate(key, plain[key])


@pytest.mark.parametrize(
    "file", sorted((experiments.run.CONF / "method").glob("*.yaml")), ids=lambda f: f.stem
)
def test_every_method_instantiates(file: Path) -> None:
    method = experiments.run._instantiate("method", OmegaConf.to_container(OmegaConf.load(file)))
    assert method.name in (file.stem, "external")  # other pipelines share a class


def test_ls_lists_every_option_with_its_first_line(cli: Cli, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli("ls") == 0
    out = capsys.readouterr().out
    for option in _options():
        assert option.split("=")[1] in out
    assert all(len(line.split()) > 3 for line in out.splitlines() if line.startswith("  "))


def test_help_and_unknown_commands(cli: Cli, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli("--help") == 0
    assert "p2p-bench run" in capsys.readouterr().out
    assert cli("edit") == 2
