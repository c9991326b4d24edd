"""What holds of every mean, published or ours, whatever the method: a number that breaks it is a mistake.

Jensen's inequality bounds a mean MSE by the mean PSNR of the same images; PIE-Bench (Ju et al. 2024) has as
many images as it has.
"""

import re
from collections.abc import Sequence
from typing import Any

import pandas as pd

from results.tables.cells import ALL, CELL, GIVEN

PIE_BENCH = "pie_bench"
WHOLE, OUTSIDE = 700, 556
"""PIE-Bench's images, and those whose mask leaves any of the picture out: the columns of the background."""
PRINTED = 0.01  # of an MSE: two decimals of a PSNR are 0.12 %, three digits of an MSE 0.5 %
COMPUTED = 1e-6
_OUTSIDE = re.compile(r"pie/\w+_unedit@\d+")
_WHOLE = re.compile(r"pie/(structure_distance|clip_similarity_\w+)@\d+")
_ERROR = re.compile(r"(pie/|published/)?mse(_unedit)?(@\d+)?")


def most_images(column: str) -> float:
    """Return of how many images a column of PIE-Bench is the mean; infinite for any other column."""
    if _OUTSIDE.fullmatch(column):
        return OUTSIDE
    return WHOLE if _WHOLE.fullmatch(column) else float("inf")


def impossible_errors(means: pd.DataFrame, by: Sequence[str], slack: float) -> pd.DataFrame:
    """Return the rows of mean MSEs below 10 ** (-PSNR / 10) of the same images.

    Rows are `by`, `metric` and `mean`, unscaled, of images in [0, 1]; `slack` is a share of the bound.
    PSNR is convex in MSE, so the mean of PSNRs is never below the PSNR of the mean (Jensen).
    """
    errors = means[means["metric"].astype(str).str.fullmatch(_ERROR)]
    errors = errors.assign(_psnr=errors["metric"].astype(str).str.replace("mse", "psnr"))
    psnrs = means[means["metric"].isin(errors["_psnr"])].rename(columns={"metric": "_psnr", "mean": "_of"})
    on = [*by, "_psnr"]
    both = errors.reset_index().merge(psnrs[[*on, "_of"]], on=on)
    low = both["mean"] < (1 - slack) * 10 ** (-both["_of"] / 10)
    return means.loc[both.loc[low, "index"]]


def broken(table: pd.DataFrame) -> list[str]:
    """Say in a line each what of a run's main table cannot be.

    An MSE below what its PSNR allows, where both are of the same images; a data set `pie_bench` whose columns
    are not means over 700 images, and over 556 outside the mask, where all pairs have an image. An image that
    equals its source outside the mask has no PSNR and counts nonetheless.
    """
    edits = table[table["edit_type"].eq(ALL) & ~table["method"].isin(GIVEN)]
    lines = [
        f"{_named(row)}: {row.metric} is {row.mean:.6g}, below what images of its PSNR can have"
        for row in impossible_errors(edits, [*CELL, "n_images"], COMPUTED).itertuples()
    ]
    return lines + _counts(edits[edits["dataset"].eq(PIE_BENCH)])


def _counts(rows: pd.DataFrame) -> list[str]:
    lines = []
    for row in rows[rows["n_images"].add(rows["n_missing"]).eq(WHOLE)].itertuples():
        identical = sum(count for reason, count in row.reasons.items() if reason.startswith("identical"))
        expected, found = most_images(row.metric), row.n_images + identical
        if expected <= WHOLE and found != expected:
            lines.append(f"{_named(row)}: {row.metric} is of {found} images, of PIE-Bench's it is {expected}")
    return lines


def _named(row: Any) -> str:
    return ", ".join(filter(None, (row.method, row.inversion, row.setting)))
