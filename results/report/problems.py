"""What went wrong in a run, or is missing, with its reasons: failures, warnings, values, pictures."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import pandas as pd

from results.labels import method_label, metric_label
from results.store.records import RECORD_IDENTITY, reason_column

MOST = 50  # pictures or pairs that are named under one cause


@dataclass(frozen=True)
class Problem:
    """One cause: of how many, of how many in all, and which (at most `MOST` of them)."""

    cause: str
    count: int
    of: int
    which: tuple[str, ...]

    @property
    def unnamed(self) -> int:
        """How many are not named."""
        return self.count - len(self.which)


def problems(
    frame: pd.DataFrame, metrics: Sequence[str], broken: Mapping[str, str]
) -> dict[str, list[Problem]]:
    """Return the causes under each heading, the most frequent first; a heading without any is left out.

    `frame` is `results.summary.run_rows`', `broken` tells by its path why a picture cannot be shown.
    """
    images = frame.drop_duplicates(RECORD_IDENTITY)
    names = [_name(*row) for row in images[["pair_id", "seed", "method"]].to_numpy(object)]
    images = images.assign(_name=names)
    failed, made = (images[images["status"].ne("ok") == which] for which in (True, False))
    first = [text.splitlines()[0] if text else "no cause recorded" for text in failed["error"]]
    warned = made[made["warnings"].ne("")]
    told = [
        (text, name)
        for all_of, name in zip(warned["warnings"], warned["_name"])
        for text in all_of.split("; ")
    ]
    missing = [
        (f"{metric_label(metric)}: {reason}", name)
        for metric in metrics
        for rows in [made[made[metric].isna()]]
        for reason, name in zip(rows[reason_column(metric)], rows["_name"])
    ]
    unseen = [(broken[image], name) for image, name in zip(made["image"], made["_name"]) if image in broken]
    found = {
        "Failed": _grouped(zip(first, failed["_name"]), len(images)),
        "Warnings": _grouped(told, len(made)),
        "Missing values": _grouped(missing, len(made)),
        "Pictures that cannot be shown": _grouped(unseen, len(made)),
    }
    return {heading: causes for heading, causes in found.items() if causes}


def _grouped(told: Iterable[tuple[str, str]], of: int) -> list[Problem]:
    which = defaultdict(list)
    for cause, name in told:
        which[cause].append(name)
    causes = [Problem(cause, len(names), of, tuple(names[:MOST])) for cause, names in which.items()]
    return sorted(causes, key=lambda problem: -problem.count)


def _name(pair: str, seed: int, method: str) -> str:
    return f"{pair}, seed {seed}, {method_label(method)}"
