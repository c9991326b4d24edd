"""A run and a study of it that the tests of this folder share."""

from pathlib import Path
from types import SimpleNamespace

import pytest

from results.study.study_folder import StudyFolder
from tests.results.study.studies import make_run, make_study


@pytest.fixture(scope="session")
def studied(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """A run's folder (`run_dir`), its `records`, its `study` and where that lies (`folder`); read only."""
    run_dir = tmp_path_factory.mktemp("runs") / "studied"
    records = make_run(run_dir)
    study = make_study(run_dir)
    return SimpleNamespace(run_dir=run_dir, records=records, study=study, folder=StudyFolder(run_dir))


@pytest.fixture(scope="session")
def empty_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """That run without a study; read only but for tests that make one and take it away."""
    run_dir = tmp_path_factory.mktemp("runs") / "bare"
    make_run(run_dir)
    return run_dir
