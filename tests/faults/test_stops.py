"""Runs that are stopped at any moment: by SIGKILL, by a keyboard's interrupt, by the system's SIGTERM."""

import itertools
import random
import signal
import time
from collections import Counter
from pathlib import Path

import pytest

from tests.faults.conftest import Told, Undisturbed
from tests.faults.processes import (
    SECONDS,
    assert_nothing_is_damaged,
    begin,
    partials,
    times,
    wait_at_random,
)

pytestmark = pytest.mark.xdist_group("faults")
STOPPED = {signal.SIGINT: 130, signal.SIGTERM: 143}
IN_ONE_FOLDER = 4  # kills, before the run is let go to its end


def test_kills_lose_nothing_and_double_nothing(
    undisturbed: Undisturbed, tmp_path: Path, draw: random.Random, told: Told
) -> None:
    count, killed, left, seconds = times(1, 3), 0, 0, undisturbed.seconds
    for folder in itertools.count():
        if killed == count:
            break
        run_dir = tmp_path / str(folder)
        command = undisturbed.into(run_dir)
        for place in range(min(IN_ONE_FOLDER, count - killed)):
            running = begin(tmp_path / "told", *command)
            began = time.monotonic()
            wait_at_random(draw, seconds, running)
            running.send(signal.SIGKILL)
            code = running.wait()
            assert_nothing_is_damaged(run_dir)
            if code != -signal.SIGKILL:  # it was quicker
                seconds = seconds if place else time.monotonic() - began
                break
            killed += 1
        left += len(partials(run_dir))
        undisturbed.assert_resumes(run_dir)
    told("kill -9 at a random moment, then resumed", killed, f"equal; {left} *.partial left, nothing damaged")


def test_signals_end_a_run_at_once_and_leave_nothing_half_written(
    undisturbed: Undisturbed, tmp_path: Path, draw: random.Random, told: Told
) -> None:
    codes, longest = Counter[int](), 0.0
    for count in range(times(0.4, 2)):
        run_dir = tmp_path / f"run-{count // IN_ONE_FOLDER}"
        number = list(STOPPED)[count % 2]
        running = begin(tmp_path / "told", *undisturbed.into(run_dir))
        wait_at_random(draw, undisturbed.seconds, running)
        began = time.monotonic()
        running.send(number)
        code = running.wait(SECONDS)
        longest = max(longest, time.monotonic() - began)
        codes[code] += 1
        text = running.told()
        assert code in (0, STOPPED[number]), text
        assert not code or "stopped; the same command continues where it stood" in text
        assert "Traceback" not in text
        assert not partials(tmp_path)
        assert_nothing_is_damaged(run_dir)
    for run_dir in sorted(tmp_path.glob("run-*")):
        undisturbed.assert_resumes(run_dir)
    ended = f"{codes[130]} and {codes[143]} stopped, the longest in {longest:.1f} s; {codes[0]} had ended"
    told("SIGINT, SIGTERM at a random moment, then resumed", codes.total(), f"equal; {ended}")
