"""Tables, plots, strips and summary of a run folder, made of what it holds: `p2p-bench tables RUN`.

With `--format`, or any choice of what is shown, one table for a paper is printed and nothing is written.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd

    from results.tables.paper import Layout

FORMATS = ("markdown", "latex", "csv")


def main(arguments: Sequence[str]) -> int:
    """Run `p2p-bench tables`; return the exit code.

    No model is loaded and nothing planned; the published numbers beside the run's, the objectives of its
    Pareto front, and what its LaTeX tables show, are those of its last call.
    """
    from results.tables.paper import INTERVALS, WIDTHS

    parser = argparse.ArgumentParser("p2p-bench tables", description=__doc__)
    parser.add_argument("run_dir", type=Path)
    parser.add_argument("--no-plots", action="store_true", help="leave plots and strips as they are")
    shown = parser.add_argument_group("one table, printed")
    shown.add_argument(
        "--format", choices=FORMATS, help="how; Markdown where another of these is given alone"
    )
    shown.add_argument("--table", metavar="NAME", help="main (the usual one), pie, reweight, ...")
    shown.add_argument("--metrics", nargs="+", metavar="METRIC", help="by name, or by how names begin: lpips")
    shown.add_argument("--settings", nargs="+", metavar="ROW", help='fixed_seed, "p2p: tau 0.4", ...')
    shown.add_argument("--baseline", metavar="ROW", help='differences to this setting: "p2p: tau 0.4"')
    shown.add_argument(
        "--half-width",
        nargs="+",
        metavar="METRIC=N",
        help="how many pairs give intervals of this half-width, of means or, with --baseline, of differences",
    )
    shown.add_argument("--digits", nargs="+", metavar="N", help="decimals: 3, or lpips=3 psnr=1")
    shown.add_argument("--interval", choices=INTERVALS)
    shown.add_argument("--width", metavar="WIDTH", help=f"of LaTeX: {', '.join(WIDTHS)}, or inches")
    shown.add_argument("--edit-types", action="store_true", default=None, help="a part for each edit type")
    shown.add_argument("--rank-given", action="store_true", default=None, help="mark source images too")
    given = vars(parser.parse_args(arguments))
    run_dir, no_plots = given.pop("run_dir"), given.pop("no_plots")
    chosen = {name: value for name, value in given.items() if value is not None}
    from experiments.config_keys import check_objective
    from experiments.running.provenance import read_provenance

    if not run_dir.is_dir():
        raise ValueError(f"{run_dir}: no such run folder")
    calls = read_provenance(run_dir)
    last = calls[-1]["config"] if calls else {}
    layout, objective = _layout(last.get("tables") or {}), check_objective(last.get("objective"))
    if chosen:
        if no_plots:
            raise ValueError("--no-plots: nothing is drawn where a table is printed")
        print(_printed(run_dir, chosen, layout, objective), end="")
        return 0
    from results.summary import summarise

    published = last.get("reference") or ()
    summary = summarise(run_dir, published=published, objective=objective, layout=layout, draw=not no_plots)
    print(summary.markdown)
    print(run_dir)
    return 0


def _layout(config: dict[str, Any]) -> Layout:
    """Return the layout of a call's configuration; a value that is none raises ValueError."""
    from results.tables.paper import Layout

    return Layout(**{name: value for name, value in config.items() if name in Layout.__dataclass_fields__})


def _printed(run_dir: Path, chosen: dict[str, Any], layout: Layout, objective: Sequence[str]) -> str:
    """Return one table of a run. Raises ValueError for what the run does not have, or has no room for."""
    from results.summary import differences_to, run_table
    from results.tables import paper, paper_files

    usual = differences_to(chosen["baseline"]) if "baseline" in chosen else "main"
    language, name = chosen.pop("format", "markdown"), chosen.pop("table", usual)
    if "digits" in chosen:
        chosen["digits"] = _digits(chosen["digits"])
    if chosen.get("width", "column") not in paper.WIDTHS:
        chosen["width"] = _number("--width", chosen["width"], float)
    if metrics := chosen.pop("metrics", None):
        chosen["columns"] = metrics
    half_widths = _half_widths(chosen.pop("half_width", ()))
    if half_widths and (more := sorted(set(chosen) - {"baseline"})):
        raise ValueError(f"--half-width: goes with --baseline, --table and --format alone, not {more[0]}")
    layout = replace(layout, **chosen)
    table, directions, first = run_table(run_dir, name, objective, layout.baseline)
    methods = list(dict.fromkeys([*table["method"], layout.baseline.partition(":")[0].strip()]))
    layout.check(list(dict.fromkeys(table["metric"])), methods)
    if half_widths:
        return _needed(table, half_widths, language)
    paper.check_settings(table, layout)
    rows = paper.arranged(table, {} if name == "reweight" else directions, layout, first)
    if language == "csv":
        return paper_files.paper_csv(rows)
    if language == "markdown":
        return paper_files.paper_markdown(rows, directions, layout)
    left_out = paper_files.fitted(rows, directions, layout).left_out
    if left_out and layout.columns is not None:
        raise ValueError(
            f"--metrics: {layout.inches:g} inches have no room for {', '.join(left_out)}; "
            "--width text or inches, --interval none and fewer metrics or digits are allowed"
        )
    return paper_files.to_latex(rows, directions, layout)


def _needed(table: pd.DataFrame, half_widths: dict[str, float], language: str) -> str:
    from results.labels import csv_text
    from results.tables import needed

    rows = needed.needed_table(table, half_widths)
    if language == "latex":
        raise ValueError("--format: latex has no table of --half-width, allowed are markdown, csv")
    baselines = "; ".join(dict.fromkeys(table["baseline"])) if "baseline" in table else ""
    what = f"Differences to {baselines}." if baselines else "Means."
    return csv_text(rows) if language == "csv" else needed.to_markdown(rows, what)


def _half_widths(given: Sequence[str]) -> dict[str, float]:
    pairs = [text.rpartition("=") for text in given]
    for text, (name, _, number) in zip(given, pairs, strict=True):
        if not name or not _number("--half-width", number, float) > 0:
            raise ValueError(f"--half-width: {text!r} is not METRIC=N with N above 0, as in lpips=0.01")
    return {name: float(number) for name, number in _each_once("--half-width", pairs).items()}


def _digits(given: Sequence[str]) -> int | dict[str, int]:
    if len(given) == 1 and "=" not in given[0]:
        return int(_number("--digits", given[0], int))
    pairs = [text.rpartition("=") for text in given]
    return {
        name: int(_number("--digits", number, int)) for name, number in _each_once("--digits", pairs).items()
    }


def _each_once(option: str, pairs: Sequence[tuple[str, str, str]]) -> dict[str, str]:
    """Return (name, "=", number) by name. Raises ValueError for a name that stands there twice."""
    names = [name for name, _, _ in pairs]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise ValueError(f"{option}: {twice} stands there twice, allowed is once")
    return {name: number for name, _, number in pairs}


def _number(option: str, text: str, kind: type[int] | type[float]) -> float:
    try:
        return kind(text)
    except ValueError:
        raise ValueError(f"{option}: {text!r} is no number") from None
