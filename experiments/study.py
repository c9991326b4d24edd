"""People compare a run's edits, two at a time: `p2p-bench study RUN`."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd

    from results.study.choice import StudyChoice
    from results.study.study_folder import StudyFolder

_log = logging.getLogger(__name__)
_EPILOG = """Without ANSWERS: makes the study of a finished run, RUN/study. Hand out its folder page: each
rater opens index.html, and at the end saves a file of answers. With --serve raters sit at this machine, and
their answers are kept in RUN/study/answers. With ANSWERS: what these say, in RUN/study/results."""


def main(arguments: Sequence[str]) -> int:
    """Run `p2p-bench study`; return the exit code."""
    parser = argparse.ArgumentParser("p2p-bench study", description=__doc__.splitlines()[0], epilog=_EPILOG)
    parser.add_argument("run_dir", type=Path, metavar="RUN")
    parser.add_argument(
        "answers", type=Path, nargs="?", metavar="ANSWERS", help="a folder of answers, or a file"
    )
    parser.add_argument(
        "--serve", action="store_true", help="serve the page to this machine, and take answers"
    )
    parser.add_argument("--port", type=int, help="of the server (8642)")
    parser.add_argument(
        *("--compare",),
        nargs="+",
        metavar="ROW",
        help="rows of the tables, as in p2p:tau=0.4,local_blend=false sdedit:strength=0.5; "
        "else each method's middle one",
    )
    parser.add_argument("--pairs", type=int, help="how many pairs at most (20)")
    parser.add_argument("--checks", type=int, help="how many attention checks (3)")
    parser.add_argument("--seed", type=int, help="of what is drawn: pairs, order and sides (0)")
    given = parser.parse_args(arguments)
    from results.study.choice import StudyChoice
    from results.study.items import read_study
    from results.study.study_folder import StudyFolder
    from results.study.write_study import described, write_study

    asked = {
        name: value
        for name in ("compare", "pairs", "checks", "seed")
        if (value := getattr(given, name)) is not None
    }
    folder = StudyFolder(given.run_dir)
    if given.port is not None and not given.serve:
        raise ValueError("--port: is of the server, allowed is --serve with it")
    if given.port is not None and not 0 <= given.port <= 65535:
        raise ValueError(f"--port: {given.port} is not a whole number from 0 to 65535")
    if given.answers is not None:
        if asked or given.serve:
            raise ValueError("study: ANSWERS are of a study that is there, allowed is nothing beside them")
        return _evaluate(folder, given.answers)
    if folder.key.exists() and not asked:
        study, page = read_study(folder.key), folder.page
    else:
        study, page = write_study(given.run_dir, StudyChoice(**asked))
    print(described(study))
    if given.serve:
        return _serve(given.run_dir, given.port)
    print(page)
    return 0


def write_at_end(run_dir: Path, choice: StudyChoice, settings: pd.DataFrame | None) -> None:
    """Write the study at the end of a call, of the rows of its tables; one that is there stays.

    Where that fails there is a warning: by then the run has its pictures, values and tables.
    """
    from results.study.study_folder import StudyFolder
    from results.study.write_study import described, write_study

    if StudyFolder(run_dir).key.exists():
        return
    try:
        study, page = write_study(run_dir, choice, settings=settings)
        print(f"{described(study)}\n{page}")
    except Exception as error:  # whatever it is, the run is whole without it
        cause = f"{type(error).__name__}: {error}".splitlines()[0]
        _log.warning(
            "no study: %s; `p2p-bench study %s` tries again, study=null leaves it out", cause, run_dir
        )
        _log.debug("its traceback:", exc_info=True)


def _evaluate(folder: StudyFolder, answers: Path) -> int:
    from results.study.items import read_study
    from results.study.outcome import write_outcome

    print(write_outcome(read_study(folder.key), answers, folder.results))
    print(folder.results)
    return 0


def _serve(run_dir: Path, port: int | None) -> int:
    from results.study.server import HOST, PORT, make_server

    with make_server(run_dir, PORT if port is None else port) as server:
        print(f"http://{HOST}:{server.server_port}/   Ctrl-C ends it; answers so far are kept", flush=True)
        server.serve_forever()
    return 0
