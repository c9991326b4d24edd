"""Pictures that are no plain RGB: content keys, warnings in records, `evaluate`, and published layouts."""

import hashlib
import io
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image, ImageOps

from evaluation.pixel import Pixel
from experiments.datasets.files import keep_image
from experiments.datasets.magicbrush import _white
from experiments.datasets.pair import Pair, slug
from experiments.datasets.pie_bench import PieBench
from experiments.datasets.tabular import Table
from experiments.inputs.ideals import ideal_warnings
from experiments.inputs.masks import read_mask
from experiments.inputs.real_images import RealImage
from experiments.scoring.score_folder import Folder, score_folder
from p2p.pictures import ORIENTATION
from results.store.records import load, load_records
from tests.experiments.command import Cli, on_tiny
from tests.experiments.test_score_folder import picture, table
from tests.p2p.test_pictures import BROKEN


def turned(path: Path, image: Image.Image) -> Path:
    """Save a picture that lies on its side, as phones do."""
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    image.save(path, exif=exif)
    return path


def see_through(path: Path, size: tuple[int, int] = (6, 4)) -> Path:
    Image.new("RGBA", size, (200, 0, 0, 128)).save(path)
    return path


def test_the_identity_of_a_picture_moves_where_its_pixels_do(tmp_path: Path) -> None:
    picture(tmp_path / "rgb.png", 1)
    Image.effect_noise((6, 4), 60).save(tmp_path / "l.png")
    Image.effect_noise((6, 4), 60).convert("RGBA").save(tmp_path / "opaque.png")
    Image.effect_noise((6, 4), 60).convert("CMYK").save(tmp_path / "cmyk.jpg")
    turned(tmp_path / "turned.png", Image.effect_noise((6, 4), 60))
    Image.new("L", (6, 4)).save(tmp_path / "a.gif", save_all=True, append_images=[Image.new("L", (6, 4), 9)])
    for path in sorted(tmp_path.iterdir()):
        assert RealImage.of(path).digest == hashlib.sha256(path.read_bytes()).hexdigest()
    see_through(tmp_path / "alpha.png")
    Image.new("I;16", (6, 4), 9000).save(tmp_path / "wide.png")
    for name in ("alpha.png", "wide.png"):
        content = (tmp_path / name).read_bytes()
        assert RealImage.of(tmp_path / name).digest != hashlib.sha256(content).hexdigest()


def test_what_was_done_to_a_picture_is_told(tmp_path: Path) -> None:
    image = RealImage.of(turned(tmp_path / "p.png", Image.new("RGBA", (6, 4), (0, 0, 0, 0))))
    told = "turned as its EXIF says; transparency composited on white"
    assert image.fitted((6, 4)) == f"image: {told}"
    assert image.fitted((3, 3)) == f"image: {told}; 4x6, centre 4x4 kept, resized to 3x3"
    assert image.read((6, 4)).eq(1).all()
    assert ideal_warnings(tmp_path, (6, 4)) == f"ideal: {told}"


def test_a_run_records_what_it_did_to_picture_mask_and_ideal(
    cli: Cli, tiny_folder: Path, tmp_path: Path
) -> None:
    given = {name: see_through(tmp_path / f"{name}.png", (32, 32)) for name in ("image", "ideal")}
    Image.fromarray(np.uint8(np.arange(1024).reshape(32, 32) % 2)).save(tmp_path / "mask.png")
    pair = Pair("p", "a cat on a bench", "a dog on a bench", mask=tmp_path / "mask.png", **given)
    pairs = ["dataset=table", f"dataset.path={table(tmp_path / 'pairs.csv', pair)}"]
    few = ["~grid.methods.p2p", "~grid.methods.fixed_seed"]
    assert cli("run", *on_tiny(tiny_folder, tmp_path / "run"), *few, *pairs) == 0
    warnings = load_records(tmp_path / "run").set_index("method")["warnings"]
    of_mask = "mask: of 0 and 1, read as black and white"
    assert warnings["sdedit"] == of_mask
    assert warnings["source"] == f"{of_mask}; image: transparency composited on white"
    assert warnings["ideal"] == f"{of_mask}; ideal: transparency composited on white"


@pytest.mark.parametrize("how", BROKEN)
def test_a_broken_picture_is_one_line_wherever_it_is_read(
    how: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 3000)
    (tmp_path / "edits").mkdir()
    file = BROKEN[how](tmp_path / "edits" / "p.png")
    cause = r"cannot be read as a picture \(.+\)"
    with pytest.raises(ValueError, match=rf"^image = '.*p.png': {cause}$"):
        RealImage.of(file)
    with pytest.raises(ValueError, match=cause):
        keep_image(file.read_bytes(), tmp_path / "kept", "p")
    good = Pair("p", "a cat", "a dog", image=tmp_path / "good.png")
    picture(tmp_path / "good.png", 1)
    pairs = Table(name="mine", path=table(tmp_path / "pairs.csv", good))
    with pytest.raises(ValueError, match=rf"1 problem:\n  id 'p': image = '.*p.png': {cause}$"):
        score_folder(Folder(tmp_path / "edits", None, tmp_path / "run", "x"), pairs, [Pixel()])


def test_the_upright_photo_is_no_edit_of_the_one_on_its_side(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pixels = picture(tmp_path / "up.png", 1, (16, 16))
    photo = turned(tmp_path / "p.png", Image.fromarray(pixels))
    (tmp_path / "edits").mkdir()
    with Image.open(photo) as opened:
        ImageOps.exif_transpose(opened).save(tmp_path / "edits" / "p.png")
    pairs = Table(name="mine", path=table(tmp_path / "p.csv", Pair("p", "a cat", "a dog", image=photo)))
    assert score_folder(Folder(tmp_path / "edits", None, tmp_path / "run", "x"), pairs, [Pixel()]) == 0
    rows = load(tmp_path / "run").set_index("method")
    assert rows["mse@1"]["x"] == 0
    assert rows["warnings"].to_dict() == {"source": "image: turned as its EXIF says", "x": "image of p.png"}
    assert "image: turned as its EXIF says: p (1 in all)" in capsys.readouterr().err


def test_edits_are_read_as_sources_are(tmp_path: Path) -> None:
    """A 16-bit edit of an 8-bit source that it equals, and a transparent one beside its composite."""
    grey = np.arange(256, dtype=np.uint16).reshape(16, 16)
    Image.fromarray(np.uint8(grey)).save(tmp_path / "a.png")
    Image.new("RGB", (16, 16), (227, 127, 127)).save(tmp_path / "b.png")
    (tmp_path / "edits").mkdir()
    Image.fromarray(grey * 257).save(tmp_path / "edits" / "a.png")
    see_through(tmp_path / "edits" / "b.png", (16, 16))
    pairs = [Pair(name, "a cat", "a dog", image=tmp_path / f"{name}.png") for name in "ab"]
    data = Table(name="mine", path=table(tmp_path / "p.csv", *pairs))
    assert score_folder(Folder(tmp_path / "edits", None, tmp_path / "run", "x"), data, [Pixel()]) == 0
    rows = load(tmp_path / "run").query("method == 'x'").set_index("pair_id")
    assert rows["mse@1"].tolist() == [0, 0]
    assert rows["warnings"]["a"] == "image of a.png; values of 0 to 65535 scaled to 8 bits"


def test_a_mask_of_pie_bench_is_turned_with_its_picture(tmp_path: Path) -> None:
    """A bright box and the mask of it, in the rows of the file, stay in one place."""
    box = np.zeros((12, 20), bool)
    box[3:7, 5:15] = True
    (tmp_path / "annotation_images").mkdir()
    turned(tmp_path / "annotation_images" / "p.png", Image.fromarray(np.uint8(box * 255)))
    starts = [20 * y + 5 for y in range(3, 7)]
    row = {
        "image_path": "p.png", "original_prompt": "a cat", "editing_prompt": "a dog",
        "editing_instruction": "", "editing_type_id": "1", "blended_word": "",
        "mask": [number for start in starts for number in (start, 10)],
    }  # fmt: skip
    (tmp_path / "mapping_file.json").write_text(json.dumps({"p": row}))
    (pair,) = PieBench(path=tmp_path).load()
    assert pair.image is not None
    assert pair.mask is not None
    light = RealImage.of(pair.image).read((20, 12))[0].numpy() > 0.5
    mask = read_mask(pair.mask, "p", (20, 12), pair.image)
    np.testing.assert_array_equal(mask[1:-1, 1:-1], light[1:-1, 1:-1])


def test_what_is_transparent_in_a_mask_of_magicbrush_is_white() -> None:
    file = io.BytesIO()
    Image.fromarray(np.uint8([[[9, 9, 9, 0], [9, 9, 9, 255]]])).save(file, "PNG")
    assert _white(file.getvalue()).tolist() == [[True, False]]


def test_a_phones_jpeg_of_two_pictures_is_kept(tmp_path: Path) -> None:
    file = io.BytesIO()
    Image.new("RGB", (8, 8)).save(file, "MPO", save_all=True, append_images=[Image.new("RGB", (8, 8))])
    kept = keep_image(file.getvalue(), tmp_path, "p")
    assert kept.suffix == ".jpg"
    assert RealImage.of(kept).fitted((8, 8)) == "image: first of 2 frames"


def test_a_second_table_of_pairs_labels_all_pictures_of_its_method(tmp_path: Path) -> None:
    """Also those that were recorded before, with another label or under another table."""
    (tmp_path / "edits").mkdir()
    both = [Pair(name, "a cat", "a dog", "swap", image=tmp_path / f"{name}.png") for name in "ab"]
    for seed, pair in enumerate(both):
        picture(tmp_path / f"{pair.id}.png", seed)
        picture(tmp_path / "edits" / f"{pair.id}.png", 10 + seed)
    first = Table(name="first", path=table(tmp_path / "p.csv", *both))
    made = Folder(tmp_path / "edits", None, tmp_path / "run", "x")
    assert score_folder(made, first, [Pixel()]) == 0
    both = [replace(both[0], edit_type="animal"), replace(both[1], target_prompt="a horse", edit_type="")]
    second = Table(name="second", path=table(tmp_path / "p2.csv", *both))
    assert score_folder(made, second, [Pixel()]) == 0
    rows = load(tmp_path / "run")
    assert set(rows["dataset"]) == {"second"}
    assert rows.groupby(["method", "pair_id"])["edit_type"].agg(list).to_dict() == {
        (method, pair.id): [pair.edit_type] for method in ("source", "x") for pair in both
    }
    assert rows["mse@1"].notna().all()
    before = load(tmp_path / "run")
    with pytest.raises(ValueError, match="has sources of these pairs as data set 'second', now they are of"):
        score_folder(replace(made, method="y"), first, [Pixel()])
    pd.testing.assert_frame_equal(load(tmp_path / "run"), before)
    assert score_folder(replace(made, method="y"), second, [Pixel()]) == 0
    with pytest.raises(ValueError, match="as data set 'second', now they are of 'first'; give --run-dir"):
        score_folder(made, first, [Pixel()])


def test_pictures_given_for_the_pairs_of_a_run_stay_in_its_tables(
    cli: Cli, tiny: list[str], complete_run: Path, tmp_path: Path
) -> None:
    own = load_records(complete_run).query("method == 'source'").iloc[0]
    for folder in ("edits", "source"):
        picture(tmp_path / folder / f"{slug(own['pair_id'])}.png", len(folder), (32, 32))
    pair = Pair(own["pair_id"], "a cat on a bench", "a dog on a bench")
    arguments = ["--source", str(tmp_path / "source"), "--pairs", str(table(tmp_path / "inline.csv", pair))]
    arguments += ["--run-dir", str(complete_run), "--method", "ot", "metrics=pixel", "plots=false"]
    assert cli("evaluate", str(tmp_path / "edits"), *arguments) == 0
    assert cli("run", *tiny, "tau=0.5") == 0
    main = pd.read_csv(complete_run / "tables" / "main.csv").query("metric == 'mse@1'")
    assert main.query("method == 'ot'")["n"].tolist() == [1]
    assert main.query("method == 'p2p'")["tau"].tolist() == [0.5]
