"""`p2p-bench evaluate`: images of any other tool are matched, checked, scored and tabulated like a run's."""

import csv
import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

import experiments.scoring.score_folder
import p2p.devices
from evaluation.ideal import Ideal
from evaluation.pie import UneditedPixel
from evaluation.pixel import Pixel
from experiments.datasets.pair import Pair, slug
from experiments.datasets.pie_miniature import write
from experiments.datasets.tabular import Table
from experiments.inputs.masks import read_mask
from experiments.running.provenance import read_provenance
from experiments.scoring.score_folder import Folder, score_folder
from results.store.metric_columns import load_columns
from results.store.records import load
from results.store.run_folder import RunFolder
from tests.experiments.command import Cli


def picture(path: Path, seed: int, size: tuple[int, int] = (24, 16)) -> np.ndarray:
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
    return pixels


def table(path: Path, *pairs: Pair) -> Path:
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        columns = ["id", "source_prompt", "target_prompt", "edit_type", "image", "mask", "ideal"]
        writer.writerow(columns)
        writer.writerows([getattr(pair, name) or "" for name in columns] for pair in pairs)
    return path


CAT, HORSE, HARD = (
    Pair("cat", "a cat", "a dog", "swap"),
    Pair("horse", "a horse", "a zebra", "swap"),
    Pair("../a b", "a cat", "a red cat"),
)


@pytest.fixture
def given(tmp_path: Path) -> Folder:
    """Three pairs: one in a subfolder, one under its slug, one by plain name."""
    for name, folder in (("source", 0), ("edits", 10)):
        picture(tmp_path / name / "cat.png", folder)
        picture(tmp_path / name / "sub" / "horse.png", folder + 1)
        picture(tmp_path / name / f"{slug(HARD.id)}.png", folder + 2)
    return Folder(tmp_path / "edits", tmp_path / "source", tmp_path / "run", "other tool")


@pytest.fixture
def pairs(tmp_path: Path) -> Table:
    return Table(name="mine", path=table(tmp_path / "pairs.csv", CAT, HORSE, HARD))


class Brightness:
    """A metric whose value says which images it was given."""

    name = "brightness@1"
    names = (name,)
    higher_is_better = {name: True}  # noqa: RUF012

    def check(self) -> None:
        pass

    def __call__(self, edits):  # type: ignore[no-untyped-def]
        from evaluation.metric import Scores

        change = edits.images - edits.source_images[edits.source_index]
        return {self.name: Scores.of(change.double().mean(dim=(1, 2, 3)))}


def test_each_image_is_scored_against_its_own_source(given: Folder, pairs: Table) -> None:
    assert score_folder(given, pairs, [Brightness()]) == 0
    rows = load(given.run_dir).set_index(["pair_id", "method"])
    for number, pair in enumerate((CAT, HORSE, HARD)):
        before, after = (
            picture(Path(given.run_dir / "x.png"), seed).mean() for seed in (number, 10 + number)
        )
        value = rows["brightness@1"][pair.id, "other tool"]
        assert value == pytest.approx((after - before) / 255, abs=1e-6)  # float32 pixels
        assert rows["brightness@1"][pair.id, "source"] == 0
        assert rows["target_prompt"][pair.id, "other tool"] == pair.target_prompt
    assert set(rows["model"]) == {"given images"}
    assert all((given.run_dir / image).is_file() for image in rows["image"])


def test_the_direction_of_a_metric_is_kept_beside_its_values(given: Folder, pairs: Table) -> None:
    score_folder(given, pairs, [Brightness()])
    assert load_columns(given.run_dir) == {"brightness@1": True}
    RunFolder(given.run_dir).columns_file("brightness@1").unlink()  # as of a run that kept none
    score_folder(given, pairs, [Brightness()])
    assert load_columns(given.run_dir) == {"brightness@1": True}


def test_images_given_anew_replace_those_from_before(given: Folder, pairs: Table) -> None:
    score_folder(given, pairs, [Brightness()])
    picture(given.edits / "cat.png", 77)
    score_folder(given, pairs, [Brightness()])
    score_folder(Folder(given.edits, given.source, given.run_dir, "second"), pairs, [Brightness()])
    rows = load(given.run_dir)
    assert rows["method"].value_counts().to_dict() == {"source": 3, "other tool": 3, "second": 3}
    cat = rows[rows["pair_id"].eq("cat")].set_index("method")["brightness@1"]
    assert cat["other tool"] == cat["second"]


def test_images_of_several_sizes_are_scored(given: Folder, pairs: Table) -> None:
    for folder in (given.edits, given.source):
        picture(folder / "cat.png", 5, (40, 12))
    assert score_folder(given, pairs, [Brightness()]) == 0
    assert load(given.run_dir)["brightness@1"].notna().all()


def test_a_pairs_own_image_is_its_source_and_names_its_edit(tmp_path: Path) -> None:
    picture(tmp_path / "horses" / "n0238.png", 1)
    picture(tmp_path / "out" / "n0238_fake_B.png", 2)
    picture(tmp_path / "out" / "n0238_real_A.png", 1)
    pair = Pair("zebra", "a horse", "a zebra", image=Path("horses/n0238.png"))
    pairs = Table(name="mine", path=table(tmp_path / "pairs.csv", pair))
    made = Folder(tmp_path / "out", None, tmp_path / "run", "cyclegan", suffix="_fake_B")
    assert score_folder(made, pairs, [Brightness()]) == 0
    value = load(tmp_path / "run").set_index("method")["brightness@1"]["cyclegan"]
    both = Folder(tmp_path / "out", tmp_path / "out", tmp_path / "both", "cyclegan", "_fake_B", "_real_A")
    score_folder(both, pairs, [Brightness()])
    assert load(tmp_path / "both").set_index("method")["brightness@1"]["cyclegan"] == value != 0


def test_masks_reach_the_metrics_and_a_tool_that_had_them_says_so(tmp_path: Path) -> None:
    before, after = picture(tmp_path / "cat.png", 1), picture(tmp_path / "edits" / "cat.png", 2)
    left = np.broadcast_to(np.arange(24) < 12, (16, 24))
    Image.fromarray(np.uint8(left * 255)).save(tmp_path / "mask.png")
    cat = replace(CAT, image=Path("cat.png"), mask=Path("mask.png"))
    pairs = Table(name="mine", path=table(tmp_path / "pairs.csv", cat))
    made = Folder(tmp_path / "edits", None, tmp_path / "run", "inpainting", uses_mask=True)
    assert score_folder(made, pairs, [UneditedPixel()]) == 0
    rows = load(tmp_path / "run").set_index("method")
    error = np.square(before / 255.0 - after / 255.0) * ~left[..., None]
    assert rows["pie/mse_unedit@1"]["inpainting"] == pytest.approx(error.mean(), rel=1e-5)  # float32 pixels
    assert rows["uses_mask"].to_dict() == {"source": False, "inpainting": True}
    np.testing.assert_array_equal(read_mask(tmp_path / "run" / rows["mask"]["inpainting"], "cat"), left)
    Image.new("L", (16, 24)).save(tmp_path / "mask.png")
    with pytest.raises(ValueError, match=r"mask .* is 16 x 24 pixels, allowed is the image's size, 24 x 16"):
        score_folder(made, pairs, [UneditedPixel()])


def test_ideals_reach_the_metrics(tmp_path: Path) -> None:
    before, after = picture(tmp_path / "cat.png", 1), picture(tmp_path / "edits" / "cat.png", 2)
    ideal = picture(tmp_path / "ideal.png", 3)
    own = replace(CAT, image=Path("cat.png"), ideal=Path("ideal.png"))
    pairs = Table(name="mine", path=table(tmp_path / "pairs.csv", own))
    folder = Folder(tmp_path / "edits", None, tmp_path / "run", "mine")
    assert score_folder(folder, pairs, [Ideal()]) == 0
    errors = load(tmp_path / "run").set_index("method")["ideal/mse@1"]
    for method, image in (("source", before), ("mine", after)):
        expected = np.square(image / 255 - ideal / 255).mean()
        assert errors[method] == pytest.approx(expected, rel=1e-6)  # pictures are read in float32


def test_the_edit_is_the_last_panel_of_a_sheet(tmp_path: Path, given: Folder) -> None:
    cat = Table(name="mine", path=table(tmp_path / "cat.csv", CAT))
    assert score_folder(given, cat, [Brightness()]) == 0
    with Image.open(given.edits / "cat.png") as image:
        sheet = np.concatenate([np.zeros((16, 72, 3), np.uint8), np.asarray(image)], axis=1)
    Image.fromarray(sheet).save(given.edits / "cat.png")
    sheets = replace(given, run_dir=tmp_path / "sheets", panel=True)
    assert score_folder(sheets, cat, [Brightness()]) == 0
    values = [load(each.run_dir).set_index("method")["brightness@1"] for each in (given, sheets)]
    assert values[0]["other tool"] == values[1]["other tool"] != 0
    picture(given.edits / "cat.png", 3, (16, 16))
    with pytest.raises(ValueError, match="is 16 x 16, its source 24 x 16, which is no panel of it"):
        score_folder(sheets, cat, [Brightness()])


def test_one_image_is_no_edit_of_two_pairs(tmp_path: Path) -> None:
    picture(tmp_path / "n1.png", 1)
    picture(tmp_path / "out" / "n1.png", 2)
    pairs = [Pair(name, "a horse", f"a {name}", image=Path("n1.png")) for name in ("zebra", "cow")]
    both = Table(name="mine", path=table(tmp_path / "pairs.csv", *pairs))
    with pytest.raises(ValueError, match="id 'cow': .*n1.png is the image of id 'zebra' already"):
        score_folder(Folder(tmp_path / "out", None, tmp_path / "run", "x"), both, [Brightness()])


def test_everything_that_is_wrong_is_told_at_once(given: Folder, pairs: Table) -> None:
    (given.edits / "cat.png").unlink()
    picture(given.edits / "again" / "horse.jpg", 3)
    picture(given.edits / f"{slug(HARD.id)}.png", 3, (16, 16))
    with pytest.raises(ValueError) as error:
        score_folder(given, pairs, [Brightness()])
    told = str(error.value)
    assert "3 problems" in told
    assert "id 'cat': 'cat' or" in told
    assert "is no image in" in told
    assert "id 'horse': 'horse'" in told
    assert "stands for" in told
    assert "is 16 x 16, its source 24 x 16; --resize" in told
    assert not given.run_dir.exists()


def test_what_is_there_is_scored_and_what_is_missing_is_told(
    given: Folder, pairs: Table, cli: Cli, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (given.edits / "cat.png").unlink()
    (tmp_path / "source" / "sub" / "horse.png").unlink()
    with pytest.raises(ValueError, match=r"(?s)2 problems.*id 'cat': .*; --missing=skip leaves it out"):
        score_folder(given, pairs, [Brightness()])
    arguments = [str(given.edits), "--source", str(given.source), "--pairs", str(pairs.path), "--run-dir"]
    arguments += [str(given.run_dir), "--method", "other tool", "metrics=pixel", "plots=false"]
    assert cli("evaluate", *arguments) == 2
    assert not given.run_dir.exists()
    capsys.readouterr()
    assert cli("evaluate", *arguments, "--missing=skip") == 0
    told = capsys.readouterr()
    assert f"no image in {given.edits}: cat (1 in all)" in told.err
    assert f"no image in {given.source}: horse (1 in all)" in told.err
    assert "2 images of 1 pair.\n2 images in 1 group failed:\n" in told.out
    assert re.search(r"- 1 x no image in .*edits \(cat\)", told.out)
    main = pd.read_csv(given.run_dir / "tables" / "main.csv")
    [row] = main.query("method == 'other tool' and metric == 'mse@1' and edit_type == 'all'").itertuples()
    assert (row.n, row.n_missing) == (1, 2)
    # What comes later takes the place of what was missing, and what has gone is missing again.
    (given.edits / f"{slug(HARD.id)}.png").unlink()
    for name, folder in (("cat", given.edits), ("sub/horse", tmp_path / "source")):
        picture(folder / f"{name}.png", 5)
    assert cli("evaluate", *arguments, "--missing=skip") == 0
    rows = load(given.run_dir).query("method == 'other tool'").set_index("pair_id")["status"].to_dict()
    assert rows == {"cat": "ok", "horse": "ok", HARD.id: "failed"}


def test_a_folder_with_nothing_for_the_pairs_is_an_error(given: Folder, pairs: Table) -> None:
    shutil.rmtree(given.edits)
    given.edits.mkdir()
    with pytest.raises(ValueError, match="3 problems"):
        score_folder(replace(given, missing="skip"), pairs, [Brightness()])
    assert not given.run_dir.exists()


def test_a_wrong_image_is_no_missing_one(given: Folder, pairs: Table) -> None:
    picture(given.edits / "cat.png", 3, (16, 16))
    with pytest.raises(ValueError, match=r"1 problem:\n.*is 16 x 16, its source 24 x 16"):
        score_folder(replace(given, missing="skip"), pairs, [Brightness()])


def test_an_id_may_have_folders_and_a_suffix(tmp_path: Path) -> None:
    files = {"1.png": "1.png", "a/b": "a/b.png", "c/d.JPG": "c/d.png", "b": "other/b.png"}
    picture(tmp_path / "source.png", 0)
    for number, file in enumerate(files.values()):
        picture(tmp_path / "edits" / file, 10 + number)
    own = [Pair(name, "a cat", "a dog", image=Path("source.png")) for name in files]
    data = Table(name="mine", path=table(tmp_path / "pairs.csv", *own[:3]))
    made = Folder(tmp_path / "edits", None, tmp_path / "run", "x")
    assert score_folder(made, data, [Brightness()]) == 0
    told = load(tmp_path / "run").query("method == 'x'").set_index("pair_id")
    assert told["warnings"].to_dict() == {
        name: f"image of {Path(files[name]).name}" for name in ("1.png", "a/b", "c/d.JPG")
    }
    expected = (picture(tmp_path / "x.png", 11).mean() - picture(tmp_path / "x.png", 0).mean()) / 255
    assert told["brightness@1"]["a/b"] == pytest.approx(expected, abs=1e-6)  # float32 pixels
    both = Table(name="mine", path=table(tmp_path / "pairs.csv", own[3]))
    with pytest.raises(ValueError, match="'b' .*stands for .*a/b.png.*other/b.png"):
        score_folder(made, both, [Brightness()])
    outside = Pair("../other/b", "a cat", "a dog", image=Path("source.png"))
    lost = Table(name="mine", path=table(tmp_path / "pairs.csv", outside))
    with pytest.raises(ValueError, match="'../other/b' or .* is no image in"):
        score_folder(replace(made, edits=tmp_path / "edits" / "a"), lost, [Brightness()])


def test_resizing_is_asked_for_and_recorded(given: Folder, pairs: Table) -> None:
    picture(given.edits / "cat.png", 3, (48, 32))
    made = Folder(given.edits, given.source, given.run_dir, "other tool", resize=True)
    assert score_folder(made, pairs, [Brightness()]) == 0
    rows = load(given.run_dir).query("method == 'other tool'")
    assert set(rows["params"]) == {'{"resize": "bicubic"}'}
    with Image.open(given.run_dir / rows.set_index("pair_id")["image"]["cat"]) as image:
        assert image.size == (24, 16)


def test_the_command_scores_and_tabulates(
    given: Folder, pairs: Table, cli: Cli, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    arguments = [
        str(given.edits), "--source", str(given.source), "--pairs", str(pairs.path), "--run-dir",
        str(tmp_path / "run"), "metrics=pixel", "reference=pie_bench", "plots=false",
    ]  # fmt: skip
    assert cli("evaluate", *arguments) == 0
    page = tmp_path / "run" / "report" / "index.html"
    assert capsys.readouterr().out.strip().splitlines()[-2:] == [str(page), str(tmp_path / "run")]
    assert "p2p-bench evaluate" in page.read_text()
    main = pd.read_csv(tmp_path / "run" / "tables" / "main.csv")
    assert set(main["method"]) == {"source", "edits"}
    assert main.query("method == 'edits' and metric == 'mse@1' and edit_type == 'all'")["n"].item() == 3
    assert (tmp_path / "run" / "tables" / "published.md").is_file()
    assert len(read_provenance(tmp_path / "run")) == 1


def test_images_of_another_folder_do_not_take_the_place_of_those_before(
    given: Folder, pairs: Table, cli: Cli, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    arguments = ["--source", str(given.source), "--pairs", str(pairs.path), "metrics=pixel", "plots=false"]
    arguments += ["--run-dir", str(given.run_dir), "report=false"]
    other = shutil.copytree(given.edits, tmp_path / "b" / given.edits.name)
    assert cli("evaluate", str(given.edits), *arguments) == 0
    assert cli("evaluate", str(other), *arguments) == 2
    assert f"has images of {given.edits} as method 'edits'" in capsys.readouterr().err
    assert cli("evaluate", str(other), *arguments, "--method", "b") == 0
    assert set(load(given.run_dir)["method"]) == {"source", "edits", "b"}
    assert not (given.run_dir / "report").exists()


@pytest.mark.parametrize("method", ["source", "ideal", "reconstruction"])
def test_a_method_whose_name_means_no_edit_is_refused(method: str, given: Folder, pairs: Table) -> None:
    with pytest.raises(ValueError, match=f"method '{method}': means no edit"):
        score_folder(replace(given, method=method), pairs, [Brightness()])
    assert not given.run_dir.exists()


def test_results_of_another_tool_on_a_data_set(cli: Cli, tmp_path: Path) -> None:
    write(tmp_path / "pie", per_category=1)
    mapping = json.loads((tmp_path / "pie" / "mapping_file.json").read_text())
    next(iter(mapping.values()))["blended_word"] = "no words of these prompts"
    (tmp_path / "pie" / "mapping_file.json").write_text(json.dumps(mapping))
    made = tmp_path / "out" / "annotation_images"  # as PIE-Bench's own code writes its results
    shutil.copytree(tmp_path / "pie" / "annotation_images", made)
    arguments = [str(made), "--method", "identity", "--run-dir", str(tmp_path / "run")]
    metrics = ["--uses-mask", "metrics=pie_embedded", "~metrics.clip", "~metrics.lpips", "plots=false"]
    assert cli("evaluate", *arguments, *metrics, "dataset=pie_bench", f"dataset.path={tmp_path / 'pie'}") == 0
    rows = load(tmp_path / "run").query("method == 'identity'")
    whole = rows["reason:pie/mse_unedit@1"].eq("mask covers the whole image")
    assert rows.loc[~whole, "pie/mse_unedit@1"].tolist() == [0] * (~whole).sum()
    assert not whole.all()
    assert rows["uses_mask"].all()
    assert rows["edit_type"].nunique() == 10
    assert rows["instruction"].ne("").all()
    assert set(rows["dataset"]) == {"pie_bench"}


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("dataset=embedded", "changes nothing here, allowed are metrics"),
        (
            "metrics=pixl",
            "error: metrics=pixl: there is none, did you mean pixel, allowed are dino, dreamsim",
        ),
        ("metrics.pixl=1", "error: metrics.pixl: no key of the configuration, did you mean metrics.pixel\n"),
        ("reference=[pie]", "no table pie"),
        ("plots=maybe", "plots: 'maybe' is not true or false"),
    ],
)
def test_bad_arguments_are_one_message(
    override: str, message: str, given: Folder, pairs: Table, cli: Cli, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [str(given.edits), "--pairs", str(pairs.path), "--run-dir", str(given.run_dir)]
    assert cli("evaluate", *arguments, override) == 2
    told = capsys.readouterr().err
    assert message in told
    assert told.count("\n") == 1
    assert not given.run_dir.exists()


def test_metrics_run_on_the_gpu_where_there_is_one(
    given: Folder, pairs: Table, cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(p2p.devices, "exact_float32", lambda: None)
    devices: list[str] = []

    def stop(folder: Folder, dataset: Table, metrics: list[Pixel]) -> None:
        devices.extend(metric.device for metric in metrics)
        raise ValueError("enough is known")

    monkeypatch.setattr(experiments.scoring.score_folder, "score_folder", stop)
    arguments = (str(given.edits), "--pairs", str(pairs.path), "metrics=pixel")
    assert cli("evaluate", *arguments) == 2
    assert cli("evaluate", *arguments, "metrics_device=cpu") == 2
    assert cli("evaluate", *arguments, "metrics_device=cuda:1") == 2  # refused before
    assert devices == ["cuda", "cpu"]
