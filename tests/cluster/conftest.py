"""A cluster for the tests that need one, and `p2p-bench` in a process of its own."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from experiments.datasets.inline import Inline
from experiments.datasets.pair import slug
from results.store.run_folder import pair_folder
from tests.cluster import single_node
from tests.cluster.single_node import Slurm

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def slurm_node() -> Iterator[Slurm]:
    """A real SLURM that ends with the tests; skipped where it is not installed."""
    if reason := single_node.missing():
        pytest.skip(reason)
    with single_node.started() as cluster:
        yield cluster


@pytest.fixture(scope="session")
def slurm(slurm_node: Slurm) -> Slurm:
    """The same for Hydra's launcher; skipped where that is not installed."""
    pytest.importorskip(
        "hydra_plugins.hydra_submitit_launcher", reason="needs the extra slurm: pip install -e .[slurm]"
    )
    return slurm_node


def in_the_way_of(run_dir: Path, seed: int) -> None:
    """Let the one pair's group of a seed fail: a file stands where its pictures' folder would be."""
    [pair] = Inline(source_prompt="a cat on a bench", target_prompt="a dog on a bench").load()
    folder = run_dir / pair_folder(slug(pair.id), seed)
    folder.parent.mkdir(parents=True)
    folder.write_text("")


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    return tmp_path / "run"


class Call(subprocess.Popen[str]):
    """`p2p-bench` in a process of its own, whose jobs find the same code."""

    def __init__(self, *arguments: str, **environment: str) -> None:
        super().__init__(
            [sys.executable, "-c", "from experiments.run import main; main()", *arguments],
            env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", **environment},
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            preexec_fn=single_node.end_with_parent,
        )

    def ended(self, seconds: float = 180) -> tuple[int, str, str]:
        """Return exit code, output and errors; the process is killed where it takes longer."""
        try:
            out, err = self.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            self.kill()  # its jobs are ended with the cluster
            out, err = self.communicate()
            pytest.fail(f"not ended within {seconds:.0f} s:\n{out[-3000:]}\n{err[-3000:]}")
        return self.returncode, out, err
