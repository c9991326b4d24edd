"""Tables for papers: the best are marked by their own direction and among their like, in the width told."""

import io
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from results.store.records import load, metric_columns, reason_column
from results.tables.cells import with_cells
from results.tables.paper import Layout, arranged, check_settings
from results.tables.paper_files import fitted, paper_csv, paper_markdown, to_latex
from results.tables.tables import main_table
from tests.results.synthetic import DIRECTIONS, METRICS, make_row, p2p
from tests.results.test_writers import NASTY

METRIC, CLIP = "lpips_embedded@1", "clip_target_embedded@1"
POINTS = 72.27


@pytest.fixture(scope="module")
def finished_table(finished_run: Path) -> pd.DataFrame:
    frame = load(finished_run)
    return main_table(with_cells(frame), metric_columns(frame))


def table(values: dict[str, list[float]], **settings: object) -> pd.DataFrame:
    """Return the table of methods with a value of METRIC for each pair (NaN for a pair without one)."""
    frame = pd.DataFrame(
        [
            {
                **make_row(f"pair-{pair}", 0, method, **settings),
                METRIC: value,
                reason_column(METRIC): "" if np.isfinite(value) else "none",
            }
            for method, of in values.items()
            for pair, value in enumerate(of)
        ]
    )
    return main_table(with_cells(frame), [METRIC])


def ranks(rows: pd.DataFrame) -> dict[str, object]:
    return {row.method: None if pd.isna(row.rank) else row.rank for row in rows.itertuples()}


@pytest.mark.parametrize(("up", "first", "second"), [(False, "a", "b"), (True, "c", "b")])
def test_best_and_second_best_are_by_the_metrics_own_direction(up: bool, first: str, second: str) -> None:
    ours = table({"a": [0.1] * 6, "b": [0.2] * 6, "c": [0.3] * 6})
    rows = arranged(ours, {METRIC: up}, Layout())
    assert ranks(rows) == {"a": None, "b": None, "c": None} | {first: 1, second: 2}
    text = to_latex(rows, {METRIC: up}, Layout())
    best, next_best = rows.set_index("method")["mean"][[first, second]]
    assert rf"\textbf{{{best:.2f}0}}" in text
    assert rf"\underline{{{next_best:.2f}0}}" in text
    assert f"**{best:.3f}**" in paper_markdown(rows, {METRIC: up}, Layout())
    assert ranks(arranged(ours, {}, Layout())) == {"a": None, "b": None, "c": None}


def test_what_is_printed_alike_is_marked_alike() -> None:
    ours = table({"a": [0.1002] * 6, "b": [0.1004] * 6, "c": [0.3] * 6, "d": [0.3] * 6, "e": [0.4] * 6})
    assert ranks(arranged(ours, DIRECTIONS, Layout())) == {"a": 1, "b": 1, "c": 2, "d": 2, "e": None}
    finer = arranged(ours, DIRECTIONS, Layout(digits={"lpips": 4}))
    assert ranks(finer) == {"a": 1, "b": 2, "c": None, "d": None, "e": None}
    assert "0.1002" in to_latex(finer, DIRECTIONS, Layout())


def test_given_pictures_and_means_over_fewer_pairs_are_not_compared() -> None:
    ours = table({"ideal": [0.0] * 6, "a": [0.2] * 6, "b": [0.3] * 6, "c": [0.1] * 5 + [np.nan]})
    rows = arranged(ours, DIRECTIONS, Layout())
    assert ranks(rows) == {"ideal": None, "a": 1, "b": 2, "c": None}
    text = to_latex(rows, DIRECTIONS, Layout())
    assert "What is over fewer pairs is not compared" in text
    assert re.search(r"c & 0\.100 & 5 ", text), "five pairs give no interval"
    assert "fewer than 6 pairs give no interval" in text
    all_ranked = arranged(ours, DIRECTIONS, Layout(rank_given=True))
    assert ranks(all_ranked) == {"ideal": 1, "a": 2, "b": None, "c": None}


def test_only_rows_of_one_data_set_are_compared() -> None:
    parts = [table({"a": [low] * 6, "b": [low + 0.1] * 6}, dataset=f"of {low}") for low in (0.1, 0.5)]
    rows = arranged(pd.concat(parts, ignore_index=True), DIRECTIONS, Layout())
    assert rows["rank"].tolist() == [1, 2, 1, 2]


def test_columns_and_settings_are_those_asked_for_in_the_columns_order(finished_table: pd.DataFrame) -> None:
    layout = Layout(
        columns=["ms_ssim", "clip_target", "lpips"], settings=["p2p: tau 0.4", "sdedit", "source"]
    )
    rows = arranged(finished_table, DIRECTIONS, layout)
    assert list(dict.fromkeys(rows["metric"])) == ["ms_ssim@2", CLIP, METRIC]
    assert list(dict.fromkeys(rows["setting"])) == [
        "",
        "τ 0.4",
        *(f"strength {s}" for s in (0.3, 0.5, 0.7, 0.9)),
    ]
    assert arranged(finished_table, DIRECTIONS, Layout(settings=["p2p: tau 0.4"]))["setting"].nunique() == 1
    weighted = arranged(finished_table, DIRECTIONS, Layout(settings=["p2p: weights ×2"]))
    assert set(weighted["weighting"]) == {"×2"}
    usual = arranged(finished_table, DIRECTIONS, Layout(), first=[METRIC])
    assert usual["metric"].iloc[0] == METRIC
    assert set(usual["method"]) == {"fixed_seed", "p2p", "sdedit"}
    assert set(usual["edit_type"]) == {"all"}
    parts = arranged(finished_table, DIRECTIONS, Layout(edit_types=True))
    assert set(parts["edit_type"]) == {"all", "add", "swap"}
    assert r"\emph{Edit type: swap}" in to_latex(parts, DIRECTIONS, Layout(edit_types=True))


@pytest.mark.parametrize(
    ("interval", "shown"),
    [("plus_minus", r"0.300\,$\pm$\,0.040"), ("brackets", "0.300 [0.260, 0.340]"), ("none", "0.300")],
)
def test_an_interval_is_half_its_width_or_its_ends_or_left_out(interval: str, shown: str) -> None:
    rows = table({"a": [0.3] * 6}).assign(low=0.26, high=0.34)
    layout = Layout(interval=interval)
    text = to_latex(arranged(rows, DIRECTIONS, layout), DIRECTIONS, layout)
    assert f"a & {shown} \\\\\n" in text


def test_every_number_is_in_the_csv_with_its_rank(finished_table: pd.DataFrame) -> None:
    rows = arranged(finished_table, DIRECTIONS, Layout(columns=["lpips"], digits=1))
    read = pd.read_csv(io.StringIO(paper_csv(rows)))
    assert read["mean"].tolist() == pytest.approx(rows["mean"].tolist(), rel=1e-14)
    assert set(read["rank"].dropna()) == {1, 2}


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"interval": "sd"}, "interval: 'sd' is none of plus_minus, brackets, none"),
        ({"width": "page"}, "width: 'page' is none of column, text, nor a number of inches"),
        ({"width": 0.1}, "width: 0.1 inches, allowed are 1 to 30"),
        ({"digits": -1}, "digits: -1 is no number of decimals"),
        ({"digits": {"lpips": 2.5}}, "digits: 2.5 is no number of decimals"),
        ({"digits": True}, "digits: True is no number of decimals"),
        ({"columns": []}, r"columns: \[\] is no list of names"),
    ],
)
def test_a_wrong_layout_is_told(wrong: dict[str, object], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        Layout(**wrong)  # type: ignore[arg-type]


def test_what_a_run_does_not_have_is_told_with_what_is_near(finished_table: pd.DataFrame) -> None:
    with pytest.raises(
        ValueError, match="tables.columns: 'lpips_embeded@1' is no metric here, did you mean lpips_embedded@1"
    ):
        Layout(columns=["lpips_embeded@1"]).check(METRICS, ["p2p"])
    with pytest.raises(ValueError, match="tables.digits: 'psnr' is no metric here"):
        Layout(digits={"psnr": 1}).check(METRICS, ["p2p"])
    with pytest.raises(ValueError, match="tables.settings: 'sdedti' is no method here, did you mean sdedit"):
        Layout(settings=["sdedti: strength 0.5"]).check(METRICS, ["p2p", "sdedit"])
    with pytest.raises(
        ValueError, match="tables.settings: no row is 'p2p: tau 0.5', of .* nearest are p2p: τ 0"
    ):
        check_settings(finished_table, Layout(settings=["p2p: tau 0.5"]))


LAYOUTS = [
    Layout(),
    Layout(width="text", interval="brackets"),
    Layout(columns=["lpips", "clip_target"], edit_types=True, digits=5),
    Layout(columns=["lpips"], width=2.0, interval="brackets"),
    Layout(columns=METRICS, width=9),
]


def hostile_table() -> pd.DataFrame:
    text = NASTY.replace("猫", "")  # a letter that pdfTeX's fonts lack
    rows = [
        {
            **make_row(f"{pair}", 0, method, **{**p2p(0.2), "model": model}),
            METRIC: 0.1 * pair,
            reason_column(METRIC): "",
        }
        for pair in range(7)
        for method in (text, "[a]", "*b*")
        for model in ("tiny", f"{text} and a name that is longer than the table is wide, {'x_' * 20}")
    ]
    return main_table(with_cells(pd.DataFrame(rows)), [METRIC])


def latex_of(finished_table: pd.DataFrame) -> list[tuple[str, Layout]]:
    made = [(to_latex(arranged(finished_table, DIRECTIONS, one), DIRECTIONS, one), one) for one in LAYOUTS]
    return [
        *made,
        (to_latex(arranged(hostile_table(), DIRECTIONS, Layout()), DIRECTIONS, Layout()), Layout()),
    ]


def test_each_row_has_as_many_cells_as_the_table_has_columns(finished_table: pd.DataFrame) -> None:
    for text, layout in latex_of(finished_table):
        columns = re.search(r"\\begin\{tabular\}\{@\{\}p\{[\d.]+pt\}(r+)@\{\}\}", text)
        assert columns, text
        rows = [line for line in text.splitlines() if line.endswith(r" \\")]
        counts = {len(re.findall(r"(?<!\\)&", row)) for row in rows if not row.startswith(r"\multicolumn")}
        assert counts == {len(columns[1])}
        assert [text.count(rule) for rule in (r"\toprule", r"\bottomrule", r"\end{tabular}")] == [1, 1, 1]
        assert text.count("{") - text.count(r"\{") == text.count("}") - text.count(r"\}")
        parts = 1 if not layout.edit_types else 3
        assert text.count(r"\midrule") == parts


def test_columns_without_room_are_named_and_the_first_stays(finished_table: pd.DataFrame) -> None:
    narrow = Layout(width=1.5)
    rows = arranged(finished_table, DIRECTIONS, narrow)
    fit = fitted(rows, DIRECTIONS, narrow)
    assert len(fit.metrics) == 1
    assert fit.metrics + fit.left_out == list(dict.fromkeys(rows["metric"]))
    assert f"% left out, as 1.5 inches have no room for them: {', '.join(fit.left_out)}\n" in to_latex(
        rows, DIRECTIONS, narrow
    )
    assert not fitted(rows, DIRECTIONS, Layout(width=12)).left_out


@pytest.mark.skipif(not shutil.which("pdflatex"), reason="no pdflatex here; its structure is tested above")
def test_it_compiles_and_is_no_wider_than_it_says(finished_table: pd.DataFrame, tmp_path: Path) -> None:
    made = latex_of(finished_table)
    body = "\n".join(
        rf"\setlength\hsize{{{layout.inches}in}}\setbox0\vbox{{{text}}}"
        r"\typeout{MEASURED \the\wd0}\box0\clearpage"
        for text, layout in made
    )
    (tmp_path / "doc.tex").write_text(
        r"\documentclass{article}\usepackage[paperwidth=12in,margin=1in]{geometry}\usepackage{booktabs}"
        f"\\begin{{document}}\n{body}\n\\end{{document}}\n",
        encoding="utf-8",
    )
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "-no-shell-escape", "doc.tex"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout[-2000:]
    assert "Overfull" not in done.stdout, done.stdout
    widths = [float(width) for width in re.findall(r"MEASURED ([\d.]+)pt", done.stdout)]
    assert len(widths) == len(made)
    for width, (_, layout) in zip(widths, made):
        assert width <= layout.inches * POINTS + 0.1
