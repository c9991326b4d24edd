"""What a search over settings minimises or maximises: one metric's mean over the edits of a job."""

import logging
from collections.abc import Collection
from pathlib import Path

import numpy as np
import pandas as pd

from experiments.planning.plan import Identity
from results.store.records import RECORD_IDENTITY, load
from results.tables.cells import GIVEN

_log = logging.getLogger(__name__)


def mean_of_edits(run_dir: Path, pictures: Collection[Identity], metric: str) -> float:
    """Return the mean of a metric over pairs, the edits of each pair averaged first.

    Of the pictures those count that a method edited; the fixed seed's do where there is no other method.
    ValueError where no edit has a finite value: a number that stands for nothing would steer the search.
    """
    frame = load(run_dir)
    names = frame[RECORD_IDENTITY].itertuples(index=False, name=None)
    edits = frame[[name in pictures for name in names]]
    edits = edits[~edits["method"].isin(GIVEN)]
    if edits["method"].ne("fixed_seed").any():
        edits = edits[edits["method"].ne("fixed_seed")]
    values = edits.get(metric, pd.Series(float("nan"), edits.index)).replace([np.inf, -np.inf], np.nan)
    if values.isna().all():
        reasons = "; ".join(sorted(set(edits.get(f"reason:{metric}", ())))) or "not evaluated"
        raise ValueError(f"objective: {metric} is undefined for all {len(edits)} edits ({reasons})")
    if missing := int(values.isna().sum()):
        _log.warning("objective: %s is undefined for %d of %d edits", metric, missing, len(edits))
    return float(values.groupby(edits["pair_id"]).mean().mean())
