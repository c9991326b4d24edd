"""A search by Hydra's real Optuna sweeper on the tiny pipeline: its trials, its failures, its front."""

import re
from pathlib import Path

import pandas as pd
import pytest
import yaml

from results.store.records import load
from tests.cluster.conftest import Call, in_the_way_of
from tests.experiments.command import PAIR, on_tiny

pytestmark = pytest.mark.slow
pytest.importorskip(
    "hydra_plugins.hydra_optuna_sweeper", reason="needs the extra optuna: pip install -e .[optuna]"
)
SEARCH = ("hydra/sweeper=p2p_optuna", "hydra.sweeper.direction=[maximize,minimize]")


def searched(tiny_folder: Path, run_dir: Path, *more: str) -> tuple[int, str, str]:
    """Search on one pair by SSIM and MSE; return exit code, output and errors."""
    grid = [one for one in on_tiny(tiny_folder, run_dir) if not one.startswith("grid")]
    steps = "sampling.num_inference_steps=10"  # a tenth of them, as a window may be, is a step
    overrides = [*grid, *PAIR, "grid=search", "objective=[ssim@3,mse@1]", steps, *SEARCH, *more]
    return Call("run", "-m", *overrides).ended()


def solutions(run_dir: Path) -> list[dict[str, list[dict[str, object]]]]:
    """Return what each finished search wrote, the oldest first."""
    files = sorted(run_dir.glob("hydra/*/optimization_results.yaml"))
    return [yaml.safe_load(file.read_text()) for file in files]


def asked_for(out: str) -> list[str]:
    return re.findall(r"\[HYDRA\]\s+#\d+ : (.*)", out)


def test_all_trials_share_one_folder_and_its_front_is_the_searchs(tiny_folder: Path, run_dir: Path) -> None:
    code, out, err = searched(tiny_folder, run_dir, "hydra.sweeper.n_trials=6")
    assert code == 0, out + err
    edits = load(run_dir).query("method == 'p2p'")
    assert 1 < len(edits) <= 6
    [found] = solutions(run_dir)
    assert found["name"] == "optuna"
    table = pd.read_csv(run_dir / "tables" / "pareto.csv")
    front = table.loc[table["standing"] == "front", ["ssim@3", "mse@1"]]
    best = {tuple(round(float(value), 9) for value in one["values"]) for one in found["solutions"]}
    assert {tuple(row) for row in front.round(9).itertuples(index=False)} == best
    assert "Pareto front of ssim@3 and mse@1: see tables/pareto.md." in out
    # The same seed asks for the same trials, and nothing is left to make.
    before = {file: file.stat().st_mtime_ns for file in run_dir.rglob("images/**/*.png")}
    code, again, _ = searched(tiny_folder, run_dir, "hydra.sweeper.n_trials=6", "hydra.sweeper.n_jobs=3")
    assert code == 0
    assert asked_for(again) == asked_for(out)
    assert {file: file.stat().st_mtime_ns for file in run_dir.rglob("images/**/*.png")} == before
    assert solutions(run_dir)[1] == found


def test_trials_that_fail_are_left_out_and_the_exit_code_tells(tiny_folder: Path, run_dir: Path) -> None:
    # Beyond 1 it is refused.
    more = ["hydra.sweeper.n_trials=6", "hydra.sweeper.params=null"]
    more += ["sampling.guidance_rescale=range(0,2,0.25)"]
    code, out, err = searched(tiny_folder, run_dir, *more)
    assert code == 1, out + err
    failed = re.search(r"^error: (\d) jobs failed, the first: job \d: .*guidance_rescale", err, re.MULTILINE)
    assert failed
    assert 0 < int(failed[1]) < 6
    assert len(asked_for(out)) == 6
    [found] = solutions(run_dir)
    assert found["solutions"]


def test_a_search_whose_trials_all_fail_ends_with_an_error(tiny_folder: Path, run_dir: Path) -> None:
    in_the_way_of(run_dir, 0)
    code, _, err = searched(tiny_folder, run_dir, "hydra.sweeper.n_trials=3")
    assert code == 1
    assert "error: 3 jobs failed, the first: job 0: 1 groups failed, see the records" in err
    assert solutions(run_dir) == [{"name": "optuna", "solutions": []}]
    assert not (run_dir / "tables" / "pareto.md").exists()


@pytest.mark.parametrize(
    ("direction", "message"),
    [
        ("[minimize,minimize]", "hydra.sweeper.direction: minimize for ssim@3, allowed is maximize"),
        ("maximize", "objective: 2 metrics, while hydra.sweeper.direction has 1 entries (maximize)"),
    ],
)
def test_a_search_for_the_worst_is_refused(
    direction: str, message: str, tiny_folder: Path, run_dir: Path
) -> None:
    code, out, err = searched(tiny_folder, run_dir, f"hydra.sweeper.direction={direction}")
    assert code == 2, out + err
    assert err.count(f"error: {message}") == 1
    assert not (run_dir / "records").exists()


def test_a_stored_search_goes_on_with_trials_of_its_own(tiny_folder: Path, run_dir: Path) -> None:
    stored = [f"hydra.sweeper.storage=sqlite:///{run_dir}.db", "hydra.sweeper.study_name=mine"]
    code, out, err = searched(tiny_folder, run_dir, *stored, "hydra.sweeper.n_trials=2")
    assert code == 0, out + err
    # With the same seed the random trials would come again.
    code, same, err = searched(tiny_folder, run_dir, *stored, "hydra.sweeper.n_trials=2")
    assert code == 0, same + err
    assert asked_for(same) == asked_for(out)
    more = ["hydra.sweeper.n_trials=2", "hydra.sweeper.sampler.seed=1"]
    code, others, err = searched(tiny_folder, run_dir, *stored, *more)
    assert code == 0, others + err
    assert not {*asked_for(others)} & {*asked_for(out)}


def test_a_range_of_a_search_holds_its_end(tiny_folder: Path, run_dir: Path) -> None:
    more = ["hydra.sweeper.params=null", "tau=range(0,1,1)", "hydra.sweeper.n_trials=8"]
    code, out, err = searched(tiny_folder, run_dir, *more)
    assert code == 0, out + err
    assert set(load(run_dir).query("method == 'p2p'")["tau"]) == {0, 1}
