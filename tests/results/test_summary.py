"""The summary: one call makes everything, also of a run that is not complete, and says what is missing."""

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from results.plots import strips
from results.store.records import load_records
from results.store.setting_rows import SETTING_TYPES
from results.summary import summarise
from results.tables import cells
from results.tables.auto_tau import AutoTau, Target, write_candidates
from results.tables.cells import with_cells
from tests.results.synthetic import make_frame, make_metrics, write_run

ROOT = Path(__file__).parents[2]


def test_a_finished_run_gives_tables_plots_and_strips(finished_run: Path, tmp_path: Path) -> None:
    run_dir = shutil.copytree(finished_run, tmp_path / "run")
    summary = summarise(run_dir)
    made = {str(path.relative_to(run_dir)) for path in summary.paths}
    assert all(path.stat().st_size for path in summary.paths)
    assert {"tables/main.csv", "tables/main.md", "tables/main.tex", "tables/reweight.md"} <= made
    assert {"plots/trade_off.png", "plots/trade_off.pdf", "plots/over_tau.png", "strips/pairs.png"} <= made
    assert set(summary.images) == {"plots/trade_off", "plots/over_tau", "plots/pareto", "strips/pairs"}
    assert (summary.n_images, summary.n_failed) == (100, 0)
    assert summary.markdown.startswith("100 images of 4 pairs.")


def test_without_drawing_there_are_tables_alone(finished_run: Path, tmp_path: Path) -> None:
    run_dir = shutil.copytree(finished_run, tmp_path / "run")
    summary = summarise(run_dir, draw=False)
    assert {path.parent.name for path in summary.paths} == {"tables"}
    assert not summary.images
    assert not {"plots", "strips"} & {path.name for path in run_dir.iterdir()}


@pytest.mark.usefixtures("one_plot")
def test_cells_are_told_once_for_all_tables_and_pictures(
    finished_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_dir, variants, told = shutil.copytree(finished_run, tmp_path / "run"), cells._variants, []

    def counted(frame: pd.DataFrame) -> pd.Series:
        told.append(len(frame))
        return variants(frame)

    made = load_records(run_dir).query("method == 'p2p' and weights == '{}'")
    rule = AutoTau(sorted(set(made["tau"])), Target("lpips_embedded@1", at_most=0.25)).to_json()
    chosen_from = made[["key", "pair_id", "method", "tau"]].assign(params="{}", rule=rule)
    write_candidates(run_dir, chosen_from)
    monkeypatch.setattr(cells, "_variants", counted)
    summary = summarise(run_dir)
    assert "auto_tau" in summary.tables
    assert told == [100 + 8]  # records, and a choice per pair and seed


@pytest.mark.usefixtures("one_plot")
def test_every_inversion_has_a_strip_with_what_needs_none(tmp_path: Path) -> None:
    frame = make_frame(["cat-dog"], seeds=range(1))
    free = frame["method"].isin(["source", "sdedit"])
    parts = [frame[~free].assign(inversion=name, key=frame["key"] + name) for name in ("ddim", "direct x=1")]
    frame = pd.concat([frame[free], *parts], ignore_index=True)
    write_run(tmp_path, frame, make_metrics(frame))
    summarise(tmp_path)
    drawn = {}
    for path in (tmp_path / "strips").iterdir():
        with Image.open(path) as image:
            drawn[path.name] = image.width
    assert set(drawn) == {"pairs-ddim.png", "pairs-direct_x_1.png"}
    alone = strips.strip(tmp_path, with_cells(parts[0].assign(image="")), ["cat-dog"]).width
    assert all(width > alone for width in drawn.values())


def test_only_the_asked_for_cells_are_summarised(finished_run: Path, tmp_path: Path) -> None:
    run_dir = shutil.copytree(finished_run, tmp_path / "run")
    sources = load_records(run_dir).query("method == 'source'")
    summary = summarise(run_dir, settings=sources[list(SETTING_TYPES)], draw=False)
    assert set(summary.tables["main"]["method"]) == {"source"}


def test_a_partial_run_says_what_failed_and_what_was_not_evaluated(tmp_path: Path) -> None:
    frame = make_frame(["cat-dog", "house-2"], seeds=range(1))
    dead = frame["pair_id"].eq("house-2")
    frame.loc[dead, "status"], frame.loc[dead, "image"] = "failed", ""
    frame.loc[dead, "error"] = "RuntimeError: <b>out of memory</b>\nTraceback"
    metrics = make_metrics(frame)
    write_run(tmp_path, frame, metrics[~metrics["key"].isin(frame["key"].head(2))])
    summary = summarise(tmp_path, draw=False)
    alive = int((~dead).sum())
    assert summary.markdown.startswith(f"{alive} images of 1 pair.\n{dead.sum()} images in 1 group failed:\n")
    assert f"- {dead.sum()} x RuntimeError: &lt;b&gt;out of memory&lt;/b&gt; (house-2)\n" in summary.markdown
    assert "lpips_embedded@1: 2 images not evaluated." in summary.markdown
    assert summary.n_failed == dead.sum()
    main = summary.tables["main"].query("edit_type == 'all' and method == 'p2p'")
    assert (main["n_missing"] >= 1).all()
    assert np.isfinite(main["mean"]).all()


@pytest.mark.parametrize("everything_failed", [False, True])
def test_a_run_without_metrics_or_without_images_has_a_summary(
    tmp_path: Path, everything_failed: bool
) -> None:
    frame = make_frame(["cat-dog"], seeds=range(1))
    if everything_failed:
        frame = frame.assign(status="failed", error="no such weights", image="")
    write_run(tmp_path, frame, None)
    summary = summarise(tmp_path)
    assert "No metric was evaluated." in summary.markdown
    assert bool(summary.images) != everything_failed


def test_a_run_that_does_not_exist_is_not_made(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no such run folder"):
        summarise(tmp_path / "nowhere")
    assert not list(tmp_path.iterdir())


def test_neither_wandb_nor_torch_nor_pyplot_is_imported() -> None:
    code = "import results.summary, results.tracking, sys; results.tracking.Wandb('p')\n"
    code += (
        "print([name for name in ('wandb', 'torch', 'hydra', 'matplotlib.pyplot') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
