"""What a run was asked for as a whole: the rows of its plan, kept in the run folder and made by one shard.

A shard plans its own part alone. Which pictures the whole has, for "am I the last?" and the tables, it reads
from the files that the first one to start has written; a small file named after what was asked for leads to
them. Where that, or one that it names, is missing or other than was written, the whole is planned again.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import pandas as pd

from experiments.planning.make_plan import plan_of
from experiments.planning.plan import Identity, Plan
from experiments.planning.setting_rows import plan_settings
from experiments.planning.sweep import Sweep
from results.store.records import RECORD_IDENTITY, has_records, load_records
from results.store.row_files import read_rows
from results.store.run_folder import RunFolder
from results.store.setting_rows import SETTING_TYPES, write_settings
from results.store.whole_files import write_whole
from results.tables.auto_tau import CANDIDATE_TYPES, write_candidates
from results.tables.cells import GIVEN


@dataclass(frozen=True)
class Progress:
    """How much of a whole run there is, by its records alone."""

    planned: int  # pictures, those that are given included
    made: int
    waits: bool  # an edit was not tried yet

    def __str__(self) -> str:
        return f"{self.made} of {self.planned} images are there"


@dataclass(frozen=True)
class Asked:
    """What the files of a whole run's plan hold, and their names."""

    settings: pd.DataFrame  # a row per picture and setting, columns SETTING_TYPES
    candidates: pd.DataFrame  # what `tau: auto` chooses from, columns CANDIDATE_TYPES
    names: Mapping[str, str]  # of the files of its `plan` and `candidates`, as `write_provenance` keeps them

    @cached_property
    def identities(self) -> set[Identity]:
        """What names the records of all pictures of the run."""
        return _identities(self.settings)

    def keys(self) -> set[str]:
        """Return the content keys of all pictures of the run."""
        return {key for key, _, _ in self.identities}

    def progress(self, run_dir: Path) -> Progress:
        """Say how much of the run its folder has."""
        records = load_records(run_dir) if has_records(run_dir) else None
        tried = _identities(records) if records is not None else set()
        made = _identities(records[records["status"] == "ok"]) if records is not None else set()
        edits = {one for one in self.identities if one[2] not in GIVEN}
        return Progress(len(self.identities), len(self.identities & made), not edits <= tried)


def asked_for(sweep: Sweep, part: Plan, sharded: bool, run_dir: Path, names: tuple[str, str]) -> Asked:
    """Return what a whole run was asked for, whose files this call writes unless a shard has done so.

    `part` is the plan of what this call does, the whole unless it is `sharded`; `names` are those of data set
    and model.
    """
    if not sharded:
        return _write(part, run_dir, names)
    digest = sweep.digest([*names, *SETTING_TYPES])
    leads = RunFolder(run_dir).asked_file(digest[:16])
    if (kept := _kept(leads, digest, run_dir)) is None:
        kept = _write(plan_of(sweep), run_dir, names)
        files = {what: _file(run_dir, what, name) for what, name in kept.names.items()}
        told = {what: {"name": file.name, "sha256": _hash(file)} for what, file in files.items()}
        write_whole(leads, json.dumps({"asked": digest, **told}, indent=1))
    return kept


def _write(plan: Plan, run_dir: Path, names: tuple[str, str]) -> Asked:
    files = {"plan": write_settings(run_dir, plan_settings(plan, *names)).name}
    if plan.candidates:
        rows = pd.DataFrame(list(plan.candidates), columns=list(CANDIDATE_TYPES))
        files["candidates"] = write_candidates(run_dir, rows).name
    return _read(run_dir, files)


def _read(run_dir: Path, names: Mapping[str, str]) -> Asked:
    files = {what: _file(run_dir, what, name) for what, name in names.items()}
    settings = read_rows([files["plan"]], SETTING_TYPES)
    candidates = read_rows([files[what] for what in files if what == "candidates"], CANDIDATE_TYPES)
    return Asked(settings, candidates, names)


def _kept(leads: Path, digest: str, run_dir: Path) -> Asked | None:
    """Return what another shard has kept; None where it is not there as it was written."""
    try:
        told = json.loads(leads.read_text(encoding="utf-8"))
        if told.pop("asked") != digest:
            return None
        files = {what: _file(run_dir, what, one["name"]) for what, one in told.items()}
        if any(_hash(file) != told[what]["sha256"] for what, file in files.items()):
            return None
        files["plan"].touch()  # as the latest plan of its pictures
        return _read(run_dir, {what: file.name for what, file in files.items()})
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def _file(run_dir: Path, what: str, name: str) -> Path:
    folder = RunFolder(run_dir)
    return {"plan": folder.settings, "candidates": folder.candidates}[what] / name


def _hash(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


def _identities(rows: pd.DataFrame) -> set[Identity]:
    return set(rows[RECORD_IDENTITY].itertuples(index=False, name=None))
