"""What produced a run: configuration, code, versions, hardware and model, in a file per call."""

from __future__ import annotations

import importlib.metadata
import json
import logging
import os
import platform
import subprocess
import uuid
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from results.store.run_folder import RunFolder
from results.store.whole_files import write_whole

_log = logging.getLogger(__name__)
PACKAGES = (
    "torch",
    "torchvision",
    "diffusers",
    "transformers",
    "open_clip_torch",
    "lpips",
    "torchmetrics",
    "hydra-core",
    "pandas",
    "numpy",
)
ROOT = Path(__file__).resolve().parents[2]


def write_provenance(
    run_dir: Path, config: dict[str, Any], identity: str, asked: Mapping[str, Any] | None = None
) -> None:
    """Keep what this call is, in a file of its own, as other calls may write at the same moment.

    `asked`, by which `p2p-bench verify` knows what should be there: the `command` (arguments of p2p-bench)
    and the `folder` it was given in; the names of the file of its `plan` in `settings/`, and of that
    of its `candidates` for `tau: auto`, where it has them; its `metrics`, the columns of each family.
    """
    import torch  # here, as what reads provenance needs none

    from p2p.devices import float32_modes

    now = datetime.now(UTC)
    call = {
        "time": now.isoformat(timespec="seconds"),
        **(asked or {}),
        "config": config,
        "model_identity": identity,
        "git": _git(),
        "versions": {name: _version(name) for name in PACKAGES},
        "python": platform.python_version(),
        "platform": platform.platform(),
        "device": torch.cuda.get_device_name()
        if torch.cuda.is_available()
        else f"{'mps, ' if torch.backends.mps.is_available() else ''}cpu x {os.cpu_count()}",
        "float32": float32_modes(),
    }
    file = RunFolder(run_dir).provenance / f"{now:%Y%m%dT%H%M%S%f}-{uuid.uuid4().hex[:8]}.json"
    write_whole(file, json.dumps(call, indent=1, default=str))


def read_provenance(run_dir: Path) -> list[dict[str, Any]]:
    """Return the calls that made a run, the first one first.

    A file that cannot be read is left out, with a warning.
    """
    calls, damaged = provenance(run_dir)
    for file, cause in damaged.items():
        _log.warning("%s: left out, as it cannot be read (%s); delete it", file, cause)
    return calls


def provenance(run_dir: Path) -> tuple[list[dict[str, Any]], dict[Path, str]]:
    """Return the calls that made a run, the first one first, and of each file that cannot be read why."""
    folder = RunFolder(run_dir)
    calls: list[dict[str, Any]] = []
    damaged = {}
    for file in (folder.first_provenance, *sorted(folder.provenance.glob("*.json"))):
        try:
            told = json.loads(file.read_text(encoding="utf-8"))
            several = told if isinstance(told, list) else [told]
            if not all(isinstance(call, dict) and isinstance(call.get("config"), dict) for call in several):
                raise ValueError("is no call with a config")
            calls += several
        except FileNotFoundError:
            continue
        except (OSError, ValueError) as error:
            damaged[file] = str(error)
    return calls, damaged


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def _git() -> dict[str, Any]:
    def run(*args: str) -> str:
        return subprocess.run(
            ("git", *args), cwd=ROOT, capture_output=True, text=True, check=True
        ).stdout.strip()

    try:
        return {"commit": run("rev-parse", "HEAD"), "dirty": bool(run("status", "--porcelain"))}
    except (OSError, subprocess.CalledProcessError):
        return {"commit": None, "dirty": None}
