"""From a run folder to its report: `report/index.html` and the thumbnails beside it."""

import re
from collections.abc import Collection, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pandas as pd

from results import summary
from results.plots import run_plots
from results.report import columns, comparisons, origin
from results.report.citations import citations
from results.report.heat_map_files import heat_map_files
from results.report.page import render
from results.report.problems import problems
from results.report.thumbnails import make_thumbnails, sweep, thumbnail_path
from results.store.metric_columns import load_columns
from results.store.records import load_records
from results.store.run_folder import RunFolder
from results.store.whole_files import write_whole
from results.tables import auto_tau, invariants, matched, pareto
from results.tables.cells import GIVEN
from results.tables.paper import FIXED_SEED
from results.tables.published import compare, load_reference, picture_formats


def write_report(
    run_dir: Path,
    *,
    settings: pd.DataFrame | None = None,
    candidates: pd.DataFrame | None = None,
    published: Collection[str] = (),
    calls: Sequence[Mapping[str, Any]] = (),
    tables: Mapping[str, pd.DataFrame] | None = None,
    baseline: str = FIXED_SEED,
    objective: Sequence[str] = (),
    note: str = "",
    stamp: str = "",
) -> Path:
    """Write the report of a run, of the rows that its tables are of; return the path of the page.

    `settings`, `candidates`, `published` and `note` are as in `results.summary.summarise`, `calls` are the
    run's provenance. `tables` are those of a `Summary` of equal arguments, which else are made here, with
    differences to `baseline` (`results.tables.paper.Layout.baseline`); `objective` is as in `summarise`.
    `stamp` goes into the page, where `made_of` finds it. Thumbnails that are there stay. FileNotFoundError
    where the run has no records.
    """
    run_dir = Path(run_dir)
    frame, left = summary.run_rows(run_dir, settings)
    candidates = auto_tau.load_candidates(run_dir) if candidates is None else candidates
    metrics = summary.current_metrics(frame)
    directions = {name: up for name, up in load_columns(run_dir).items() if up is not None}
    cells = summary.run_cells(frame, candidates)
    made = dict(tables or summary.run_tables(cells, metrics, directions, baseline))
    by = pareto.chosen_metrics(run_plots.measured(made["main"]), directions, objective)
    if by and not tables:
        made["matched"] = matched.matched_table(cells, by)
        found = pareto.fronts(cells, by, directions)
        made |= {"pareto": pareto.one_table(found)} if found else {}
    gaps, front = made.get("matched", pd.DataFrame()), made.get("pareto", pd.DataFrame())
    rows = columns.numbered(cells)
    made_edits = rows["status"].eq("ok") & ~rows["method"].isin(GIVEN)
    pictures = frame[frame["status"].eq("ok")]
    broken = make_thumbnails(run_dir, pictures)
    beside = load_reference(published)
    comparison = compare(made["main"], beside, picture_formats(frame)) if published else None
    data = {
        "run": run_dir.resolve().name,
        "metrics": columns.metric_columns(metrics, directions),
        "cells": columns.cell_columns(rows),
        "series": columns.series_columns(rows),
        "tables": columns.table_columns(made, rows, directions),
        "citations": citations(rows, metrics, published),
        **columns.edit_columns(rows, metrics, broken),
        "heat_maps": heat_map_files(run_dir),
    }
    page = render(
        data,
        run=run_dir.resolve().name,
        stamp=stamp,
        made=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        note=note,
        left=left,
        edits=_count(int(made_edits.sum()), "edit"),
        pairs=_count(int(cells.loc[~cells["method"].isin(GIVEN), "pair_id"].nunique()), "pair"),
        comparison=[] if comparison is None else columns.comparison_rows(comparison),
        matched=comparisons.matched_rows(gaps) if len(gaps) else [],
        matched_by=comparisons.named(by or (), directions),
        front=comparisons.front_rows(front, by) if by and len(front) else [],
        impossible=invariants.broken(made["main"]),
        problems=problems(frame, metrics, broken),
        calls=origin.calls_told(calls),
        hashes=origin.hashes(run_dir),
        times=origin.times(frame),
        models=sorted({str(name) for name in frame["model"] if name}),
        datasets=sorted({str(name) for name in frame["dataset"] if name}),
    )
    folder = RunFolder(run_dir).report
    write_whole(folder / "index.html", page)
    # Pictures of other configurations keep theirs for the report that shows them.
    recorded = load_records(run_dir)[["image", "image_sha256"]]
    sweep(run_dir, (thumbnail_path(*row) for row in recorded.to_numpy() if row[0]))
    return folder / "index.html"


def made_of(run_dir: Path) -> str:
    """Return the stamp of the run's report; "" where there is no report, or none with a stamp."""
    try:
        with (RunFolder(run_dir).report / "index.html").open(encoding="utf-8") as page:
            found = re.search(r'<meta name="made-of" content="(\w*)">', page.read(4096))
    except OSError:
        return ""
    return found[1] if found else ""


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}" + "s" * (number != 1)
