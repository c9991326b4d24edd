"""The heat-map command on a tiny random pipeline: one picture, or one line of error."""

from pathlib import Path

import pytest
from PIL import Image

from experiments.pictures.heat_maps import main


@pytest.fixture
def tiny(tiny_folder: Path) -> list[str]:
    return [
        *("--model", str(tiny_folder), "--self-max-side", "16", "--device", "cpu"),
        *("--num-inference-steps", "3", "--guidance-scale", "2"),
    ]


def test_a_picture_of_source_and_edit(
    tiny: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sizes = []
    for name, edit in (("both.png", ["a dog on a bench"]), ("source.png", [])):
        out = tmp_path / "new" / name
        words = ["cat", "dog", "a bench"] if edit else ["cat"]
        asked = ["--words", *words, "--steps", "0-1", "1-3", "--layers", "16", "--out", str(out)]
        main(["a cat on a bench", *edit, *asked, *tiny])
        assert capsys.readouterr().out.strip() == str(out)
        with Image.open(out) as picture:
            sizes.append(picture.size)
    assert sizes[0][0] > sizes[1][0]  # more words
    assert sizes[0][1] == 2 * sizes[1][1]  # a row of the edit below each of the source's


def test_bad_input_is_one_line(tiny: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["a cat", "--words", "horse", "--out", str(tmp_path / "none.png"), *tiny]) == 2
    assert capsys.readouterr().err == "error: words: 'horse' given, allowed are words of 'a cat'\n"
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("option", "message"),
    [
        (["--seed", "-1"], "seed: -1 is not a whole number in [0, 2^32)"),
        (["--seed", str(2**32)], "seed: 4294967296 is not a whole number in [0, 2^32)"),
        (["--tau", "3"], "tau must be a number in [0, 1], got 3.0"),  # without a target prompt too
    ],
)
def test_numbers_out_of_range_are_refused_before_a_model_is_loaded(
    option: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["a cat", "--words", "cat", "--model", "/nowhere", *option]) == 2
    assert capsys.readouterr().err == f"error: {message}\n"
