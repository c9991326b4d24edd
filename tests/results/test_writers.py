"""Tables as text: numbers in full in the CSV, untrusted text harmless in Markdown, HTML and LaTeX."""

import io
import re

import numpy as np
import pandas as pd
import pytest

from results.labels import (
    arrow,
    csv_text,
    escape_formula,
    escape_latex,
    escape_markdown,
    metric_label,
    natural_order,
)
from results.store.records import reason_column
from results.tables import paper_files
from results.tables.cells import with_cells
from results.tables.paper import Layout, arranged
from results.tables.table_files import to_csv, to_markdown
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


def to_latex(rows: pd.DataFrame, directions: dict[str, bool]) -> str:
    layout = Layout(edit_types=True)
    return paper_files.to_latex(arranged(rows, directions, layout), directions, layout)


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
    assert "- lpips_embedded@1: 1 of 7 values are missing (1 images are equal)" in text


def test_a_picture_that_is_missing_counts_once_for_each_metric_and_setting() -> None:
    values = {name: [0.1, np.nan] for name in ("lpips_embedded@1", "ms_ssim@1")}
    reasons = {f"reason:{name}": ["", "failed"] for name in values}
    rows = pd.DataFrame([make_row(pair, 0, "p2p", **p2p(0.2)) for pair in ("cat-dog", "house-2")])
    rows = rows.assign(**values, **reasons)
    again = rows.assign(method="fixed_seed", tau=np.nan, params="{}")  # the pictures of the other setting
    text = to_markdown(main_table(with_cells(pd.concat([rows, again])), list(values)), DIRECTIONS)
    cells = [line.split(" | ") for line in text.splitlines() if line.startswith(("| fixed", "| Prompt"))]
    assert [one[-1] for one in cells[:2]] == ["2 |", "2 |"]
    assert "`missing` counts values, of a picture one for each metric." in text
    assert "- lpips_embedded@1: 2 of 4 values are missing (2 failed)" in text


def test_nasty_text_does_not_leave_its_cell_in_markdown() -> None:
    text = to_markdown(table(edit_type=NASTY, model=NASTY), {})
    assert "<" not in text
    rows = [line for line in text.splitlines() if line.startswith("|")]
    assert len({len(re.findall(r"(?<!\\)\|", line)) for line in rows}) == 1
    assert "[z](" not in text


def test_nasty_text_is_plain_in_latex() -> None:
    text = to_latex(table(edit_type=NASTY, model=NASTY), {})
    assert escape_latex(NASTY) in text.replace(r"\allowbreak{}", "")
    left = re.sub(r"\\(text[a-z]+\{\}|[{}&%$#_])|\$\\[a-z]+\$", "", escape_latex(NASTY))
    assert not set(left) & set("\\{}&%$#_~^<>|\n")
    assert r"\textless{}script\textgreater{}" in text


@pytest.mark.parametrize("start", ["[a] pairs", "*a* pairs"])
def test_a_first_cell_is_no_argument_of_the_row_before_it(start: str) -> None:
    rows = to_latex(table(model=start).assign(method=start), {}).splitlines()
    assert any(f" {{{start[0]}}}{start[1:]}" in row.replace("{{", " {") for row in rows)
    assert not any(row.startswith(("[", "*")) for row in rows)
    assert escape_latex("a [b] *c*") == "a [b] *c*"


@pytest.mark.parametrize("write", [to_markdown, to_latex])
def test_control_characters_are_left_out(write) -> None:
    assert "swap\x1b[31m" in table(edit_type="swap\x1b[31m\x07")["edit_type"].iloc[-1]
    text = write(table(edit_type="swap\x1b\x07\x7f\x85 it"), {})
    assert "swap it" in text
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f]", text)


@pytest.mark.parametrize("text", ['=HYPERLINK("http://x","y")', "@SUM(1)", "+cmd", "-rf"])
def test_a_spreadsheet_evaluates_no_cell(text: str) -> None:
    written = to_csv(table(edit_type=text))
    loaded = pd.read_csv(io.StringIO(written))
    assert f"'{text}" in set(loaded["edit_type"])
    assert loaded["mean"].dtype == float
    assert not any(cell.startswith(("=", "@")) for line in written.splitlines() for cell in line.split(","))


def test_numbers_stay_numbers() -> None:
    assert [escape_formula(value) for value in (-0.5, "-0.5", "+1e3", None, "a=b")] == [
        *(-0.5, "-0.5", "+1e3"),
        *(None, "a=b"),
    ]
    frame = pd.DataFrame({"difference": [-0.25, 0.5], "name": ["=1", "b"], "n": [-1, 2]})
    assert csv_text(frame) == "difference,name,n\n-0.25,'=1,-1\n0.5,b,2\n"


@pytest.mark.parametrize("write", [to_markdown, to_latex])
def test_an_empty_table_is_written(write) -> None:
    assert write(table().iloc[:0], {})


@pytest.mark.parametrize(("directions", "sign"), [({METRIC: True}, " ↑"), ({METRIC: False}, " ↓"), ({}, "")])
def test_an_arrow_says_the_better_direction(directions: dict[str, bool], sign: str) -> None:
    assert arrow(METRIC, directions) == sign.strip()
    assert f"| {METRIC}{sign} |" in to_markdown(table(), directions)


def test_names_are_spelt_out_with_their_backbone() -> None:
    assert metric_label("clip_target_embedded@1") == "CLIP to target prompt (embedded@1)"
    assert metric_label("ms_ssim@2") == "MS-SSIM to source image (version 2)"
    assert metric_label("pie/structure_distance@1") == "PIE structure distance (version 1)"
    assert metric_label("pie/lpips_squeeze_unedit@1") == "PIE LPIPS outside the mask (squeeze@1)"
    assert metric_label("mine/score@1") == "mine/score@1"


def test_escapes_leave_ordinary_text_alone() -> None:
    assert escape_markdown("a cat, then a dog's ear") == escape_latex("a cat, then a dog's ear")
    assert sorted(["pair-10", "pair-2", "apple"], key=natural_order) == ["apple", "pair-2", "pair-10"]
