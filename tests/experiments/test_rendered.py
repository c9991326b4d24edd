"""Rendered scenes with ideal edits: the data set, and a run that is scored against them."""

from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from experiments.datasets.embedded_pairs import ACROSS, DOWN, STEPS, placements
from experiments.datasets.pair import find_problems
from experiments.datasets.rendered import EDIT_TYPES, Rendered
from experiments.embedded.worlds.scenes.layout import draw_layout
from experiments.inputs.ideals import ideal_digest, read_ideals
from experiments.running.png_files import read_png
from results.plots import run_plots
from results.store.records import load
from tests.experiments.command import Cli

pytestmark = pytest.mark.xdist_group("rendered")


@pytest.fixture(scope="module")
def rendered(tmp_path_factory: pytest.TempPathFactory) -> Rendered:
    """One pair of each edit type."""
    return Rendered(path=tmp_path_factory.mktemp("rendered"), per_edit=1)


def pixels(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image)


def test_every_edit_type_has_an_ideal_and_all_but_added_objects_a_mask(rendered: Rendered) -> None:
    pairs = rendered.load()
    assert Counter(pair.edit_type for pair in pairs) == dict.fromkeys(EDIT_TYPES, 1)
    for pair in pairs:
        assert pair.image is not None
        assert pair.ideal is not None
        if pair.edit_type == "add object":
            assert pair.mask is None
            assert len(read_ideals(pair.ideal, (64, 64))) == ACROSS * DOWN * STEPS * 2
        else:
            assert pair.mask is not None
            changed = (pixels(pair.image) != pixels(pair.ideal)).any(-1)
            assert changed.any()
            np.testing.assert_array_equal(pixels(pair.mask) > 0, changed)


def test_the_data_set_is_the_same_everywhere(rendered: Rendered, tmp_path: Path) -> None:
    again = replace(rendered, path=tmp_path).load()
    for pair, other in zip(rendered.load(), again, strict=True):
        assert (pair.id, pair.target_prompt) == (other.id, other.target_prompt)
        assert pair.ideal is not None
        assert other.ideal is not None
        assert ideal_digest(pair.ideal) == ideal_digest(other.ideal)


def test_placements_leave_the_first_thing_where_it_is() -> None:
    layout = draw_layout(np.random.default_rng(0), 2)
    for placed in placements(layout):
        assert placed.slots[0] == layout.slots[0]
        assert (placed.slots[1].x < 0.5) == (layout.slots[1].x < 0.5)


def test_an_ideal_needs_an_image(rendered: Rendered) -> None:
    (pair,) = replace(rendered, edit_types="swap").load()
    told = [problem for _, problem in find_problems([replace(pair, image=None)])]
    assert told == [f"id {pair.id!r}: ideal: is the edit of a picture, so that the pair needs an image too"]


@pytest.fixture(scope="module")
def arguments(rendered: Rendered) -> list[str]:
    return [
        *("experiment=ground_truth", "sampling.num_inference_steps=2", "inversions=[ddim,direct]"),
        *(f"dataset.path={rendered.path}", "dataset.per_edit=1", "dataset.edit_types=[swap,'add object']"),
        *(
            "grid.methods.p2p.tau=[0,0.5]",
            "grid.methods.sdedit.strength=[0.5]",
            "device=cpu",
            "report=false",
        ),
    ]


def test_a_run_is_scored_against_the_ideals(
    cli: Cli, arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_plots, "PLOTS", ())  # none but those of ideals are looked at
    run_dir = tmp_path / "run"
    metrics = "metrics=[ground_truth,local_clip_embedded]"
    assert cli("run", *arguments, metrics, f"run_dir={run_dir}") == 0
    frame = load(run_dir)
    # SDEdit starts from the image, whatever the inversion, and is made once.
    made = frame.groupby("method").size()
    assert made.to_dict() == {
        "source": 6,
        "reconstruction": 4,
        "ideal": 6,
        "p2p": 8,
        "sdedit": 2,
        "fixed_seed": 4,
    }
    errors = frame["ideal/mse@1"]
    assert errors.notna().all()
    for row, error in zip(frame.itertuples(), errors, strict=True):
        assert row.ideal
        ideals = [read_png(file) for file in sorted((run_dir / row.ideal).glob("*.png"))]
        image = read_png(run_dir / row.image)
        nearest = min(np.square(image.astype(float) - ideal).mean() for ideal in ideals)
        assert error == pytest.approx(nearest, rel=1e-9)
    floor = frame[frame["method"].eq("ideal")]["ideal/mse@1"]
    assert floor.max() < frame[frame["method"].eq("p2p")]["ideal/mse@1"].min()
    assert (run_dir / "plots" / "ground_truth.png").exists()
    table = pd.read_csv(run_dir / "tables" / "correlations.csv")
    assert {"all"} <= set(table["edit_type"])
    local = frame.query("method == 'p2p'").groupby("edit_type")["clip_local_directional_embedded@1"]
    # What is added may stand anywhere, so that it has no mask.
    assert local.count().to_dict() == {"add object": 0, "swap": 4}


@pytest.mark.usefixtures("no_tables")
def test_another_ideal_is_another_key(
    cli: Cli, arguments: list[str], rendered: Rendered, tmp_path: Path
) -> None:
    (pair,) = replace(rendered, edit_types="swap").load()
    assert pair.image is not None
    assert pair.ideal is not None
    keys = []
    for number, ideal in enumerate((pair.ideal, pair.image)):
        row = {
            "id": "a", "source_prompt": pair.source_prompt, "target_prompt": pair.target_prompt,
            "image": str(pair.image), "ideal": str(ideal),
        }  # fmt: skip
        pd.DataFrame([row]).to_json(tmp_path / "pairs.jsonl", orient="records", lines=True)
        run_dir = tmp_path / str(number)
        overrides = ["dataset=table", f"dataset.path={tmp_path / 'pairs.jsonl'}", f"run_dir={run_dir}"]
        shared = [a for a in arguments if not a.startswith("dataset.")]
        assert cli("run", *shared, *overrides, "metrics=pixel", "inversions=[ddim]", "plots=false") == 0
        keys.append(set(load(run_dir)["key"]))
    assert not keys[0] & keys[1]
