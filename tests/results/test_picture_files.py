"""Pictures of a run: the first writer's bytes stay, what is damaged is seen and gives way."""

import shutil
from pathlib import Path

import pytest
from PIL import Image

from results.plots import strips
from results.store.picture_files import (
    DamagedPicture,
    Digest,
    digest,
    looks_whole,
    read_picture,
    write_picture,
)
from results.store.records import load
from results.tables.cells import with_cells

RED, BLUE = (Image.new("RGB", (8, 8), colour) for colour in ("red", "blue"))
DAMAGES = {
    "empty": lambda content: b"",
    "cut short": lambda content: content[: len(content) // 2],
    "a few bytes": lambda content: content[:5],
    "zeros": lambda content: bytes(len(content)),
    "no picture": lambda content: b"PNG",
}


def test_the_first_writer_is_kept_and_both_are_told_its_bytes(tmp_path: Path) -> None:
    first = write_picture(tmp_path / "a" / "p.png", RED)
    assert write_picture(tmp_path / "a" / "p.png", BLUE) == first
    assert first == digest((tmp_path / "a" / "p.png").read_bytes())
    assert read_picture(tmp_path / "a" / "p.png", first).getpixel((0, 0)) == (255, 0, 0)
    assert [file.name for file in (tmp_path / "a").iterdir()] == ["p.png"]


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_picture_is_seen_and_gives_way(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "p.png"
    told = write_picture(path, RED)
    assert looks_whole(path, told.size)
    path.write_bytes(DAMAGES[damage](path.read_bytes()))
    assert not looks_whole(path)
    with pytest.raises(DamagedPicture, match=r"p\.png: .*; delete it, and the next `run` makes it again"):
        read_picture(path)
    assert write_picture(path, RED) == told
    assert looks_whole(path, told.size)


def test_another_whole_picture_is_seen_by_its_digest_and_gives_way(
    tmp_path: Path,
) -> None:
    path = tmp_path / "p.png"
    told = write_picture(path, RED)
    path.unlink()
    other = write_picture(path, BLUE)
    assert looks_whole(path)
    assert read_picture(path).getpixel((0, 0)) == (0, 0, 255)
    with pytest.raises(DamagedPicture, match="not the picture that its record tells of"):
        read_picture(path, told)
    assert read_picture(path, Digest())  # of before there were digests
    assert write_picture(path, RED, other) == other
    assert write_picture(path, RED, told) == told


def test_a_missing_picture_is_no_damage(tmp_path: Path) -> None:
    assert not looks_whole(tmp_path / "p.png")
    with pytest.raises(FileNotFoundError):
        read_picture(tmp_path / "p.png")


@pytest.mark.parametrize("damage", ["empty", "cut short", None])
def test_a_strip_has_a_blank_where_a_picture_is_missing_or_damaged(
    finished_run: Path, tmp_path: Path, damage: str | None
) -> None:
    run_dir = shutil.copytree(finished_run, tmp_path / "run")
    cells = with_cells(load(run_dir))
    pairs = strips.choose_pairs(cells)
    whole = strips.strip(run_dir, cells, pairs).convert("RGB").tobytes()
    for file in sorted(run_dir.glob("images/*/0/source.png"))[:1]:
        file.write_bytes(DAMAGES[damage](file.read_bytes())) if damage else file.unlink()
    strip = strips.strip(run_dir, cells, pairs).convert("RGB")
    assert strip.tobytes() != whole
    assert (238, 238, 238) in {colour for _, colour in strip.getcolors(1 << 24) or []}
