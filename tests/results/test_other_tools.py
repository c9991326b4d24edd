"""Pictures of another tool in a run's folder: where the pairs are equal they stand in the run's tables, plots
and strips, and what these take the place of goes.
"""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from results.store.picture_files import digest
from results.store.records import forget_records, load_records, write_metrics, write_records
from results.store.setting_rows import SETTING_TYPES
from results.summary import Summary, summarise
from tests.results.synthetic import METRICS, PAIRS, draw, make_frame, make_metrics, make_row, write_run

GIVEN = {
    "model": "given images", "setup": "", "num_inference_steps": 0, "effective_steps": 0,
    "guidance_scale": np.nan,
}  # fmt: skip


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    """A run of four pairs whose records tell the digests of their sources."""
    frame = make_frame(list(PAIRS))
    run_dir = tmp_path / "run"
    write_run(run_dir, frame, make_metrics(frame))
    for _, rows in load_records(run_dir).groupby("group"):
        sources = rows[rows["method"].eq("source")]
        told = [digest((run_dir / image).read_bytes()) for image in sources["image"]]
        told = sources.assign(
            image_sha256=[one.sha256 for one in told], image_bytes=[one.size for one in told]
        )
        write_records(run_dir, told)
    return run_dir


def give(run_dir: Path, pairs: list[str], source: str = "the run's own", drawn: bool = False) -> Summary:
    """Add the pictures of another tool for some pairs, as `p2p-bench evaluate` does, and tabulate."""
    rows = []
    sources = load_records(run_dir).query("method == 'source' and seed == 0").set_index("pair_id")
    for pair in pairs:
        own = sources.loc[pair]
        told = {"image_sha256": own["image_sha256"], "image_bytes": own["image_bytes"]}
        if source != "the run's own":
            told = {"image_sha256": "f" * 64, "image_bytes": 7}
        common = {**GIVEN, "group": "othertool-64x64"}
        place = {"image": own["image"], "source_image": own["image"]}
        target = {"target_prompt": PAIRS[pair][0]}
        rows.append(make_row(pair, 0, "source", **common, **target, **place, **told, key=f"source of {pair}"))
        rows.append(make_row(pair, 0, "othertool", **common, source_image=own["image"]))
        draw(run_dir / str(rows[-1]["image"]), pd.Series(rows[-1]))
    frame = pd.DataFrame(rows)
    write_records(run_dir, frame)
    values = [
        {"key": key, "metric": metric, "value": 0.4, "reason": ""}
        for key in frame["key"]
        for metric in METRICS
    ]
    write_metrics(run_dir, "toy@1", pd.DataFrame(values))
    return summarise(run_dir, draw=drawn)


def names(run_dir: Path) -> set[str]:
    return {file.name for folder in ("plots", "tables", "strips") for file in (run_dir / folder).glob("*")}


def width(picture: Path) -> int:
    with Image.open(picture) as image:
        return image.width


def header(summary: Summary) -> str:
    return next(line for line in summary.markdown.splitlines() if line.startswith("| "))


@pytest.mark.usefixtures("one_plot")
def test_equal_pairs_share_tables_and_figures_whoever_made_them(run_dir: Path) -> None:
    before, files = header(summarise(run_dir)), names(run_dir)
    strip = width(run_dir / "strips" / "pairs.png")
    summary = give(run_dir, list(PAIRS), drawn=True)
    assert header(summary) == before  # no column of models, setups or guidance
    assert "nan" not in summary.markdown
    assert sum(line.startswith("| source image |") for line in summary.markdown.splitlines()) == 1
    assert "| othertool | — |" in summary.markdown
    assert names(run_dir) == files
    assert width(run_dir / "strips" / "pairs.png") > strip


@pytest.mark.usefixtures("one_plot")
def test_other_pairs_have_figures_of_their_own_and_no_older_one_stays(run_dir: Path) -> None:
    summarise(run_dir)
    assert {"trade_off.png", "trade_off.pdf"} <= names(run_dir)
    (run_dir / "plots" / "mine.png").write_bytes(b"of the user")
    summarise(run_dir, draw=False)
    assert "trade_off.png" in names(run_dir)  # a call that draws removes it
    give(run_dir, ["cat-dog", "snow"], drawn=True)
    plots = {file.name for file in (run_dir / "plots").glob("*.png")}
    assert {"trade_off-given_images_toy.png", "mine.png"} < plots
    assert "trade_off.png" not in plots
    assert not [name for name in names(run_dir) if "nan" in name]


def test_other_sources_than_the_runs_own_are_a_row_that_says_so(run_dir: Path) -> None:
    lines = give(run_dir, list(PAIRS), "others").markdown.splitlines()
    assert [line.split(" | ")[1] for line in lines if line.startswith("| source image |")] == [
        "—",
        "as given",
    ]


def test_a_table_that_has_no_rows_any_more_goes(run_dir: Path) -> None:
    summarise(run_dir, draw=False)
    assert "reweight.csv" in names(run_dir)
    forget_records(run_dir, lambda records: records["pair_id"].eq("snow"))
    summarise(run_dir, draw=False)
    assert not [name for name in names(run_dir) if name.startswith("reweight")]


def test_what_was_given_for_the_pairs_of_a_plan_stays_in_its_tables(run_dir: Path) -> None:
    give(run_dir, ["cat-dog", "snow"], "others")
    records = load_records(run_dir)
    planned = records.query("pair_id in ('cat-dog', 'house-2') and model == 'tiny' and method != 'sdedit'")
    summary = summarise(run_dir, settings=planned[list(SETTING_TYPES)], draw=False)
    main = summary.tables["main"].query("edit_type == 'all' and metric == 'ms_ssim@2'")
    assert "sdedit" not in set(main["method"])
    assert main.query("method == 'othertool'")["n"].item() == 1  # of cat-dog alone
    assert main.query("method == 'source' and setting == 'as given'")["n"].item() == 1
    left = len(records) - len(planned) - 2
    assert f"{left} more images of other configurations" in summary.markdown
