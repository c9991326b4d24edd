"""Tables, plots, strips and summary of a run folder, made of what it holds: `p2p-bench tables RUN`."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path


def main(arguments: Sequence[str]) -> int:
    """Run `p2p-bench tables`; return the exit code.

    No model is loaded and nothing planned; the published numbers beside the run's, and the objectives of its
    Pareto front, are those of its last call.
    """
    parser = argparse.ArgumentParser("p2p-bench tables", description=__doc__.splitlines()[0])
    parser.add_argument("run_dir", type=Path)
    parser.add_argument("--no-plots", action="store_true", help="leave plots and strips as they are")
    given = parser.parse_args(arguments)
    from experiments.config_keys import check_objective
    from experiments.running.provenance import read_provenance
    from results.summary import summarise

    calls = read_provenance(given.run_dir)
    last = calls[-1]["config"] if calls else {}
    summary = summarise(
        given.run_dir,
        published=last.get("reference") or (),
        objective=check_objective(last.get("objective")),
        draw=not given.no_plots,
    )
    print(summary.markdown)
    print(given.run_dir)
    return 0
