"""What a table of figures says beside them: goals, meanings, and the machine they were measured on."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import diffusers
import torch

from experiments.running.provenance import PACKAGES, ROOT

Goal = tuple[str, float]
"""">=" or "<=", and the bound."""


def table(
    figures: Mapping[str, float],
    spread: Mapping[str, Sequence[float]],
    goals: Mapping[str, Goal],
    meaning: Mapping[str, str],
    missing: Mapping[str, str] | None = None,
) -> str:
    """Return a Markdown table of figures, and of the keys without one, with the reason in its place."""
    lines = ["| figure | value | least to most | goal | met | what |", "|---|---:|---|---|---|---|"]
    for key, value in figures.items():
        least, most = spread[key]
        between = f"{least:.3f} to {most:.3f}" if least < most else ""
        wanted = " ".join(map(str, goals[key])) if key in goals else ""
        met = ("yes" if meets(goals[key], value) else "**no**") if key in goals else ""
        lines.append(f"| {key} | {value:.3f} | {between} | {wanted} | {met} | {meaning[key]} |")
    for key, reason in (missing or {}).items():
        wanted = " ".join(map(str, goals[key])) if key in goals else ""
        text = reason.replace("|", "/")
        lines.append(f"| {key} | {text} |  | {wanted} |  | {meaning[key]} |")
    return "\n".join(lines)


def meets(goal: Goal, value: float) -> bool:
    """Say whether a figure reaches its goal."""
    operator, bound = goal
    return value >= bound if operator == ">=" else value <= bound


def machine(device: str) -> dict[str, Any]:
    """Return what the figures were measured on."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    names = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    return {
        "processor": names[0] if names else platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "load": os.getloadavg()[0],
        "threads": torch.get_num_threads(),
        "device": torch.cuda.get_device_name(device) if device.startswith("cuda") else device,
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "torch": torch.__version__,
        "diffusers": diffusers.__version__,
    }


def driver() -> str:
    """Return the version of NVIDIA's driver, "none" where its tool cannot be asked."""
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, check=True, timeout=30).stdout
    except (OSError, subprocess.SubprocessError):
        return "none"
    return ", ".join(sorted(set(answer.split()))) or "none"


def versions(constraints: Path = ROOT / "constraints.txt") -> dict[str, dict[str, str]]:
    """Return by package what is installed ("none" where nothing is) and what constraints.txt pins."""
    pins = {
        _plain(name): pin
        for name, equal, pin in (
            line.strip().partition("==") for line in constraints.read_text().splitlines()
        )
        if equal
    }
    found = {}
    for name in PACKAGES:
        try:
            installed = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            installed = "none"
        found[name] = {"installed": installed, "pin": pins.get(_plain(name), "none")}
    return found


def spelled(found: Mapping[str, Mapping[str, str]]) -> str:
    """Return versions in one line, a version that differs from its pin with the pin beside it.

    A build's suffix, as in 2.11.0+cu130, is no difference.
    """
    words = []
    for name, version in found.items():
        differs = version["installed"].partition("+")[0] != version["pin"]
        words.append(f"{name} {version['installed']}" + (f" (pin {version['pin']})" if differs else ""))
    return ", ".join(words)


def _plain(name: str) -> str:
    return name.lower().replace("_", "-")
