"""Units of work handed to workers on a Ray that is at hand, and what becomes of those of a worker that ends.

Each worker has one unit in flight, and deaths are counted here, by unit: Ray's own restarts and retries
(2.60) are spent by neighbours, so there are none.
"""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import pandas as pd
from tqdm import tqdm

from experiments.executors.ray_folder import RayFolder
from experiments.executors.units import Unit, Units, parted_units, plan_units, scoring_units
from experiments.executors.worker import Done, Line, Work, Worker
from experiments.planning.plan import Plan
from experiments.running.causes import told
from experiments.running.generate import pictures_of
from experiments.running.record_rows import RecordRows
from experiments.running.saving import OnRecords, record_failure
from experiments.scoring.score_run import to_score
from results.store.records import record_files, record_rows
from results.store.whole_files import no_room

_log = logging.getLogger(__name__)
ASKED_EVERY = 1.0  # seconds
PLACELESS = 60.0  # seconds without a worker after which it is told


def leave(folder: RayFolder | None) -> None:
    """Leave the cluster, whose actors of this call end with that; one of this machine's own ends."""
    import ray

    ray.shutdown()
    if folder is not None:
        folder.remove()


@dataclass
class Cluster:
    """Ray at hand, with a place for `workers`; `close` leaves it."""

    workers: int
    options: dict[str, Any]
    folder: RayFolder | None  # Ray's, where it is of this machine
    part_groups: bool = False

    def close(self) -> None:
        """End the workers."""
        leave(self.folder)

    def share_out(self, plan: Plan) -> tuple[Plan, list[Unit]]:
        """Return a plan of the same pictures, and the units in which the workers make it."""
        if self.part_groups:
            return parted_units(plan, self.workers)
        units = plan_units(plan)
        if 0 < len(units) < self.workers:
            rest = self.workers - len(units)
            idle = f"{rest} of {self.workers} workers have nothing to make"
            print(f"{idle}; executor.part_groups=true parts groups among them")
        return plan, units

    def carry_out(self, work: Work, units: Sequence[Unit], keys: Collection[str]) -> int:
        """Make a work's plan by these units, and score all pictures with these keys that lack values.

        Returns how many groups failed. Raises ValueError and OSError where no worker could load the work, or
        nothing more can be written.
        """
        with record_files(work.info.run_dir) as files:
            run = _Run(work, self.options, lambda records: files.write(record_rows(records)))
            try:
                run.carried_out(units, self.workers)
                run.scored()
                run.todo = to_score(work.info.run_dir, work.metrics, keys)
                run.carried_out(scoring_units(run.todo, self.workers), self.workers)
            except SystemError as error:
                stop = _raised_by_handler(error)
                if stop is None:
                    raise
                raise stop from None
        if run.lost:
            print(f"{run.lost} workers ended before their time; what they had was tried again")
        run.log_times()
        return run.failed


@dataclass
class _Hand:
    """A worker, and the call that it is at."""

    actor: Any
    call: Any
    unit: Unit | None = None  # None while it loads
    idle: bool = False
    rows: int = 0  # of the denoiser, of the unit at hand
    asked: Any = None  # the call by which it was last asked what it has to tell
    when: float = 0.0
    loaded: float = 0.0  # since when it could work


@dataclass
class _Run:
    """One work on its workers: `carried_out` for units to make, and then for units to score."""

    work: Work
    options: dict[str, Any]
    write: OnRecords  # what records go to
    todo: Sequence[pd.DataFrame] = ()  # for each metric, the records that units to score are of
    units: Units = field(default_factory=lambda: Units((), ()))
    bar: Any = None
    wanted: int = 0  # workers
    failed: int = 0
    lost: int = 0  # workers
    done: int = 0  # rows of units that are made, or scored units
    worked: float = 0.0  # seconds that workers were at units
    processor: float = 0.0  # seconds of processors that units took
    present: float = 0.0  # seconds that workers could have been at units
    unloaded: int = 0  # workers that ended while they loaded, since one has loaded
    hands: list[_Hand] = field(default_factory=list)
    seen: set[Line] = field(default_factory=set)
    began: float = 0.0

    def carried_out(self, units: Sequence[Unit], most: int) -> None:
        """Carry out units, all to make or all to score, with at most so many workers."""
        if not units:
            return
        import ray

        self.units, self.done, self.began = Units(units, self.work.plan.costs), 0, time.monotonic()
        self.wanted = min(most, len(units))
        actor: Any = ray.remote(Worker)
        nothing = replace(self.work.plan, groups=())  # for workers that only score, which need no denoiser
        work = ray.put(self.work if units[0].groups else replace(self.work, plan=nothing))
        making = {"total": self.work.plan.evaluations, "desc": "generating", "unit": "eval"}
        scoring = {"total": len(units), "desc": "evaluating", "unit": "unit"}
        with tqdm(**(making if units[0].groups else scoring), smoothing=0.05) as self.bar:
            while len(self.units) or self._busy():
                while len(self.hands) < min(self.wanted, len(self.units) + self._busy()):
                    made = actor.options(**self.options).remote()
                    self.hands.append(_Hand(made, made.load.remote(work)))
                for hand in self.hands:
                    if hand.idle and len(self.units):
                        self._hand_out(hand, self.units.take())
                calls = {hand.call: hand for hand in self.hands if not hand.idle}
                # Short, so that signals are seen soon.
                ready, _ = ray.wait(list(calls), timeout=0.5)
                for call in ready:
                    self._ended(calls[call])
                self._ask()
                self._show()

    def _hand_out(self, hand: _Hand, unit: Unit) -> None:
        hand.unit, hand.idle, hand.rows, hand.when = unit, False, 0, time.monotonic()
        hand.call = hand.actor.carry_out.remote(unit, unit.records(self.todo))

    def scored(self) -> None:
        """Wait until workers have ended what they score beside making; what is left is in no store."""
        import ray

        calls = {hand.actor.end_scoring.remote(): hand for hand in self.hands if hand.idle}
        while calls:
            ready, _ = ray.wait(list(calls), timeout=0.5)
            for call in ready:
                hand = calls.pop(call)
                try:
                    self._tell(ray.get(call))
                except ray.exceptions.RayTaskError as error:  # the worker lives
                    raise _cause(error) from None
                except ray.exceptions.RayError:  # it ended, its node did, or they cannot be reached
                    self.lost += 1
                    self._remove(hand)

    def log_times(self) -> None:
        """Log how much of their time workers were at units."""
        present = self.present + sum(time.monotonic() - h.loaded for h in self.hands if h.loaded)
        at_units = f"workers were at units for {self.worked:.0f} of {present:.0f} s"
        _log.info("%s, %.1f s of processor time", at_units, self.processor)

    def _busy(self) -> int:
        return sum(hand.unit is not None for hand in self.hands)

    def _ended(self, hand: _Hand) -> None:
        """Take what a call returned, or see to what became of its worker."""
        import ray

        try:
            if hand.unit is None:
                self._tell([line for line in ray.get(hand.call) if line not in self.seen], once=True)
                self.unloaded, hand.loaded = 0, time.monotonic()
            else:
                done: Done = ray.get(hand.call)
                self._tell(done.lines)
                self.failed += done.failed
                self.done += done.rows if hand.unit.groups else 1
                self.worked += done.seconds
                self.processor += done.processor_seconds
            self._hear(hand, 10.0)
            hand.unit, hand.idle, hand.rows = None, True, 0
        except ray.exceptions.RayTaskError as error:  # the worker lives
            cause = _cause(error)
            if no_room(cause):
                raise cause from None
            if hand.unit is None:
                self._drop(hand, cause)
                return
            self._lose(hand.unit, told(cause))
            self._hear(hand, 10.0)
            hand.unit, hand.idle, hand.rows = None, True, 0
        except ray.exceptions.RayError as error:  # it ended, its node did, or they cannot be reached
            self.lost += 1
            cause = OSError(_death(error))
            if hand.unit is None:
                self.unloaded += 1
                if self.unloaded > self.wanted:
                    self._drop(hand, cause)
                    return
            self._remove(hand)
            if hand.unit is not None:
                self._lose(hand.unit, str(cause))

    def _remove(self, hand: _Hand) -> None:
        import ray

        self.hands.remove(hand)
        self.present += time.monotonic() - hand.loaded if hand.loaded else 0.0
        ray.kill(hand.actor)  # one that cannot be reached may work on

    def _drop(self, hand: _Hand, cause: Exception) -> None:
        """Go on without a worker that could not load; raise its cause where there is no other one."""
        self._remove(hand)
        # There are more workers than wanted where less is to be scored than was to be made.
        self.wanted = max(self.wanted - 1, len(self.hands))
        if not self.wanted:
            raise cause from None
        _log.warning("a worker cannot be had, %d are left: %s", self.wanted, told(cause))

    def _lose(self, unit: Unit, cause: str) -> None:
        """See to a unit whose worker ended: put it back, or record it as failed."""
        count = len(unit.groups) + len(unit.made)
        if self.units.lost(unit):
            _log.warning("a worker ended over %d groups, which are tried again: %s", count, cause)
            return
        self.failed += 1
        info = replace(self.work.info, recorded=pictures_of(self.work.earlier))
        for place in unit.groups:
            group = self.work.plan.groups[place]
            record_failure(RecordRows(group, self.work.plan, info), cause, self.write)
        for name in unit.made:
            tqdm.write(f"failed: scoring of {name}: {cause}")

    def _ask(self) -> None:
        """Ask workers that are at a unit, from time to time, what they have to tell; hear who answered."""
        now = time.monotonic()
        for hand in self.hands:
            if hand.unit is None:
                continue
            if hand.asked is None:
                if now > hand.when + ASKED_EVERY:
                    hand.asked, hand.when = hand.actor.told.remote(), now
            else:
                self._hear(hand, 0.0)

    def _hear(self, hand: _Hand, seconds: float) -> None:
        """Hear what a worker has answered, if it was asked and answers within so many seconds."""
        import ray

        if hand.asked is None or not ray.wait([hand.asked], timeout=seconds)[0]:
            return
        try:
            hand.rows, lines = ray.get(hand.asked)
            self._tell(lines)
        except ray.exceptions.RayError:  # the call of its unit tells
            pass
        hand.asked = None

    def _tell(self, lines: Sequence[Line], once: bool = False) -> None:
        """Tell what a worker has told, as if it had been told here."""
        for line in lines:
            level, logger, text = line
            if logger:
                logging.getLogger(logger).log(level, "%s", text)
            else:
                tqdm.write(text)
            if once:
                self.seen.add(line)

    def _show(self) -> None:
        """Show how far the workers are, and who they are."""
        at_work, starting = self._busy(), sum(not (hand.idle or hand.unit) for hand in self.hands)
        parts = [
            f"{at_work} workers" if at_work or not starting else "",
            f"{starting} start" * bool(starting),
        ]
        parts.append(f"{self.lost} lost" * bool(self.lost))
        self.bar.set_postfix_str(", ".join(filter(None, parts)), refresh=False)
        so_far = self.done + sum(hand.rows for hand in self.hands if hand.unit and hand.unit.groups)
        self.bar.update(so_far - self.bar.n)
        if at_work:
            self.began = time.monotonic()
        elif time.monotonic() > self.began + PLACELESS:
            _log.warning("no worker could be started for %.0f s; is the cluster full?", PLACELESS)
            self.began = float("inf")


def _raised_by_handler(error: SystemError) -> BaseException | None:
    """Return what the handler of a signal raised, which Ray (2.60) tells by SystemErrors of each other.

    None where they come of something else.
    """
    stop: BaseException | None = error
    while isinstance(stop, SystemError):
        stop = stop.__cause__
    return None if isinstance(stop, Exception) else stop


def _cause(error: Any) -> Exception:
    """Return what a worker's call raised."""
    return error.cause if isinstance(error.cause, Exception) else error


def _death(error: Exception) -> str:
    """Return in a line why a worker ended, of Ray's page about it."""
    text = " ".join(str(error).split())
    found = re.search(r"(Worker exit detail|death_cause|The actor (?:is|died)\b)[^.]*", text)
    return f"its worker ended: {(found[0] if found else text)[:300]}"
