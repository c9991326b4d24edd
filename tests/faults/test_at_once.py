"""Several processes on one folder at once, one of which may be killed."""

import random
import signal
from pathlib import Path

import pytest

from tests.faults.conftest import Told, Undisturbed
from tests.faults.processes import assert_nothing_is_damaged, begin, times, wait_at_random

pytestmark = [pytest.mark.xdist_group("faults"), pytest.mark.slow]
SHARDS = [f"shard={index}/4" for index in range(4)]


def test_two_whole_sweeps_and_four_shards(undisturbed: Undisturbed, tmp_path: Path, told: Told) -> None:
    count = times(0.03, 1)
    for number in range(count):
        run_dir = tmp_path / f"run-{number}"
        parts = [["plots=false"]] * 2 + [[one] for one in SHARDS]
        running = [
            begin(tmp_path / f"told-{place}", *undisturbed.into(run_dir, *part))
            for place, part in enumerate(parts)
        ]
        for one in running:
            assert one.wait() == 0, one.told()
            assert "Traceback" not in one.told()
        assert_nothing_is_damaged(run_dir)
        undisturbed.assert_resumes(run_dir)
    told("two whole sweeps and four shards on one folder at once", count, "equal")


def test_a_shard_that_is_killed_is_made_by_the_next_call_of_it(
    undisturbed: Undisturbed, tmp_path: Path, draw: random.Random, told: Told
) -> None:
    count, killed = times(0.05, 1), 0
    for number in range(count):
        run_dir = tmp_path / f"run-{number}"
        commands = [undisturbed.into(run_dir, one) for one in SHARDS]
        running = [begin(tmp_path / f"told-{place}", *command) for place, command in enumerate(commands)]
        victim = draw.randrange(len(SHARDS))
        wait_at_random(draw, undisturbed.seconds, running[victim])
        running[victim].send(signal.SIGKILL)
        codes = [one.wait() for one in running]
        killed += codes[victim] == -signal.SIGKILL
        assert [code for place, code in enumerate(codes) if place != victim] == [0, 0, 0]
        assert_nothing_is_damaged(run_dir)
        again = begin(tmp_path / "told", *commands[victim])
        assert again.wait() == 0, again.told()
        undisturbed.assert_equal(run_dir)
    told("one of four shards killed, then called again", killed, "equal, the tables too")
