"""Tables as text: numbers in full in the CSV, untrusted text harmless in Markdown, HTML and LaTeX."""

import io
import re

import numpy as np
import pandas as pd
import pytest

from results.labels import (
    arrow,
    escape_latex,
    escape_markdown,
    metric_label,
    natural_order,
)
from results.store.records import reason_column
from results.tables.cells import with_cells
from results.tables.table_files import to_csv, to_latex, to_markdown
from results.tables.tables import main_table
from tests.results.synthetic import DIRECTIONS, make_row, p2p

METRIC = "lpips_embedded@1"
NASTY = "<script>alert(1)</script> | a_b_ 50% $x$ \\ {y} ~^# & [z](http://x) `c` *d* τ 猫\n"


def table(edit_type: str = "swap", model: str = "tiny") -> pd.DataFrame:
    rows = [
        make_row(pair, 0, "p2p", **p2p(0.2), edit_type=edit_type, model=name)
        for pair in "abcdefg"
        for name in ("tiny", model)
    ]
    frame = pd.DataFrame(rows).drop_duplicates("key")
    values = np.linspace(0.1, 0.3, len(frame))
    values[-1] = np.nan
    reasons = [*([""] * (len(frame) - 1)), "images are equal"]
    cells = with_cells(frame.assign(**{METRIC: values, reason_column(METRIC): reasons}))
    return main_table(cells, [METRIC])


def test_the_csv_keeps_every_number() -> None:
    ours = table()
    loaded = pd.read_csv(io.StringIO(to_csv(ours)))
    for name in ("mean", "low", "high", "n", "n_images", "n_missing", "tau"):
        # pandas' reader is exact to the last bit or two.
        assert loaded[name].tolist() == pytest.approx(ours[name].tolist(), rel=1e-14)
    assert loaded["reasons"].tolist() == ["1 x images are equal"] * 2


def test_a_cell_is_a_mean_with_its_interval_and_what_is_missing_is_said() -> None:
    text = to_markdown(table(), DIRECTIONS)
    assert "lpips_embedded@1 ↓" in text
    assert re.search(r"\| Prompt-to-Prompt \| τ 0\.2 \| 0\.\d{3} \[0\.\d{3}, 0\.\d{3}\] \| 6 \| 1 \|", text)
    assert "lpips\\_" not in text, "underscores within words need no escape"
    assert "- lpips_embedded@1: 1 of 7 images have no value (1 images are equal)" in text


def test_nasty_text_does_not_leave_its_cell_in_markdown() -> None:
    text = to_markdown(table(edit_type=NASTY, model=NASTY), {})
    assert "<" not in text
    rows = [line for line in text.splitlines() if line.startswith("|")]
    assert len({len(re.findall(r"(?<!\\)\|", line)) for line in rows}) == 1
    assert "[z](" not in text


def test_nasty_text_is_plain_in_latex() -> None:
    text = to_latex(table(edit_type=NASTY, model=NASTY), {})
    assert escape_latex(NASTY) in text
    left = re.sub(r"\\(text[a-z]+\{\}|[{}&%$#_])|\$\\[a-z]+\$", "", escape_latex(NASTY))
    assert not set(left) & set("\\{}&%$#_~^<>|\n")
    assert r"\textless{}script\textgreater{}" in text


@pytest.mark.parametrize("write", [to_markdown, to_latex])
def test_an_empty_table_is_written(write) -> None:
    assert write(table().iloc[:0], {})


@pytest.mark.parametrize(("directions", "sign"), [({METRIC: True}, " ↑"), ({METRIC: False}, " ↓"), ({}, "")])
def test_an_arrow_says_the_better_direction(directions: dict[str, bool], sign: str) -> None:
    assert arrow(METRIC, directions) == sign.strip()
    assert f"| {METRIC}{sign} |" in to_markdown(table(), directions)


def test_names_are_spelt_out_with_their_backbone() -> None:
    assert metric_label("clip_target_embedded@1") == "CLIP to target prompt (embedded@1)"
    assert metric_label("ms_ssim@1") == "MS-SSIM to source image (version 1)"
    assert metric_label("pie/structure_distance@1") == "PIE structure distance (version 1)"
    assert metric_label("pie/lpips_squeeze_unedit@1") == "PIE LPIPS outside the mask (squeeze@1)"
    assert metric_label("mine/score@1") == "mine/score@1"


def test_escapes_leave_ordinary_text_alone() -> None:
    assert escape_markdown("a cat, then a dog's ear") == escape_latex("a cat, then a dog's ear")
    assert sorted(["pair-10", "pair-2", "apple"], key=natural_order) == ["apple", "pair-2", "pair-10"]
