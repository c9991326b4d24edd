"""Masks from a user's table to the columns of PIE-Bench: each pair is scored inside its own mask."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from experiments.datasets.pair import Pair
from experiments.inputs.masks import check_sizes, mask_digest, read_mask
from experiments.inputs.real_images import RealImage
from experiments.running.png_files import read_png
from results.store.records import load, load_records
from tests.experiments.command import p2p_bench

MSE, PSNR = "pie/mse_unedit@1", "pie/psnr_unedit@1"


@pytest.fixture
def bench(tiny_folder: Path, tmp_path: Path) -> Callable[..., int]:
    """Run `p2p-bench` in this process on a table of pairs; return its exit code."""

    def call(pairs: pd.DataFrame, command: str = "run", more: Sequence[str] = ()) -> int:
        pairs.to_csv(tmp_path / "pairs.csv", index=False)
        arguments = [
            *("model=folder", f"model.path={tiny_folder}", "model.self_max_side=16", "device=cpu"),
            *("sampling.num_inference_steps=2", "dataset=table", f"dataset.path={tmp_path / 'pairs.csv'}"),
            *("grid=tau", "grid.seeds=[0]", "grid.methods.p2p.tau=[0]", "~grid.methods.fixed_seed"),
            f"run_dir={tmp_path / 'run'}",
            *("metrics=pie_embedded", "~metrics.clip", "~metrics.lpips", "plots=false", "report=false"),
            *more,
        ]
        return p2p_bench(command, *arguments)

    return call


def write_mask(path: Path, mask: np.ndarray) -> Path:
    Image.fromarray(np.uint8(mask * 255)).save(path)
    return path


def halves() -> tuple[np.ndarray, np.ndarray]:
    """The left and the right half of the tiny pipeline's 32 x 32 pixels."""
    left = np.broadcast_to(np.arange(32) < 16, (32, 32))
    return left, ~left


def table(masks: dict[str, Path | str]) -> pd.DataFrame:
    rows = [(name, "a cat on a bench", "a dog on a bench", str(mask)) for name, mask in masks.items()]
    return pd.DataFrame(rows, columns=["id", "source_prompt", "target_prompt", "mask"])


def test_one_edit_inside_several_masks_has_a_value_for_each(
    bench: Callable[..., int], tmp_path: Path
) -> None:
    left, right = halves()
    files = [write_mask(tmp_path / f"{i}.png", mask) for i, mask in enumerate((left, right, left | right))]
    masks: dict[str, Path | str] = dict(zip(("left", "right", "whole"), files, strict=True))
    assert bench(table({**masks, "none": ""})) == 0
    run = tmp_path / "run"
    frame = load(run).set_index(["pair_id", "method"])
    for name, mask in (("left", left), ("right", right)):
        row = frame.loc[name, "p2p"]
        error = np.square(read_png(run / row["image"]) - read_png(run / row["source_image"]))
        assert row[MSE] == pytest.approx((error * ~mask).mean(), rel=1e-5)
        assert frame.loc[(name, "source"), f"reason:{PSNR}"] == "identical outside the mask"
    assert frame.loc[("left", "p2p"), MSE] != frame.loc[("right", "p2p"), MSE]
    assert frame.loc[("whole", "p2p"), f"reason:{MSE}"] == "mask covers the whole image"
    assert frame.loc[("none", "p2p"), f"reason:{MSE}"] == "no mask"
    assert len(list((run / "metrics" / "pie" / "pixel_unedit@3").glob("*.parquet"))) == 1
    text = (run / "tables" / "pie.md").read_text()
    assert "pie/mse_unedit@1 ×10⁴ ↓" in text
    assert "| uses mask |" in text
    assert "2 mask covers the whole image; 2 no mask" in text
    main, pie = (pd.read_csv(run / "tables" / f"{name}.csv") for name in ("main", "pie"))
    at = "method == 'p2p' and edit_type == 'all' and metric.str.startswith(@MSE)"
    assert pie.query(at)["mean"].item() == pytest.approx(1e4 * main.query(at)["mean"].item())
    assert pie.query(at)["n"].item() == 2
    assert set(main["uses_mask"]) == {"no"}


@pytest.mark.usefixtures("no_tables")
def test_another_mask_is_another_record(bench: Callable[..., int], tmp_path: Path) -> None:
    """So that no value of an earlier mask stays; the run keeps a copy of what each was computed with."""
    left, right = halves()
    path, values = tmp_path / "mask.png", []
    for mask in (left, right):
        write_mask(path, mask)
        assert bench(table({"pair": path})) == 0
        records = load(tmp_path / "run")
        kept = [read_mask(tmp_path / "run" / name, "pair") for name in records["mask"]]
        now = records[[np.array_equal(each, mask) for each in kept]]
        assert sorted(now["method"]) == ["p2p", "source"]
        values.append(now.loc[now["method"] == "p2p", MSE].item())
    assert values[0] != values[1]
    assert load_records(tmp_path / "run")["key"].nunique() == 4


@pytest.mark.parametrize("exchanged", [np.eye(32), pytest.param(np.eye(48), marks=pytest.mark.slow)])
@pytest.mark.usefixtures("no_tables")
def test_a_mask_of_a_run_that_was_exchanged_is_set_aside_when_it_is_read_and_made_again(
    bench: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str], exchanged: np.ndarray
) -> None:
    run, mask = tmp_path / "run", write_mask(tmp_path / "mask.png", halves()[0])
    assert bench(table({"pair": mask})) == 0
    before, [kept] = load(run), list(run.glob("images/*/mask-*.png"))
    content = kept.read_bytes()
    write_mask(kept, exchanged)
    for file in run.glob("metrics/**/*.parquet"):
        file.unlink()
    capsys.readouterr()
    assert bench(table({"pair": mask})) == 1
    told = [line for line in capsys.readouterr().out.splitlines() if kept.name in line]
    assert len(told) == 1
    assert "is not the mask" in told[0]
    assert kept.with_name(f"_{kept.name}.damaged").is_file()
    assert bench(table({"pair": mask})) == 0
    assert kept.read_bytes() == content
    pd.testing.assert_series_equal(load(run)[MSE], before[MSE])


def test_a_reconstruction_is_scored_inside_the_mask_of_each_pair(
    bench: Callable[..., int], tmp_path: Path
) -> None:
    left, right = halves()
    masks: dict[str, Path | str] = {
        name: write_mask(tmp_path / f"{name}.png", mask) for name, mask in (("left", left), ("right", right))
    }
    x, y = np.mgrid[0:256:8, 0:256:8]
    Image.fromarray(np.uint8(np.stack([x, y, 255 - x], -1))).save(tmp_path / "source.png")
    pairs = table(masks).assign(image=str(tmp_path / "source.png"))
    assert bench(pairs, more=["inversion=direct"]) == 0
    run = tmp_path / "run"
    frame = load(run).set_index(["pair_id", "method"])
    for name, mask in (("left", left), ("right", right)):
        row = frame.loc[name, "reconstruction"]
        error = np.square(read_png(run / row["image"]) - read_png(run / row["source_image"]))
        assert row[MSE] == pytest.approx((error * ~mask).mean(), rel=1e-5)
    assert frame.loc["left"]["key"]["reconstruction"] != frame.loc["right"]["key"]["reconstruction"]
    table_of_run = pd.read_csv(run / "tables" / "main.csv")
    assert set(table_of_run["uses_mask"]) == {"no"}


def test_a_mask_of_its_pictures_size_is_cropped_and_resized_with_it(tmp_path: Path) -> None:
    """A red box in a wide picture, and the mask of it, come out in one place."""
    box = np.zeros((40, 100), bool)
    box[10:30, 40:60] = True
    Image.fromarray(np.uint8(box[..., None] * [255, 0, 0])).save(tmp_path / "wide.png")
    mask = write_mask(tmp_path / "mask.png", box)
    red = RealImage.of(tmp_path / "wide.png").read((20, 20))[0].numpy() > 0.5
    assert red.sum() == 100
    np.testing.assert_array_equal(read_mask(mask, "p", (20, 20), tmp_path / "wide.png"), red)
    message = "is 100 x 40 pixels, allowed is the image's size, 20 x 20, or its picture's, 8 x 6"
    Image.new("RGB", (8, 6)).save(tmp_path / "other.png")
    with pytest.raises(ValueError, match=message):
        read_mask(mask, "p", (20, 20), tmp_path / "other.png")


@pytest.mark.usefixtures("no_tables")
def test_a_real_picture_is_scored_inside_its_cropped_mask(bench: Callable[..., int], tmp_path: Path) -> None:
    y, x = np.mgrid[0:48, 0:64]
    Image.fromarray(np.uint8(np.stack([5 * y, 4 * x, 255 - 4 * x], -1))).save(tmp_path / "source.png")
    mask = write_mask(tmp_path / "mask.png", x < 32)  # the left half of the centre too
    assert (
        bench(table({"pair": mask}).assign(image=str(tmp_path / "source.png")), "run", ["inversion=ddim"])
        == 0
    )
    run = tmp_path / "run"
    row = load(run).set_index("method").loc["p2p"]
    left, _ = halves()
    np.testing.assert_array_equal(read_mask(run / row["mask"], "pair"), left)
    error = np.square(read_png(run / row["image"]) - read_png(run / row["source_image"]))
    assert row[MSE] == pytest.approx((error * ~left).mean(), rel=1e-5)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (np.zeros((32, 48)), "is 48 x 32 pixels, allowed is the image's size, 32 x 32"),
        (None, "damaged, or of no known format"),
    ],
)
def test_a_mask_that_does_not_fit_is_one_line_that_names_the_pair(
    bench: Callable[..., int],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    content: np.ndarray | None,
    message: str,
) -> None:
    path = tmp_path / "mask.png"
    path.write_text("no image") if content is None else write_mask(path, content)
    assert bench(table({"my pair": path})) == 2
    line = capsys.readouterr().err.strip().splitlines()[-1]
    assert "pair 'my pair': mask" in line
    assert message in line
    assert not (tmp_path / "run" / "records").exists()


def test_greys_count_as_the_nearer_of_black_and_white(tmp_path: Path) -> None:
    """As JPEG leaves them."""
    grey = np.array([[0, 1, 127], [128, 254, 255]], np.uint8)
    Image.fromarray(grey).convert("RGB").save(tmp_path / "mask.png")
    assert read_mask(tmp_path / "mask.png", "p").tolist() == [[False] * 3, [True] * 3]


def test_a_digest_is_of_what_a_mask_marks() -> None:
    left, right = halves()
    assert mask_digest(left) == mask_digest(left.copy()) != mask_digest(right)
    assert mask_digest(np.zeros((4, 8), bool)) != mask_digest(np.zeros((8, 4), bool))


def test_all_masks_of_another_size_are_named(tmp_path: Path) -> None:
    left, _ = halves()
    pairs = [
        Pair(name, "a cat", "a dog", mask=write_mask(tmp_path / f"{name}.png", left))
        for name in ("one", "two")
    ]
    check_sizes(pairs, (32, 32))
    with pytest.raises(ValueError, match=r"2 problems:\n.*'one'.*\n.*'two'"):
        check_sizes([*pairs, Pair("none", "a cat", "a dog")], (64, 64))
