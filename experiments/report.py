"""The report of a run, a page to look at and to hand on: `p2p-bench report RUN`."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

_log = logging.getLogger(__name__)


def main(arguments: Sequence[str]) -> int:
    """Run `p2p-bench report`; return the exit code.

    It is of all that the folder holds; the published numbers beside the run's, the baseline of its
    differences and the objectives of its Pareto front are those of its last call.
    """
    parser = argparse.ArgumentParser("p2p-bench report", description=__doc__.splitlines()[0])
    parser.add_argument("run_dir", type=Path)
    given = parser.parse_args(arguments)
    from experiments.config_keys import check_objective
    from experiments.running.provenance import read_provenance
    from results.report.write_report import write_report
    from results.tables.paper import FIXED_SEED

    if not given.run_dir.is_dir():
        raise ValueError(f"{given.run_dir}: no such run folder")
    calls = read_provenance(given.run_dir)
    last = calls[-1]["config"] if calls else {}
    published, layout = last.get("reference") or (), last.get("tables") or {}
    asked = {
        "baseline": layout.get("baseline", FIXED_SEED),
        "objective": check_objective(last.get("objective")),
    }
    print(write_report(given.run_dir, published=published, calls=calls, **asked))
    return 0


def write_beside(run_dir: Path, **rows: Any) -> None:
    """Write the report at the end of a call, of what `results.report.write_report` takes.

    One that is of equal rows, made by equal code, stays as it is. Where that fails there is a warning: by
    then the run has its pictures, values and tables.
    """
    from experiments.running.provenance import read_provenance
    from results.report.write_report import made_of, write_report
    from results.store import made_from
    from results.store.run_folder import RunFolder

    try:
        stamp = made_from.stamp(RunFolder(run_dir))
        if stamp and stamp == made_of(run_dir):
            return
        print(write_report(run_dir, calls=read_provenance(run_dir), stamp=stamp, **rows))
    except Exception as error:  # whatever it is, the run is whole without it
        cause = f"{type(error).__name__}: {error}".splitlines()[0]
        _log.warning(
            "no report: %s; `p2p-bench report %s` tries again, report=false leaves it out", cause, run_dir
        )
        _log.debug("its traceback:", exc_info=True)
