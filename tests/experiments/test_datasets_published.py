"""Published sets in their exact layouts, tiny: what becomes a pair, what is left out, what is refused."""

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import yaml
from PIL import Image

from experiments.datasets.caption_pairs import CaptionPairs
from experiments.datasets.emu_edit import EmuEdit
from experiments.datasets.instruct_prompts import InstructPrompts
from experiments.datasets.magicbrush import MagicBrush
from experiments.datasets.pair import Pair
from experiments.datasets.parquet import read_rows
from experiments.datasets.tedbench import TEdBench
from experiments.datasets.ti2i import Ti2i


def encoded(colour: str = "green", kind: str = "PNG") -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (8, 6), colour).save(file, kind)
    return file.getvalue()


def cell(colour: str = "green") -> dict[str, Any]:
    return {"bytes": encoded(colour), "path": "/etc/../x.png"}


def picture(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(encoded())
    return path


def pixel(path: Path | None) -> Any:
    assert path is not None
    with Image.open(path) as image:
        return image.getpixel((0, 0))


# --- TI2I -------------------------------------------------------------------------------------------------


def ti2i_yaml(folder: Path, *entries: dict[str, Any]) -> Path:
    picture(folder / "panda/cartoon_30.jpg")
    picture(folder / "data/bear.png")
    (folder / "set.yaml").write_text(yaml.safe_dump(list(entries)))
    return folder / "set.yaml"


PANDA = {"init_img": "/ImageNetR-TI2I/Panda/cartoon_30.jpg", "target_prompts": ["a sketch", "a  photo"]}
BEAR = {"init_img": "data/bear.png", "target_prompts": ["a bear"], "source_prompt": "a drawing of a bear"}


def test_ti2i_yaml_gives_a_pair_per_target_prompt(tmp_path: Path) -> None:
    (tmp_path / "prompts.csv").write_text('id,source_prompt\npanda/cartoon_30,"a cartoon, of a panda"\n')
    given = Ti2i(path=ti2i_yaml(tmp_path, PANDA, BEAR), source_prompts=tmp_path / "prompts.csv").load()
    assert given == (
        Pair(
            "panda/cartoon_30-0", "a cartoon, of a panda", "a sketch", image=tmp_path / "panda/cartoon_30.jpg"
        ),
        Pair(
            "panda/cartoon_30-1", "a cartoon, of a panda", "a photo", image=tmp_path / "panda/cartoon_30.jpg"
        ),
        Pair("data/bear-0", "a drawing of a bear", "a bear", image=tmp_path / "data/bear.png"),
    )


def test_ti2i_says_which_source_prompts_are_needed(tmp_path: Path) -> None:
    file = ti2i_yaml(tmp_path, PANDA, BEAR)
    with pytest.raises(ValueError, match=r"1 images have a target prompt only; give source_prompts.*panda/c"):
        Ti2i(path=file).load()
    (tmp_path / "prompts.csv").write_text("id,source_prompt\npanda/cartoon_30,a panda\npanda,a panda\n")
    with pytest.raises(ValueError, match="no image has the id panda"):
        Ti2i(path=file, source_prompts=tmp_path / "prompts.csv").load()


def test_ti2i_tells_all_entries_it_cannot_use(tmp_path: Path) -> None:
    picture(tmp_path / "secret.png")
    folder = tmp_path / "set"
    file = ti2i_yaml(
        folder,
        BEAR,
        {"target_prompts": ["x"]},
        {**BEAR, "init_img": "../secret.png"},
        {**BEAR, "target_prompts": 1},
    )
    with pytest.raises(ValueError) as error:
        Ti2i(path=file).load()
    told = str(error.value)
    assert "3 problems" in told
    for line in ["entry 2: init_img is missing", "entry 3: init_img", "entry 4: target_prompts: must be"]:
        assert line in told


def test_pies_ti2i_mapping(tmp_path: Path) -> None:
    picture(tmp_path / "annotation_images/ti2i_benchmark/a.png")
    row = {
        "image_path": "ti2i_benchmark/a.png", "original_prompt": "", "editing_prompt": "a [dog]",
        "editing_instruction": "",
    }  # fmt: skip
    mapping = {"0": row, "1": {**row, "original_prompt": "a [cat]"}}
    file = tmp_path / "mapping_file_ti2i_benchmark.json"
    file.write_text(json.dumps(mapping))
    (tmp_path / "prompts.csv").write_text("id,source_prompt\n0,a fox\n")
    pairs = Ti2i(path=file, source_prompts=tmp_path / "prompts.csv").load()
    assert [(p.id, p.source_prompt, p.target_prompt) for p in pairs] == [
        ("0", "a fox", "a dog"),
        ("1", "a cat", "a dog"),
    ]
    with pytest.raises(ValueError, match="source_prompts"):
        Ti2i(path=file).load()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("id;source_prompt\n", "the columns must be id, source_prompt, parted by a comma"),
        ("id,source_prompt\na,\n", "line 2: must be an id and a prompt"),
        ("id,source_prompt\na,b,c\n", "line 2: .*quotes"),
        ("id,source_prompt\na,b\na,c\n", "line 3: id 'a' stands twice"),
    ],
)
def test_bad_source_prompts_are_named(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "prompts.csv").write_text(text)
    with pytest.raises(ValueError, match=message):
        Ti2i(path=ti2i_yaml(tmp_path, BEAR), source_prompts=tmp_path / "prompts.csv").load()


# --- caption pairs ----------------------------------------------------------------------------------------


def test_caption_pairs_as_published(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    picture(tmp_path / "COCO_1.jpg")
    (tmp_path / "coco.csv").write_text(
        ",Unnamed: 0,file_name,old_caption,edited_caption,blended_words\n"
        "0,0,COCO_1.jpg,A child on a bed. ,A lion on a bed. ,\"('child', 'lion')\"\n"
        "1,1,COCO_1.jpg,boats in the water.,boats in the snow.,water. snow.\n"
        "2,2,COCO_1.jpg,a cat,a cat with a hat, \n"
    )
    pairs = CaptionPairs(path=tmp_path / "coco.csv", images=tmp_path).load()
    image = tmp_path / "COCO_1.jpg"
    assert pairs == (
        Pair("0000-COCO_1", "A child on a bed.", "A lion on a bed.", "", "", {}, ("child", "lion"), image),
        Pair(
            "0001-COCO_1", "boats in the water.", "boats in the snow.", "", "", {}, ("water.", "snow."),
            image,
        ),
        Pair("0002-COCO_1", "a cat", "a cat with a hat", image=image),
    )  # fmt: skip
    assert capsys.readouterr().out == ""


def test_caption_pairs_that_cannot_be_used(tmp_path: Path) -> None:
    picture(tmp_path / "a.jpg")
    header = "file_name,old_caption,edited_caption,blended_words\n"
    (tmp_path / "x.csv").write_text(
        header + "../a.jpg,a cat,a dog,\na.jpg,a cat,a dog,puppy dog\na.jpg,,a dog,\n"
        "a.jpg,a cat, asleep,a dog, asleep,\na.jpg,a cat\n"
    )
    with pytest.raises(ValueError) as error:
        CaptionPairs(path=tmp_path / "x.csv", images=tmp_path).load()
    cells = "put a caption with a comma in quotes"
    assert str(error.value).count(cells) == 2
    for line in ["5 problems", "'../a.jpg': must be a path inside", "'puppy dog'", "source_prompt = ''"]:
        assert line in str(error.value)
    (tmp_path / "y.csv").write_text("file_name,old_caption\n")
    with pytest.raises(ValueError, match="has no column blended_words, edited_caption"):
        CaptionPairs(path=tmp_path / "y.csv", images=tmp_path).load()


# --- MagicBrush -------------------------------------------------------------------------------------------


def magicbrush(folder: Path) -> Path:
    mask = io.BytesIO()
    painted = Image.new("RGB", (8, 6), (254, 254, 254))
    painted.paste("white", (2, 1, 4, 3))
    painted.save(mask, "PNG")
    rows = [
        {
            "img_id": "139", "turn_index": turn, "source_img": cell(), "target_img": cell("red"),
            "mask_img": {"bytes": mask.getvalue(), "path": None}, "instruction": f"edit {turn}",
        }
        for turn in (1, 2)
    ]  # fmt: skip
    pd.DataFrame(rows).to_parquet(folder / "dev-00000-of-00001.parquet")
    captions = {
        "139": {"139-input.png": "a  cat", "139-output1.png": "a dog", "139-output2.png": "a red dog"}
    }
    (folder / "global_descriptions.json").write_text(json.dumps(captions))
    return folder / "global_descriptions.json"


def test_magicbrush_turns_are_pairs_of_global_captions(tmp_path: Path) -> None:
    first, second = MagicBrush(path=tmp_path, captions=magicbrush(tmp_path)).load()
    assert (first.id, first.source_prompt, first.target_prompt) == ("139-1", "a cat", "a dog")
    assert (second.source_prompt, second.target_prompt, second.instruction) == (
        "a dog",
        "a red dog",
        "edit 2",
    )
    assert pixel(first.image) == (0, 128, 0)
    assert pixel(first.ideal) == (255, 0, 0)
    assert first.mask is not None
    with Image.open(first.mask) as mask:
        ys, xs = np.nonzero(np.asarray(mask))
    assert (ys.min(), ys.max(), xs.min(), xs.max(), len(ys)) == (1, 2, 2, 3, 4)


def test_magicbrush_says_which_captions_it_needs(tmp_path: Path) -> None:
    captions = magicbrush(tmp_path)
    with pytest.raises(ValueError, match=r"no such file; MagicBrush needs captions, its global_descriptions"):
        MagicBrush(path=tmp_path, captions=tmp_path / "gone.json").load()
    captions.write_text(json.dumps({"139": {"139-input.png": "a cat", "139-output1.png": "a dog"}}))
    with pytest.raises(ValueError, match=r"1 problem:\n.*'139-2': captions: .* has none for 139-output2.png"):
        MagicBrush(path=tmp_path, captions=captions).load()
    captions.write_text("[]")
    with pytest.raises(ValueError, match="cannot be read"):
        MagicBrush(path=tmp_path, captions=captions).load()


# --- Emu Edit, TEdBench, InstructPix2Pix --------------------------------------------------------------------


def emu_row(number: int, **changes: Any) -> dict[str, Any]:
    return {
        "instruction": "make it a dog", "image": cell(), "task": "local", "split": "test", "idx": number,
        "hash": "0", "input_caption": "a cat", "output_caption": "a dog", **changes,
    }  # fmt: skip


def test_emu_edit_leaves_out_equal_captions_and_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [emu_row(0), emu_row(1, output_caption="a cat "), emu_row(2, task="style")]
    pd.DataFrame(rows).to_parquet(tmp_path / "test.parquet")
    for path in (tmp_path, tmp_path / "test.parquet"):
        pairs = EmuEdit(path=path).load()
        assert [(pair.id, pair.edit_type) for pair in pairs] == [("test-0", "local"), ("test-2", "style")]
        assert pairs[0].image is not None
        assert pairs[0].image.parent == tmp_path / ".p2p-bench" / "images"
        assert "1 of 3 rows left out, their two captions are equal" in capsys.readouterr().out


def test_rows_that_lack_text_or_picture_are_told_together(tmp_path: Path) -> None:
    rows = [emu_row(0, input_caption=None), emu_row(1, image={"bytes": b"GIF89a", "path": ""}), emu_row(2)]
    pd.DataFrame(rows).to_parquet(tmp_path / "test.parquet")
    with pytest.raises(
        ValueError, match=r"2 problems:\n.*'test-0': input_caption = None.*\n.*'test-1': cannot be read as a"
    ):
        EmuEdit(path=tmp_path).load()


def test_tedbench_needs_source_prompts(tmp_path: Path) -> None:
    row = {"original_image": cell(), "caption": "A sitting  dog.", "edited_image": cell("red")}
    pd.DataFrame([row, row]).to_parquet(tmp_path / "val.parquet")
    with pytest.raises(
        ValueError, match=r"tedbench: 2 images have a target prompt only; .* for 000, 001"
    ) as told:
        TEdBench(path=tmp_path).load()
    assert len(str(told.value).splitlines()) == 1
    (tmp_path / "prompts.csv").write_text("id,source_prompt\n000,A dog.\n001,A standing dog.\n")
    first, second = TEdBench(path=tmp_path, source_prompts=tmp_path / "prompts.csv").load()
    assert (first.id, first.source_prompt, first.target_prompt) == ("000", "A dog.", "A sitting dog.")
    assert second.source_prompt == "A standing dog."
    assert first.ideal is None
    assert pixel(first.image) == (0, 128, 0)


def test_instruct_prompts_under_both_names(tmp_path: Path) -> None:
    file = tmp_path / "prompts.jsonl"
    rows = [
        {"input": "a cat", "edit": "make it a dog", "output": "a dog"},
        {"caption": "a  mat", "edit": "add a cat", "output": "a cat on a mat", "url": "x"},
    ]
    file.write_text("\n".join(json.dumps(row) for row in rows))
    assert InstructPrompts(path=file).load() == (
        Pair("0000000", "a cat", "a dog", instruction="make it a dog"),
        Pair("0000001", "a mat", "a cat on a mat", instruction="add a cat"),
    )
    file.write_text('{"input": "a cat"}\n[]\nx\n')
    with pytest.raises(ValueError, match=r"(?s)3 problems.*line 1: output, edit: must be.*line 2.*line 3"):
        InstructPrompts(path=file).load()


def test_a_signature_at_the_start_of_a_file_is_dropped(tmp_path: Path) -> None:
    """As some editors write it."""

    def signed(name: str, content: object) -> Path:
        (tmp_path / name).write_text("\ufeff" + json.dumps(content) + "\n", encoding="utf-8")
        return tmp_path / name

    picture(tmp_path / "annotation_images/a.png")
    row = {"image_path": "a.png", "original_prompt": "a cat", "editing_prompt": "a dog"}
    captions = json.loads(magicbrush(tmp_path).read_text())
    entries = ti2i_yaml(tmp_path, BEAR)
    entries.write_text("\ufeff" + entries.read_text(), encoding="utf-8")
    assert len(Ti2i(path=entries).load()) == 1
    assert len(Ti2i(path=signed("m.json", {"a": row})).load()) == 1
    assert len(MagicBrush(path=tmp_path, captions=signed("captions.json", captions)).load()) == 2
    prompts = {"input": "a cat", "edit": "make it a dog", "output": "a dog"}
    assert len(InstructPrompts(path=signed("p.jsonl", prompts)).load()) == 1
    (tmp_path / "p.jsonl").write_bytes(b"\xff\xfe")
    with pytest.raises(ValueError, match="path = .*p.jsonl': is not UTF-8"):
        InstructPrompts(path=tmp_path / "p.jsonl").load()
    (tmp_path / "m.json").write_bytes(b"\xff\xfe")
    with pytest.raises(ValueError, match="m.json: cannot be read"):
        Ti2i(path=tmp_path / "m.json").load()


# --- tables of the hub ------------------------------------------------------------------------------------


def test_arrow_streams_are_read_like_parquet(tmp_path: Path) -> None:
    frame = pd.DataFrame({"a": [1, 2], "b": ["x", "y"], "c": [None, None]})
    table = pa.Table.from_pandas(frame)
    (tmp_path / "train").mkdir()
    with pa.ipc.new_stream(str(tmp_path / "train" / "data-00000-of-00001.arrow"), table.schema) as writer:
        writer.write_table(table)
    frame.to_parquet(tmp_path / "more.parquet")
    rows = [row for _, row in read_rows(tmp_path, ["b", "a"])]
    assert rows == [{"b": "x", "a": 1}, {"b": "y", "a": 2}] * 2


def test_tables_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"holds no .parquet and no .arrow file"):
        list(read_rows(tmp_path, ["a"]))
    pd.DataFrame({"b": [1]}).to_parquet(tmp_path / "x.parquet")
    with pytest.raises(ValueError, match="x.parquet: has no column a; it has b"):
        list(read_rows(tmp_path, ["a"]))
    (tmp_path / "x.parquet").write_bytes(b"PAR1")
    with pytest.raises(ValueError, match="x.parquet: cannot be read"):
        list(read_rows(tmp_path, ["a"]))
