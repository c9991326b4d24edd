"""From the answers of raters to tables and a plot: preference rates, Bradley-Terry scores, agreement."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from results.labels import csv_text, escape_markdown, escape_mathtext
from results.plots.plot_style import INK, SIZE, new_figure, save
from results.store.whole_files import write_whole
from results.study.answers import answer_rows, load_sheets, rater_rows
from results.study.items import QUESTIONS, Study
from results.study.statistics import bradley_terry, krippendorff_alpha, share
from results.tables.statistics import FEWEST_PAIRS


def write_outcome(study: Study, answers: Path, folder: Path) -> str:
    """Write what the answers say, as tables and a plot in a folder; return it as Markdown.

    FileNotFoundError where there are no answers, ValueError where they are not of this study.
    """
    sheets, doubles = load_sheets(answers, study)
    raters = rater_rows(sheets, study)
    counted = set(raters.loc[raters["left_out"].eq(""), "rater"])
    rows = answer_rows([sheet for sheet in sheets if sheet.rater in counted], study)
    tables = {
        "raters": raters,
        "preferences": preferences(rows, study.rows),
        "scores": scores(rows, study.rows),
        "agreement": agreement(rows),
    }
    text = _told(study, tables, doubles)
    for name, table in tables.items():
        write_whole(folder / f"{name}.csv", csv_text(table))
    write_whole(folder / "summary.md", text)
    if len(rows):
        save(rates_plot(tables["preferences"]), folder / "preferences")
    return text


def preferences(rows: pd.DataFrame, names: Sequence[str]) -> pd.DataFrame:
    """Return by question and comparison how often the first was preferred, each pair counting once.

    `rows` are `results.study.answers.answer_rows`; `names` the labels of the rows compared.
    """
    told = []
    for (question, first, second), part in _by(rows, ["question", "first", "second"]):
        of_pair = part.groupby("pair")["chose_first"].mean().to_numpy()
        found = share(of_pair, len(part))
        told.append(
            {
                "question": question,
                "first": names[first],
                "second": names[second],
                "rate": found.rate,
                "low": found.low,
                "high": found.high,
                "pairs": len(of_pair),
                "raters": part["rater"].nunique(),
                "answers": len(part),
            }
        )
    columns = ["question", "first", "second", "rate", "low", "high", "pairs", "raters", "answers"]
    return pd.DataFrame(told, columns=columns)


def scores(rows: pd.DataFrame, names: Sequence[str]) -> pd.DataFrame:
    """Return by question the Bradley-Terry score of each row, the strongest first."""
    told = []
    for (question,), part in _by(rows, ["question"]):
        pairs = {pair: place for place, pair in enumerate(sorted(part["pair"].unique()))}
        wins = np.zeros((len(pairs), len(names), len(names)))
        won, lost = part["first"].to_numpy(), part["second"].to_numpy()
        turned = part["chose_first"].eq(0).to_numpy()
        won, lost = np.where(turned, lost, won), np.where(turned, won, lost)
        np.add.at(wins, (part["pair"].map(pairs).to_numpy(), won, lost), 1)
        for name, score, low, high in sorted(zip(names, *bradley_terry(wins)), key=lambda one: -one[1]):
            told.append({"question": question, "row": name, "score": score, "low": low, "high": high})
    return pd.DataFrame(told, columns=["question", "row", "score", "low", "high"])


def agreement(rows: pd.DataFrame) -> pd.DataFrame:
    """Return by question Krippendorff's alpha of which of two was chosen, over all comparisons."""
    told = []
    for (question,), part in _by(rows, ["question"]):
        counts = pd.crosstab(part["item"], part["chose_first"]).to_numpy()
        alpha, reason = krippendorff_alpha(counts)
        told.append(
            {
                "question": question,
                "alpha": alpha,
                "reason": reason,
                "items": len(counts),
                "raters": part["rater"].nunique(),
            }
        )
    return pd.DataFrame(told, columns=["question", "alpha", "reason", "items", "raters"])


def rates_plot(table: pd.DataFrame) -> Figure:
    """Draw preference rates with their intervals, a panel per question and a line per comparison."""
    compared = list(dict.fromkeys(zip(table["first"], table["second"])))
    asked = [question for question in QUESTIONS if question in set(table["question"])]
    figure, panels = new_figure(len(asked), width=3.1, height=1.1 + 0.55 * len(compared), share_y=True)
    for axes, question in zip(panels, asked):
        part = table[table["question"].eq(question)].set_index(["first", "second"]).loc[compared]
        places = np.arange(len(part))[::-1]
        rate = 100 * part["rate"].to_numpy()
        bounds = np.abs(100 * part[["low", "high"]].to_numpy().T - rate)
        axes.axvline(50, color="#999999", linewidth=1)
        axes.errorbar(
            rate, places, xerr=bounds, fmt="o", color="#0072B2", markersize=5, elinewidth=1.6, capsize=3
        )
        axes.set(xlim=(-2, 102), ylim=(-0.6, len(part) - 0.4), xticks=[0, 25, 50, 75, 100])
        axes.grid(False, axis="y")
        axes.set_title(question, fontsize=SIZE, color=INK, loc="left")
        axes.set_xlabel("preferred the upper one, %" if axes is panels[0] else "", fontsize=SIZE, color=INK)
        labels = [f"{_plain(first)}\nto {_plain(second)}" for first, second in compared]
        axes.set_yticks(places, labels)
    return figure


def _by(rows: pd.DataFrame, names: list[str]) -> list[tuple[tuple, pd.DataFrame]]:
    """Part rows, the questions in their order."""
    parts = list(rows.groupby(names, sort=True))
    return sorted(parts, key=lambda part: list(QUESTIONS).index(part[0][0]))


def _plain(label: str) -> str:
    text = escape_mathtext(label)
    return text if len(text) <= 42 else f"{text[:39]}…"


def _told(study: Study, tables: dict[str, pd.DataFrame], doubles: int) -> str:
    raters = tables["raters"]
    counted = raters["left_out"].eq("")
    checks = sum(bool(item.right) for item in study.items)
    twice = f" {doubles} came more than once and count once." if doubles else ""
    lines = [
        f"{len(raters)} {'rater' if len(raters) == 1 else 'raters'}, {counted.sum()} of them counted; "
        f"{len(study.items) - checks} comparisons and {checks} attention checks each.{twice}"
    ]
    if not counted.any():
        return "\n\n".join([*lines, "No answers count.", *_raters(raters)]) + "\n"
    rates = [
        (
            row.question,
            *(escape_markdown(name) for name in (row.first, row.second)),
            f"{100 * row.rate:.0f} % [{100 * row.low:.0f}, {100 * row.high:.0f}]",
            *(f"{number}" for number in (row.pairs, row.raters, row.answers)),
        )
        for row in tables["preferences"].itertuples()
    ]
    strengths = [
        (row.question, escape_markdown(row.row), _interval(row)) for row in tables["scores"].itertuples()
    ]
    alphas = [
        (
            row.question,
            "—" if np.isnan(row.alpha) else f"{row.alpha:.2f}".replace("-", "−"),
            row.reason or "—",
        )
        for row in tables["agreement"].itertuples()
    ]
    left = raters.loc[counted, "left"].mean()
    return (
        "\n\n".join(
            [
                *lines,
                "**How often the first is preferred to the second**",
                _table(
                    ("question", "first", "second", "first preferred", "pairs", "raters", "answers"), rates, 3
                ),
                "Each pair counts once; 95 % interval over pairs, Wilson's of as many answers as the pairs' "
                "shares are worth. That raters might be others is not in it.",
                "**Bradley-Terry scores**",
                _table(("question", "row", "score"), strengths, 2),
                "Log-odds against a row of average strength; 95 % interval over pairs, from "
                f"{FEWEST_PAIRS} pairs on. Each of two compared rows is given half a win more.",
                "**Agreement of raters**",
                _table(("question", "Krippendorff's alpha", "undefined, as"), alphas, 1),
                f"Of the counted answers {100 * left:.0f} % are of the left picture.",
                *_raters(raters),
            ]
        )
        + "\n"
    )


def _raters(raters: pd.DataFrame) -> list[str]:
    rows = [
        (
            row.rater[:8],
            f"{row.answers} of {row.items}",
            f"{row.checks_passed} of {row.checks}",
            "—" if np.isnan(row.median_seconds) else f"{row.median_seconds:.1f}",
            "yes" if not row.left_out else f"no, {row.left_out}",
        )
        for row in raters.itertuples()
    ]
    header = ("rater", "answered", "checks passed", "seconds a comparison", "counted")
    return ["**Raters**", _table(header, rows, 1)]


def _interval(row: Any) -> str:
    told = f"{row.score:+.2f}" + ("" if np.isnan(row.low) else f" [{row.low:+.2f}, {row.high:+.2f}]")
    return told.replace("-", "−")


def _table(header: Sequence[str], rows: Sequence[Sequence[str]], texts: int) -> str:
    """Write a Markdown table whose first columns are texts and whose others are numbers."""
    align = ["---" if place < texts else "---:" for place in range(len(header))]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in (header, align, *rows))
