"""Published numbers: each has a source, a sample is what its table prints, and ours stand beside them."""

from pathlib import Path

import pandas as pd
import pytest

from results.summary import summarise
from results.tables.published import (
    _INVERSIONS,
    _METHODS,
    COLUMNS,
    FOLDER,
    SECOND_HAND,
    compare,
    load_reference,
    picture_formats,
    reference_tables,
    to_markdown,
)
from results.tables.tables import COLUMNS as TABLE_COLUMNS
from tests.results.synthetic import make_row, write_run

PIE = (
    "pie/structure_distance@1",
    "pie/psnr_unedit@1",
    "pie/lpips_squeeze_unedit@1",
    "pie/mse_unedit@1",
    "pie/ssim_unedit@3",
    "pie/clip_similarity_target_image@1",
    "pie/clip_similarity_target_image_edit_part@1",
)
# The main table of PIE-Bench (Ju et al. 2024), line by line as it is printed.
MAIN = """
| DDIM | P2P | 69.43 | 17.87 | 208.80 | 219.88 | 71.14 | 25.01 | 22.44 |
| Null-text | P2P | 13.44 | 27.03 | 60.67 | 35.86 | 84.11 | 24.75 | 21.86 |
| NPI | P2P | 16.17 | 26.21 | 69.01 | 39.73 | 83.40 | 24.61 | 21.87 |
| StyleDiffusion | P2P | 11.65 | 26.05 | 66.10 | 38.63 | 83.42 | 24.78 | 21.72 |
| Direct | P2P | 11.65 | 27.22 | 54.55 | 32.86 | 84.76 | 25.02 | 22.10 |
| DDIM | MasaCtrl | 28.38 | 22.17 | 106.62 | 86.97 | 79.67 | 23.96 | 21.16 |
| Direct | MasaCtrl | 24.70 | 22.64 | 87.94 | 81.09 | 81.33 | 24.38 | 21.35 |
| DDIM | P2P-Zero | 61.68 | 20.44 | 172.22 | 144.12 | 74.67 | 22.80 | 20.54 |
| Direct | P2P-Zero | 49.22 | 21.53 | 138.98 | 127.32 | 77.05 | 23.31 | 21.05 |
| DDIM | PnP | 28.22 | 22.28 | 113.46 | 83.64 | 79.05 | 25.41 | 22.55 |
| Direct | PnP | 24.29 | 22.46 | 106.06 | 80.45 | 79.68 | 25.41 | 22.62 |
"""


JPEG = {("0f3c", "p2p"): "jpeg"}
MASA_RERUN = ("MasaCtrl", "Direct, rerun by ViMAEdit")


def value(table: str, method: str, column: str, **where: str) -> float:
    rows = load_reference([table]).query("method == @method and column == @column")
    for name, text in where.items():
        rows = rows[rows[name] == text]
    (found,) = rows["value"]
    return float(found)


def test_the_main_table_of_pie_bench_is_what_it_prints() -> None:
    rows = load_reference(["pie_bench"])
    values = rows[rows["setting"].eq("")].set_index(["method", "inversion", "column"])["value"]
    for line in MAIN.strip().splitlines():
        inversion, method, *printed = (cell.strip() for cell in line.strip("|").split("|"))
        assert [values[method, inversion, column] for column in PIE] == [float(text) for text in printed]
    scales = rows.groupby("column")["scaling"].unique()
    assert [list(scales[column]) for column in PIE] == [[1000], [1], [1000], [10000], [100], [1], [1]]


@pytest.mark.parametrize(
    ("table", "method", "column", "where", "printed"),
    [
        ("pie_bench", "P2P", PIE[0], {"inversion": "SPDInv"}, 8.81),
        ("pie_bench", "TurboEdit (encoder-based, arXiv 2408.08332)", PIE[4], {}, 91.59),
        ("pie_bench", "P2P", PIE[0], {"inversion": "EF (edit-friendly)"}, 15.1),
        ("pie_bench", "LEDITS++", PIE[1], {"setting": "SD1.4/1.5"}, 23.36),
        ("pie_bench_second_hand", "FlowEdit", PIE[6], {"setting": "SD3.5, in FIA-Edit's table"}, 23.73),
        (
            "pie_bench_second_hand",
            "SwiftEdit",
            PIE[3],
            {"setting": "SwiftBrush-v2, 1 step, in SwiftEdit's table"},
            66.0,
        ),
        ("pie_bench_times", "P2P", "published/seconds_inversion", {"inversion": "NTI"}, 132.39),
        ("pie_bench_users", "source image", "pie/clip_similarity_source_image@1", {}, 26.07),
        ("pix2pix_zero", "prompt-to-prompt", "published/clip_accuracy", {"setting": "horse to zebra"}, 18.4),
        ("null_text", "SDEdit", "published/user_preference", {}, 14.5),
        ("imagenhub", "SDEdit", "published/human_overall_high", {}, 0.057),
        ("magicbrush", "SD-SDEdit", "published/clip_t", {}, 0.2777),
        ("tedbench", "SDEdit", "published/clip_i", {}, 0.85),
        ("flowalign", "SDEdit", "published/psnr", {}, 13.83),
        ("plug_and_play", "PnP", "published/lpips", {"setting": "Wild-TI2I"}, 0.521),
        ("imagenet_r_fake", "P2P", "lpips_alex@1", {"inversion": "ProxNPI"}, 0.1113),
    ],
)
def test_a_sample_of_the_other_tables(
    table: str, method: str, column: str, where: dict[str, str], printed: float
) -> None:
    assert value(table, method, column, **where) == printed


def test_people_who_rated_the_same_edits_set_p2p_above_sdedit() -> None:
    rows = load_reference(["imagenhub"]).query("setting == '179 edits, against SDEdit'")
    values = rows.set_index(rows["column"].str.removeprefix("published/human_"))["value"]
    assert dict(values) == {
        "overall_difference": 0.114,
        "overall_difference_low": 0.081,
        "overall_difference_high": 0.149,
        "wins": 53,
        "losses": 8,
        "ties": 118,
    }
    assert values[["wins", "losses", "ties"]].sum() == 179
    # Each printed mean is rounded by itself.
    means = load_reference(["imagenhub"]).query("column == 'published/human_overall'").set_index("method")
    assert means["value"]["P2P"] - means["value"]["SDEdit"] == pytest.approx(0.114, abs=0.0011)


def test_every_number_has_a_source_and_what_is_from_memory_says_so() -> None:
    everything = load_reference()
    assert tuple(everything.columns) == COLUMNS
    assert set(everything["table"]) == set(reference_tables())
    assert everything["source"].str.len().gt(3).all()
    remembered = everything[everything["from_memory"]]
    assert set(remembered["method"]) == {"InstructPix2Pix", "InstructDiffusion", "Blended LD"}
    assert len(remembered) == 16
    assert (remembered["source"].str.contains("memory")).all()
    assert not everything.loc[~everything["from_memory"], "source"].str.contains("memory").any()
    # Only the rows that were run again independently state a tolerance, of pictures saved as those were.
    stated = everything[everything["tolerance"].notna()]
    assert set(stated.groupby(["method", "inversion"]).groups) == {("P2P", "Direct"), ("MasaCtrl", "Direct")}
    assert set(stated["tolerance_format"]) == {"jpeg"}


def test_rows_of_authors_repositories_are_there_and_what_is_second_hand_is_asked_for_by_name() -> None:
    own, second = load_reference(["pie_bench"]), load_reference(["pie_bench_second_hand"])
    of_models = own[own["setting"].ne("")].groupby(["method", "inversion", "setting"])["source"].nunique()
    assert len(of_models) == 34
    assert not own["source"].str.startswith(SECOND_HAND).any()
    assert not own["from_memory"].any()
    assert (second["source"].str.startswith(SECOND_HAND) | second["from_memory"]).all()
    noted = second[second["setting"].str.contains("'s table")]
    # 67, and one that was credited to another paper.
    assert len(noted.groupby(["method", "inversion", "setting"])) == 68


def test_no_two_methods_of_one_name_stand_together() -> None:
    named = {name for name in load_reference()["method"] if name.startswith("TurboEdit")}
    assert named == {"TurboEdit (encoder-based, arXiv 2408.08332)", "TurboEdit (which of two is not said)"}
    flow = load_reference().query("method.str.startswith('FlowEdit')")
    assert not flow["source"].str.contains("paper of FlowEdit").any()


@pytest.mark.parametrize("method", ["P2P", "MasaCtrl"])
def test_the_tolerance_is_what_the_independent_rerun_differs_by(method: str) -> None:
    rows = load_reference(["pie_bench"]).query("method == @method").set_index(["column", "inversion"])
    for column in PIE:
        differs = abs(rows["value"][column, "Direct, rerun by ViMAEdit"] - rows["value"][column, "Direct"])
        assert rows["tolerance"][column, "Direct"] == pytest.approx(differs, abs=1e-9)


def main_rows(**means: float) -> pd.DataFrame:
    rows = [
        {
            "method": "p2p",
            "inversion": "direct",
            "setting": "τ 0.6",
            "edit_type": "all",
            "metric": name,
            "mean": mean,
            "n": 556 if "unedit" in name else 700,
            "setup": "0f3c",
        }
        for name, mean in means.items()
    ]
    return pd.DataFrame(rows).reindex(columns=TABLE_COLUMNS)


def test_ours_stand_beside_the_published_in_its_unit() -> None:
    table = main_rows(**{PIE[0]: 0.01166, PIE[1]: 27.30, "ssim@3": 0.5})
    table.loc[len(table)] = table.iloc[0].replace({"all": "change object"})
    rows = compare(table, load_reference(["pie_bench"]), JPEG)
    direct = rows[rows["published_inversion"] == "Direct"].set_index("metric")
    assert set(direct.index) == {PIE[0], PIE[1]}  # another SSIM is not compared, nor one edit type alone
    assert direct["ours"][PIE[0]] == pytest.approx(11.66)
    assert direct["difference"].to_dict() == pytest.approx({PIE[0]: 0.01, PIE[1]: 0.08})
    assert direct["within"].to_dict() == {PIE[0]: True, PIE[1]: False}
    others = rows[rows["published_inversion"] != "Direct"]
    assert set(others["published_inversion"]) == {"Direct, rerun by ViMAEdit"}
    assert others["within"].isna().all()


@pytest.mark.parametrize(
    ("formats", "n", "told"),
    [
        ({("0f3c", "p2p"): "png"}, 700, "saved as jpeg, ours are png (images.format=jpeg)"),
        ({}, 700, "saved as jpeg, ours are unknown"),
        ({("0f3c", "p2p"): "jpeg"}, 10, "it is of means over 700 images"),
    ],
)
def test_a_tolerance_judges_only_as_many_pictures_saved_alike(
    formats: dict[tuple[str, str], str], n: int, told: str
) -> None:
    rows = compare(main_rows(**{PIE[0]: 0.01166}).assign(n=n), load_reference(["pie_bench"]), formats)
    direct = rows[rows["published_inversion"] == "Direct"]
    assert direct["tolerance"].tolist() == [0.01]
    assert direct["within"].isna().all()
    assert told in to_markdown(rows)
    judged = compare(main_rows(**{PIE[0]: 0.01166}), load_reference(["pie_bench"]), JPEG)
    assert "judges nothing" not in to_markdown(judged)
    assert "| 0.01 (jpeg) | yes |" in to_markdown(judged)


def test_the_format_of_pictures_is_what_records_tell() -> None:
    made = [make_row("cat-dog", seed, "p2p", image=f"{seed}.jpg") for seed in range(2)]
    ends = ("png", "jpg")
    mixed = [make_row("cat-dog", seed, "sdedit", image=f"{seed}.{end}") for seed, end in enumerate(ends)]
    given = {"setup": "", "warnings": "image of 1; 2.JPEG; scaled"}
    tool = [make_row("cat-dog", 0, "theirs", **{**given, "warnings": "image of 12.JPEG; scaled"})]
    other = [make_row("cat-dog", 0, "others", **{**given, "warnings": "image of a.webp"})]
    failed = [make_row("cat-dog", 2, "p2p", image="", status="failed")]
    assert picture_formats(pd.DataFrame([*made, *mixed, *tool, *other, *failed])) == {
        ("", "others"): "", ("", "theirs"): "jpeg", ("0f3c", "p2p"): "jpeg", ("0f3c", "sdedit"): "",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("method", "inversion", "beside"),
    [
        ("p2p", "null_text", {("P2P", "Null-text")}),
        ("p2p", "direct strength=0.9", {("P2P", "Direct"), ("P2P", "Direct, rerun by ViMAEdit")}),
        ("masactrl", "null_text", {("MasaCtrl", "DDIM"), ("MasaCtrl", "Direct"), MASA_RERUN}),
        ("p2p", "edit_friendly skip=18", {("P2P", "EF (edit-friendly)")}),
        ("ledits_pp", "", {("LEDITS++", "")}),
    ],
)
def test_ours_stand_beside_the_nearest_published(
    method: str, inversion: str, beside: set[tuple[str, str]]
) -> None:
    cell = main_rows(**{PIE[0]: 0.01}).assign(method=method, inversion=inversion)
    rows = compare(cell, load_reference(["pie_bench"]))
    assert set(zip(rows["published_method"], rows["published_inversion"], strict=True)) == beside


@pytest.mark.parametrize(("method", "inversion"), [("p2p", "proximal"), ("another tool", "")])
def test_a_tolerance_judges_no_other_method_or_inversion(method: str, inversion: str) -> None:
    cell = main_rows(**{PIE[0]: 0.01}).assign(method=method, inversion=inversion)
    rows = compare(cell, load_reference(["pie_bench"]))
    assert "Direct" in set(rows["published_inversion"])
    assert rows[["within", "tolerance"]].isna().all(axis=None)


def test_what_no_table_names_stands_beside_all() -> None:
    published = load_reference(["pie_bench"])
    cell = main_rows(**{PIE[0]: 0.01}).assign(method="another tool", inversion="")
    assert len(compare(cell, published)) == published["column"].eq(PIE[0]).sum()


def test_every_name_of_ours_is_one_that_some_table_has() -> None:
    published = load_reference()
    assert set(_METHODS) <= set(published["method"])
    assert set(_INVERSIONS) <= set(published["inversion"])


def test_a_source_image_is_compared_with_a_source_image_alone() -> None:
    """Its structure distance of 0 is no success, and every edit repeats its CLIP similarity."""
    named = "pie/clip_similarity_source_image@1"
    edit = main_rows(**{PIE[0]: 0.01, named: 26.0})
    rows = pd.concat([edit, *(edit.assign(method=name) for name in ("source", "reconstruction", "ideal"))])
    compared = compare(rows, load_reference(["pie_bench", "pie_bench_users"]))
    assert set(compared["method"]) == {"p2p", "source"}
    source = compared[compared["method"] == "source"]
    assert source["published_method"].tolist() == ["source image"]
    assert source["difference"].tolist() == pytest.approx([-0.07])
    assert set(compared.loc[compared["method"] == "p2p", "metric"]) == {PIE[0]}


def test_the_markdown_escapes_and_names_the_source() -> None:
    cells = pd.concat([main_rows(**{PIE[0]: 0.01166}), main_rows(**{PIE[0]: 0.01}).assign(method="mine")])
    rows = compare(cells, load_reference(["pie_bench", "pie_bench_second_hand"]))
    rows.loc[0, "published_method"] = "a|b <script>"
    text = to_markdown(rows)
    assert "a\\|b &lt;script&gt;" in text
    assert "(x 1000)" in text
    assert "1. cure-lab/PnPInversion" in text
    assert "(from memory)" in text
    assert "Null-text (ISLock's run), SD1.4, in ISLock's table (second-hand)" in text
    assert "| Prompt-to-Prompt, direct | τ 0.6 |" in text


@pytest.mark.parametrize(
    ("column", "entry", "message"),
    [
        ("source", "", "line 3: no source"),
        ("value", "abc", "line 3: value is no number"),
        ("scaling", "0", "line 3: scaling is not above 0"),
        ("tolerance", "-1", "line 3: tolerance is not above 0"),
        ("tolerance_format", "", "line 3: tolerance_format is not png or jpeg"),
        ("n", "557", "line 3: n is more than there are images"),
        ("value", "0.0009", "line 3: MSE is below what its PSNR allows"),
        ("from_memory", "yes", "line 3: from_memory is not true or false"),
        ("table", "other", "line 3: table is not toy"),
        ("column", PIE[1], "line 3: stands twice"),
    ],
)
def test_bad_lines_are_named(tmp_path: Path, column: str, entry: str, message: str) -> None:
    row = {
        "table": "toy", "method": "P2P", "inversion": "", "setting": "", "value": "30", "scaling": "1",
        "n": "", "tolerance": "1", "tolerance_format": "jpeg", "from_memory": "false", "source": "paper",
        "note": "",
    }  # fmt: skip
    rows = [{**row, "column": PIE[1]}, {**row, "column": PIE[3], "scaling": "1", column: entry}]
    pd.DataFrame(rows)[list(COLUMNS)].to_csv(tmp_path / "toy.csv", index=False)
    with pytest.raises(ValueError, match=message):
        load_reference(folder=tmp_path)


def test_unknown_tables_are_named() -> None:
    with pytest.raises(ValueError, match=r"no table pie, allowed is a list of .*pie_bench"):
        load_reference(["pie"])
    assert FOLDER.is_dir()


def test_a_summary_shows_published_numbers_where_asked(tmp_path: Path) -> None:
    frame = pd.DataFrame([make_row("cat-dog", seed, "fixed_seed") for seed in range(2)])
    values = [{"key": key, "metric": PIE[0], "value": 0.07, "reason": ""} for key in frame["key"]]
    write_run(tmp_path, frame, pd.DataFrame(values))
    summary = summarise(tmp_path, published=["pie_bench"], draw=False)
    assert tmp_path / "tables" / "published.md" in summary.paths
    assert "tables/published.md" in summary.markdown
    rows = pd.read_csv(tmp_path / "tables" / "published.csv")
    assert rows["published_method"].tolist() == ["no control"]
    assert rows["difference"].tolist() == pytest.approx([70 - 12.9])
