"""`p2p-bench evaluate`: score a folder of images that any other tool made with the configured metrics."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Sequence
from dataclasses import asdict

from experiments import report
from experiments.config_keys import check_flags, check_numbers
from experiments.configured import composed, instantiated, metrics_of, published_names
from experiments.running.provenance import write_provenance
from experiments.scoring import score_folder
from results.summary import summarise


def main(arguments: Sequence[str] | None = None) -> int:
    """Score the folder, make its tables and report; return the exit code, 1 where an image has no score.

    Raises ValueError or OSError for wrong input, before anything is scored.
    """
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    given, table, overrides = score_folder.parse(arguments)
    own = ["metrics", "reference", "plots", "report", "tables", *(["dataset"] if table is None else [])]
    allowed = ["metrics_device", *own]
    for override in overrides:
        if re.split(r"[.=@]", override.lstrip("+~"))[0] not in allowed:
            raise ValueError(f"{override!r}: changes nothing here, allowed are {', '.join(allowed)}")
    plain = composed(overrides)
    chosen = {key: plain[key] for key in own if key not in ("plots", "report")}
    check_flags(plain)
    check_numbers(chosen)
    metrics = metrics_of(chosen["metrics"])
    published, draw = published_names(chosen["reference"]), plain["plots"]
    layout = instantiated("tables", chosen["tables"])
    layout.check([name for metric in metrics for name in metric.names])
    if "unusable_blend_words" in chosen.get("dataset", {}):  # they bound edits, and none is made here
        chosen["dataset"] = {**chosen["dataset"], "unusable_blend_words": "drop"}
    dataset = table or instantiated("dataset", chosen["dataset"])
    failed = score_folder.score_folder(given, dataset, metrics)
    told = {"evaluate": asdict(given) | {"edits": str(given.edits.resolve())}, "dataset": asdict(dataset)}
    command = {"command": ["evaluate", *arguments], "folder": os.getcwd()}
    asked = {**command, "metrics": {metric.name: list(metric.names) for metric in metrics}}
    write_provenance(given.run_dir, {**chosen, **told}, score_folder.MODEL, asked)
    summary = summarise(given.run_dir, published=published, layout=layout, draw=draw)
    print(summary.markdown)
    if plain["report"]:
        given_tables = {"tables": summary.tables, "baseline": layout.baseline}
        report.write_beside(given.run_dir, published=published, **given_tables)
    print(given.run_dir)
    return 1 if failed else 0
