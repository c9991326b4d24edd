"""Tracking: an offline W&B run holds config, tables and pictures, and lies in the run folder."""

import json
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from results.tracking import Wandb

ROOT = Path(__file__).parents[2]
SCRIPT = """
import json, sys
from pathlib import Path
import pandas as pd
from PIL import Image
from results.tracking import Wandb

run_dir, mode = Path(sys.argv[1]), sys.argv[2]
Image.new("RGB", (400, 100), "red").save(run_dir / "strip.png")
table = pd.DataFrame({"metric": ["lpips@1"], "mean": [0.5], "low": [float("nan")], "reasons": [{"equal": 2}]})
tracking = Wandb("project", mode=mode, tags=["a"], thumbnail_side=200, timeout=2)
images = {"strips/pairs": run_dir / "strip.png"}
print(tracking.log_run(run_dir, {"seed": 3, "tau": [0, 0.5]}, {"main": table}, images))
"""


def log(run_dir: Path, mode: str, **environment: str) -> tuple[str, str]:
    """Log a run in a process of its own; its id and its standard error."""
    command = [sys.executable, "-c", SCRIPT, str(run_dir), mode]
    environment = {
        "PATH": "/usr/bin:/bin",
        "PYTHONPATH": str(ROOT),
        "HOME": str(run_dir / "home"),
        **environment,
    }
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout.split()[-1], done.stderr


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


def logged(run_dir: Path) -> tuple[dict[str, Any], dict[str, Any], Path]:
    """Config and history of the only offline run in a run folder, and the folder of its files."""
    (path,) = run_dir.glob("wandb/offline-run-*/*.wandb")
    config: dict[str, Any] = {}
    history: dict[str, Any] = {}
    for record in read_offline_run(path):
        for target, items in ((config, record.run.config.update), (history, record.history.item)):
            for item in items:
                target[item.key or ".".join(item.nested_key)] = json.loads(item.value_json)
    return config, history, path.parent / "files"


def test_an_offline_run_holds_config_table_and_picture_once(tmp_path: Path) -> None:
    first, _ = log(tmp_path, "offline")
    second, _ = log(tmp_path, "offline")
    assert first == second, "the id comes from the config"
    config, history, files = logged(tmp_path)
    assert (config["seed"], config["tau"]) == (3, [0, 0.5])
    table = json.loads((files / history["tables/main.path"]).read_text())
    assert table["columns"] == ["metric", "mean", "low", "reasons"]
    assert table["data"] == [["lpips@1", 0.5, None, '{"equal": 2}']]
    assert (history["strips/pairs.width"], history["strips/pairs.height"]) == (200, 50)
    assert (files / history["strips/pairs.path"]).is_file()
    assert {path.name for path in tmp_path.iterdir()} <= {"wandb", "strip.png", "home"}
    assert not [path for path in (tmp_path / "home").rglob("*") if path.is_file()]


def test_without_a_server_it_goes_on_offline_with_a_warning(tmp_path: Path) -> None:
    # Port 9 is closed: the connection is refused at once.
    server = {"WANDB_BASE_URL": "http://127.0.0.1:9", "WANDB_API_KEY": "0" * 40}
    _, errors = log(tmp_path, "online", **server)
    assert "W&B cannot be reached" in errors
    assert "tables/main.path" in logged(tmp_path)[1]


def test_an_unknown_mode_is_refused() -> None:
    with pytest.raises(ValueError, match="offline, online, disabled"):
        Wandb("project", mode="sometimes")
