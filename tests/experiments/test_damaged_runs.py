"""A run whose files were damaged: what is broken is made again, what is whole stays, and no call ends in a
traceback.
"""

import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from experiments.running.png_files import read_png
from results.plots import run_plots
from results.store.picture_files import Digest, digest
from results.store.records import load, load_records
from tests.experiments.command import Cli, forbid_generating

DAMAGES = {"empty": lambda content: b"", "cut short": lambda content: content[:-20]}


def path_of(run_dir: Path, method: str) -> Path:
    records = load_records(run_dir)
    return run_dir / records.loc[records["method"].eq(method), "image"].iloc[0]


def pictures_match_their_records(run_dir: Path) -> bool:
    records = load_records(run_dir)
    told = [Digest(row.image_sha256, row.image_bytes) for row in records.itertuples()]
    return told == [digest((run_dir / image).read_bytes()) for image in records["image"]]


def test_records_tell_of_the_bytes_of_their_pictures(complete_run: Path) -> None:
    assert pictures_match_their_records(complete_run)


@pytest.mark.parametrize(
    ("method", "damage"),
    [
        ("p2p", "cut short"),
        ("source", "empty"),
        pytest.param("p2p", "empty", marks=pytest.mark.slow),
        pytest.param("source", "cut short", marks=pytest.mark.slow),
    ],
)
def test_a_damaged_picture_is_made_again(
    damage: str,
    method: str,
    cli: Cli,
    tiny: list[str],
    complete_run: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(run_plots, "PLOTS", ())  # strips read the pictures
    picture = path_of(complete_run, method)
    before, values = read_png(picture), load(complete_run)
    picture.write_bytes(DAMAGES[damage](picture.read_bytes()))
    assert cli("run", *tiny, "plots=true") == 0
    np.testing.assert_allclose(read_png(picture), before, atol=4 / 255)
    assert pictures_match_their_records(complete_run)
    assert len(pd.read_parquet(complete_run / "records")) == len(values) == len(load(complete_run))
    forbid_generating(monkeypatch)
    assert cli("run", *tiny) == 0


@pytest.mark.usefixtures("no_tables")
def test_a_picture_that_was_exchanged_is_set_aside_when_it_is_scored_and_made_again(
    cli: Cli, tiny: list[str], complete_run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    picture = path_of(complete_run, "sdedit")
    right = read_png(picture)
    size = picture.stat().st_size
    Image.effect_noise((32, 32), 60).convert("RGB").save(picture)
    content = picture.read_bytes()
    # Of equal size, as a call that only looks at sizes would take it for the one that was recorded.
    picture.write_bytes(content[:-12] + bytes(max(0, size - len(content))) + content[-12:])
    records = complete_run / "records"
    for file in records.iterdir():
        frame = pd.read_parquet(file)
        frame.loc[frame["method"].eq("sdedit"), "image_bytes"] = picture.stat().st_size
        frame.to_parquet(file)
    for file in complete_run.glob("metrics/*/*.parquet"):
        file.unlink()
    assert cli("run", *tiny) == 1
    assert "not the picture that its record tells of" in capsys.readouterr().out
    assert picture.with_name(f"_{picture.name}.damaged").is_file()
    assert cli("run", *tiny) == 0
    np.testing.assert_allclose(read_png(picture), right, atol=4 / 255)
    assert load(complete_run)["reason:mse@1"].ne("not evaluated").all()


def test_a_run_from_before_there_were_digests_and_settings_in_names_goes_on(
    cli: Cli, tiny: list[str], complete_run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for file in (complete_run / "records").iterdir():
        frame = pd.read_parquet(file).drop(columns=["image_sha256", "image_bytes"])
        for now in frame["image"].unique():
            before = re.sub(r"/(\w+?)-\w+[\d.]+-(\w+\.png)$", r"/\1-\2", now)
            (complete_run / now).rename(complete_run / before)
            frame = frame.replace({"image": {now: before}})
        frame.to_parquet(file)
    assert {path.name.count("-") for path in complete_run.glob("images/*/*/*.png")} == {1}
    with monkeypatch.context() as patch:
        forbid_generating(patch)
        assert cli("run", *tiny, "plots=true") == 0
    path_of(complete_run, "p2p").write_bytes(b"")
    assert cli("run", *tiny) == 0
    told = load_records(complete_run).set_index("image")["image_bytes"]
    assert sorted(told.gt(0)) == [False, False, False, True, True]  # the source was looked at on the way


def test_a_run_from_before_a_metric_had_its_version_goes_on(
    cli: Cli, tiny: list[str], complete_run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = (complete_run / "metrics" / "pixel@3").rename(complete_run / "metrics" / "pixel@1")
    (before / "columns.json").unlink()
    (before / "weights.sha256").unlink()
    for file in before.iterdir():
        frame = pd.read_parquet(file)
        frame.replace({"metric": {"ssim@3": "ssim@1"}}).to_parquet(file)
    assert cli("run", *tiny, "tau=0.5") == 0
    told = capsys.readouterr().out
    assert "Values under older names are in metrics/, not in these tables: ssim@1.\n" in told
    assert not [text for text in ("missing or damaged", "not evaluated", "Which way") if text in told]
    main = pd.read_csv(complete_run / "tables" / "main.csv")
    assert set(main["metric"]) == {"ssim@3", "ms_ssim@2", "psnr@1", "mse@1"}
    assert main.query("metric == 'ssim@3' and method != 'source'")["n_missing"].eq(0).all()
    assert load(complete_run)["ssim@1"].notna().any()


@pytest.mark.usefixtures("no_tables")
def test_a_second_call_adds_rows_of_new_pictures_alone(cli: Cli, tiny: list[str], complete_run: Path) -> None:
    first = load_records(complete_run)
    source = path_of(complete_run, "source").read_bytes()
    assert cli("run", *tiny, "tau=0.5") == 0
    rows = pd.read_parquet(complete_run / "records")
    assert len(rows) == len(load_records(complete_run)) == len(first) + 1
    assert rows["method"].eq("source").sum() == 1
    assert path_of(complete_run, "source").read_bytes() == source
    assert pictures_match_their_records(complete_run)


@pytest.mark.usefixtures("no_tables")
def test_edits_whose_source_is_no_longer_recorded_are_made_again_with_it(
    cli: Cli, tiny: list[str], complete_run: Path
) -> None:
    assert cli("run", *tiny, "tau=0.5") == 0
    first = next(f for f in (complete_run / "records").iterdir() if len(pd.read_parquet(f)) > 1)
    first.unlink()
    assert cli("run", *tiny, "tau=0.5") == 0
    assert "source" in set(load_records(complete_run)["method"])
    assert not load_records(complete_run).duplicated(["key", "pair_id", "method"]).any()


@pytest.mark.parametrize(
    "file",
    [
        "images/*/0/p2p-*.png",
        "images/*/mask-0123456789abcdef.png",
        "metrics/pixel@3/columns.json",
        "metrics/pixel@3/weights.sha256",
        "tables/main.csv",
        "records/*.parquet",
        "../.cache/inversions/0123456789abcdef.safetensors",
    ],
)
def test_a_folder_in_place_of_a_file_is_one_line(
    file: str, cli: Cli, tiny: list[str], complete_run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = sorted(complete_run.glob(file)) or [complete_run / file.replace("*", "pair")]
    found[0].unlink(missing_ok=True)
    found[0].mkdir(parents=True)
    assert cli("run", *tiny) == 2
    told = capsys.readouterr().err.splitlines()
    assert len(told) == 1
    assert told[0].startswith("error: ")
    assert told[0].endswith(f"{found[0].name}: is a folder, allowed is a file; move it away")
