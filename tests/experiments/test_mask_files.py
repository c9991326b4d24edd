"""Masks as other tools save them: 0 and 1, in the alpha channel, wide, of a palette, turned, damaged."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from experiments.inputs.masks import mask_warnings, read_mask
from p2p.pictures import ORIENTATION
from tests.p2p.test_pictures import BROKEN

LEFT = np.broadcast_to(np.arange(6) < 3, (4, 6))


def save(tmp_path: Path, image: Image.Image) -> Path:
    image.save(tmp_path / "mask.tiff")
    return tmp_path / "mask.tiff"


def two(dark: float, light: float, kind: type) -> Image.Image:
    return Image.fromarray(np.where(LEFT, light, dark).astype(kind))


def painted(colour: tuple[int, int, int], other: tuple[int, int, int]) -> Image.Image:
    """One colour, opaque, on another that is transparent."""
    pixels = np.where(LEFT[..., None], (*colour, 255), (*other, 0)).astype(np.uint8)
    return Image.fromarray(pixels)


def palette() -> Image.Image:
    """Index 1, dark red, on index 0, as data sets of segments have it."""
    image = two(0, 1, np.uint8)
    image.putpalette([0, 0, 0, 128, 0, 0])
    return image


OPAQUE = "read from its alpha, opaque = the area to edit"


@pytest.mark.parametrize(
    ("image", "warning"),
    [
        (two(0, 255, np.uint8), ""),
        (two(20, 128, np.uint8), ""),
        (two(0, 65535, np.uint16), ""),
        (two(0, 1, np.float32), ""),
        (two(0, 1, bool), ""),
        (two(0, 1, np.uint8), "of 0 and 1, read as black and white"),
        (two(0, 1, np.uint16), "of 0 and 1, read as black and white"),
        (two(0, 255, np.int32), "of 0 and 255, read as black and white"),
        (palette(), "of 0 and 38, read as black and white"),
        (painted((255, 255, 255), (255, 255, 255)), OPAQUE),
        (painted((0, 0, 0), (0, 0, 0)), OPAQUE),
        (painted((0, 0, 0), (0, 0, 0)).convert("LA"), OPAQUE),
        (painted((255, 255, 255), (0, 0, 0)), OPAQUE),  # the colour marks the same
        (two(0, 255, np.uint8).convert("RGBA"), ""),
    ],
)
def test_a_mask_of_any_kind_marks_its_area(image: Image.Image, warning: str, tmp_path: Path) -> None:
    mask = save(tmp_path, image)
    np.testing.assert_array_equal(read_mask(mask, "p"), LEFT)
    assert mask_warnings(mask, "p") == (f"mask: {warning}" if warning else "")


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (Image.fromarray(np.uint8([[0, 1, 2]])), "has no value over 2 of 255, allowed are black and white"),
        (Image.new("L", (6, 4), 1), "has no value over 1 of 255"),
        (Image.fromarray(np.uint16([[0, 255, 700]])), "has no value over 700 of 65535"),
        (Image.fromarray(np.float32([[0, 255]])), "has values from 0 to 255, allowed are 0 to 1"),
        (painted((0, 0, 0), (255, 255, 255)), "its colour and its alpha mark different areas"),
    ],
)
def test_a_mask_that_may_mean_several_areas_is_refused(
    image: Image.Image, message: str, tmp_path: Path
) -> None:
    mask = save(tmp_path, image)
    with pytest.raises(ValueError, match=rf"pair 'my pair': mask .*mask.tiff: {message}"):
        read_mask(mask, "my pair")


def test_a_black_mask_marks_nothing_and_says_so(tmp_path: Path) -> None:
    mask = save(tmp_path, Image.new("L", (6, 4)))
    assert not read_mask(mask, "p").any()
    assert mask_warnings(mask, "p") == "mask: marks nothing"


def test_a_mask_is_turned_and_the_first_of_its_frames_is_read(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    two(0, 255, np.uint8).save(tmp_path / "turned.png", exif=exif)
    np.testing.assert_array_equal(read_mask(tmp_path / "turned.png", "p"), LEFT.T)
    assert mask_warnings(tmp_path / "turned.png", "p") == "mask: turned as its EXIF says"
    two(0, 255, np.uint8).save(tmp_path / "a.gif", save_all=True, append_images=[Image.new("L", (6, 4))])
    np.testing.assert_array_equal(read_mask(tmp_path / "a.gif", "p"), LEFT)
    assert mask_warnings(tmp_path / "a.gif", "p") == "mask: first of 2 frames"


@pytest.mark.parametrize("how", BROKEN)
def test_a_broken_mask_is_one_line(how: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 3000)
    file = BROKEN[how](tmp_path / "mask.png")
    with pytest.raises(ValueError, match=r"^pair 'p': mask .*mask.png: cannot be read as a picture \(.+\)$"):
        read_mask(file, "p")
