"""The report of a run, a page to look at and to hand on: `p2p-bench report RUN`."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path


def main(arguments: Sequence[str]) -> int:
    """Run `p2p-bench report`; return the exit code.

    Of all that the folder holds; the published numbers beside the run's are those of its last call.
    """
    parser = argparse.ArgumentParser("p2p-bench report", description=__doc__.splitlines()[0])
    parser.add_argument("run_dir", type=Path)
    given = parser.parse_args(arguments)
    from experiments.running.provenance import read_provenance
    from results.report.write_report import write_report

    calls = read_provenance(given.run_dir)
    published = calls[-1]["config"].get("reference") if calls else None
    print(write_report(given.run_dir, published=published or (), calls=calls))
    return 0
