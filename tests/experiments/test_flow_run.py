"""Real pictures on a tiny Stable Diffusion 3, end to end: inversions of flow matching, planned, made and
recorded."""

from pathlib import Path

import pytest
import torch

from results.store.records import load
from tests.experiments.command import PAIR, Cli
from tests.experiments.test_real_images import picture
from tests.p2p.families.test_stable_diffusion_3 import tiny_pipeline

pytestmark = pytest.mark.xdist_group("flow_run")

STEPS = 4
ONE_STEP = ["sampling.num_inference_steps=1"]
INVERSIONS = {"reverse_euler": 1, "rf_solver": 2, "fireflow": 1, "rf_inversion": 1, "uni_inv": 1}
"""And how many evaluations each takes for a state on the way down."""


@pytest.fixture(scope="module")
def sd3_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sd3") / "pipeline"
    tiny_pipeline(with_t5=False).to(torch.float32).save_pretrained(folder)
    return folder


@pytest.fixture
def sd3(sd3_folder: Path, run_dir: Path, tmp_path: Path) -> list[str]:
    """Overrides for a run of one pair with a picture, by the fixed seed alone."""
    picture(tmp_path / "bench.png")
    return [
        *("model=sd3", f"model.path={sd3_folder}", "model.dtype=float32", "device=cpu"),
        *("model.leave_out=[text_encoder_3]", "model.self_max_side=8", "model.blend_side=8"),
        *(f"sampling.num_inference_steps={STEPS}", *PAIR, f"dataset.image={tmp_path / 'bench.png'}"),
        *("grid=single", "~grid.methods.p2p", "+grid.methods.fixed_seed={}", "metrics=pixel"),
        *("plots=false", "report=false", f"run_dir={run_dir}"),
    ]  # fmt: skip


@pytest.mark.parametrize("name", INVERSIONS)
def test_a_plan_counts_what_an_inversion_and_its_way_down_take(
    cli: Cli, sd3: list[str], name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli("plan", *sd3, f"inversion={name}") == 0
    told = capsys.readouterr().out
    up = {"rf_solver": 2 * STEPS, "fireflow": STEPS + 1, "uni_inv": STEPS + 1}.get(name, STEPS)
    down = INVERSIONS[name] * STEPS + (name == "fireflow")
    assert f"\n{2 * 2 * down + up} UNet evaluations" in told  # source and edit, two rows each
    assert f"{up} of them at most for inverting images" in told
    assert "3 of the 4 steps count: this schedule starts its last at 0.0089 of noise" in told


def test_inverted_pictures_are_edited_scored_and_recorded(
    cli: Cli, sd3: list[str], run_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = ["uni_inv", "rf_inversion", "fireflow"]
    assert cli("run", *sd3, f"inversions=[{','.join(names)}]") == 0
    records = load(run_dir)
    assert records["status"].eq("ok").all()
    errors = records[records["method"].eq("reconstruction")].set_index("inversion")["mse@1"]
    assert sorted(errors.index) == sorted(names)
    assert errors.gt(0).all()
    assert errors["uni_inv"] < errors["rf_inversion"]  # which is only held for the first quarter of the steps
    edits = records[records["method"].eq("fixed_seed")]
    assert edits["image_sha256"].nunique() == len(names)
    # From what was kept, nothing is found again, and the pictures are the same.
    monkeypatch.setattr("experiments.running.inversion_cache.source_paths", _only_none)
    again = run_dir.with_name("again")
    assert cli("run", *sd3[:-1], f"run_dir={again}", f"inversions=[{','.join(names)}]") == 0
    assert set(load(again)["image_sha256"]) == set(records["image_sha256"])


def _only_none(model: object, groups: list[object], *_: object) -> list[None]:
    assert groups == []
    return []


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["inversion=ddim"], "ddim: scheduler: FlowMatchEulerDiscreteScheduler is for flow matching, whose "),
        (["inversion=null_text"], "null_text: scheduler: FlowMatchEulerDiscreteScheduler is for flow matc"),
        (["inversion=uni_inv", "inversion.alpha=0.2"], "uni_inv: alpha: 0.2 of 4 steps is no step"),
        (
            ["inversion=rf_inversion", "inversion.eta_stop=0.2"],
            "eta_stop: from 0.0 to 0.2 of 4 steps is no step",
        ),
        (
            ["inversion=rf_solver", "+model.scheduler_config.shift_terminal=0.02", *ONE_STEP],
            "makes no single step with shift_terminal, but two or more",
        ),
    ],
)
def test_what_does_not_fit_is_one_line_before_anything_is_computed(
    cli: Cli, sd3: list[str], overrides: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli("plan", *sd3, *overrides) == 2
    [line] = [line for line in capsys.readouterr().err.splitlines() if message in line]
    assert line.startswith(("error: ", "  ", "- "))


def test_a_flows_inversion_on_stable_diffusion_1_is_one_line(
    cli: Cli, tiny_folder: Path, sd3: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    tiny = ["model=folder", f"model.path={tiny_folder}", "model.self_max_side=16"]
    assert cli("plan", *tiny, *(o for o in sd3 if not o.startswith("model")), "inversion=fireflow") == 2
    told = capsys.readouterr().err
    assert "fireflow: scheduler: DDIMScheduler has no flow's noise levels, allowed is FlowMatchEuler" in told


def test_flowedit_uni_edit_and_the_prompt_switch_are_planned_made_and_recorded(
    cli: Cli, sd3: list[str], run_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    methods = [
        "+grid.methods.flowedit={n_max: [2, 4], source_guidance_scale: 3.5}",
        "+grid.methods.uniedit.alpha=[0.5,1.0]",
        "+grid.methods.prompt_switch.switch_after=[0.25,0.5]",
    ]
    overrides = [o for o in sd3 if not o.startswith("dataset.image")]  # a generated source
    assert cli("plan", *overrides, *methods) == 0
    # Source, fixed seed and the two switches: 4 + 4 + 3 + 2 states of two rows. FlowEdit: 4 and 2 steps of
    # the target, 4 of the source, which the shorter shares. Uni-Edit, unguided: once up, 2 and 4 steps of
    # both.
    assert f"\n{2 * 13 + 2 * (4 + 2 + 4) + 4 + 1 + 2 * (2 + 4)} UNet evaluations" in capsys.readouterr().out
    assert cli("run", *overrides, *methods) == 0
    records = load(run_dir)
    assert records["status"].eq("ok").all()
    made = records.groupby("method")["image_sha256"].nunique().to_dict()
    assert made == {"source": 1, "fixed_seed": 1, "flowedit": 2, "prompt_switch": 2, "uniedit": 2}
    for method in ("flowedit", "uniedit"):
        edits = records[records["method"].eq(method)].sort_values("effective_steps")
        assert edits["effective_steps"].tolist() == [2, 4]
        assert edits["start_noise"].iloc[1] == 1.0  # from the first level on
        assert 0 < edits["start_noise"].iloc[0] < 1
    assert records["params"].str.contains('"switch_after": ?0.25').sum() == 1


def test_projections_are_planned_made_and_recorded_by_share_and_blocks(
    cli: Cli, sd3: list[str], run_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    axes = "{replace_steps: [0.25, 0.5], blocks: [null, [double-0..1], double-2]}"
    overrides = [o for o in sd3 if not o.startswith("dataset.image")]  # a generated source
    assert cli("plan", *overrides, f"+grid.methods.projections={axes}") == 0
    # Source and fixed seed; of each set of blocks the longer share, and the shorter one after its step.
    told = capsys.readouterr().out
    assert f"\n{2 * (4 + 4 + 3 * (4 + 3))} UNet evaluations" in told
    assert "3 of the 4 steps count" in told
    assert cli("run", *overrides, f"+grid.methods.projections={axes}") == 0
    records = load(run_dir)
    assert records["status"].eq("ok").all()
    made = records[records["method"].eq("projections")]
    assert made["image_sha256"].nunique() == made["key"].nunique() == len(made) == 6
    assert made["params"].str.contains('"blocks": ?\\["double-0..1"\\]').sum() == 2
    assert made["params"].str.contains('"blocks": ?"double-2"').sum() == 2


@pytest.mark.parametrize(
    ("method", "message"),
    [
        (
            "+grid.methods.projections={blocks: [[double-2..3]], replace_steps: 0.5}",
            "projections: blocks: double-3 is no block of this model, allowed are double-0..2",
        ),
        (
            "+grid.methods.projections={blocks: single-0, replace_steps: 0.5}",
            "projections: blocks: single-0 is no block of this model, allowed are double-0..2",
        ),
        ("+grid.methods.projections.blocks=double-2..1", "blocks: 'double-2..1' runs backwards, allowed is"),
        ("+grid.methods.projections.blocks=[3]", "blocks: "),
        ("+grid.methods.projections={}", "replace_steps: 0.2 of 4 steps is no step"),
        ("+grid.methods.prompt_switch.switch_after=0.2", "switch_after: 0.2 of 4 steps is no step"),
        ("+grid.methods.flowedit={}", "n_max: 24 of 4 steps, allowed are 1 to 4"),
    ],
)
def test_a_method_that_comes_to_no_step_or_asks_for_what_is_not_there_is_one_line(
    cli: Cli, sd3: list[str], method: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli("plan", *sd3, "inversion=uni_inv", method) == 2
    [line] = [line for line in capsys.readouterr().err.splitlines() if message in line]
    assert line.startswith(("error: ", "  ", "- "))


@pytest.mark.parametrize(
    ("method", "message"),
    [
        (
            "flowedit.n_max=4",
            "flowedit: scheduler: DDIMScheduler has no flow's noise levels, allowed is FlowMatchEuler",
        ),
        (
            "projections.replace_steps=0.5",
            "projections: blocks: only a transformer whose image and text share",
        ),
    ],
)
def test_a_transformers_method_on_stable_diffusion_1_is_one_line(
    cli: Cli,
    tiny_folder: Path,
    sd3: list[str],
    method: str,
    message: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    tiny = ["model=folder", f"model.path={tiny_folder}", "model.self_max_side=16"]
    rest = [o for o in sd3 if not o.startswith("model")]
    assert cli("plan", *tiny, *rest, "~grid.methods.fixed_seed", f"+grid.methods.{method}") == 2
    assert message in capsys.readouterr().err
