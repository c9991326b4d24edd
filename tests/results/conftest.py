"""A finished synthetic run that the tests of this folder share."""

from pathlib import Path

import pytest

from tests.results.synthetic import PAIRS, make_frame, make_metrics, write_run


@pytest.fixture(scope="session")
def finished_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A complete run folder; read only."""
    run_dir = tmp_path_factory.mktemp("runs") / "finished"
    frame = make_frame(list(PAIRS))
    write_run(run_dir, frame, make_metrics(frame))
    return run_dir
