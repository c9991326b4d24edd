"""Where a run's pictures and numbers come from, as the page tells it: calls, hashes, times."""

import hashlib
import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from results.labels import method_label
from results.store.records import RECORD_IDENTITY
from results.store.run_folder import RunFolder

_OF_NOTHING = hashlib.sha256(b"").hexdigest()


@dataclass(frozen=True)
class Call:
    """One call that worked on the run: when, what repeats it on a command line, facts, its configuration."""

    time: str
    command: str
    facts: Mapping[str, str]
    config: str


def calls_told(calls: Sequence[Mapping[str, Any]]) -> list[Call]:
    """Return the calls of a run's provenance for the page, the latest one first."""
    return [_call(call) for call in reversed(calls)]


def hashes(run_dir: Path) -> dict[str, str]:
    """Return the digest of the weights behind each metric family's values, "no weights" for none."""
    folder = RunFolder(run_dir).metrics
    files = sorted(folder.rglob(RunFolder(run_dir).weights_file("").name))
    digests = {file: file.read_text(encoding="utf-8").strip() for file in files}
    return {
        file.parent.relative_to(folder).as_posix(): "no weights" if digest == _OF_NOTHING else digest
        for file, digest in digests.items()
    }


def times(frame: pd.DataFrame) -> list[tuple[str, int, float, float]]:
    """Return for each method its pictures, the seconds of one (the mean), and of all of them."""
    made = frame[frame["status"].eq("ok")].drop_duplicates(RECORD_IDENTITY)
    return [
        (method_label(str(method)), len(rows), float(rows["seconds"].mean()), float(rows["seconds"].sum()))
        for method, rows in made.groupby("method", sort=False)
        if rows["seconds"].gt(0).any()
    ]


def _call(call: Mapping[str, Any]) -> Call:
    git = call.get("git") or {}
    commit = git.get("commit")
    state = {True: ", with changes that are not committed", False: "", None: ""}[git.get("dirty")]
    versions = call.get("versions") or {}
    facts = {
        "Code": f"{commit}{state}" if commit else "",
        "Device": str(call.get("device") or ""),
        "System": str(call.get("platform") or ""),
        "Model identity": str(call.get("model_identity") or ""),
        "float32": ", ".join(f"{name} {value}" for name, value in (call.get("float32") or {}).items()),
        "Python": str(call.get("python") or ""),
        "Versions": ", ".join(f"{name} {version}" for name, version in versions.items()),
    }
    return Call(
        time=str(call.get("time") or "").replace("T", " ").replace("+00:00", " UTC"),
        command=shlex.join(["p2p-bench", *call["command"]]) if call.get("command") else "",
        facts={name: fact for name, fact in facts.items() if fact},
        config=json.dumps(call["config"], indent=2, ensure_ascii=False),
    )
