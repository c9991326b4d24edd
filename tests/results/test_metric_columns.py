"""Which direction of a metric is better is kept beside its values, and tables and pictures read it there."""

import shutil
from pathlib import Path

import pandas as pd
import pytest

from results.store.metric_columns import load_columns, write_columns
from results.store.records import load_metrics, load_records, write_metrics
from results.store.run_folder import RunFolder
from results.summary import summarise
from tests.results.synthetic import DIRECTIONS, make_row, p2p, write_run


def test_directions_of_all_families_are_read_back(tmp_path: Path) -> None:
    write_columns(tmp_path, "mine@1", ["up@1", "neither@1"], {"up@1": True})
    write_columns(tmp_path, "pie/deep@1", ["pie/down@1"], {"pie/down@1": False, "neither@1": None})
    assert load_columns(tmp_path) == {"up@1": True, "pie/down@1": False, "neither@1": None}
    write_columns(tmp_path, "mine@1", ["up@1"], {"up@1": False})
    assert load_columns(tmp_path) == {"up@1": False, "pie/down@1": False}
    assert load_metrics(tmp_path).empty


def test_a_run_without_metrics_has_no_directions(tmp_path: Path) -> None:
    assert load_columns(tmp_path / "nowhere") == {}


@pytest.mark.parametrize(
    "content", ["{", "[]", '{"up@1": true}', '{"up@1": {}}', '{"up@1": {"higher_is_better": "no"}}']
)
def test_a_broken_file_is_named(tmp_path: Path, content: str) -> None:
    file = RunFolder(tmp_path).columns_file("mine@1")
    file.parent.mkdir(parents=True)
    file.write_text(content)
    with pytest.raises(ValueError, match=r"metrics/mine@1/columns.json: .*; allowed is"):
        load_columns(tmp_path)


def test_a_summary_takes_the_directions_from_the_run(finished_run: Path, tmp_path: Path) -> None:
    run_dir = shutil.copytree(finished_run, tmp_path / "run")
    assert "lpips_embedded@1 ↓" in summarise(run_dir, draw=False).markdown
    write_columns(run_dir, "toy@1", list(DIRECTIONS), {"lpips_embedded@1": True})
    text = summarise(run_dir, draw=False).markdown
    assert "lpips_embedded@1 ↑" in text
    assert "ms_ssim@2 |" in text


def test_the_published_table_has_the_arrows_of_its_metrics(tmp_path: Path) -> None:
    names = {"pie/mse_unedit@1": False, "pie/psnr_unedit@1": True, "pie/clip_similarity_source_image@1": None}
    frame = pd.DataFrame([make_row(pair, 0, "p2p", **p2p(0.2)) for pair in ("a", "b")])
    write_run(tmp_path, frame, None)
    for group in load_records(tmp_path)["group"]:
        keys = frame.loc[frame["group"].eq(group), "key"]
        rows = [{"key": key, "metric": name, "value": 0.5, "reason": ""} for key in keys for name in names]
        write_metrics(tmp_path, "pie/all@1", pd.DataFrame(rows))
    told = {name: up for name, up in names.items() if up is not None}
    write_columns(tmp_path, "pie/all@1", list(names), told)
    summarise(tmp_path, draw=False)
    text = (RunFolder(tmp_path).tables / "pie.md").read_text()
    for heading in ("pie/psnr_unedit@1 ↑", "pie/mse_unedit@1 ×10⁴ ↓", "pie/clip_similarity_source_image@1"):
        assert f"| {heading} |" in text
