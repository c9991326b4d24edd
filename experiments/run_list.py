"""What runs there are, how far each is, how large, and its first means: `p2p-bench ls RUN ...`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

_UNITS = ("bytes", "kB", "MB", "GB", "TB")


def list_runs(folders: Sequence[str]) -> str:
    """Return the runs that folders are, or hold, a line each, and a line of each one's methods.

    One that cannot be read is told of, and the others go on. ValueError for a folder without a run.
    """
    from results.run_states import run_folders, run_state

    lines = []
    for run_dir in dict.fromkeys(run for folder in folders for run in run_folders(Path(folder))):
        try:
            found = run_state(run_dir)
        except (ValueError, OSError) as error:
            lines.append(f"{run_dir}: cannot be read ({str(error).splitlines()[0]})")
            continue
        lines.append(
            f"{run_dir}: {found.state}; {_count(found.made, 'picture')} of {_count(found.pairs, 'pair')}, "
            f"{_size(found.size)}{_last_call(run_dir)}"
        )
        lines += [f"  {line}" for line in found.headline]
    return "\n".join(lines)


def _last_call(run_dir: Path) -> str:
    from experiments.running.provenance import read_provenance

    calls = read_provenance(run_dir)
    return f"; last call {calls[-1].get('time', 'unknown')}" if calls else ""


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}" + "s" * (number != 1)


def _size(size: float) -> str:
    for unit in _UNITS[:-1]:
        if size < 1000:
            return f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:.3g} {_UNITS[-1]}"
