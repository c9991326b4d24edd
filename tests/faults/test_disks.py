"""A disk that is full, or read-only for a while: file systems of their own, which root alone can mount."""

import random
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.faults.conftest import Told, Undisturbed
from tests.faults.processes import Running, assert_nothing_is_damaged, begin, partials, times, wait_at_random

pytestmark = [pytest.mark.xdist_group("faults"), pytest.mark.slow]


def mount(*arguments: str) -> str:
    """Call mount; return what it says where it fails."""
    done = subprocess.run(["mount", *arguments], capture_output=True, text=True)
    return done.stderr.strip() or f"exit code {done.returncode}" if done.returncode else ""


@contextmanager
def file_system(folder: Path, size: str) -> Iterator[Path]:
    """Mount a small file system for a while; skip where this may not be."""
    folder.mkdir()
    try:
        failed = mount("-t", "tmpfs", "-o", f"size={size}", "none", str(folder))
    except FileNotFoundError:
        failed = "there is no mount"
    if failed:
        pytest.skip(f"a small file system cannot be mounted here, as root can in places: {failed}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def assert_one_line(running: Running, code: int) -> None:
    text = running.told()
    assert code in (1, 2), text
    assert len([line for line in text.splitlines() if "error: " in line]) == 1, text
    assert "Traceback" not in text
    assert "Logging error" not in text


def test_a_full_disk_ends_the_run_and_with_room_again_it_goes_on(
    undisturbed: Undisturbed, tmp_path: Path, draw: random.Random, told: Told
) -> None:
    sizes = [4 * draw.randrange(1, 200) for _ in range(times(0.2, 2))]
    stopped = 0
    for number, size in enumerate(sizes):
        with file_system(tmp_path / f"disk-{number}", f"{size}k") as disk:
            command = undisturbed.into(disk / "run")
            running = begin(tmp_path / "told", *command)
            if code := running.wait():
                assert_one_line(running, code)
                stopped += 1
            assert not partials(disk)
            assert_nothing_is_damaged(disk / "run")
            assert not mount("-o", "remount,size=50m", str(disk))
            undisturbed.assert_resumes(disk / "run")
    told("disk full, at 4 to 800 kB; then room again", len(sizes), f"equal; {stopped} stopped in one line")


def test_a_folder_that_is_read_only_for_a_while(
    undisturbed: Undisturbed, tmp_path: Path, draw: random.Random, told: Told
) -> None:
    count, stopped = times(0.2, 2), 0
    for number in range(count):
        with file_system(tmp_path / f"disk-{number}", "50m") as disk:
            # Hydra's log stays open, and what has an open file does not become read-only.
            log = f"hydra.run.dir={tmp_path / 'log'}"
            running = begin(tmp_path / "told", *undisturbed.into(disk / "run", log))
            wait_at_random(draw, undisturbed.seconds, running)
            while mount("-o", "remount,ro", str(disk)):
                time.sleep(0.001)
            if code := running.wait():
                assert_one_line(running, code)
                stopped += 1
            assert_nothing_is_damaged(disk / "run")
            again = begin(tmp_path / "told", *undisturbed.into(disk / "run", log))
            assert_one_line(again, again.wait())
            assert not mount("-o", "remount,rw", str(disk))
            undisturbed.assert_resumes(disk / "run")
    told("folder read-only for a while, from a random moment", count, f"equal; {stopped} stopped in one line")
