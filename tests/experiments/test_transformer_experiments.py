"""The experiments on transformers and few steps: planned, made, scored and put beside published rows, on tiny
pipelines of the real classes.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch

from experiments.datasets.pie_miniature import write
from results.store.records import load
from tests.experiments.command import PAIR, Cli
from tests.p2p.families import test_flux, test_stable_diffusion_3, tiny_flux2, tiny_qwen, tiny_z_image
from tests.p2p.families.test_few_steps import lcm_folder, sd_folder

pytestmark = pytest.mark.xdist_group("transformer_experiments")

__all__ = ["lcm_folder", "sd_folder"]  # fixtures

TINY = ("model.dtype=float32", "device=cpu", "model.self_max_side=8", "model.blend_side=8")
NO_PICTURES = ("plots=false", "report=false", "metrics=pixel")


@pytest.fixture(
    scope="module", params=[True, pytest.param(False, marks=pytest.mark.slow)], ids=["dev", "schnell"]
)
def flux_folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    folder = tmp_path_factory.mktemp("flux") / "pipeline"
    test_flux.tiny_pipeline(request.param).to(torch.float32).save_pretrained(folder)
    return "dev" if request.param else "schnell", folder


@pytest.fixture(scope="module")
def sd3_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sd3") / "pipeline"
    test_stable_diffusion_3.tiny_pipeline(with_t5=False).to(torch.float32).save_pretrained(folder)
    return folder


def test_the_study_of_transformers(
    cli: Cli, sd3_folder: Path, run_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tiny = [f"model.path={sd3_folder}", *TINY, "model.leave_out=[text_encoder_3]", f"run_dir={run_dir}"]
    assert cli("plan", "experiment=mmdit_p2p", *tiny) == 0
    told = capsys.readouterr().out
    assert (
        "83 groups, 560 edited images (140 fixed_seed, 140 p2p, 140 projections, 140 prompt_switch)" in told
    )
    # Of 28 guided steps: 83 sources; 280 edits injected, 140 plain; switched ones share the first 5.
    assert f"\n{2 * (83 * 28 + 140 * (28 + 28 + 28 + 23)):,} UNet evaluations" in told
    few = ["sampling.num_inference_steps=5", "dataset.limit=2", *NO_PICTURES]
    assert cli("run", "experiment=mmdit_p2p", *tiny, *few) == 0
    records = load(run_dir)
    assert records["status"].eq("ok").all()
    assert records["method"].value_counts().to_dict() == {
        "source": 2,
        "fixed_seed": 2,
        "prompt_switch": 2,
        "projections": 2,
        "p2p": 2,
    }
    assert set(records["guidance_scale"].dropna()) == {3.5}  # the model's own


def test_qwen_image_is_planned_and_run(
    cli: Cli, tmp_path: Path, run_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """By its folder, with two rows a guided state, words of the templated prompt and a flow's inversion."""
    tiny_qwen.tiny_pipeline().to(torch.float32).save_pretrained(tmp_path / "pipeline")
    write(tmp_path / "data", per_category=1)
    tiny = [
        "experiment=pie_bench_flow",
        "model=qwen_image",
        f"dataset.path={tmp_path / 'data'}",
        "grid=single",
    ]
    tiny += [f"model.path={tmp_path / 'pipeline'}", *TINY, "+model.height=32", "+model.width=32"]
    tiny += ["dataset.limit=1", "sampling.num_inference_steps=5", "sampling.guidance_scale=4"]
    tiny += ["inversions=[uni_inv]", f"run_dir={run_dir}", *NO_PICTURES]
    assert cli("plan", *tiny) == 0
    told = capsys.readouterr().out
    assert f"{6 + 2 * 5 + 2 * 5} UNet evaluations" in told  # the way up; down, guided, source and edit
    assert "4 of the 5 steps count" in told
    assert cli("run", *tiny) == 0
    records = load(run_dir)
    assert records["status"].eq("ok").all()
    assert {"p2p", "reconstruction"} < set(records["method"])
    assert set(records["guidance_scale"].dropna()) == {4}


@pytest.mark.parametrize(
    ("name", "make", "rows"),
    [
        pytest.param("flux2_klein", tiny_flux2.tiny_klein, 2, marks=pytest.mark.slow),
        ("flux2_dev", tiny_flux2.tiny_dev, 1),
        ("z_image", tiny_z_image.tiny_z_image, 2),
    ],
)
def test_a_chat_models_family_is_planned_and_run(
    cli: Cli,
    name: str,
    make: Callable[[], Any],
    rows: int,
    tmp_path: Path,
    run_dir: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """By its folder; its guidance is recorded as it was asked for, whatever diffusers calls it."""
    make().to(torch.float32).save_pretrained(tmp_path / "pipeline")
    tiny = [f"model={name}", f"model.path={tmp_path / 'pipeline'}", *TINY, *PAIR, "grid=single"]
    tiny += ["+model.height=32", "+model.width=32", "sampling.num_inference_steps=5"]
    tiny += ["sampling.guidance_scale=4", f"run_dir={run_dir}", *NO_PICTURES]
    assert cli("plan", *tiny) == 0
    assert f"{2 * 5 * rows} UNet evaluations" in capsys.readouterr().out
    assert cli("run", *tiny) == 0
    records = load(run_dir)
    assert records["status"].eq("ok").all()
    assert set(records["guidance_scale"].dropna()) == {4}
    longer = "dataset.target_prompt=a dog " + " ".join(["on a bench"] * 9)
    capsys.readouterr()
    assert cli("plan", *tiny, longer) == (2 if name == "z_image" else 0)
    told = capsys.readouterr()
    assert ("is padded to 64 tokens and its source to 32" in told.err) == (name == "z_image")


def test_pie_bench_on_flux(
    cli: Cli,
    flux_folder: tuple[str, Path],
    tmp_path: Path,
    run_dir: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    kind, folder = flux_folder
    name = {"dev": "pie_bench_flow", "schnell": "pie_bench_few_step"}[kind]
    write(tmp_path / "data", per_category=1)
    tiny = [f"experiment={name}", f"dataset.path={tmp_path / 'data'}", f"run_dir={run_dir}"]
    tiny += [f"model.path={folder}", *TINY, "+model.height=32", "+model.width=32"]
    if kind == "dev":  # the published blocks are of 38, here is one
        shares = ("replace_steps: 0.2", "replace_steps: [[0.0, 0.4]]")
        made = [f"{{{one}, share: [[values, text_values]], blocks: single-0}}" for one in shares]
        tiny.append(f"grid.methods.projections=[{', '.join(made)}]")
    assert cli("plan", *tiny, "dataset.limit=2") == 0
    edits = {"dev": 5 + 5 + 2 * 5 + 1 + 2, "schnell": 3 + 3 * 3 + 2 + 3}[kind]
    assert f", {2 * edits} edited images (" in capsys.readouterr().out
    few = [*NO_PICTURES[:2], "metrics=pie_embedded", "dataset.limit=1"]
    if kind == "dev":
        few += [
            "sampling.num_inference_steps=5",
            "+grid.methods.flowedit.n_max=4",
            "inversions=[uni_inv,fireflow]",
        ]
    assert cli("run", *tiny, *few) == 0
    records = load(run_dir)
    assert records["status"].eq("ok").all()
    assert {"p2p", "flowedit", "fixed_seed", "reconstruction"} < set(records["method"])
    assert records["method"].eq("uniedit").sum() == (2 if kind == "dev" else 0)
    if kind == "dev":
        params = records.loc[records["method"].eq("projections"), "params"].map(json.loads)
        assert {str(one["replace_steps"]) for one in params} == {"0.2", "[0.0, 0.4]"}
        assert all(one["share"] == ["values", "text_values"] for one in params)
    if kind == "schnell":
        assert set(records.loc[records["method"].eq("sdedit"), "effective_steps"]) == {1, 2, 3}
        assert set(records.loc[records["method"].eq("p2p"), "cross_end"]) == {1, 2, 3}
    published = pd.read_csv(run_dir / "tables" / "published.csv")
    own = published[published["method"].eq("p2p")]
    assert own["published_method"].eq("P2P").all()
    infedit = own[own["published_setting"].eq("LCM, in InfEdit's table")]
    values = infedit.groupby("metric")["published"].first()
    assert (values["pie/psnr_unedit@1"], values["pie/mse_unedit@1"]) == (26.64, 41.15)
    assert infedit["source"].str.startswith("read second-hand: ").all()


def test_pie_bench_on_a_latent_consistency_model(
    cli: Cli, lcm_folder: Path, tmp_path: Path, run_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(tmp_path / "data", per_category=1)
    tiny = ["experiment=pie_bench_few_step", "grid=pie_few_step_lcm", f"run_dir={run_dir}"]
    tiny += [f"dataset.path={tmp_path / 'data'}", "dataset.limit=1", f"model.path={lcm_folder}", *TINY]
    guided = [*tiny, "model=lcm_guided", "model.height=32", "model.width=32"]
    assert cli("run", *guided, *NO_PICTURES[:2], "metrics=pie_embedded") == 0
    records = load(run_dir)
    assert records["status"].eq("ok").all()
    assert set(records["guidance_scale"].dropna()) == {2.0}
    assert set(records.loc[records["method"].eq("sdedit"), "effective_steps"]) == {3, 6, 9, 12}
    [edit] = records[records["method"].eq("p2p")].itertuples()
    assert (edit.inversion, edit.cross_end, edit.self_end) == ("virtual", 6, 9)
    published = pd.read_csv(run_dir / "tables" / "published.csv")
    beside = published[published["method"].eq("p2p") & published["published_setting"].str.contains("LCM")]
    assert set(beside["published_inversion"]) == {"VI* (virtual inversion, 15 steps)"}
    capsys.readouterr()
    assert cli("plan", *tiny, "model=lcm", "sampling.num_inference_steps=15") == 0  # told both scales
    assert cli("plan", *tiny, "model=lcm") == 2  # its own four steps
    assert "sdedit: strength: 0.2 of 4 steps is no step, allowed is 1/4 or more" in capsys.readouterr().err
    assert cli("plan", *tiny, "model=lcm", "inversions=[ddim]", "sampling.num_inference_steps=15") == 2
    assert "ddim: guidance: a model that takes the guidance scale as an input" in capsys.readouterr().err
