"""What a run was asked for as a whole: the rows of its plan, kept in the run folder and made by one shard.

A shard plans its own part alone. Which pictures the whole has, for "am I the last?" and the tables, it reads
from the files that the first one to start has written; a small file named after what was asked for leads to
them. Where that, or one that it names, is missing or other than was written, the whole is planned again.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import pandas as pd

from experiments.planning.make_plan import plan_of
from experiments.planning.plan import Identity, Plan
from experiments.planning.setting_rows import plan_settings
from experiments.planning.sweep import Sweep
from results.store.records import RECORD_IDENTITY, RECORD_TYPES, has_records, load_records
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
    """The files of a whole run's plan; they are read when they are first needed."""

    settings_file: Path
    candidates_file: Path | None  # of `tau: auto`

    @cached_property
    def settings(self) -> pd.DataFrame:
        """A row per picture and setting, columns SETTING_TYPES."""
        return read_rows([self.settings_file], SETTING_TYPES)

    @cached_property
    def candidates(self) -> pd.DataFrame:
        """What `tau: auto` chooses from, columns CANDIDATE_TYPES."""
        return read_rows([self.candidates_file] if self.candidates_file else [], CANDIDATE_TYPES)

    @cached_property
    def identities(self) -> set[Identity]:
        """What names the records of all pictures of the run."""
        types = {name: RECORD_TYPES[name] for name in RECORD_IDENTITY}
        return _identities(read_rows([self.settings_file], types))

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

    def names(self) -> dict[str, str]:
        """Return the names of the files, as `write_provenance` keeps them."""
        files = {"plan": self.settings_file, "candidates": self.candidates_file}
        return {what: file.name for what, file in files.items() if file}


def asked_for(sweep: Sweep, part: Plan, sharded: bool, run_dir: Path, names: tuple[str, str]) -> Asked:
    """Return what a whole run was asked for, whose files this call writes unless a shard has done so.

    `part` is the plan of what this call does, the whole unless it is `sharded`; `names` are those of data set
    and model.
    """
    if not sharded:
        return _write(part, run_dir, names)
    digest = sweep.digest([*names, *SETTING_TYPES])
    leads = RunFolder(run_dir).asked_file(digest[:16])
    if (kept := _kept(leads, digest)) is None:
        kept = _write(plan_of(sweep), run_dir, names)
        files = [file for file in (kept.settings_file, kept.candidates_file) if file]
        told = {"asked": digest, "files": {_below(file, run_dir): _hash(file) for file in files}}
        write_whole(leads, json.dumps(told, indent=1))
    return kept


def _write(plan: Plan, run_dir: Path, names: tuple[str, str]) -> Asked:
    settings = write_settings(run_dir, plan_settings(plan, *names))
    if not plan.candidates:
        return Asked(settings, None)
    rows = pd.DataFrame(list(plan.candidates), columns=list(CANDIDATE_TYPES))
    return Asked(settings, write_candidates(run_dir, rows))


def _kept(leads: Path, digest: str) -> Asked | None:
    """Return the files that another shard has written; None where they are not there as it wrote them."""
    folder = leads.parent.parent
    try:
        told = json.loads(leads.read_text(encoding="utf-8"))
        files = {folder / name: content for name, content in told["files"].items()}
        if told["asked"] != digest or any(_hash(file) != content for file, content in files.items()):
            return None
        settings, *candidates = files
        return Asked(settings, candidates[0] if candidates else None)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def _below(file: Path, folder: Path) -> str:
    return file.relative_to(folder).as_posix()


def _hash(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


def _identities(rows: pd.DataFrame) -> set[Identity]:
    return set(rows[RECORD_IDENTITY].itertuples(index=False, name=None))
