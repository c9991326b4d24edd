"""PIE-Bench: masks and prompts as its own code reads them, paths that stay inside, the miniature, PIE++."""

import io
import json
import os
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from experiments.datasets.blended import parse_blended
from experiments.datasets.embedded_pairs import ScenePair
from experiments.datasets.files import inside
from experiments.datasets.pair import Pair
from experiments.datasets.pie_bench import (
    CATEGORIES,
    PieBench,
    PieBenchPlusPlus,
    decode_mask,
    strip_brackets,
)
from experiments.datasets.pie_miniature import EDITS, PieMiniature, encode_mask, write
from experiments.datasets.world_pairs import render_pair
from experiments.embedded.worlds.scenes.layout import draw_layout

ROW = {
    "image_path": "0_random_140/000000000000.png",
    "original_prompt": "a slanted mountain bicycle on the road",
    "editing_prompt": "a slanted [rusty] mountain bicycle on the road",
    "editing_instruction": "Make the frame of the bike rusty",
    "editing_type_id": "0",
    "blended_word": "bicycle bicycle",
    "mask": [5, 3, 20, 4],
}
SIZE = (8, 6)  # width, height: not square, so that rows and columns cannot be mixed up


def png(size: tuple[int, int] = SIZE) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", size, "green").save(file, "PNG")
    return file.getvalue()


def data_set(folder: Path, **rows: Any) -> Path:
    image = folder / "annotation_images" / "0_random_140" / "000000000000.png"
    image.parent.mkdir(parents=True, exist_ok=True)
    image.write_bytes(png())
    (folder / "mapping_file.json").write_text(json.dumps(rows))
    return folder


def read_mask(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        assert image.mode == "L"
        return np.asarray(image)


# --- one row ----------------------------------------------------------------------------------------------


def test_a_row_becomes_a_pair(tmp_path: Path) -> None:
    (pair,) = PieBench(path=data_set(tmp_path, **{"000000000000": ROW})).load()
    assert pair == Pair(
        "000000000000",
        "a slanted mountain bicycle on the road",
        "a slanted rusty mountain bicycle on the road",
        "random",
        blend_words=("bicycle", "bicycle"),
        image=tmp_path / "annotation_images/0_random_140/000000000000.png",
        mask=pair.mask,
        instruction="Make the frame of the bike rusty",
    )
    assert pair.mask is not None
    assert set(np.unique(read_mask(pair.mask))) == {0, 255}
    np.testing.assert_array_equal(read_mask(pair.mask) == 255, decode_mask(ROW["mask"], 6, 8))


def test_a_mask_is_written_once_and_follows_its_row(tmp_path: Path) -> None:
    (before,) = PieBench(path=data_set(tmp_path, a=ROW)).load()
    written = os.stat(before.mask or "").st_mtime_ns
    (again,) = PieBench(path=tmp_path).load()
    assert again == before
    assert os.stat(again.mask or "").st_mtime_ns == written
    (changed,) = PieBench(path=data_set(tmp_path, a={**ROW, "mask": [9, 1]})).load()
    assert changed.mask != before.mask
    (elsewhere,) = PieBench(path=tmp_path, cache=tmp_path / "other").load()
    assert elsewhere.mask is not None
    assert elsewhere.mask.is_relative_to(tmp_path / "other")


@pytest.mark.parametrize(
    ("given", "stripped"),
    [
        ("a [rusty] bicycle", "a rusty bicycle"),
        ("a cat [] on a [[red] mat", "a cat on a red mat"),  # unbalanced, and words counted by single spaces
        ("[a]b", "ab"),
        (" a  cat ", "a cat"),
    ],
)
def test_brackets_go_and_spaces_close(given: str, stripped: str) -> None:
    assert strip_brackets(given) == stripped


# --- masks ------------------------------------------------------------------------------------------------


def reference_mask(runs: list[int], height: int, width: int) -> np.ndarray:
    """PIE-Bench's decoding spelled out pixel by pixel (reference notes, 4.3)."""
    rows = [[0] * width for _ in range(height)]
    for start, length in zip(runs[::2], runs[1::2], strict=True):
        for pixel in range(start, min(start + length, height * width)):
            rows[pixel // width][pixel % width] = 1
    border = {0, height - 1}, {0, width - 1}
    return np.array(
        [[v or y in border[0] or x in border[1] for x, v in enumerate(row)] for y, row in enumerate(rows)],
        dtype=bool,
    )


def test_a_number_for_a_category_no_blended_word_and_a_signature_are_read(tmp_path: Path) -> None:
    folder = data_set(tmp_path, plain=ROW, other={**ROW, "editing_type_id": 0, "blended_word": None})
    mapping = folder / "mapping_file.json"
    mapping.write_text("\ufeff" + mapping.read_text(), encoding="utf-8")
    plain, other = PieBench(path=folder).load()
    assert (other.edit_type, other.blend_words) == ("random", None)
    assert plain.edit_type == "random"


def test_masks_are_decoded_as_the_reference_decodes_them() -> None:
    rng = np.random.default_rng(0)
    for _ in range(50):
        height, width = (int(side) for side in rng.integers(3, 12, 2))
        runs = [int(n) for _ in range(4) for n in (rng.integers(height * width), rng.integers(40))]
        np.testing.assert_array_equal(decode_mask(runs, height, width), reference_mask(runs, height, width))


def test_decoding_undoes_encoding_but_for_the_border() -> None:
    rng = np.random.default_rng(0)
    for share in (0.0, 0.3, 1.0):
        mask = rng.random((9, 7)) < share
        decoded = decode_mask(encode_mask(mask), 9, 7)
        np.testing.assert_array_equal(decoded[1:-1, 1:-1], mask[1:-1, 1:-1])
        assert decoded[[0, -1]].all()
        assert decoded[:, [0, -1]].all()


# --- blended words ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", None),
        (" ", None),
        ("[]", None),
        ("cat dog", ("cat", "dog")),
        ("cat big dog", ("cat", "big dog")),  # parted where both sides fit
        ("('cat', 'dog')", ("cat", "dog")),
        ('["cat,dog"]', ("cat", "dog")),
        ('[["cat", "big dog"]]', ("cat", "big dog")),
    ],
)
def test_blended_words_of_every_published_format(text: str, words: tuple[str, str] | None) -> None:
    assert parse_blended(text, "a cat on a mat", "a big dog on a mat") == words


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("puppy puppy", "are not words of the source prompt"),
        ("cat", "are not words"),
        ("dog cat", "are not words"),
        ("Cat dog", "case"),
        ("('cat', ", "are not words"),
        ("(1)", "are not words"),
        ('["cat,dog", "mat,mat"]', "are 2 pairs; one pair bounds an edit"),
        ("a a a", "part in several ways"),
    ],
)
def test_blended_words_that_do_not_fit_say_so(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse_blended(text, "a a cat on a mat", "a a big dog on a mat")


def test_unusable_blended_words_are_an_error_or_dropped_in_a_printed_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = data_set(tmp_path, a=ROW, b={**ROW, "blended_word": "puppy puppy"})
    with pytest.raises(ValueError, match="id 'b': blended words 'puppy puppy'.*unusable_blend_words=drop"):
        PieBench(path=folder).load()
    assert capsys.readouterr().out == ""
    kept = PieBench(path=folder, unusable_blend_words="drop").load()
    assert [pair.blend_words for pair in kept] == [("bicycle", "bicycle"), None]
    assert capsys.readouterr().out.splitlines()[-1] == (
        "pie_bench: 1 of 2 pairs without their blended words: b"
    )
    with pytest.raises(ValueError, match="must be one of error, drop, published"):
        PieBench(path=folder, unusable_blend_words="ignore")


# --- what is refused --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    ["../secret.png", "/etc/passwd", "a/../../secret.png", "..", "", "a\\..\\b", "a\0b", "way-out.png"],
)
def test_no_path_leads_out_of_the_folder(tmp_path: Path, name: str) -> None:
    (tmp_path / "secret.png").write_bytes(png())
    folder = tmp_path / "images"
    folder.mkdir()
    (folder / "a").mkdir()
    (folder / "way-out.png").symlink_to(tmp_path / "secret.png")
    with pytest.raises(ValueError, match="must be a path inside|leads out of"):
        inside(folder, name)


def test_every_bad_row_is_told_at_once(tmp_path: Path) -> None:
    bad = {
        "path": {**ROW, "image_path": "../mapping_file.json"},
        "gone": {**ROW, "image_path": "gone.png"},
        "type": {**ROW, "editing_type_id": "10"},
        "number": {**ROW, "editing_type_id": -1},
        "truth": {**ROW, "editing_type_id": True},
        "odd": {**ROW, "mask": [1, 2, 3]},
        "text": {**ROW, "mask": ["1", "2"]},
        "large": {**ROW, "mask": [48, 1]},
        "prompt": {**ROW, "original_prompt": "[]", "blended_word": ""},
        "fields": {"mask": []},
        "list": [],
    }
    with pytest.raises(ValueError) as error:
        PieBench(path=data_set(tmp_path, good=ROW, **bad)).load()
    told = str(error.value)
    assert "has 11 problems" in told
    for expected in [
        "id 'path': '../mapping_file.json': must be a path inside",
        "id 'gone': 'gone.png': there is no such file",
        "id 'type': editing_type_id = '10': must be one of 0, 1",
        "id 'number': editing_type_id = '-1': must be one of 0, 1",
        "id 'truth': editing_type_id = True: must be a text",
        "id 'odd': mask: must be pairs of start and length",
        "id 'text': mask: must be pairs",
        "id 'large': mask: starts a run at 48, the image has 8 x 6 pixels",
        "id 'prompt': source_prompt = '': must not be empty",
        "id 'fields': must be an object with image_path",
        "id 'list': must be an object",
    ]:
        assert expected in told


def test_a_folder_that_is_none_says_what_is_missing(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="there is no such folder"):
        PieBench(path=tmp_path / "gone").load()
    with pytest.raises(ValueError, match=r"holds no mapping_file.json"):
        PieBench(path=tmp_path).load()
    (tmp_path / "mapping_file.json").write_text("[")
    with pytest.raises(ValueError, match="is not JSON"):
        PieBench(path=tmp_path).load()


# --- the miniature ----------------------------------------------------------------------------------------


def test_the_miniature_has_every_category_with_real_masks(tmp_path: Path) -> None:
    pairs = PieMiniature(path=tmp_path).load()
    assert Counter(pair.edit_type for pair in pairs) == dict.fromkeys(CATEGORIES, 3)
    for pair in pairs:
        assert pair.image is not None
        assert pair.mask is not None
        with Image.open(pair.image) as image:
            assert image.size == (64, 64)
        mask = read_mask(pair.mask)
        assert mask.shape == (64, 64)
        assert mask[[0, -1]].all()
        assert (mask[1:-1, 1:-1] > 0).any()
        assert pair.instruction
        if pair.edit_type in ("change object", "delete object", "change attribute color"):
            assert (mask > 0).mean() < 0.75
    assert sum(pair.blend_words is not None for pair in pairs) >= 15


def test_a_miniature_mask_is_where_the_edit_differs() -> None:
    rng = np.random.default_rng(5)
    drawn = EDITS[1](rng)
    rendered = render_pair(ScenePair("x", "", drawn.source, drawn.target), draw_layout(rng, 1))
    decoded = decode_mask(encode_mask(rendered.mask), 64, 64)
    inner = np.s_[1:-1, 1:-1]
    np.testing.assert_array_equal(decoded[inner], (rendered.source != rendered.ideal).any(-1)[inner])


def test_the_miniature_is_the_same_everywhere(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write(tmp_path / name, per_category=1)
    files = [{f.relative_to(tmp_path / n): f.read_bytes() for f in (tmp_path / n).rglob("*.*")} for n in "ab"]
    assert files[0] == files[1]
    assert len(files[0]) == 11
    write(tmp_path / "c", per_category=1, seed=1)
    assert (tmp_path / "c/mapping_file.json").read_bytes() != (tmp_path / "a/mapping_file.json").read_bytes()
    with pytest.raises(ValueError, match="is there already"):
        write(tmp_path / "a")
    assert list(tmp_path.glob(".*")) == []


# --- PIE-Bench++ ------------------------------------------------------------------------------------------


def table_row(**changes: Any) -> dict[str, Any]:
    return {
        "image": {"bytes": png(), "path": "../../evil.png"},
        "id": "000000000000",
        "source_prompt": "a [cat] on a mat",
        "target_prompt": "a [dog] on a mat",
        "edit_action": "{}",
        "aspect_mapping": "{}",
        "blended_words": '["cat,dog"]',
        "mask": "5 3 20 4",
        **changes,
    }


def test_pie_bench_pp_is_read_from_its_hub_layout(tmp_path: Path) -> None:
    for folder, number in (("1_change_object_80", "1"), ("0_random_140", "0")):
        (tmp_path / folder).mkdir()
        rows = [table_row(id=number * 12), table_row(id=number * 11 + "2", blended_words="[]")]
        pd.DataFrame(rows).to_parquet(tmp_path / folder / "V1-00000-of-00001.parquet")
    pairs = PieBenchPlusPlus(path=tmp_path).load()
    assert PieBenchPlusPlus(path=tmp_path).name == "pie_bench_pp"
    assert [pair.edit_type for pair in pairs] == ["random", "random", "change object", "change object"]
    assert pairs[0].source_prompt == "a cat on a mat"
    assert [pair.blend_words for pair in pairs] == [("cat", "dog"), None] * 2
    for pair in pairs:
        assert pair.image is not None
        assert pair.mask is not None
        assert pair.image.read_bytes() == png()
        assert pair.image.parent == tmp_path / ".p2p-bench" / "images"
        np.testing.assert_array_equal(read_mask(pair.mask) > 0, decode_mask([5, 3, 20, 4], 6, 8))
    assert not (tmp_path.parent / "evil.png").exists()


def test_bad_rows_of_pie_bench_pp_are_told_at_once(tmp_path: Path) -> None:
    (tmp_path / "1_change_object_80").mkdir()
    rows = [
        table_row(id="a", mask="5 x"),
        table_row(id="b", image={"bytes": b"no picture", "path": ""}),
        table_row(id="c", blended_words='["cat,dog", "mat,mat"]'),
        table_row(id="d", image={"bytes": None, "path": "d.png"}),
    ]
    pd.DataFrame(rows).to_parquet(tmp_path / "1_change_object_80" / "V1-00000-of-00001.parquet")
    with pytest.raises(ValueError) as error:
        PieBenchPlusPlus(path=tmp_path).load()
    for expected in [
        "4 problems",
        "'5 x': must be whole numbers",
        "cannot be read as a picture",
        "2 pairs",
        "itself",
    ]:
        assert expected in str(error.value)
