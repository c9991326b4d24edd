"""Pictures of every mode that Pillow has become what the table in experiments/README.md says."""

import re
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

from p2p.pictures import ORIENTATION, WHOLE, open_picture, stored_grid, to_rgb, turn

README = Path(__file__).resolve().parents[2] / "experiments" / "README.md"
GREY, ALPHA = 51, 128  # of 255
ON_WHITE = round((GREY * ALPHA + 255 * (255 - ALPHA)) / 255)


def table() -> dict[str, str]:
    """What the documentation says becomes of each mode."""
    rows = re.findall(r"^\| (`.+`) \| (as it is|converted|composited|scaled) \|", README.read_text(), re.M)
    return {mode: becomes for modes, becomes in rows for mode in re.findall(r"`(.+?)`", modes)}


def grey(mode: str) -> Image.Image:
    """A picture of one grey, 51 of 255, half transparent where the mode can be."""
    if mode in WHOLE:
        whole = WHOLE[mode]
        kind = {"F": np.float32, "I": np.int32, "I;16B": ">u2"}.get(mode, "<u2")
        values = np.full((4, 6), whole * GREY / 255).astype(kind)
        return Image.frombuffer(mode, (6, 4), values.tobytes(), "raw", mode, 0, 1)
    if mode == "LAB":  # no mode converts to it; L 21.247 of 100 is this grey
        return Image.new("LAB", (6, 4), (round(21.247 * 2.55), 128, 128))
    if mode == "1":
        return Image.new("1", (6, 4), 1)
    picture = Image.new("RGBA", (6, 4), (GREY, GREY, GREY, ALPHA))
    way = {
        "La": ["LA", "La"], "LA": ["LA"], "RGBa": ["RGBa"], "RGBA": [], "PA": ["PA"], "P": ["L", "P"],
        "L": ["RGB", "L"],
    }  # fmt: skip
    for step in way.get(mode, ["RGB", mode]):
        picture = picture.convert(step)
    return picture


def test_the_table_has_every_mode() -> None:
    assert sorted(table()) == sorted(Image.MODES)


@pytest.mark.parametrize("mode", Image.MODES)
def test_what_becomes_of_a_mode_is_what_the_table_says(mode: str) -> None:
    picture = grey(mode)
    assert picture.mode == mode
    read, changed = to_rgb(picture)
    assert read.mode == "RGB"
    becomes = table()[mode]
    value = {"composited": ON_WHITE}.get(becomes, 255 if mode == "1" else GREY)
    # A premultiplied or profiled colour is rounded twice, YCbCr and HSV once.
    off = 2 if mode in ("LAB", "RGBa", "La", "HSV", "YCbCr") else 0
    np.testing.assert_allclose(np.asarray(read).astype(int), value, rtol=0, atol=off)
    assert bool(changed) == (becomes in ("composited", "scaled"))
    if becomes in ("as it is", "converted"):
        assert read.tobytes() == picture.convert("RGB").tobytes()


@pytest.mark.parametrize("mode", ["RGBA", "RGBa", "LA", "La", "PA"])
def test_an_opaque_picture_is_one_without_alpha(mode: str) -> None:
    picture = Image.effect_noise((6, 4), 60).convert("RGBA")
    for step in {"La": ["LA", "La"]}.get(mode, [mode]):
        picture = picture.convert(step)
    read, changed = to_rgb(picture)
    assert changed == []
    assert read.tobytes() == (picture.convert("LA") if mode == "La" else picture).convert("RGB").tobytes()


def test_what_lies_under_transparent_pixels_is_white(tmp_path: Path) -> None:
    pixels = np.zeros((4, 6, 4), np.uint8)
    pixels[:, :3] = (10, 200, 30, 255)
    pixels[:, 3:] = (250, 0, 0, 0)
    hidden = Image.fromarray(pixels)
    palette = hidden.convert("RGB").quantize(4)
    palette.save(tmp_path / "p.png", transparency=palette.getpixel((5, 0)))
    hidden.save(tmp_path / "rgba.webp", lossless=True, exact=True)
    Image.fromarray(pixels[..., 1]).save(tmp_path / "key.png", transparency=0)
    Image.fromarray(pixels[..., 1] * np.uint16(257)).save(tmp_path / "wide.png")
    for name in ("p.png", "rgba.webp", "key.png"):
        image, _ = open_picture(tmp_path / name)
        read, changed = to_rgb(image)
        assert changed == ["transparency composited on white"]
        left, right = read.getpixel((0, 0)), read.getpixel((5, 3))
        assert right == (255, 255, 255)
        assert left in ((10, 200, 30), (200, 200, 200))
    wide, _ = open_picture(tmp_path / "wide.png")
    wide.info["transparency"] = 0  # as Pillow tells a 16-bit file's transparent grey
    read, changed = to_rgb(wide)
    assert [read.getpixel(at) for at in ((0, 0), (5, 0))] == [(200,) * 3, (255,) * 3]
    assert changed == ["values of 0 to 65535 scaled to 8 bits", "transparency composited on white"]


def test_eight_bits_widened_to_sixteen_come_back(tmp_path: Path) -> None:
    eight = np.arange(256, dtype=np.uint16).reshape(16, 16)
    for name, values in (("i.png", eight * 257), ("f.tiff", eight.astype(np.float32) / 255)):
        Image.fromarray(values).save(tmp_path / name)
        image, told = open_picture(tmp_path / name)
        read, changed = to_rgb(image)
        np.testing.assert_array_equal(np.asarray(read)[..., 0], eight)
        assert (told, len(changed)) == ([], 1)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (np.array([[0, 70000]], np.int32), "has values from 0 to 70000, allowed are 0 to 65535"),
        (np.array([[-1, 7]], np.int32), "has values from -1 to 7"),
        (np.array([[0, 255]], np.uint16), "is black but for values up to 255 of 65535"),
        (np.array([[0, 1.5]], np.float32), "has values from 0 to 1.5, allowed are 0 to 1"),
        (np.array([[0, np.nan]], np.float32), "has values from nan to nan"),
    ],
)
def test_wide_values_outside_their_range_are_refused(values: np.ndarray, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        to_rgb(Image.fromarray(values))


@pytest.mark.parametrize(("tag", "value"), [(258, 12), (262, 0)])
def test_wide_tiffs_that_pillow_reads_wrongly_are_refused(tag: int, value: int, tmp_path: Path) -> None:
    """Values of 12 bits come unscaled, and those whose white is 0 not inverted, as 8 bits are."""
    Image.new("I;16", (2, 2), 60000).save(tmp_path / "p.tiff")
    content = bytearray((tmp_path / "p.tiff").read_bytes())
    content[content.index(struct.pack("<HHI", tag, 3, 1)) + 8] = value
    (tmp_path / "p.tiff").write_bytes(content)
    with pytest.raises(ValueError, match="a TIFF of 12 bits, or of more than 8 whose white is 0"):
        open_picture(tmp_path / "p.tiff")


@pytest.mark.parametrize("orientation", range(10))
def test_an_exif_orientation_is_undone_as_pillow_undoes_it(orientation: int, tmp_path: Path) -> None:
    picture, exif = Image.effect_noise((6, 4), 60), Image.Exif()
    exif[ORIENTATION] = orientation
    picture.save(tmp_path / "p.png", exif=exif)
    read, told = open_picture(tmp_path / "p.png")
    with Image.open(tmp_path / "p.png") as opened:
        expected = ImageOps.exif_transpose(opened)
    assert read.tobytes() == expected.tobytes() == turn(picture, orientation).tobytes()
    assert read.size == expected.size
    assert told == (["turned as its EXIF says"] if 2 <= orientation <= 8 else [])
    assert stored_grid(tmp_path / "p.png") == (4, 6, orientation)


@pytest.mark.parametrize("name", ["a.gif", "a.png", "a.webp", "a.tiff"])
def test_of_an_animation_the_first_frame_is_read(name: str, tmp_path: Path) -> None:
    frames = [Image.new("L", (6, 4), value) for value in (0, 128, 255)]
    frames[0].save(tmp_path / name, save_all=True, append_images=frames[1:], lossless=True)
    image, told = open_picture(tmp_path / name)
    assert told == ["first of 3 frames"]
    assert to_rgb(image)[0].getpixel((0, 0)) == (0, 0, 0)


def png(path: Path, size: tuple[int, int], second: bytes = b"IDAT") -> Path:
    """A black PNG whose pixels stand in two chunks, the second of which has this name."""
    pixels = zlib.compress(size[1] * (1 + size[0]) * b"\0")
    header = struct.pack(">IIBBBBB", *size, 8, 0, 0, 0, 0)
    parts = [(b"IHDR", header), (b"IDAT", pixels[:6]), (second, pixels[6:]), (b"IEND", b"")]
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n"
        + b"".join(
            struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
            for name, data in parts
        )
    )
    return path


def damaged(path: Path) -> Path:
    return png(path, (6, 4), b"\x01\x02\x03\x04")


def huge(path: Path) -> Path:
    """A picture of more than twice the pixels that the tests allow."""
    return png(path, (100, 100))


def cut(path: Path) -> Path:
    Image.effect_noise((60, 40), 60).save(path)
    path.write_bytes(path.read_bytes()[:600])
    return path


BROKEN = {"damaged": damaged, "huge": huge, "cut": cut}
RAISES = {"damaged": SyntaxError, "huge": Image.DecompressionBombError, "cut": OSError}


@pytest.mark.parametrize("how", BROKEN)
def test_a_broken_file_is_one_line(how: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 3000)
    file = BROKEN[how](tmp_path / "p.png")
    with pytest.raises(RAISES[how]), Image.open(file) as image:
        image.load()
    with pytest.raises(ValueError, match=r"^cannot be read as a picture \(.+\)$") as error:
        open_picture(file)
    assert "\n" not in str(error.value)
    if how == "huge":
        with pytest.raises(ValueError, match=r"^cannot be read as a picture"):
            stored_grid(file)
