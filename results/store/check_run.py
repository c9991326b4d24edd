"""Whether a run folder holds what was asked for, whole: rows, pictures, values, tables; what is left over.

Nothing is written here. What calls asked for is what the folder keeps of them: each call names the file of
its plan in `settings/` and its metrics. What a plan does not tell (an inversion's cache, W&B's copy) is not
looked at.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
from tqdm import tqdm

from results.store.metric_columns import directions_of
from results.store.picture_files import SUFFIXES, DamagedPicture, Digest, digest, read_picture
from results.store.records import METRICS, RECORD_IDENTITY, RECORD_TYPES, RECORDS
from results.store.row_files import (
    RowKind,
    as_frame,
    each_once,
    is_as_written,
    listed,
    plan_is_as_written,
    read_table,
)
from results.store.run_folder import RunFolder
from results.store.whole_files import PARTIAL

MISSING, DAMAGED, FAILED, LEFT_OVER = "missing", "damaged", "failed", "left over"
KINDS = (MISSING, DAMAGED, FAILED, LEFT_OVER)
"""What a finding may be; what is left over does no harm."""
AGAIN, ASIDE, ORPHAN = "run again", "delete it and run again", "--delete-orphans removes it"
_OURS = re.compile(r".+-[0-9a-f]{16}\.(png|jpg)|[0-9]{3}\.png")  # pictures, masks and ideals by name
_SUFFIXES = tuple(SUFFIXES.values())
_HASH = re.compile(rb"[0-9a-f]{64}")


@dataclass(frozen=True)
class Finding:
    """What is wrong, where (relative to the run folder), and what mends it."""

    kind: str
    where: str
    what: str
    mend: str
    file: Path | None = None  # which is damaged or left over

    def __str__(self) -> str:
        return f"{self.kind}: {self.where}: {self.what}; {self.mend}"


@dataclass(frozen=True)
class Call:
    """What one call asked for."""

    plan: str = ""  # the name of its file in `settings/`, "" where it has none
    metrics: Mapping[str, Sequence[str]] = field(default_factory=dict)  # the columns of each family
    method: str = ""  # of a call that scored pictures of another tool: what tables call it
    candidates: str = ""  # the name of the file of what its `tau: auto` chooses from, "" where it has none


class RunCheck:
    """A run folder as it is, read once."""

    def __init__(self, run_dir: Path, calls: Sequence[Call]) -> None:
        """Read the rows of a folder. FileNotFoundError where there is no such folder."""
        if not run_dir.is_dir():
            raise FileNotFoundError(f"{run_dir}: no such run folder")
        self.folder, self.calls = RunFolder(run_dir), calls
        self._damaged: list[Finding] = []
        self.records = as_frame(each_once(self._read(self.folder.records, RECORDS), RECORDS), RECORD_TYPES)
        self.made = self.records[self.records["status"] == "ok"]
        families = sorted({file.parent for file in self.folder.metrics.rglob("*.parquet")})
        values = {family.relative_to(self.folder.metrics).as_posix(): family for family in families}
        self.values = {name: self._read(family, METRICS) for name, family in values.items()}
        self.plans = {file.name: rows for file, rows in self._plans(self.folder.settings)}
        for _ in self._plans(self.folder.candidates):
            pass

    @cached_property
    def planned(self) -> set[tuple[str, ...]]:
        """The identities of all pictures that the plans ask for."""
        return set().union(*(_identities(plan) for plan in self.plans.values()))

    @property
    def recorded(self) -> set[tuple[str, ...]]:
        """The identities of all pictures that were made."""
        return _identities(self.made)

    @property
    def left_out(self) -> list[str]:
        """The pairs that `p2p-bench evaluate --missing=skip` left out, as they had no picture."""
        return sorted(set(self.records.loc[self._skipped, "pair_id"]))

    @property
    def _skipped(self) -> pd.Series:
        """Mark the records of what was left out on purpose."""
        of_tools = self.records["method"].isin({call.method for call in self.calls if call.method})
        return of_tools & self.records["status"].ne("ok") & self.records["group"].str.endswith("-missing")

    def findings(self) -> list[Finding]:
        """Return all findings; pictures are read and compared with their records on the way."""
        found = [*self._damaged, *self._pictures(), *self._unmade(), *self._unscored(), *self._columns()]
        if not any(one.kind in (MISSING, DAMAGED) for one in found):
            found += self._orphans()  # where records are missing, their pictures only look like orphans
        return [*found, *self._tables(), *self._partials()]

    def unfinished(self) -> list[int]:
        """Return the numbers of the calls of whose pictures or values one is not there; no file is read."""
        gone = {
            path for path in _paths(self.made) if path and not (self.folder.root / path).exists()
        }  # an ideal is a folder
        columns = ["image", "source_image", "mask", "ideal"]
        there = _identities(self.made[~self.made[columns].isin(gone).any(axis=1)])
        numbers = []
        for number, call in enumerate(self.calls):
            plan = self.plans.get(call.plan)
            unmade = plan is None if call.plan else False
            unmade |= plan is not None and not there.issuperset(_identities(plan))
            unmade |= bool(call.candidates) and not (self.folder.candidates / call.candidates).exists()
            if unmade or any(lacks for _, lacks in self._lacking([call])):
                numbers.append(number)
        return numbers

    def _read(self, store: Path, kind: RowKind) -> pa.Table:
        """Return the rows of a store's whole files, and keep which files are not."""
        while True:
            files, tables, damaged = listed(store), [], []
            try:
                for file in files:
                    try:
                        table = read_table([file], kind.types)
                        if not is_as_written(file) or "" in table[kind.identity[0]].to_pylist():
                            raise ValueError("holds other rows than were written to it")
                        tables.append(table)
                    except FileNotFoundError:
                        raise
                    except ValueError as error:
                        damaged.append(self._of_file(file, _cause(error)))
            except FileNotFoundError:  # a run that goes on merged it
                if files == listed(store):
                    raise
                continue
            self._damaged += damaged
            return pa.concat_tables([read_table([], kind.types), *tables])

    def _plans(self, folder: Path) -> Iterable[tuple[Path, pd.DataFrame]]:
        for file in sorted(folder.glob("*.parquet")):
            try:
                rows = pd.read_parquet(file)
                if not plan_is_as_written(file, rows):
                    raise ValueError("holds another plan than its name tells of")
                yield file, rows
            except (ValueError, OSError, KeyError) as error:
                self._damaged.append(self._of_file(file, _cause(error)))

    def _of_file(self, file: Path, what: str, kind: str = DAMAGED, mend: str = ASIDE) -> Finding:
        return Finding(kind, file.relative_to(self.folder.root).as_posix(), what, mend, file)

    def _pictures(self) -> Iterable[Finding]:
        """Compare each picture's bytes with its records; what has no hash there has to be a whole picture."""
        told: dict[str, set[Digest]] = {path: set() for path in _paths(self.made) if path.endswith(_SUFFIXES)}
        for image, sha256, size in zip(
            self.made["image"], self.made["image_sha256"], self.made["image_bytes"], strict=True
        ):
            told.setdefault(image, set()).add(Digest(sha256, int(size)))
        for folder in sorted(set(self.made["ideal"]) - {""}):
            ideals = sorted((self.folder.root / folder).glob("*.png"))
            told |= {f"{folder}/{file.name}": set() for file in ideals}
            if not ideals:
                yield Finding(MISSING, folder, "the ideals that records tell of are not there", AGAIN)
        for path, digests in tqdm(sorted(told.items()), desc="checking", unit="picture", disable=None):
            file = self.folder.root / path
            try:
                known = {one for one in digests if one.sha256}
                if not known:
                    read_picture(file)
                elif known != {digest(file.read_bytes())}:
                    yield self._of_file(file, "is not the picture that its record tells of")
            except FileNotFoundError:
                yield Finding(MISSING, path, "is not there", AGAIN)
            except DamagedPicture as error:
                yield self._of_file(file, error.cause)
            except OSError as error:
                yield self._of_file(file, f"cannot be read ({error.strerror})")

    def _unmade(self) -> Iterable[Finding]:
        """Say which pictures were planned, and have no record or that of a failure."""
        for call in dict.fromkeys((one.plan, one.candidates) for one in self.calls):
            for folder, name in zip((self.folder.settings, self.folder.candidates), call):
                if name and not (folder / name).exists():
                    yield self._of_file(
                        folder / name, "a call asked for it, and it is not there", MISSING, AGAIN
                    )
        if not (self.plans or self.calls):
            yield Finding(MISSING, "settings", "no plan is kept, so what should be there is not known", AGAIN)
        if len(self.records) and not self.calls:
            what = "no call is kept, so which values should be there is not known"
            yield Finding(MISSING, "provenance", what, AGAIN)
        failed = self.records[self.records["status"].ne("ok") & ~self._skipped]
        for (pair, error), rows in failed.groupby(["pair_id", "error"], sort=False):
            yield Finding(FAILED, f"pair {pair!r}", f"{_counted(rows['method'])}: {error}", AGAIN)
        by_pair: dict[str, list[str]] = {}
        for _, pair, method in sorted(self.planned - _identities(self.records)):
            by_pair.setdefault(pair, []).append(method)
        for pair, methods in sorted(by_pair.items()):
            yield Finding(MISSING, f"pair {pair!r}", f"{_counted(methods)}, planned and not recorded", AGAIN)

    def _lacking(self, calls: Sequence[Call]) -> Iterable[tuple[str, set[tuple[str, str]]]]:
        """Yield each metric family of some calls with the (key, metric) that it should have, and has not."""
        have = {
            name: set(zip(rows["key"].to_pylist(), rows["metric"].to_pylist()))
            for name, rows in self.values.items()
        }
        wanted: dict[str, set[tuple[str, str]]] = {}
        last = {call.method: call for call in self.calls if call.method}  # the pictures are those of the last
        for call in calls:
            keys: set[str] = set()
            if call.plan in self.plans:
                rows = self.made[_are_in(self.made, _identities(self.plans[call.plan]))]
                keys = set(rows["key"])
            elif call.method and last[call.method] is call:
                keys = set(self.made.loc[self.made["method"] == call.method, "key"])
            for family, names in call.metrics.items():
                wanted.setdefault(family, set()).update((key, name) for key in keys for name in names)
        for family, pairs in wanted.items():
            yield family, pairs - have.get(family, set())

    def _unscored(self) -> Iterable[Finding]:
        for family, lacks in self._lacking(self.calls):
            if lacks:
                pictures = len({key for key, _ in lacks})
                what = f"{len(lacks)} values of {pictures} pictures are not there"
                yield Finding(MISSING, f"metrics/{family}", what, AGAIN)

    def _columns(self) -> Iterable[Finding]:
        """Look at the small files beside the values of each family."""
        asked: dict[str, set[str]] = {}
        for call in self.calls:
            for family, names in call.metrics.items():
                asked.setdefault(family, set()).update(names)
        named = {family for family in asked if len(self.values.get(family, ()))}
        for family in sorted(named | set(self.values)):
            columns, weights = self.folder.columns_file(family), self.folder.weights_file(family)
            for file in (columns, weights):
                if family in named and not file.exists():
                    where = file.relative_to(self.folder.root).as_posix()
                    yield Finding(MISSING, where, "is not there", AGAIN)
            try:
                if columns.exists() and not asked.get(family, set()) <= set(directions_of(columns)):
                    raise ValueError("tells of other metrics than were asked for")
            except (ValueError, OSError) as error:
                yield self._of_file(columns, _cause(error))
            if weights.is_file() and not _HASH.fullmatch(weights.read_bytes()):
                yield self._of_file(weights, "is no hash of weights")

    def _tables(self) -> Iterable[Finding]:
        """Compare tables and drawings with what was written; whether rows came since is not looked at."""
        folder, again = self.folder, f"p2p-bench tables {self.folder.root}"
        if not folder.made_from.exists():
            if len(self.records):
                where = "tables/made_from.json" if folder.summary.exists() else "tables"
                yield Finding(MISSING, where, "is not there", again)
            return
        try:
            files = json.loads(folder.made_from.read_text(encoding="utf-8"))["files"]
            for name, content in sorted(files.items()):
                file = folder.root / name
                if not file.is_file():
                    yield Finding(MISSING, name, "is not there", again)
                elif hashlib.sha256(file.read_bytes()).hexdigest() != content:
                    yield self._of_file(file, "was changed since it was written", mend=again)
        except (ValueError, KeyError, TypeError, AttributeError):
            yield self._of_file(folder.made_from, "cannot be read", mend=again)
        if folder.chosen.exists():
            try:
                pd.read_parquet(folder.chosen)
            except (ValueError, OSError) as error:
                yield self._of_file(folder.chosen, _cause(error), mend=again)

    def _orphans(self) -> Iterable[Finding]:
        """Say which pictures no record tells of, and which values have no picture."""
        known, ideals = set(_paths(self.records)), set(self.records["ideal"])
        for file in sorted(self.folder.images.rglob("*")):
            path = file.relative_to(self.folder.root).as_posix()
            if path not in known and path.rpartition("/")[0] not in ideals and _OURS.fullmatch(file.name):
                yield self._of_file(file, "no record tells of this picture", LEFT_OVER, ORPHAN)
        keys = set(self.made["key"])
        for family, rows in self.values.items():
            if count := sum(key not in keys for key in rows["key"].to_pylist()):
                what = f"{count} values have no picture"
                yield Finding(LEFT_OVER, f"metrics/{family}", what, "--delete-orphans removes them")

    def _partials(self) -> Iterable[Finding]:
        for file in sorted(self.folder.root.rglob("*.partial")):
            if PARTIAL.fullmatch(file.name):
                what = "a killed writer's half, or one that is being written"
                yield self._of_file(
                    file, what, LEFT_OVER, "--delete-orphans removes it once it is an hour old"
                )
        for file in sorted(self.folder.root.rglob("_*.damaged")):
            yield self._of_file(file, "a damaged file that was set aside", LEFT_OVER, ORPHAN)


def counts(findings: Sequence[Finding]) -> str:
    """Return how many findings there are of each kind."""
    found = Counter(one.kind for one in findings)
    return ", ".join(f"{found[kind]} {kind}" for kind in KINDS)


def _paths(records: pd.DataFrame) -> set[str]:
    """Return the pictures that records name, and the folders of ideals."""
    return {path for name in ("image", "source_image", "mask", "ideal") for path in records[name]} - {""}


def _identities(rows: pd.DataFrame) -> set[tuple[str, ...]]:
    return set(rows[RECORD_IDENTITY].itertuples(index=False, name=None))


def _are_in(rows: pd.DataFrame, identities: set[tuple[str, ...]]) -> np.ndarray:
    return np.array(
        [one in identities for one in rows[RECORD_IDENTITY].itertuples(index=False, name=None)], bool
    )


def _counted(methods: Iterable[str]) -> str:
    told = Counter(methods)
    each = ", ".join(f"{method} {count}" for method, count in sorted(told.items()))
    return f"{told.total()} pictures ({each})"


def _cause(error: BaseException) -> str:
    """Return why a file is not whole, without its path, which stands before it."""
    cause = error.__cause__ if isinstance(error.__cause__, Exception) else error
    return str(cause).splitlines()[0] if str(cause) else type(cause).__name__
