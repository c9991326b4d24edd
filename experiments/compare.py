"""Runs beside runs, pair by pair, and how their configurations differ: `p2p-bench compare RUN RUN ...`."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from results.run_keys import CARRIED_OUT, COMPARED, PART, PLACES, SHOWN

NOT_THE_PICTURES = (*SHOWN, *CARRIED_OUT, *PART, *PLACES, *COMPARED, "evaluate.run_dir")
"""Keys of a configuration that change neither a picture nor its values."""
_LONGEST = 60  # letters of a value


def main(arguments: Sequence[str]) -> int:
    """Run `p2p-bench compare`; return the exit code. No model is loaded, and nothing written but `--csv`."""
    parser = argparse.ArgumentParser("p2p-bench compare", description=__doc__.splitlines()[0])
    parser.add_argument("run_dirs", type=Path, nargs="+", metavar="RUN", help="the first is the baseline")
    parser.add_argument("--metrics", nargs="+", default=[], metavar="METRIC", help="these alone")
    parser.add_argument("--csv", type=Path, help="write all numbers there")
    given = parser.parse_args(arguments)
    from experiments.running.provenance import read_provenance
    from results.labels import csv_text
    from results.run_differences import compare_runs
    from results.store.whole_files import write_whole

    found = compare_runs(given.run_dirs, given.metrics)
    print("\n".join(told_configs(given.run_dirs, [read_provenance(one) for one in given.run_dirs])))
    print(found.to_markdown(), end="")
    if given.csv is not None:
        write_whole(given.csv, csv_text(found.table))
        print(given.csv)
    return 0


def told_configs(run_dirs: Sequence[Path], calls: Sequence[Sequence[Mapping[str, Any]]]) -> list[str]:
    """Say in Markdown how the last calls of runs differ, `calls` being each one's, the first one first."""
    from results.labels import escape_markdown

    told = [dict(_flat(_settings(each[-1]))) if each else {} for each in calls]
    keys = list(dict.fromkeys(key for one in told for key in one))
    differ = [key for key in keys if len({_spelled(one, key) for one in told}) > 1]
    lines = [
        f"{run_dir}: {len(each)} calls, of which the last counts here"
        if each
        else f"{run_dir}: has no provenance"
        for run_dir, each in zip(run_dirs, calls, strict=True)
        if len(each) == 0 or len({json.dumps(dict(_flat(_settings(call))), default=str) for call in each}) > 1
    ]
    if not differ:
        return [*lines, "The configurations do not differ.", ""]
    rows = [["", *map(str, run_dirs)], ["---"] * (1 + len(run_dirs))]
    rows += [[key, *(_spelled(one, key) for one in told)] for key in differ]
    table = ["| " + " | ".join(escape_markdown(cell) for cell in row) + " |" for row in rows]
    return [*lines, "**How they differ**", "", *table, ""]


def _settings(call: Mapping[str, Any]) -> dict[str, Any]:
    """Return what of a call may change pictures or values: configuration, code, versions, hardware."""
    git = call.get("git") or {}
    dirty = " and changes" if git.get("dirty") else ""
    return {
        **{key: value for key, value in call["config"].items() if key not in NOT_THE_PICTURES},
        "code": f"{str(git.get('commit'))[:12]}{dirty}",
        "versions": call.get("versions"),
        "python": call.get("python"),
        "hardware": call.get("device"),
    }


def _flat(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Yield each value of a configuration with its dotted key."""
    if isinstance(value, Mapping) and value:
        for key, part in value.items():
            yield from _flat(part, f"{path}.{key}" if path else str(key))
    elif path not in NOT_THE_PICTURES:
        yield path, value


def _spelled(told: Mapping[str, Any], key: str) -> str:
    if key not in told:
        return "—"
    text = json.dumps(told[key], ensure_ascii=False, default=str)
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 1]}…"
