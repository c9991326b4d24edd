"""The rows of a plan as tables need them: which pair and setting each picture stands for."""

from __future__ import annotations

from typing import Any

import pandas as pd

from experiments.planning.plan import Branch, Plan
from results.collector import seldom_collected
from results.spelling import spell_json
from results.store.records import EFFECT_TYPES, JSON_COLUMNS, NOTHING, RECORD_IDENTITY
from results.store.setting_rows import SETTING_TYPES


def labels(branch: Branch, dataset: str, model: str) -> dict[str, Any]:
    """Return what names a branch's picture and what the tables call it: the columns of SETTING_TYPES."""
    pair = branch.pair
    told = {
        name: spell_json(value) if name in JSON_COLUMNS else value
        for name, value in branch.trajectory.record.items()
    }
    return {
        "key": branch.key,
        "pair_id": pair.id,
        "method": branch.method,
        "dataset": dataset,
        "model": model,
        "edit_type": pair.edit_type,
        "difficulty": pair.difficulty,
        "instruction": pair.instruction,
        "params": spell_json(branch.params),
        **{name: NOTHING[name] for name in EFFECT_TYPES},
        **told,
    }


@seldom_collected()
def plan_settings(plan: Plan, dataset: str, model: str) -> pd.DataFrame:
    """Return a row per picture and setting of the plan, pictures that are given included."""
    pictures = [picture for group in plan.groups for picture in group.pictures()]
    rows = [labels(picture, dataset, model) for picture in (*pictures, *plan.repeated_branches)]
    frame = pd.DataFrame(rows, columns=list(SETTING_TYPES)).astype(SETTING_TYPES)
    return frame.drop_duplicates([*RECORD_IDENTITY, "params"], ignore_index=True)
