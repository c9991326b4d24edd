"""Whether a run folder is whole, and what mends it where it is not: `p2p-bench verify RUN`."""

from __future__ import annotations

import argparse
import os
import shlex
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from experiments.hydra_errors import printable
from experiments.inputs.masks import mask_digest, read_mask
from experiments.running.provenance import ROOT, provenance
from results.store.check_run import ASIDE, DAMAGED, LEFT_OVER, Call, Finding, RunCheck, counts
from results.store.records import forget_values
from results.store.whole_files import set_aside, sweep_partials

_NOT_KNOWN = "which command made this folder is not known; give it again, and it makes what is missing"


def main(arguments: Sequence[str]) -> int:
    """Run `p2p-bench verify`; return 0 where the folder is whole, 1 where something is missing or damaged.

    Pictures are compared with the hashes in their records; pictures, values and records with the plans that
    calls kept in `settings/`; tables and drawings with what was written. Each finding is one line.
    """
    parser = argparse.ArgumentParser("p2p-bench verify", description=__doc__.splitlines()[0])
    parser.add_argument("run_dir", type=Path)
    parser.add_argument(
        "--repair",
        action="store_true",
        help="set damaged files aside and give the commands again whose results are missing; the folder "
        "names them, so that it has to be one that you trust",
    )
    parser.add_argument(
        "--delete-orphans",
        action="store_true",
        help="remove what is left over: pictures without a record, values without a picture, files set aside "
        "and, once they are an hour old, half written ones",
    )
    given = parser.parse_args(arguments)
    calls, check, findings = _checked(given.run_dir)
    if given.repair and _faults(findings):
        _repair(given.run_dir, calls, findings)
        calls, check, findings = _checked(given.run_dir)
    if given.delete_orphans:
        _delete(given.run_dir, check, [one for one in findings if one.kind == LEFT_OVER])
        calls, check, findings = _checked(given.run_dir)
    for one in findings:
        print(one)
    if check.plans:
        print(_planned(check, len(calls)))
    if check.left_out:
        pairs = printable(", ".join(check.left_out))
        print(f"left out on purpose (--missing=skip), which is no fault: pairs {pairs}")
    if not all("metrics" in call for call in calls):
        print("some calls are from before they kept their metrics: which values they want is not known")
    if _faults(findings) and not given.repair:
        commands = _commands(given.run_dir, calls, range(len(calls)))
        print(f"--repair mends it; the command is {commands[-1][0]}" if commands else _NOT_KNOWN)
    print(f"{given.run_dir}: {counts(findings)}")
    return 1 if _faults(findings) else 0


def _planned(check: RunCheck, calls: int) -> str:
    """Say how much there is of what was planned."""
    made = len(check.planned & check.recorded)
    plans = f"{len(check.plans)} plan{'s' * (len(check.plans) > 1)} of {calls} call{'s' * (calls != 1)}"
    ask = "asks" if len(check.plans) == 1 else "ask"
    return (
        f"{made} of {len(check.planned)} pictures are recorded that {plans} {ask} for; "
        f"{len(check.records)} records in all"
    )


def _faults(findings: Sequence[Finding]) -> bool:
    return any(one.kind != LEFT_OVER for one in findings)


def _checked(run_dir: Path) -> tuple[list[dict[str, Any]], RunCheck, list[Finding]]:
    """Return the calls of a run, and what a check of its folder finds."""
    calls, damaged = provenance(run_dir) if run_dir.is_dir() else ([], {})
    check = RunCheck(run_dir, _asked(calls))
    findings = [
        Finding(DAMAGED, file.relative_to(run_dir).as_posix(), f"cannot be read ({cause})", ASIDE, file)
        for file, cause in damaged.items()
    ]
    findings += check.findings()
    known = {one.file for one in findings}
    return calls, check, [*findings, *(one for one in _masks(check) if one.file not in known)]


def _asked(calls: Sequence[Mapping[str, Any]]) -> list[Call]:
    """Return what calls asked for, as far as they tell it."""
    return [
        Call(
            call.get("plan", ""),
            call.get("metrics", {}),
            call["config"].get("evaluate", {}).get("method", ""),
            call.get("candidates", ""),
        )
        for call in calls
    ]


def _masks(check: RunCheck) -> Iterable[Finding]:
    """Compare what masks mark with their records; one that is no picture is told elsewhere."""
    told = check.made[["mask", "pair_id", "mask_digest"]].drop_duplicates("mask")
    for path, pair, digest in told.itertuples(index=False, name=None):
        file = check.folder.root / path
        if path and digest and file.exists():
            try:
                same = mask_digest(read_mask(file, pair)) == digest
            except ValueError:
                same = False
            if not same:
                yield Finding(DAMAGED, path, "is not the mask that its record tells of", ASIDE, file)


def _repair(run_dir: Path, calls: Sequence[Mapping[str, Any]], findings: Sequence[Finding]) -> None:
    """Set damaged files aside, and give the commands again of whose results some are not there."""
    for one in findings:
        if one.file is not None and one.mend == ASIDE:
            print(f"{one.where}: {one.what}; now {set_aside(one.file).name}", flush=True)
    unfinished = RunCheck(run_dir, _asked(calls)).unfinished()
    commands = _commands(run_dir, calls, sorted({*unfinished, len(calls) - 1}))
    if not commands:
        print(_NOT_KNOWN)
    for told, command, folder in commands:
        print(f"running {told}", flush=True)
        _run(command, folder)


def _commands(
    run_dir: Path, calls: Sequence[Mapping[str, Any]], numbers: Iterable[int]
) -> list[tuple[str, list[str], str]]:
    """Return the commands of calls as they are typed and as arguments, and in which folder; each once.

    Of shards it is the whole. A run folder that is elsewhere by now is named.
    """
    commands = {}
    for number in numbers:
        call = calls[number] if 0 <= number < len(calls) else {}
        words, folder = [*call.get("command", ())], call.get("folder")
        if folder and words and words[0] in ("run", "evaluate"):
            if words[0] == "evaluate":
                words = [*_without_run_dir(words), "--run-dir", str(run_dir.resolve())]
            else:
                words = [word for word in words if not word.startswith("shard=")]
                if Path(folder, call["config"]["run_dir"]).resolve() != run_dir.resolve():
                    quoted = str(run_dir.resolve()).replace("'", "\\'")
                    words = [word for word in words if not word.startswith("run_dir=")]
                    words.append(f"run_dir='{quoted}'")
            commands[shlex.join(words), folder] = words
    return [
        (f"`cd {shlex.quote(folder)} && p2p-bench {told}`", words, folder)
        for (told, folder), words in commands.items()
    ]


def _without_run_dir(words: Sequence[str]) -> list[str]:
    """Return the words of `p2p-bench evaluate` without its run folder, in either spelling."""
    return [
        word
        for before, word in zip(["", *words], words, strict=False)
        if "--run-dir" not in (before, word) and not word.startswith("--run-dir=")
    ]


def _run(command: Sequence[str], folder: str) -> None:
    """Run a command of p2p-bench with this code; it is stopped where this process is."""
    path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH", ""))))
    environment = {**os.environ, "PYTHONPATH": path}
    with subprocess.Popen(
        [sys.executable, "-m", "experiments.run", *command], cwd=folder, env=environment
    ) as child:
        try:
            code = child.wait()
        except BaseException:
            child.terminate()
            raise
    if code:
        print(f"it ended with exit code {code}", flush=True)


def _delete(run_dir: Path, check: RunCheck, left_over: Sequence[Finding]) -> None:
    """Remove what is left over."""
    for file in sweep_partials(run_dir):
        print(f"{file.relative_to(run_dir)}: removed")
    for one in left_over:
        if one.file is None:
            forget_values(run_dir, one.where.removeprefix("metrics/"), set(check.made["key"]))
            print(f"{one.where}: {one.what}; removed")
        elif one.file.suffix != ".partial":
            one.file.unlink(missing_ok=True)
            print(f"{one.where}: removed")
