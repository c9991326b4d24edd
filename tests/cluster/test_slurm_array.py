"""An array of shards on a real SLURM, whenever one is installed; what may befall it is in `test_slurm.py`."""

from pathlib import Path

import pytest

from results.store.records import load_records
from tests.cluster.conftest import Call
from tests.cluster.single_node import Slurm
from tests.experiments.command import PAIR, on_tiny

pytestmark = pytest.mark.xdist_group("slurm")


def test_the_shards_of_an_array_make_the_whole_and_the_last_its_tables(
    slurm: Slurm, tiny_folder: Path, run_dir: Path
) -> None:
    sharded = ["seed=[0,1,2]", "shards=2", "hydra/launcher=p2p_slurm"]
    slurm_conf = slurm.environment["SLURM_CONF"]
    code, out, err = Call(
        "run", *on_tiny(tiny_folder, run_dir), *PAIR, *sharded, SLURM_CONF=slurm_conf
    ).ended()
    assert code == 0, out + err
    records = load_records(run_dir)
    assert set(zip(records["seed"], records["status"])) == {(seed, "ok") for seed in range(3)}
    assert (run_dir / "tables" / "summary.md").read_text().startswith("15 images of 1 pair.")
    [sweep] = (run_dir / "hydra").iterdir()
    printed = [file.read_text() for file in (sweep / "jobs").glob("*/*_log.out")]
    assert len(printed) == 2
    # Two that end at one moment may both be the last.
    assert any("15 of 15 images are there; this one, the last to end" in text for text in printed)
