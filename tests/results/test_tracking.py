"""Tracking: an offline W&B run, read back, holds scalars, images, tables and artifacts, once."""

import json
import struct
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from results.store.records import load
from results.tracking import Call, Wandb
from tests.results.synthetic import make_frame, make_metrics, write_run

ROOT = Path(__file__).parents[2]
SCRIPT = """
import json, sys
from pathlib import Path
import pandas as pd
from results.store.records import load
from results.tracking import Call, Wandb

run_dir, mode, shards, most = Path(sys.argv[1]), sys.argv[2], json.loads(sys.argv[3]), int(sys.argv[4])
table = pd.DataFrame({"metric": ["lpips@1"], "mean": [0.5], "low": [float("nan")], "reasons": [{"equal": 2}]})
tracking = Wandb(
    "project", mode=mode, tags=["a"], thumbnail_side=200, picture_side=32, most_pictures=most, timeout=2
)
command = "p2p-bench run experiment=tau_sweep seed=3 'run_dir=a b' sampling.guidance_scale=5"
for shard in shards:
    call = Call(
        {"name": "tau_sweep", "seed": 3, "tau": [0, 0.5], "shard": "0/1", "tracking": {"mode": mode}},
        load(run_dir), {} if shard else {"main": table},
        {} if shard else {"strips/pairs": run_dir / "strip.png"}, command, shard and tuple(shard),
    )
    print("id", tracking.log_run(run_dir, call))
"""


def write(run_dir: Path) -> Path:
    """Write a run of two pairs with a strip and a report."""
    frame = make_frame(["cat-dog", "house-2"], range(1))
    write_run(run_dir, frame, make_metrics(frame))
    Image.new("RGB", (400, 100), "red").save(run_dir / "strip.png")
    (run_dir / "report").mkdir()
    (run_dir / "report" / "index.html").write_text("<p>a report")
    return run_dir


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    """A run in a folder with a blank in its name."""
    return write(tmp_path / "a run")


@pytest.fixture(scope="module")
def few(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that was copied with three pictures; only to be read."""
    run_dir = write(tmp_path_factory.mktemp("few") / "run")
    log(run_dir, "offline", most=3)
    return run_dir


def log(
    run_dir: Path, mode: str, *shards: tuple[int, int] | None, most: int = 1000, **environment: str
) -> tuple[list[str], str, str]:
    """Log a run, or shards of it, in a process of its own; ids, what else was printed, and standard error."""
    command = [sys.executable, "-c", SCRIPT, str(run_dir), mode, json.dumps(shards or [None]), str(most)]
    environment = {
        "PATH": "/usr/bin:/bin",
        "PYTHONPATH": str(ROOT),
        "HOME": str(run_dir / "home"),
        **environment,
    }
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300)
    assert done.returncode == 0, done.stderr
    printed = done.stdout.splitlines()
    ids = [line.removeprefix("id ") for line in printed if line.startswith("id ")]
    return ids, "\n".join(line for line in printed if not line.startswith("id ")), done.stderr


def read_offline_run(path: Path) -> Iterator[Any]:
    """Yield the records of a `.wandb` file: a LevelDB log, 32 KiB blocks, chunks of (crc, length, type)."""
    from wandb.proto.wandb_internal_pb2 import Record

    data, at, parts = path.read_bytes(), 7, b""
    assert data[:4] == b":W&B"
    while at < len(data):
        if 32768 - at % 32768 < 7:  # a chunk's head never crosses a block
            at += 32768 - at % 32768
            continue
        _, length, kind = struct.unpack("<IHB", data[at : at + 7])
        parts += data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # the whole record, or its last part
            yield Record.FromString(parts)
            parts = b""


@dataclass
class Copy:
    """What an offline run holds."""

    run: Any = None
    config: dict[str, Any] = field(default_factory=dict)
    history: list[dict[str, Any]] = field(default_factory=list)
    summary: dict[str, Any] = field(default_factory=dict)
    artifacts: dict[str, Any] = field(default_factory=dict)  # by type; of tables the first, that of images
    files: Path = Path()


def logged(run_dir: Path, run_id: str = "*") -> Copy:
    """Read the only offline run with this id in a run folder."""
    (path,) = run_dir.glob(f"wandb/offline-run-*-{run_id}/*.wandb")
    copy = Copy(files=path.parent / "files")
    for record in read_offline_run(path):
        kind = record.WhichOneof("record_type")
        if kind == "run":
            copy.run = record.run
            copy.config |= named(record.run.config.update)
        elif kind == "history":
            copy.history.append(named(record.history.item))
        elif kind == "summary":
            copy.summary |= named(record.summary.update)
        elif kind == "artifact":
            copy.artifacts.setdefault(record.artifact.type, record.artifact)
    return copy


def named(items: Any) -> dict[str, Any]:
    return {item.key or "|".join(item.nested_key): json.loads(item.value_json) for item in items}


def staged(artifact: Any) -> dict[str, Path]:
    """Where the files of an artifact lie until a later sync sends them."""
    return {entry.path: Path(entry.local_path) for entry in artifact.manifest.contents}


def image_table(copy: Copy) -> pd.DataFrame:
    """Read the table of images; the run's own file of it has but the word "Image" for each picture."""
    table = json.loads(staged(copy.artifacts["run_table"])["images.table.json"].read_text())
    return pd.DataFrame(table["data"], columns=table["columns"])


def test_scalars_are_in_history_and_summary_by_metric_and_setting(few: Path) -> None:
    copy = logged(few)
    (row,) = copy.history
    frame = load(few)
    own = frame[frame["method"].eq("p2p") & frame["tau"].eq(0.4)]["lpips_embedded@1"].mean()
    for told in (row, copy.summary):
        assert told["lpips_embedded@1/p2p, τ 0_4"] == pytest.approx(own)
        assert (told["pictures"], told["failed"]) == (24, 0)
        assert told["seconds"] == pytest.approx(12)


def test_every_edit_is_a_row_with_thumbnails_of_itself_and_its_source(few: Path) -> None:
    copy = logged(few)
    rows = image_table(copy)
    assert len(rows) == 22  # fixed seed, six taus and four strengths, of two pairs
    assert rows["edit"].notna().sum() == 3
    assert rows["edit"].notna()[:3].all()
    assert set(rows["setting"]) >= {"τ 0.4", "strength 0.5"}
    kept = load(few).set_index(["pair_id", "method", "tau"])["lpips_embedded@1"]
    row = rows[rows["pair_id"].eq("cat-dog") & rows["setting"].eq("τ 0.4")].iloc[0]
    assert row["lpips_embedded@1"] == pytest.approx(kept["cat-dog", "p2p", 0.4])
    files = staged(copy.artifacts["run_table"])
    first = rows.iloc[0]
    made = load(few).set_index(["pair_id", "method"])["image"][first["pair_id"], first["method"]]
    for column, picture in (("edit", made), ("source", "images/cat-dog/0/source.png")):
        with Image.open(files[first[column]["path"]]) as small, Image.open(few / picture) as whole:
            assert small.size == (32, 32)
            # JPEG and two ways of reducing blur edges; a mixed-up picture has other colours.
            near = np.abs(np.asarray(small, float) - np.asarray(whole.resize((32, 32)), float)).mean()
            assert near < 9
    assert all(path.is_file() for path in files.values()), "what a later sync sends"


def test_an_offline_run_holds_config_tables_pictures_and_names_what_it_is(few: Path) -> None:
    copy = logged(few)
    assert (copy.config["seed"], copy.config["tau"]) == (3, [0, 0.5])
    assert copy.run.display_name == "tau_sweep: seed=3, sampling.guidance_scale=5"
    assert (copy.run.run_group, copy.run.job_type) == ("tau_sweep", "run")
    (row,) = copy.history
    table = json.loads((copy.files / row["tables/main|path"]).read_text())
    assert table["columns"] == ["metric", "mean", "low", "reasons"]
    assert table["data"] == [["lpips@1", 0.5, None, '{"equal": 2}']]
    assert (row["strips/pairs|width"], row["strips/pairs|height"]) == (200, 50)
    assert (copy.files / row["strips/pairs|path"]).is_file()
    own = {"wandb", "home", "images", "metrics", "records", "report", "strip.png"}
    assert {path.name for path in few.iterdir()} <= own
    assert not [path for path in (few / "home").rglob("*") if path.is_file()]


def test_records_and_report_are_artifacts_and_the_report_names_its_records(few: Path) -> None:
    artifacts = logged(few).artifacts
    records, report = artifacts["records"], artifacts["report"]
    paths = {entry.path for entry in records.manifest.contents}
    there = {f"records/{file.name}" for file in (few / "records").glob("*.parquet")}
    assert there <= paths
    assert "metrics/toy@1/columns.json" in paths
    assert [entry.path for entry in report.manifest.contents] == ["index.html"]
    assert all(Path(entry.local_path).is_file() for entry in records.manifest.contents)
    of = json.loads(report.metadata)["made_of"]
    assert of == {"artifact": records.name, "digest": records.digest}


def test_a_call_with_nothing_new_leaves_the_copy_and_one_with_more_replaces_it(run_dir: Path) -> None:
    [first], told, _ = log(run_dir, "offline")
    (copy,) = run_dir.glob("wandb/offline-run-*")
    assert (
        told
        == f"W&B: tau_sweep: seed=3, sampling.guidance_scale=5; to send it: wandb sync '{copy.resolve()}'"
    )
    assert log(run_dir, "offline")[:2] == ([first], told)
    assert list(run_dir.glob("wandb/offline-run-*")) == [copy]
    more = make_frame(["house-10"], range(1))
    write_run(run_dir, more, make_metrics(more))
    assert log(run_dir, "offline")[0] == [first]
    assert not copy.exists()
    again = logged(run_dir)
    assert [row["pictures"] for row in again.history] == [36]
    (staging,) = (run_dir / "wandb" / first).glob("data")
    tables = [
        file for file in staging.rglob("*") if file.is_file() and file.read_bytes()[:12] == b'{"columns": '
    ]
    assert len(tables) <= 2, "what the earlier copy staged went with it"


def test_a_shard_has_a_copy_of_its_own_that_does_not_double(run_dir: Path) -> None:
    (whole, *ids), _, _ = log(run_dir, "offline", None, (0, 2), (1, 2), (0, 2))
    assert ids[0] == ids[2]
    assert len({whole, *ids}) == 3 == len(list(run_dir.glob("wandb/offline-run-*")))
    copy = logged(run_dir, ids[1])
    assert copy.run.display_name == "tau_sweep: shard 1 of 2, seed=3, sampling.guidance_scale=5"
    assert (copy.run.run_group, copy.run.job_type) == ("tau_sweep", "shard")
    assert copy.summary["pictures"] == 24
    assert set(copy.artifacts) == {"run_table"}, "records and report are the whole run's"


def test_without_a_server_it_goes_on_offline_with_a_warning_and_is_tried_again(run_dir: Path) -> None:
    # Port 9 is closed: the connection is refused at once.
    server = {"WANDB_BASE_URL": "http://127.0.0.1:9", "WANDB_API_KEY": "0" * 40}
    for _ in range(2):
        _, told, errors = log(run_dir, "online", **server)  # type: ignore[arg-type]
        assert "W&B cannot be reached" in errors
        assert "to send it: wandb sync" in told
        assert "tables/main|path" in logged(run_dir).history[0]


def test_where_it_is_copied_to_and_which_shard_a_call_makes_change_no_id() -> None:
    config = {"name": "a", "seed": 0, "tracking": {"mode": "offline"}, "shard": "0/2"}
    call = Call(config, pd.DataFrame())
    assert call.run_id == Call({**config, "tracking": {"mode": "online"}, "shard": "1/2"}, call.rows).run_id
    assert call.run_id != Call({**config, "seed": 1}, call.rows).run_id
    assert Call(config, call.rows, sweep=True).job_type == "sweep"
    assert len(Call(config, call.rows, command=f"p2p-bench run prompt={'x' * 500}").name) == 128


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"mode": "sometimes"}, "offline, online, disabled"),
        ({"picture_side": 0}, "picture_side: 0 is below 1"),
        ({"most_pictures": -1}, "most_pictures: -1 is below 0"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_refused(settings: dict[str, Any], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        Wandb("project", **settings)
