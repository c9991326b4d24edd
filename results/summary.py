"""From a run folder to its tables, plots and picture strips, in one call.

Works on partial runs and says what is missing; what it writes can always be made again from the records.
"""

import io
import re
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import pandas as pd

from results.collector import seldom_collected
from results.labels import escape_markdown, published_name
from results.plots import pareto_plots, plot_style, run_plots, strips, sweep_plots, truth_plots
from results.store import made_from
from results.store.metric_columns import load_columns
from results.store.records import RECORD_IDENTITY, load, metric_columns
from results.store.run_folder import RunFolder
from results.store.setting_rows import load_settings, settings_and_others
from results.store.whole_files import write_whole
from results.tables import (
    auto_tau,
    matched,
    matched_files,
    metric_ranks,
    paper_files,
    pareto,
    table_files,
    tables,
)
from results.tables.cells import ALL, CONTEXT, GIVEN, is_plain, made_elsewhere, with_cells
from results.tables.invariants import broken
from results.tables.paper import FIXED_SEED, USUAL, Layout, check_baseline
from results.tables.published import compare, load_reference, picture_formats, write_comparison

_PAIR = ["dataset", "pair_id", "source_prompt", "target_prompt"]
_VERSION = re.compile(r"(.+)@(\d+)")  # of a metric's column


@dataclass(frozen=True)
class Summary:
    """What `summarise` wrote (`paths`), the text for the terminal, and the parts that a tracker copies."""

    markdown: str
    paths: tuple[Path, ...]
    tables: dict[str, pd.DataFrame]
    images: dict[str, Path]
    n_images: int
    n_failed: int
    rows: pd.DataFrame = field(default_factory=pd.DataFrame)  # `run_rows`, empty where tables were left


@seldom_collected()
def summarise(
    run_dir: Path,
    *,
    settings: pd.DataFrame | None = None,
    candidates: pd.DataFrame | None = None,
    published: Collection[str] = (),
    objective: Sequence[str] = (),
    layout: Layout = USUAL,
    draw: bool = True,
    reuse: bool = False,
    note: str = "",
) -> Summary:
    """Write `tables/`, `plots/`, `strips/` under `run_dir`; return them and the main table as Markdown.

    `settings` (`results.store.setting_rows`) limits it to one plan's rows, where the folder holds more, and
    to what `evaluate` was given for the pairs of these.
    `candidates` of `tau: auto` are by default those of every plan in the folder. `published` names tables of
    published numbers (`results.tables.published`) to show beside the run's own, in `tables/published`.
    `objective` names the two metrics of `tables/pareto`, by default alignment and preservation
    (`results.tables.pareto`). `layout` is of the LaTeX tables (`results.tables.paper`).
    Without `draw` there are tables alone; plots and strips of an earlier call stay as they were. What
    else an earlier call wrote and this one does not is removed. With `reuse`, what an earlier call made of
    equal rows by equal code is left, and `tables` of the result is empty. `note` is put before the summary.
    FileNotFoundError where the run has no records.
    """
    run_dir = Path(run_dir)
    folder = RunFolder(run_dir)
    frame, left = run_rows(run_dir, settings)
    if left:
        more = f"{_count(left, 'more image')} of other configurations: in records/, not in these tables."
        note = f"{note}\n{more}" if note else more
    columns, metrics = load_columns(run_dir), current_metrics(frame)
    directions = {name: up for name, up in columns.items() if up is not None}
    images = frame.drop_duplicates(RECORD_IDENTITY)
    candidates = auto_tau.load_candidates(run_dir) if candidates is None else candidates
    inputs = made_from.digest(
        [frame, candidates], [directions, sorted(published), [*objective], asdict(layout), draw, note]
    )
    failed = int(images["status"].ne("ok").sum())
    if reuse and (kept := made_from.kept(folder, inputs)):
        text = folder.summary.read_text(encoding="utf-8")
        return Summary(text, kept, {}, _thumbnails(kept), len(images) - failed, failed)
    before = made_from.written(folder)
    cells = run_cells(frame, candidates)
    made_cells, chosen = cells.iloc[: len(frame)], cells.iloc[len(frame) :]
    made = run_tables(cells, metrics, directions, layout.baseline)
    if len(chosen):
        chosen = auto_tau.labelled(chosen)
        made["auto_tau"] = tables.main_table(chosen, [auto_tau.CHOSEN_TAU, auto_tau.TARGET_MISSED, *metrics])
    headings = _headings(directions)
    by = pareto.chosen_metrics(run_plots.measured(made["main"]), directions, objective)
    paths = [
        path
        for name, table in made.items()
        for path in paper_files.write_table(
            table, folder.tables / name, headings, layout, first=by or (), ranked=name != "reweight"
        )
    ]
    figures = _plots(folder.plots, made["main"], made_cells, directions) if draw else []
    if len(chosen):
        paths.append(auto_tau.write_chosen(run_dir, chosen))
    if len(chosen) and draw:
        figures += plot_style.save(sweep_plots.chosen_taus(chosen), folder.plots / "auto_tau")
    pictures = _strips(run_dir, cells) if draw else []
    text = (
        (f"{note}\n\n" if note else "") + state(images) + (auto_tau.describe(chosen) if len(chosen) else "")
    )
    if untold := [name for name in metrics if name not in columns]:
        text += f"Which way is better is not known of {', '.join(untold)}: run again with these metrics.\n"
    if metrics and layout.baseline != FIXED_SEED and differences_to(layout.baseline) not in made:
        text += f"No differences: {_no_baseline(cells, layout.baseline)}.\n"
    if metrics:
        text += "".join(f"This cannot be: {escape_markdown(line)}.\n" for line in broken(made["main"]))
        plain = made["main"][is_plain(made["main"])]
        text += "\n" + table_files.to_markdown(plain, directions, by_edit_type=False)
        text += "\nRe-weighting: see tables/reweight.md.\n" if "reweight" in made else ""
        text += "\nBy difficulty: see tables/by_difficulty.md.\n" if "by_difficulty" in made else ""
        text += "\nPIE-Bench's columns, scaled as published: see tables/pie.md.\n" if "pie" in made else ""
    if truths := metric_ranks.truth_columns(metrics):
        others = [name for name in metrics if name not in truths]
        ranks = metric_ranks.rank_correlations(made_cells, truths, others, directions)
        paths += metric_ranks.write_correlations(ranks, folder.tables / "correlations")
        figures += _truth_plots(folder.plots, made["main"], ranks, directions) if draw else []
        text += "\nWhich metric ranks settings as the truth does: see tables/correlations.md.\n"
    if by and (found := pareto.fronts(cells, by, directions)):
        paths += pareto.write_fronts(found, directions, folder.tables / "pareto")
        figures += pareto_plots.draw(found, directions, folder.plots / "pareto") if draw else []
        text += f"\nPareto front of {' and '.join(by)}: see tables/pareto.md.\n"
        text += "".join(f"{pareto.told(front)}\n" for front in found)
        made["pareto"] = pareto.one_table(found)
    if by and len(gaps := matched.matched_table(cells, by)):
        paths += matched_files.write_matched(gaps, directions, folder.tables / "matched")
        text += "\nCurves at equal preservation: see tables/matched.md.\n"
        made["matched"] = gaps
        overall = gaps[gaps["edit_type"].eq(ALL)].to_dict("records")
        text += "".join(f"{matched_files.told(row, directions)}\n" for row in overall)
    if published:
        comparison = compare(made["main"], load_reference(published), picture_formats(frame))
        paths += write_comparison(comparison, folder.tables / "published")
        text += f"\nBeside published numbers ({len(comparison)} rows): see tables/published.md.\n"
    write_whole(folder.summary, text)
    paths += [folder.summary, *figures, *pictures]
    drawings = [] if draw else [path for path in before if path.parent in (folder.plots, folder.strips)]
    for path in set(before) - {*paths, *drawings}:
        path.unlink(missing_ok=True)
    made_from.write(folder, inputs, paths, [path for path in drawings if path.exists()])
    return Summary(text, tuple(paths), made, _thumbnails(paths), len(images) - failed, failed, frame)


def _no_baseline(cells: pd.DataFrame, baseline: str) -> str:
    """Say in Markdown why a run has no differences to a baseline."""
    try:
        check_baseline(cells, baseline)
    except ValueError as error:
        return escape_markdown(str(error))
    return escape_markdown(f"tables.baseline: {baseline!r} is the only setting")


def run_rows(run_dir: Path, settings: pd.DataFrame | None = None) -> tuple[pd.DataFrame, int]:
    """Return the rows that a run's tables are of, and how many images of other configurations they leave out.

    A row is a setting of a picture, with a column per metric. `settings` is as in `summarise`.
    """
    records = load(run_dir)
    known = load_settings(run_dir) if settings is None else settings
    frame, others = settings_and_others(records, known)
    # What no plan tells of stays as it was recorded.
    stays = pd.Series(True, index=others.index) if settings is None else _given_for(frame, others)
    frame = pd.concat([frame, others[stays]], ignore_index=True)
    return _without_copies(frame), int((~stays).sum())


def run_cells(frame: pd.DataFrame, candidates: pd.DataFrame) -> pd.DataFrame:
    """Return `run_rows`' rows with their cells, and below them those that `tau: auto` chose."""
    if candidates.empty:
        return with_cells(frame)
    chosen = auto_tau.chosen_rows(frame.drop_duplicates(RECORD_IDENTITY), candidates)
    return with_cells(pd.concat([frame, chosen], ignore_index=True) if len(chosen) else frame)


def current_metrics(frame: pd.DataFrame) -> list[str]:
    """Return the metrics that tables show: where there are several versions of one, the newest."""
    older = older_versions(metric_columns(frame))
    return [name for name in metric_columns(frame) if name not in older]


def _thumbnails(paths: Sequence[Path]) -> dict[str, Path]:
    return {f"{path.parent.name}/{path.stem}": path for path in paths if path.suffix == ".png"}


def state(frame: pd.DataFrame) -> str:
    """Say in Markdown what a run holds: images, failures with their causes, metrics not evaluated."""
    ok = frame["status"].eq("ok")
    lines = [f"{ok.sum()} images of {_count(frame.loc[ok, 'pair_id'].nunique(), 'pair')}."]
    if not ok.all():
        failed = frame[~ok]
        lines += [f"{_count(len(failed), 'image')} in {_count(failed['group'].nunique(), 'group')} failed:"]
        told = failed["error"].map(lambda error: error.splitlines()[0] if error else "no cause recorded")
        causes = Counter(told)
        for cause, count in causes.most_common(5):
            ids = list(failed.loc[told.eq(cause), "pair_id"].unique())
            listed = ", ".join(ids[:20]) + (f", and {len(ids) - 20} others" if len(ids) > 20 else "")
            lines += [f"- {count} x {escape_markdown(cause)} ({escape_markdown(listed)})"]
        lines += [f"- and {len(causes) - 5} other causes"] if len(causes) > 5 else []
    metrics = metric_columns(frame)
    older = older_versions(metrics)  # no metric computes them any more
    current = current_metrics(frame)
    waiting = {name: int(frame[f"reason:{name}"].eq("not evaluated").sum()) for name in current}
    lines += [f"{name}: {count} images not evaluated." for name, count in waiting.items() if count]
    if older:
        lines += [f"Values under older names are in metrics/, not in these tables: {', '.join(older)}."]
    lines += [] if metrics else ["No metric was evaluated."]
    return "\n".join(lines) + "\n"


def older_versions(metrics: Sequence[str]) -> list[str]:
    """Return the columns, such as `ssim@2`, that have a newer version among them, `ssim@3`."""
    versions = [(match[1], int(match[2])) for name in metrics if (match := _VERSION.fullmatch(name))]
    newest = {column: max(each for name, each in versions if name == column) for column, _ in versions}
    return [f"{column}@{version}" for column, version in versions if version < newest[column]]


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" + "s" * (number != 1)


def run_tables(
    cells: pd.DataFrame,
    metrics: list[str],
    directions: Mapping[str, bool] | None = None,
    baseline: str = FIXED_SEED,
) -> dict[str, pd.DataFrame]:
    """Return the tables that a run has rows for, by the names of their files.

    Of metrics whose better direction is not in `directions` there are no win rates. `baseline` is
    `results.tables.paper.Layout.baseline`.
    """
    made = {
        "main": tables.main_table(cells, metrics),
        "pie": tables.published_table(cells, metrics),
        "reweight": tables.reweight_table(cells, metrics),
        differences_to(baseline): tables.difference_table(cells, metrics, baseline, directions),
    }
    if len(parted := tables.by_difficulty(cells)):
        differences = tables.difference_table(parted, metrics, baseline, directions)
        made["by_difficulty"] = tables.as_difficulty(tables.main_table(parted, metrics))
        made["difference_by_difficulty"] = tables.as_difficulty(differences)
    return {name: table for name, table in made.items() if name == "main" or len(table)}


def differences_to(baseline: str) -> str:
    """Return the name of the table of differences to a baseline."""
    return "difference_to_fixed_seed" if baseline == FIXED_SEED else "difference_to_baseline"


def run_table(
    run_dir: Path, name: str, objective: Sequence[str] = (), baseline: str = FIXED_SEED
) -> tuple[pd.DataFrame, dict[str, bool], tuple[str, ...]]:
    """Return one of a run's tables, which direction of its metrics is better, and which metrics come first.

    Raises ValueError for a table or a baseline that the run does not have.
    """
    frame, _ = run_rows(run_dir)
    metrics = current_metrics(frame)
    cells = run_cells(frame, auto_tau.load_candidates(run_dir))
    directions = {column: up for column, up in load_columns(run_dir).items() if up is not None}
    if name == differences_to(FIXED_SEED):
        baseline = FIXED_SEED
    elif name in (differences_to(baseline), "difference_by_difficulty"):
        check_baseline(cells, baseline)
    made = run_tables(cells, metrics, directions, baseline)
    if name not in made:
        raise ValueError(f"{name!r} is no table of {run_dir}, allowed are {', '.join(made)}")
    by = pareto.chosen_metrics(run_plots.measured(made["main"]), directions, objective)
    return made[name], _headings(directions), by or ()


def _headings(directions: Mapping[str, bool]) -> dict[str, bool]:
    """Return the better directions of metrics under their own names, and under those that are published."""
    return {**directions, **{published_name(name): up for name, up in directions.items()}}


def _given_for(frame: pd.DataFrame, others: pd.DataFrame) -> pd.Series:
    """Mark pictures given to `evaluate`, failed ones included, whose pair is one of the rows of `frame`."""
    of_source, of_edit = ["pair_id", "source_prompt"], ["pair_id", "source_prompt", "target_prompt"]
    source, edit = (
        pd.MultiIndex.from_frame(others[names]).isin(pd.MultiIndex.from_frame(frame[names]))
        for names in (of_source, of_edit)
    )
    return made_elsewhere(others) & ((others["method"].eq("source") & source) | edit)


def _without_copies(frame: pd.DataFrame) -> pd.DataFrame:
    """Leave out source images given to `evaluate` that are the very files of the run's own sources."""
    files = frame.loc[frame["method"].eq("source"), ["pair_id", "image_sha256", "setup"]]
    elsewhere = made_elsewhere(files)
    given, own = (
        pd.MultiIndex.from_frame(rows[["pair_id", "image_sha256"]])
        for rows in (files[elsewhere], files[~elsewhere & files["image_sha256"].ne("")])
    )
    copies = frame.index.isin(files.index[elsewhere][given.isin(own)])
    return frame[~copies].reset_index(drop=True)


def _plots(
    folder: Path, table: pd.DataFrame, cells: pd.DataFrame, directions: Mapping[str, bool]
) -> list[Path]:
    """Draw what the table has rows for, a file per model, data set and inversion where there are several.

    `cells` are the rows that the table is made of.
    """
    contexts = _contexts(table, cells)
    paths: list[Path] = []
    for context, part in contexts:
        entries = [str(entry) for entry in context if not pd.isna(entry) and entry != ""]
        told = re.sub(r"[^A-Za-z0-9.]+", "_", "-".join(entries))
        end = f"-{told}" if len(contexts) > 1 else ""
        for plot in run_plots.PLOTS:
            for name, figure in plot(part, directions):
                paths += plot_style.save(figure, folder / f"{name}{end}")
    return paths


def _truth_plots(
    folder: Path, table: pd.DataFrame, ranks: pd.DataFrame, directions: Mapping[str, bool]
) -> list[Path]:
    paths = plot_style.save(truth_plots.trade_off(table, directions), folder / "ground_truth")
    if len(ranks):
        paths += plot_style.save(truth_plots.correlations(ranks), folder / "correlations")
    return paths


def _contexts(table: pd.DataFrame, cells: pd.DataFrame) -> list[tuple[tuple[object, ...], pd.DataFrame]]:
    """Part a table by context; what starts from the image itself stands beside what each inversion gives.

    What other tools made stands in each context of equal pairs, and in one of its own where there is none.
    """
    shared = [name for name in CONTEXT if name != "inversion"]
    elsewhere = made_elsewhere(table)
    made_here, alone = table[~elsewhere], table[elsewhere]
    edits = cells.loc[~cells["method"].isin(GIVEN), list(dict.fromkeys([*shared, "method", *_PAIR]))]
    edited = _pairs(edits[~made_elsewhere(edits)], shared)
    parts = []
    for context, part in made_here.groupby(shared, dropna=False):
        for (method,), pairs in _pairs(edits[made_elsewhere(edits)], ["method"]).items():
            if pairs == edited.get(context):
                rows = table[elsewhere & table["method"].eq(method)]
                part, alone = pd.concat([part, rows]), alone[alone["method"].ne(method)]
        parts.append((context, part))
    if not alone["method"].isin(GIVEN).all() or not parts:
        parts += [(told, part) for told, part in alone.groupby(["model", "dataset"], dropna=False)]
    contexts: list[tuple[tuple[object, ...], pd.DataFrame]] = []
    for context, part in parts:
        free = part["inversion"].eq("")
        for inversion in sorted(set(part.loc[~free, "inversion"])):
            rows = part["inversion"].eq(inversion) | (free & ~part["method"].isin(GIVEN))
            contexts.append(((*context, inversion), part[rows]))
        if free.all():
            contexts.append((context, part))
    return contexts


def _pairs(cells: pd.DataFrame, by: list[str]) -> dict[tuple[object, ...], frozenset[tuple[str, ...]]]:
    """Return for each group of rows which pairs it is of, whatever their seeds."""
    pairs = cells[list(dict.fromkeys([*by, *_PAIR]))].drop_duplicates()
    return {
        name: frozenset(rows[_PAIR].itertuples(index=False, name=None))
        for name, rows in pairs.groupby(by, dropna=False)
    }


def _strips(run_dir: Path, cells: pd.DataFrame) -> list[Path]:
    """Draw a strip, one per inversion where there are several, beside what starts from the image itself."""
    inversions = sorted(set(cells["inversion"].unique()) - {""})
    paths: list[Path] = []
    for inversion in inversions or [""]:
        shown = cells[cells["inversion"].isin(["", inversion])].assign(inversion=inversion)
        if pairs := strips.choose_pairs(shown):
            end = "-" + re.sub(r"[^A-Za-z0-9.]+", "_", inversion) if len(inversions) > 1 else ""
            paths.append(RunFolder(run_dir).strips / f"pairs{end}.png")
            content = io.BytesIO()
            strips.strip(run_dir, shown, pairs).save(content, format="PNG")
            write_whole(paths[-1], content.getvalue())
    return paths
