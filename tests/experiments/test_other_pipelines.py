"""Other pipelines end to end: chosen by YAML, beside the embedded model, recorded, resumed and refused; and
the PIE-Bench comparison that they join.
"""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hydra.utils import instantiate
from omegaconf import OmegaConf

import experiments.run
from experiments.datasets.pie_miniature import write
from experiments.running.png_files import read_png
from experiments.running.provenance import read_provenance
from p2p import External
from results.store.records import load, load_records
from tests.experiments.command import Cli, forbid_generating
from tests.tiny_pipelines import save_instruct_pix2pix, save_ledits_pp

pytestmark = pytest.mark.xdist_group("other_pipelines")


@pytest.fixture(scope="module")
def folder(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_instruct_pix2pix(tiny_folder, tmp_path_factory.mktemp("pix2pix") / "pipeline")


@pytest.fixture
def embedded(folder: Path, run_dir: Path) -> list[str]:
    """Overrides for InstructPix2Pix, and nothing else, on the embedded model."""
    return [
        *("device=cpu", "sampling.num_inference_steps=3", "grid=single", "~grid.methods.p2p"),
        *(f"+grid.methods.instruct_pix2pix.path={folder}", "metrics=pixel", "plots=false"),
        *("report=false", f"run_dir={run_dir}"),
    ]


INLINE = (
    "dataset=inline", "dataset.source_prompt=a cat in the snow", "dataset.target_prompt=a dog in the snow",
    "dataset.instruction=make the cat a dog",
)  # fmt: skip


def test_a_generated_source_is_edited_recorded_scored_and_resumed(
    cli: Cli,
    embedded: list[str],
    run_dir: Path,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    both = [*embedded, *INLINE, "+grid.methods.fixed_seed={}"]
    assert cli("run", *both) == 0
    out = capsys.readouterr().out
    assert "about 9 evaluations by other pipelines on top" in out
    records = load(run_dir).set_index("method")
    assert sorted(records.index) == ["fixed_seed", "instruct_pix2pix", "source"]
    row = records.loc["instruct_pix2pix"]
    assert (row["instruction"], row["uses_mask"]) == ("make the cat a dog", False)
    assert row["mse@1"] > 0
    source, edited = (read_png(run_dir / row[name]) for name in ("source_image", "image"))
    assert source.shape == edited.shape == (3, 64, 64)
    [call] = read_provenance(run_dir)
    [pipeline] = call["config"]["pipelines"]
    assert (pipeline["method"], pipeline["path"]) == ("instruct_pix2pix", str(folder))

    with monkeypatch.context() as patch:
        forbid_generating(patch)
        assert cli("run", *both) == 0


@pytest.mark.usefixtures("no_tables")
def test_real_images_need_no_inversion(cli: Cli, embedded: list[str], run_dir: Path, tmp_path: Path) -> None:
    miniature = ["dataset=pie_miniature", f"dataset.path={tmp_path / 'data'}", "dataset.per_category=1"]
    assert cli("run", *embedded, *miniature, "dataset.limit=2", "seed=[0,1]") == 0
    records = load_records(run_dir)
    assert records["method"].value_counts().to_dict() == {"instruct_pix2pix": 4, "source": 2}
    assert records.loc[records["method"] == "instruct_pix2pix", "key"].nunique() == 4
    assert set(records["effective_steps"]) == {3}


def test_arguments_are_an_axis(cli: Cli, embedded: list[str], run_dir: Path) -> None:
    axis = "+grid.methods.instruct_pix2pix.call.image_guidance_scale=[1.2,3]"
    assert cli("run", *embedded, *INLINE, axis) == 0
    records = load_records(run_dir)
    edits = records[records["method"] == "instruct_pix2pix"]
    first, second = (read_png(run_dir / image) for image in edits["image"])
    assert np.abs(first - second).max() > 0
    table = pd.read_csv(run_dir / "tables" / "main.csv")
    settings = table.loc[table["method"] == "instruct_pix2pix", "setting"]
    assert set(settings) == {"call.image_guidance_scale=1.2", "call.image_guidance_scale=3"}


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["dataset.instruction="], "instruct_pix2pix: instruction: the pair has none"),
        (["grid.methods.instruct_pix2pix.path=/nowhere"], "no weights at '/nowhere'"),
        (
            ["+grid.methods.instruct_pix2pix.pipeline=Imagic"],
            "pipeline: 'Imagic' is no pipeline of diffusers",
        ),
        (
            ["+grid.methods.instruct_pix2pix.call.cfg=2"],
            "call: cfg is no argument of StableDiffusionInstruct",
        ),
        (["+grid.methods.instruct_pix2pix.steps=2"], "steps is no parameter, allowed are pipeline"),
    ],
)
def test_what_cannot_run_is_an_error_before_anything_is_computed(
    overrides: list[str],
    message: str,
    cli: Cli,
    embedded: list[str],
    run_dir: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    inline = [override for override in INLINE if override.split("=")[0] != overrides[0].split("=")[0]]
    assert cli("run", *embedded, *inline, *overrides) == 2
    assert message in capsys.readouterr().err
    assert not (run_dir / "records").exists()


def test_ledits_inverts_and_edits_by_its_file(
    cli: Cli, embedded: list[str], run_dir: Path, tiny_folder: Path, tmp_path: Path
) -> None:
    saved = save_ledits_pp(tiny_folder, tmp_path / "ledits")
    kept = [override for override in embedded if "instruct_pix2pix" not in override]
    assert cli("run", *kept, *INLINE, f"+grid.methods.ledits_pp.path={saved}") == 0
    records = load(run_dir).set_index("method")
    assert sorted(records.index) == ["ledits_pp", "source"]
    assert records.loc["ledits_pp", "mse@1"] > 0


@pytest.mark.parametrize("name", ["instruct_pix2pix", "ledits_pp"])
def test_shipped_methods_name_classes_and_arguments_that_there_are(name: str) -> None:
    method = instantiate(OmegaConf.load(experiments.run.CONF / "method" / f"{name}.yaml"), _convert_="all")
    assert isinstance(method, External)
    assert method.rows_per_step in (3, 4)


def test_the_pie_bench_comparison_plans_without_the_weights(
    cli: Cli, tmp_path: Path, run_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(tmp_path / "data", per_category=1)
    data = [f"dataset.path={tmp_path / 'data'}", "dataset.limit=2", f"run_dir={run_dir}"]
    assert cli("plan", "experiment=pie_bench_main", *data) == 0
    out = capsys.readouterr().out
    assert "2 pairs x 1 seeds: 10 groups, 10 edited images (10 p2p)" in out
    # Per pair: source and edit with guidance in 50 steps, five times; 50 to invert, but 650 for null-text.
    assert f"{2 * (5 * 200 + 4 * 50 + 650):,} UNet evaluations" in out
    assert "the weights of 'CompVis/stable-diffusion-v1-4' are not on this machine" in out


def test_the_pie_bench_comparison_runs_in_miniature(cli: Cli, tmp_path: Path, run_dir: Path) -> None:
    data = [f"dataset.path={tmp_path / 'data'}", "dataset.per_category=1", "dataset.limit=2"]
    few = [
        "device=cpu",
        "sampling.num_inference_steps=2",
        "plots=false",
        "report=false",
        f"run_dir={run_dir}",
    ]
    assert cli("run", "experiment=pie_bench_miniature", *data, *few) == 0
    records = load(run_dir)
    p2p = records[records["method"] == "p2p"]
    assert sorted(p2p["inversion"].unique()) == [
        "ddim", "direct", "negative_prompt", "null_text", "proximal norm=l1 quantile=0.75",
    ]  # fmt: skip
    assert set(p2p["operator"]) == {"refine"}
    table = pd.read_csv(run_dir / "tables" / "pie.csv")
    cells = table[(table["method"] == "p2p") & (table["edit_type"] == "all")]
    # One row an inversion: pairs with re-weighted blend words are averaged with the others, as published.
    assert cells.groupby("metric")["inversion"].nunique().eq(5).all()
    assert cells.groupby(["metric", "inversion"]).size().eq(1).all()
