"""What it costs to keep and to tabulate a large run, beside an earlier commit: files, processor time, memory.

Both versions write and tabulate one synthetic run (`store_steps`), each step in a process of its own.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from experiments.bench.measuring import Measured, Ratio
from experiments.bench.startup import earlier_tree
from experiments.running.provenance import ROOT

BEFORE = "7da3a29"  # a file for each group, and one for each group and metric family
STEPS = Path(__file__).with_name("store_steps.py")
KEYS = ("store_files", "store_writing", "store_tables", "store_plots", "store_tables_megabytes")


def step(tree: Path, name: str, folder: Path, pairs: int) -> dict[str, Any]:
    """Carry out a step with a source tree; return what it told."""
    command = [sys.executable, str(STEPS), name, str(folder), str(pairs)]
    environment = {**os.environ, "PYTHONPATH": str(tree), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=tree, env=environment, capture_output=True, text=True, check=True)
    told: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return told


def measure(pairs: int, say: Callable[[str], None]) -> Measured:
    """Compare this tree with BEFORE on a run of `pairs` pairs: 110 edits and 10 sources each."""
    took: dict[str, dict[str, Any]] = {}
    with earlier_tree(BEFORE) as before, tempfile.TemporaryDirectory() as name:
        for version, tree in {"before": before, "now": ROOT}.items():
            for what in ("write", "draw", "tables", "plots"):
                took[f"{what}_{version}"] = step(tree, what, Path(name) / version, pairs)
                say(f"{what}, {version}: {took[f'{what}_{version}']}")

    def ratio(what: str, part: str = "seconds") -> Ratio:
        value = took[f"{what}_now"][part] / took[f"{what}_before"][part]
        return Ratio(value, value, value)

    held = took["tables_now"]["megabytes"]
    figures = {
        "store_files": ratio("write", "files"),
        "store_writing": ratio("write"),
        "store_tables": ratio("tables"),
        "store_plots": ratio("plots"),
        "store_tables_megabytes": Ratio(held, held, held),
    }
    return Measured(figures, {f"store_{key}": told for key, told in took.items()})
