"""How quick the command line is to enter, beside an earlier commit: processor seconds of whole processes.

Both versions run the same commands in turn, each in a process of its own, the earlier one from its sources in
a temporary folder; wall time would tell of the machine's other work instead.
"""

from __future__ import annotations

import csv
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from experiments.bench.measuring import Measured, Ratio, in_turn
from experiments.running.provenance import ROOT

BEFORE = (
    "e151b15842135a865d34ee01b37a6fd9087ce30e"  # everything was imported before the command line was read
)
THINGS = ("cat", "dog", "fox", "panda", "frog", "pig", "owl", "crab", "car", "bus", "boat", "pizza")
PLACES = ("on the beach", "in the snow", "in a field", "in the desert", "in the city")
# Linux counts what a process held before it became another program, so the parent has to be a small one.
WATCHER = """
import os, subprocess, sys
child = subprocess.Popen(sys.argv[1:], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
usage = os.wait4(child.pid, 0)[2]
child.returncode = 0
print(usage.ru_utime + usage.ru_stime, usage.ru_maxrss)
"""
KEYS = (
    "startup_help",
    "startup_ls",
    "startup_typo",
    "startup_typo_megabytes",
    "startup_plan",
    "startup_large_plan",
    "startup_finished_run",
)


@dataclass(frozen=True)
class Spent:
    """What one process took."""

    seconds: float  # of the processor
    megabytes: float  # held at the peak


def write_pairs(path: Path, count: int) -> None:
    """Write a table of so many pairs, swaps and additions in turn."""
    with path.open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["id", "source_prompt", "target_prompt"])
        for i in range(count):
            one, other = THINGS[i % 12], THINGS[(i + 1 + i // 12 % 11) % 12]
            place = PLACES[i // 7 % 5]
            target = f"a {other} {place}" if i % 2 else f"a {one} with a hat {place}"
            table.writerow([f"pair-{i}", f"a {one} {place}", target])


def spent(tree: Path, arguments: Sequence[str]) -> Spent:
    """Run `p2p-bench` of a source tree; return what it took, whatever its exit code is."""
    command = [sys.executable, "-S", "-c", WATCHER, sys.executable, "-m", "experiments.run", *arguments]
    environment = {**os.environ, "PYTHONPATH": str(tree), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=tree, env=environment, capture_output=True, text=True, check=True)
    seconds, held = map(float, done.stdout.split())
    return Spent(seconds, held / (1024**2 if sys.platform == "darwin" else 1024))


@contextmanager
def earlier_tree(commit: str) -> Iterator[Path]:
    """Give a folder with the sources of a commit. Raises ValueError where git does not have it."""
    with tempfile.TemporaryDirectory() as folder:
        archive = subprocess.run(["git", "-C", str(ROOT), "archive", commit], capture_output=True)
        if archive.returncode:
            raise ValueError(f"startup: commit {commit[:7]} is not in this clone, allowed is a full one")
        subprocess.run(["tar", "-x", "-C", folder], input=archive.stdout, check=True)
        yield Path(folder)


def commands(folder: Path, limit: int) -> dict[str, list[str]]:
    """Return what is run in each version; `folder` holds its inputs and its finished run."""
    finished = ["experiment=quickstart", f"dataset.limit={limit}", f"run_dir={folder / 'finished'}"]
    nowhere = f"run_dir={folder / 'nowhere'}"
    table = ["dataset=table", f"dataset.path={folder / 'pairs.csv'}", "grid=tau", "grid.seeds=[0,1]"]
    return {
        "help": ["--help"],
        "ls": ["ls"],
        "typo": ["run", "experiment=quikstart"],
        "plan": ["plan", "experiment=quickstart", nowhere],
        "large_plan": ["plan", *table, "dataset.limit=null", nowhere],
        "small_plan": ["plan", *table, "dataset.limit=1", nowhere],
        "finished_plan": ["plan", *finished],
        "finished_run": ["run", *finished],
    }


def measure(pairs: int, limit: int, rounds: int, say: Callable[[str], None]) -> Measured:
    """Compare this tree with BEFORE: `pairs` of a large plan, `limit` pairs of a run that is finished."""
    with earlier_tree(BEFORE) as before, tempfile.TemporaryDirectory() as name:
        trees = {"before": before, "now": ROOT}
        took: dict[str, dict[str, list[Spent]]] = {}
        asked: dict[str, dict[str, list[str]]] = {}
        for version, tree in trees.items():
            folder = Path(name) / version
            folder.mkdir()
            write_pairs(folder / "pairs.csv", pairs)
            asked[version] = commands(folder, limit)
            spent(tree, asked[version]["finished_run"])  # what there is to make is made here
        for what in asked["now"]:
            found: dict[str, list[Spent]] = {version: [] for version in trees}

            def run(version: str, what: str = what, found: dict[str, list[Spent]] = found) -> float:
                found[version].append(spent(trees[version], asked[version][what]))
                return found[version][-1].seconds

            in_turn({version: lambda v=version: run(v) for version in trees}, rounds, say)  # type: ignore[misc]
            took[what] = found
            say(f"{what}: {', '.join(f'{v} {_seconds(found[v]):.2f} s' for v in trees)}")
    return _figures(took)


def _seconds(spents: Sequence[Spent]) -> float:
    return median(one.seconds for one in spents)


def _figures(took: Mapping[str, Mapping[str, Sequence[Spent]]]) -> Measured:
    def beyond(what: str, less: str, version: str) -> float:
        return _seconds(took[what][version]) - _seconds(took[less][version])

    def ratio(what: str) -> Ratio:
        pairs = zip(took[what]["now"], took[what]["before"], strict=True)
        return Ratio.of([now.seconds / before.seconds for now, before in pairs])

    def single(value: float) -> Ratio:
        return Ratio(value, value, value)

    figures = {f"startup_{what}": ratio(what) for what in ("help", "ls", "typo", "plan")}
    figures["startup_typo_megabytes"] = Ratio.of([one.megabytes for one in took["typo"]["now"]])
    for what, less in (("large_plan", "small_plan"), ("finished_run", "finished_plan")):
        value = max(beyond(what, less, "now"), 0.0) / beyond(what, less, "before")
        figures[f"startup_{what}"] = single(value)
    details: dict[str, object] = {
        f"startup_{what}_{version}": {
            "seconds": [one.seconds for one in spents],
            "megabytes": max(one.megabytes for one in spents),
        }
        for what, versions in took.items()
        for version, spents in versions.items()
    }
    return Measured({key: figures[key] for key in KEYS}, details)
