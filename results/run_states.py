"""What a run folder holds, in a few lines: how far it is, how large, and its first means.

Nothing is planned or drawn: what was asked for is what the plans left in `settings/`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from results.labels import method_label
from results.store.metric_columns import load_columns
from results.store.records import RECORD_IDENTITY, load_metrics, load_records
from results.store.run_folder import RunFolder
from results.store.setting_rows import load_settings, settings_and_others
from results.tables.cells import GIVEN
from results.tables.pareto import ALIGNMENT, PRESERVATION

DEEPEST = 3  # levels below a folder at which runs are looked for


@dataclass(frozen=True)
class RunState:
    """Counts of pictures, sources included; `left` are those of the run's plans that were not tried."""

    made: int
    failed: int
    left: int
    pairs: int
    size: int  # bytes of pictures
    headline: tuple[str, ...]  # a line a method

    @property
    def state(self) -> str:
        """Say whether the run is finished, or what is missing."""
        whole = self.made + self.failed + self.left
        parts = [f"{self.left} of {whole} left"] if self.left else []
        parts += [f"{self.failed} of {whole} failed"] if self.failed else []
        return ", ".join(parts) or "finished"


def run_folders(folder: Path) -> list[Path]:
    """Return a folder that is a run's, or those below it that are. ValueError where there is none."""
    if not folder.is_dir():
        raise ValueError(f"{folder}: no such folder; `p2p-bench ls` alone lists what can be chosen")
    found = list(_below(folder, DEEPEST))
    if not found:
        raise ValueError(f"{folder}: is no run folder, and has none in it")
    return found


def _below(folder: Path, levels: int) -> Iterator[Path]:
    run = RunFolder(folder)
    if any(part.is_dir() for part in (run.records, run.settings, run.provenance)):
        yield folder
    elif levels:
        for child in sorted(folder.iterdir()):
            if child.is_dir() and not child.name.startswith("."):
                yield from _below(child, levels - 1)


def run_state(run_dir: Path) -> RunState:
    """Return what a run folder holds; of a run that was killed at once, what it was asked for."""
    asked = load_settings(run_dir)[RECORD_IDENTITY].drop_duplicates()
    try:
        records = load_records(run_dir)
    except FileNotFoundError:
        return RunState(0, 0, len(asked), asked["pair_id"].nunique(), 0, ())
    ok = records["status"].eq("ok")
    tried = pd.MultiIndex.from_frame(records[RECORD_IDENTITY])
    left = int((~pd.MultiIndex.from_frame(asked).isin(tried)).sum())
    pictures = records[ok].drop_duplicates("image")
    return RunState(
        int(ok.sum()), int((~ok).sum()), left, int(records.loc[ok, "pair_id"].nunique()),
        int(pictures["image_bytes"].sum()), tuple(_headline(run_dir, records[ok])),
    )  # fmt: skip


def _headline(run_dir: Path, records: pd.DataFrame) -> Iterator[str]:
    """Yield for each method the means of an alignment and a preservation metric over its edits.

    As in the main table of a run's summary, a picture counts for each setting that comes to it, seeds of a
    pair are averaged first, and edits that re-weight words do not count where there are others.
    """
    rows = pd.concat(settings_and_others(records, load_settings(run_dir)), ignore_index=True)
    edits = rows[~rows["method"].isin(GIVEN)]
    plain = edits["weights"].eq("{}") & edits["source_prompt"].ne(edits["target_prompt"])
    edits = edits[plain] if plain.any() else edits
    values = load_metrics(run_dir)
    known = [name for name, up in load_columns(run_dir).items() if up is not None]
    for method, rows in edits.groupby("method"):
        told = []
        settings = rows.groupby(["params", "inversion", "setup"], dropna=False).ngroup().set_axis(rows["key"])
        for kind in (ALIGNMENT, PRESERVATION):
            metric = next((name for start in kind for name in known if name.startswith(start)), None)
            own = values[values["metric"].eq(metric)].set_index("key")["value"]
            of_pair = own.reindex(settings.index).groupby([settings.to_numpy(), rows["pair_id"].to_numpy()])
            means = of_pair.mean().groupby(level=0).mean().dropna()
            if len(means):
                told.append(f"{metric} {_range(means.to_numpy())}")
        count = settings.nunique()
        several = f" ({count} settings)" if count > 1 else ""
        yield f"{method_label(str(method))}{several}: {', '.join(told) or 'not scored'}"


def _range(means: np.ndarray) -> str:
    low, high = f"{means.min():.3g}", f"{means.max():.3g}"
    return low if low == high else f"{low} to {high}"
