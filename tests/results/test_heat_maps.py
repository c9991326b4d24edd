"""Pictures of heat-maps: brightness follows the map, every word has its column, bad shapes are refused."""

from pathlib import Path

import numpy as np
import pytest

from results.plots.heat_maps import Row, draw, overlay

IMAGE = np.full((3, 32, 48), 0.5)


def test_the_overlay_is_bright_where_the_map_is_high() -> None:
    heat = np.zeros((4, 6))
    heat[1, 4] = 0.02
    picture = overlay(IMAGE, heat)
    assert picture.shape == (32, 48, 3)
    assert picture.min() >= 0
    assert picture.max() <= 1
    y, x = np.unravel_index(picture.sum(2).argmax(), (32, 48))
    assert (y // 8, x // 8) == (1, 4)
    assert np.ptp(picture[:, :16], axis=(0, 1)).max() < 0.02  # away from it: one dark tone
    assert overlay(IMAGE, heat, peak=0.2).sum() < picture.sum()


def test_a_word_that_nothing_attends_to_is_dark() -> None:
    dark = overlay(IMAGE, np.zeros((4, 6)))
    np.testing.assert_allclose(dark, dark[0, 0][None, None] * np.ones((32, 48, 1)))


def test_words_keep_their_columns_and_titles_tell_the_peak(tmp_path: Path) -> None:
    maps = np.stack([np.eye(4), np.eye(4) / 2])
    rows = [Row("source", IMAGE, ["cat", "$beach$"], maps), Row("edit", IMAGE, ["$beach$", "dog"], maps)]
    figure = draw(rows, ["cat", "dog", "$beach$"])
    titles = np.reshape([axes.get_title() for axes in figure.axes], (2, 4)).tolist()
    assert titles == [
        ["source", "cat  (1)", "", r"\$beach\$  (0.5)"],
        ["edit", "", "dog  (0.5)", r"\$beach\$  (1)"],
    ]
    drawn = figure.axes[1].get_images()[0].get_array()
    np.testing.assert_array_equal(drawn, overlay(IMAGE, maps[0]))
    figure.savefig(tmp_path / "maps.png")
    assert (tmp_path / "maps.png").stat().st_size > 5000


@pytest.mark.parametrize(
    ("image", "maps", "message"),
    [
        (IMAGE, np.zeros((2, 4, 4)), r"maps: shape \(2, 4, 4\), allowed is \(1, height, width\)"),
        (IMAGE, np.zeros((4, 4)), r"maps: shape \(4, 4\)"),
        (IMAGE.transpose(1, 2, 0), np.zeros((1, 4, 4)), r"image: shape \(32, 48, 3\), allowed is \(3, "),
    ],
)
def test_bad_shapes_are_refused(image: np.ndarray, maps: np.ndarray, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Row("source", image, ["cat"], maps)
