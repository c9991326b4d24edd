"""Workers on a real Ray: of this machine, and of a cluster of two nodes on it, one of which goes."""

import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from results.store.records import RECORD_IDENTITY, has_records, load_metrics, load_records
from tests.cluster.conftest import Call
from tests.cluster.single_node import waited
from tests.cluster.test_local_launchers import processes
from tests.experiments.command import PAIR, on_tiny

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("ray")]
SEEDS = range(24)
WORKER = "ray::Worker.carry_out"
SOON = {  # else a node is lost a minute after it has gone
    "health_check_initial_delay_ms": 0,
    "health_check_period_ms": 500,
    "health_check_timeout_ms": 500,
    "health_check_failure_threshold": 2,
}
HERE = {
    "RAY_AUTH_MODE": "disabled",
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
}


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A cluster whose first node has one CPU; it ends with this file, for `ray symmetric-run` wants none."""
    pytest.importorskip("ray", reason="needs the extra ray: pip install -e .[ray]")
    from ray.cluster_utils import Cluster

    with pytest.MonkeyPatch.context() as patch:
        for name, value in {**HERE, "OMP_NUM_THREADS": "1"}.items():
            patch.setenv(name, value)
        head = {"num_cpus": 1, "node_ip_address": "127.0.0.1", "object_store_memory": 80_000_000}
        made = Cluster(initialize_head=True, head_node_args={**head, "_system_config": SOON})
        try:
            yield made
        finally:
            made.shutdown()


@pytest.fixture
def second(cluster: Any) -> Iterator[Any]:
    """Another node of the cluster."""
    node = cluster.add_node(num_cpus=1, node_ip_address="127.0.0.1", object_store_memory=80_000_000)
    yield node
    if node in cluster.list_all_nodes():
        cluster.remove_node(node, allow_graceful=False)


def tiny(tiny_folder: Path, run_dir: Path, seeds: range = SEEDS) -> list[str]:
    """Return a run of many small groups."""
    chosen = f"seed=[{','.join(map(str, seeds))}]"
    return [*on_tiny(tiny_folder, run_dir), *PAIR, chosen, "sampling.max_batch=4"]


def on(cluster: Any) -> list[str]:
    return ["executor=ray", f"executor.address={cluster.address}"]


def run(*arguments: str) -> Call:
    return Call("run", *arguments, **HERE)


def pixels(run_dir: Path) -> dict[str, bytes]:
    return {str(file.relative_to(run_dir)): file.read_bytes() for file in run_dir.glob("images/**/*.png")}


def recorded(run_dir: Path) -> pd.DataFrame:
    records = load_records(run_dir).drop(columns="seconds")
    return records.sort_values(RECORD_IDENTITY, ignore_index=True)


def values(run_dir: Path) -> pd.DataFrame:
    return load_metrics(run_dir).sort_values(["key", "metric"], ignore_index=True)


def carried_out(call: Call) -> str:
    code, out, err = call.ended(300)
    assert code == 0, out + err
    assert "Traceback" not in err
    return out + err


def all_there(run_dir: Path, seeds: range = SEEDS) -> None:
    records = load_records(run_dir)
    assert set(records["status"]) == {"ok"}
    assert set(records["seed"]) == set(seeds)
    assert set(load_metrics(run_dir)["key"]) == set(records["key"])


def kill_one_at_work(run_dir: Path) -> None:
    waited(lambda: has_records(run_dir))
    workers = waited(lambda: processes(WORKER))
    assert isinstance(workers, list)
    os.kill(workers[0], signal.SIGKILL)


def test_two_workers_of_this_machine_make_what_one_process_makes(tiny_folder: Path, tmp_path: Path) -> None:
    pytest.importorskip("ray", reason="needs the extra ray: pip install -e .[ray]")
    here, on_ray, seeds = tmp_path / "here", tmp_path / "on_ray", range(6)
    before = set(Path("/tmp").glob("p2p-ray-*"))
    carried_out(run(*tiny(tiny_folder, here, seeds)))
    two = [*tiny(tiny_folder, on_ray, seeds), "executor=ray", "executor.workers=2"]
    assert "168/168" in carried_out(run(*two))  # of the progress bar
    all_there(on_ray, seeds)
    assert pixels(on_ray) == pixels(here)
    pd.testing.assert_frame_equal(recorded(on_ray), recorded(here))
    pd.testing.assert_frame_equal(values(on_ray), values(here))
    assert (on_ray / "tables/summary.md").read_text() == (here / "tables/summary.md").read_text()
    assert set(Path("/tmp").glob("p2p-ray-*")) == before
    out = carried_out(run(*two))  # nothing is left
    assert "generating" not in out


def test_what_a_killed_worker_had_is_tried_again(
    cluster: Any, second: Any, tiny_folder: Path, run_dir: Path
) -> None:
    call = run(*tiny(tiny_folder, run_dir), *on(cluster))
    kill_one_at_work(run_dir)
    out = carried_out(call)
    assert "a worker ended over 1 groups, which are tried again: " in out
    assert "1 workers ended before their time" in out
    all_there(run_dir)


def test_what_a_killed_worker_had_not_scored_is_scored_at_the_end(
    cluster: Any, second: Any, tiny_folder: Path, run_dir: Path
) -> None:
    """Workers score while they make; values of the killed one waited to be written."""
    beside = "model.pipeline=tests.cluster.beside_family.Beside"
    call = run(*tiny(tiny_folder, run_dir), beside, *on(cluster))
    kill_one_at_work(run_dir)
    carried_out(call)
    all_there(run_dir)
    here = run_dir.parent / "here"
    carried_out(run(*tiny(tiny_folder, here), beside))
    pd.testing.assert_frame_equal(values(run_dir), values(here))


def test_what_a_lost_node_had_is_made_on_the_others(
    cluster: Any, second: Any, tiny_folder: Path, run_dir: Path
) -> None:
    call = run(*tiny(tiny_folder, run_dir), *on(cluster))
    waited(lambda: has_records(run_dir))
    waited(lambda: len(processes(WORKER)) == 2)
    cluster.remove_node(second, allow_graceful=False)
    out = carried_out(call)
    assert "1 workers ended before their time" in out
    all_there(run_dir)


def test_a_group_that_ends_its_workers_fails_alone(
    cluster: Any, second: Any, tiny_folder: Path, run_dir: Path
) -> None:
    prompts = "dataset.target_prompt=a dog on a bench"
    table = run_dir.parent / "pairs.csv"
    rows = [f"{i},a {animal} on a bench,a dog on a bench" for i, animal in enumerate(["cat", "cow", "fire"])]
    table.write_text("\n".join(["id,source_prompt,target_prompt", *rows]) + "\n")
    overrides = [one for one in on_tiny(tiny_folder, run_dir) if one != prompts]
    call = run(
        *overrides,
        *("dataset=table", f"dataset.path={table}", "model.pipeline=tests.cluster.fatal_family.Fatal"),
        *on(cluster),
    )
    code, out, err = call.ended(300)
    assert code == 1, out + err
    records = load_records(run_dir)
    failed = records[records["status"] == "failed"]
    assert set(failed["source_prompt"]) == {"a fire on a bench"}
    assert all(error.startswith("its worker ended") for error in failed["error"])
    assert set(records.loc[records["status"] == "ok", "source_prompt"]) == {
        "a cat on a bench",
        "a cow on a bench",
    }
    # Twice with the others, twice alone.
    assert "4 workers ended before their time" in out
    assert "failed: 'a fire on a bench', seed 0: " in out + err


def test_a_killed_call_leaves_no_worker_and_the_next_one_goes_on(
    cluster: Any, tiny_folder: Path, run_dir: Path
) -> None:
    overrides = [*tiny(tiny_folder, run_dir), *on(cluster)]
    call = run(*overrides)
    waited(lambda: has_records(run_dir))
    call.kill()
    call.communicate()
    waited(lambda: not processes("ray::Worker"))
    first = pixels(run_dir)
    seeds = set(load_records(run_dir)["seed"])
    assert 0 < len(seeds) < len(SEEDS)
    whole = load_records(run_dir)["image"]
    before = {image: (run_dir / image).stat().st_mtime_ns for image in whole}
    carried_out(run(*overrides))
    all_there(run_dir)
    assert {image: (run_dir / image).stat().st_mtime_ns for image in whole} == before
    assert first.items() <= pixels(run_dir).items()


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_call_that_is_stopped_ends_soon_and_says_how_to_go_on(
    cluster: Any, tiny_folder: Path, run_dir: Path, number: signal.Signals, code: int
) -> None:
    call = run(*tiny(tiny_folder, run_dir), *on(cluster))
    waited(lambda: has_records(run_dir))
    call.send_signal(number)
    ended, out, err = call.ended(20)
    assert ended == code, out + err
    assert err.splitlines()[-1] == "stopped; the same command continues where it stood"
    waited(lambda: not processes("ray::Worker"), 10)


def test_pictures_without_values_are_scored_by_workers(
    cluster: Any, tiny_folder: Path, run_dir: Path
) -> None:
    overrides = tiny(tiny_folder, run_dir, range(3))
    carried_out(run(*overrides))
    shutil.rmtree(run_dir / "metrics")
    out = carried_out(run(*overrides, *on(cluster)))
    assert "evaluating: 100%" in out
    all_there(run_dir, range(3))


@pytest.mark.parametrize(
    ("more", "told"),
    [
        (["executor.workers=9"], "executor.workers: 9, each with 1 CPU, where 1 have a place"),
        (["executor.cpus_per_worker=64"], "executor.workers: 1, each with 64 CPUs, where 0 have a place"),
        (["executor.address=127.0.0.1:1"], "executor.address: no cluster of Ray answers at '127.0.0.1:1'"),
        (["device=cuda"], "executor.workers: 1, each with 1 CPU and 1 GPU, where 0 have a place"),
    ],
)
def test_what_a_cluster_cannot_give_is_refused_at_once(
    cluster: Any, tiny_folder: Path, run_dir: Path, more: list[str], told: str
) -> None:
    code, out, err = run(*tiny(tiny_folder, run_dir), *on(cluster), *more).ended()
    assert code == 2, out + err
    assert err.splitlines()[-1].startswith(f"error: {told}")
    assert not has_records(run_dir)


def test_workers_share_a_group_that_is_parted(tiny_folder: Path, tmp_path: Path) -> None:
    pytest.importorskip("ray", reason="needs the extra ray: pip install -e .[ray]")
    here, on_ray = tmp_path / "here", tmp_path / "on_ray"
    taus = [f"tau=[{','.join(str(number / 15) for number in range(12))}]", "sampling.num_inference_steps=15"]
    one_group = [*tiny(tiny_folder, here, range(1)), *taus]
    carried_out(run(*one_group))
    two = [*tiny(tiny_folder, on_ray, range(1)), *taus, "executor=ray", "executor.workers=2"]
    out = carried_out(run(*two, "executor.part_groups=true"))
    assert "workers have nothing to make" not in out
    records = recorded(on_ray)
    assert records["group"].nunique() > 1
    of_file = ["image_sha256", "image_bytes", "group"]
    pd.testing.assert_frame_equal(records.drop(columns=of_file), recorded(here).drop(columns=of_file))
    for file in pixels(here):
        with Image.open(here / file) as one, Image.open(on_ray / file) as other:
            assert np.abs(np.asarray(one, int) - np.asarray(other, int)).max() <= 1
    pd.testing.assert_frame_equal(values(on_ray), values(here), atol=0.02)
    assert "1 of 2 workers have nothing to make" in carried_out(run(*two, f"run_dir={tmp_path / 'whole'}"))
