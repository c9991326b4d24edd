"""Pictures saved as JPEG: as the published edits were, apart from PNG ones, and what was saved is scored."""

import io
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from experiments.running.png_files import read_png
from results.store.records import load
from tests.experiments.command import Cli, forbid_generating

PNG, JPEG = ("images.format=png",), ("images.format=jpeg",)


def key_of(image: str) -> str:
    """The part of a content key that a picture's name ends with."""
    return Path(image).stem.rpartition("-")[2]


@pytest.fixture
def on_photograph(tiny_folder: Path, tmp_path: Path) -> list[str]:
    """Overrides for a run of a pair on a picture of its own."""
    noise = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "bench.png")
    pair = {"id": "dog", "source_prompt": "a cat", "target_prompt": "a dog", "image": "bench.png"}
    (tmp_path / "pairs.jsonl").write_text(json.dumps(pair))
    return [
        *("model=folder", f"model.path={tiny_folder}", "model.self_max_side=16", "device=cpu"),
        *("sampling.num_inference_steps=2", "dataset=table", f"dataset.path={tmp_path / 'pairs.jsonl'}"),
        *("grid=single", "grid.seeds=[0]", "metrics=pixel", "plots=false", "report=false"),
        *("inversion=direct", f"run_dir={tmp_path / 'run'}"),
    ]


@pytest.mark.usefixtures("no_tables")
def test_edits_are_what_pillow_makes_of_the_png_at_75_and_sources_stay_as_they_were_given(
    cli: Cli, on_photograph: list[str], run_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert cli("run", *on_photograph) == 0
    first = load(run_dir).set_index("method")
    assert cli("run", *on_photograph, *JPEG) == 0
    both = load(run_dir)
    rows = both[both["image"].str.endswith(".jpg") | ~both["key"].isin(first["key"])].set_index("method")
    assert set(rows.index) == set(first.index) >= {"source", "reconstruction", "p2p"}
    assert rows["image"].str.endswith(".jpg").to_dict() == {name: name != "source" for name in rows.index}
    assert not set(rows["image"].map(key_of)) & set(first["image"].map(key_of))
    for name in ("p2p", "reconstruction"):
        saved = io.BytesIO()
        with Image.open(run_dir / first["image"][name]) as png:
            png.save(saved, format="JPEG")  # as the published code calls it
        assert (run_dir / rows["image"][name]).read_bytes() == saved.getvalue()
        source = read_png(run_dir / rows["source_image"][name])
        np.testing.assert_array_equal(source, read_png(run_dir.parent / "bench.png"))
        error = np.square(read_png(run_dir / rows["image"][name]) - source).mean()
        assert rows["mse@1"][name] == pytest.approx(error, rel=1e-5) != first["mse@1"][name]
    with monkeypatch.context() as patch:
        forbid_generating(patch)
        assert cli("run", *on_photograph, *JPEG) == 0
        assert cli("run", *on_photograph, *PNG) == 0


@pytest.mark.usefixtures("no_tables")
def test_the_two_formats_share_inversions_and_stand_in_cells_of_their_own(
    cli: Cli, on_photograph: list[str], run_dir: Path
) -> None:
    assert cli("run", *on_photograph) == 0
    kept = sorted(path.name for path in (run_dir.parent / ".cache" / "inversions").iterdir())
    assert cli("run", *on_photograph, *JPEG) == 0
    assert kept == sorted(path.name for path in (run_dir.parent / ".cache" / "inversions").iterdir())
    records = load(run_dir)
    edits = records[records["method"].eq("p2p")]
    assert edits["setup"].nunique() == len(edits) == 2


@pytest.mark.usefixtures("no_tables")
def test_a_damaged_jpeg_is_made_again(cli: Cli, tiny: list[str], run_dir: Path) -> None:
    assert cli("run", *tiny, *JPEG) == 0
    records = load(run_dir)
    assert set(records["image"].str[-4:]) == {".jpg"}, "a source that is generated is saved like its edits"
    lost = run_dir / records.loc[records["method"].eq("p2p"), "image"].iloc[0]
    whole = lost.read_bytes()
    lost.write_bytes(whole[:-2])
    assert cli("run", *tiny, *JPEG) == 0
    assert lost.read_bytes() == whole


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("images.format=webp", "images.format: 'webp' is not one of png, jpeg"),
        ("images.format=null", "images.format: None is not one of png, jpeg"),
        ("+images.quality=90", "images.quality: no key of the configuration"),
        ("images=null", "images: None is none of its choices"),
    ],
)
def test_what_is_no_format_is_refused(
    cli: Cli, tiny: list[str], override: str, told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli("plan", *tiny, override) == 2
    assert told in capsys.readouterr().err


def test_verify_compares_jpegs_and_finds_those_without_a_record(
    cli: Cli, tiny: list[str], run_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli("run", *tiny, *JPEG) == 0
    assert cli("verify", str(run_dir)) == 0
    edit = next(run_dir.rglob("p2p*.jpg"))
    spare = edit.with_name(f"p2p-{'0' * 16}.jpg")
    spare.write_bytes(edit.read_bytes())
    capsys.readouterr()
    assert cli("verify", str(run_dir)) == 0
    assert "0 damaged, 0 failed, 1 left over" in capsys.readouterr().out
    edit.write_bytes(spare.read_bytes()[:-2])
    assert cli("verify", str(run_dir)) == 1
    assert "1 damaged" in capsys.readouterr().out
