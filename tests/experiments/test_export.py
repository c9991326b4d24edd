"""`p2p-bench export`: InstructPix2Pix's layout, filtered by stored metrics; what passes and what is told."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from experiments.export import export, instruct
from results.store.records import RECORD_TYPES, load_records, write_metrics, write_records
from tests.experiments.command import Cli

CLIP = ("clip_source", "clip_target", "clip_directional", "clip_image")
PAIRS = {
    "a/../b": ("a cat on a mat", "a dog on a mat", ""),
    "told": ("a cat", "a cat with a hat", "give it a hat"),
    "same": ("a cat", "a cat", ""),
}


def row(run_dir: Path, pair_id: str, seed: int, method: str, **settings: Any) -> dict[str, Any]:
    source, target, instruction = PAIRS[pair_id]
    key = f"{pair_id} {seed} {method} {settings.get('cross_end')}"
    number = abs(hash((list(PAIRS).index(pair_id), seed)))
    folder = f"images/{number}"
    image = f"{folder}/source.png" if method == "source" else f"{folder}/{settings.get('cross_end')}.png"
    (run_dir / folder).mkdir(parents=True, exist_ok=True)
    colour = (10 * seed, 200, 0) if method == "source" else (0, 0, 200)
    Image.new("RGB", (16, 16), colour).save(run_dir / image)
    return {
        **{name: "" if kind == "string" else pd.NA for name, kind in RECORD_TYPES.items()},
        **dict.fromkeys(("tau", "strength", "seconds"), np.nan),
        **dict.fromkeys(("weights", "blend", "params"), "{}"), "guidance_rescale": 0.0, "uses_mask": False,
        "start_timestep": float("nan"), "start_noise": float("nan"),
        "image_bytes": 0,
        "key": key, "group": "g", "pair_id": pair_id, "seed": seed, "method": method, "image": image,
        "source_image": f"{folder}/source.png", "status": "ok", "guidance_scale": 7.5,
        "num_inference_steps": 50, "effective_steps": 50, "source_prompt": source,
        "target_prompt": source if method == "source" else target, "instruction": instruction, **settings,
    }  # fmt: skip


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    """Two seeds of each pair, two settings of P2P; the freer edit has the higher directional similarity."""
    run_dir = tmp_path / "run"
    rows, values = [], []
    for pair_id in PAIRS:
        for seed in (7, 12):
            rows.append(row(run_dir, pair_id, seed, "source"))
            rows += [
                row(
                    run_dir,
                    pair_id,
                    seed,
                    "p2p",
                    cross_start=0,
                    cross_end=end,
                    self_start=0,
                    self_end=end // 2,
                )
                for end in (40, 10)
            ]
    for record in rows:
        freedom = 0.0 if record["method"] == "source" else 1 - record["cross_end"] / 50
        similar = dict(zip(CLIP, (0.31, 0.25, 0.5 * freedom, 0.95 - 0.2 * freedom), strict=True))
        if record["method"] == "source":
            similar |= {"clip_target": 0.31}
        for name, value in similar.items():
            missing = name == "clip_directional" and (
                record["method"] == "source" or record["pair_id"] == "same"
            )
            values.append(
                {
                    "key": record["key"], "metric": f"{name}_toy@1",
                    "value": np.nan if missing else value, "reason": "equal prompts" if missing else "",
                }
            )  # fmt: skip
    write_records(run_dir, pd.DataFrame(rows))
    write_metrics(run_dir, "clip_toy@1", pd.DataFrame(values))
    return run_dir


def training_rows(out: Path) -> list[tuple[str, str, str, Image.Image, Image.Image]]:
    """Read an export as InstructPix2Pix's training does: seeds.json, prompt.json's `edit`, two JPEGs."""
    rows = []
    for name, seeds in json.loads((out / "seeds.json").read_text()):
        edit = json.loads((out / name / "prompt.json").read_text())["edit"]
        for seed in seeds:
            images = [Image.open(out / name / f"{seed}_{number}.jpg").convert("RGB") for number in (0, 1)]
            rows.append((name, seed, edit, *images))
    return rows  # type: ignore[return-value]


def test_the_layout_is_what_training_reads(run_dir: Path, tmp_path: Path) -> None:
    told = export(run_dir, tmp_path / "out", {})
    rows = training_rows(tmp_path / "out")
    assert [row[:3] for row in rows] == [
        ("0000000", "7", "change cat to dog"),
        ("0000000", "12", "change cat to dog"),
        ("0000001", "7", "give it a hat"),
        ("0000001", "12", "give it a hat"),
    ]
    for _, seed, _, before, after in rows:
        # JPEG at quality 100 moves a flat colour by rounding only.
        np.testing.assert_allclose(before.getpixel((8, 8)), (10 * int(seed), 200, 0), atol=3)
        np.testing.assert_allclose(after.getpixel((8, 8)), (0, 0, 200), atol=3)
    prompt = json.loads((tmp_path / "out/0000001/prompt.json").read_text())
    assert prompt == {"input": "a cat", "edit": "give it a hat", "output": "a cat with a hat"}
    lines = (tmp_path / "out/0000000/metadata.jsonl").read_text().splitlines()
    assert [json.loads(line)["seed"] for line in lines] == [7, 12]
    assert json.loads(lines[0]) == pytest.approx(
        {
            "seed": 7, "p2p_threshold": 0.1, "cfg_scale": 7.5, "clip_sim_0": 0.31, "clip_sim_1": 0.25,
            "clip_sim_dir": 0.4, "clip_sim_image": 0.79,
        }
    )  # fmt: skip
    assert told.splitlines() == [
        "4 edits of 2 prompts, of 12 edits of 3 prompts",
        "4 left out: no instruction, and equal prompts",
        "4 left out: another setting of the same pair and seed has a higher clip_sim_dir",
    ]
    names = {path.relative_to(tmp_path / "out").parts[0] for path in (tmp_path / "out").rglob("*")}
    assert names == {"seeds.json", "0000000", "0000001"}


def test_minimums_choose_among_settings(run_dir: Path, tmp_path: Path) -> None:
    told = export(run_dir, tmp_path / "out", {"clip_image": 0.9})
    metadata = json.loads((tmp_path / "out/0000000/metadata.jsonl").read_text().splitlines()[0])
    assert metadata["p2p_threshold"] == 0.4  # the share of self-attention, as in the paper's own data
    assert "4 left out: clip_image_toy@1 below 0.9" in told
    export(run_dir, tmp_path / "none", {"clip_image_toy@1": 0.9, "clip_directional": 0.2})
    assert json.loads((tmp_path / "none" / "seeds.json").read_text()) == []


def test_a_threshold_that_is_no_share_from_the_first_step_is_null(run_dir: Path, tmp_path: Path) -> None:
    records = load_records(run_dir)
    records.loc[records["method"].eq("p2p"), "self_start"] = 2
    write_records(run_dir, records)
    export(run_dir, tmp_path / "out", {})
    line = (tmp_path / "out/0000000/metadata.jsonl").read_text().splitlines()[0]
    assert json.loads(line)["p2p_threshold"] is None


@pytest.mark.parametrize(
    ("source", "target", "instruction"),
    [
        ("a cat on a mat", "a dog on a mat", "change cat to dog"),
        ("a cat", "a cat with a hat", "add with a hat"),
        ("a red cat", "a cat", "remove red"),
        ("a cat on a mat", "a dog on a bed", "change cat to dog and change mat to bed"),
        ("a cat", "a cat", ""),
    ],
)
def test_the_template_of_instructions(source: str, target: str, instruction: str) -> None:
    assert instruct(source, target) == instruction


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"minimums": {"clip": 0.1}}, "min: clip stands for clip_"),
        ({"minimums": {"lpips": 0.1}}, "min: lpips is no metric of the run; the run has clip_"),
        ({"minimums": {}, "method": "sdedit"}, "has no edits by 'sdedit', it has p2p"),
        ({"minimums": {}, "clip": "ViT"}, "clip: ViT, allowed is one of toy"),
    ],
)
def test_bad_input_is_one_message_and_writes_nothing(
    run_dir: Path, tmp_path: Path, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        export(run_dir, tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()


def test_a_folder_that_holds_something_is_not_written_to(run_dir: Path) -> None:
    with pytest.raises(ValueError, match="is not empty"):
        export(run_dir, run_dir, {})


def test_the_command(cli: Cli, run_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def call(out: str, *minimums: str) -> int:
        return cli("export", str(run_dir), str(tmp_path / out), *minimums)

    assert call("all", "--min", "clip_image=0.9", "clip_directional=0.05") == 0
    assert "4 edits of 2 prompts" in capsys.readouterr().out
    assert call("none", "--min", "clip_image=0.9", "--min", "clip_directional=0.2") == 0  # both count
    assert "0 edits of 0 prompts" in capsys.readouterr().out
    assert call("error", "--min", "lpips=1") == 2
    assert "error: min: lpips is no metric" in capsys.readouterr().err


def test_records_from_before_instructions_have_none(run_dir: Path) -> None:
    file = next((run_dir / "records").glob("*.parquet"))
    pd.read_parquet(file).drop(columns="instruction").to_parquet(file)
    assert load_records(run_dir)["instruction"].eq("").all()
