"""What produced a run: configuration, code, versions, hardware and model, in `provenance.json`."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import subprocess
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from p2p.devices import float32_modes
from results.store.run_folder import RunFolder
from results.store.whole_files import write_whole

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


def write_provenance(run_dir: Path, config: dict[str, Any], identity: str) -> None:
    """Append this call to the run's provenance (a list: a run may take several calls)."""
    file = RunFolder(run_dir).provenance
    calls = json.loads(file.read_text()) if file.exists() else []
    calls.append(
        {
            "time": datetime.now(UTC).isoformat(timespec="seconds"),
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
    )
    write_whole(file, json.dumps(calls, indent=1, default=str))


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
