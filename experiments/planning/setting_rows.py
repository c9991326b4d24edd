"""The rows of a plan as tables need them: which pair and setting each picture stands for."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pandas as pd

from experiments.datasets.pair import Pair
from experiments.planning.plan import Branch, Plan
from p2p.methods.prompt_to_prompt import Trajectory
from results.store.records import EFFECT_TYPES, JSON_COLUMNS, NOTHING, RECORD_IDENTITY
from results.store.setting_rows import SETTING_TYPES


def labels(branch: Branch, dataset: str, model: str) -> dict[str, Any]:
    """Return what names a branch's picture and what the tables call it: the columns of SETTING_TYPES."""
    pair = branch.pair
    told = {
        name: json.dumps(value, sort_keys=True) if name in JSON_COLUMNS else value
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
        "params": json.dumps(dict(branch.params), sort_keys=True),
        **{name: NOTHING[name] for name in EFFECT_TYPES},
        **told,
    }


def given(branch: Branch, method: str, key: str) -> Branch:
    """Return the branch's source, reconstruction or ideal as a branch of its own."""
    pair = branch.pair
    if method != "ideal":
        pair = Pair(pair.id, pair.source_prompt, pair.source_prompt, pair.edit_type, pair.difficulty)
    none = Trajectory("", ())
    return replace(branch, pair=pair, method=method, params={}, trajectory=none, key=key, uses_mask=False)


def plan_settings(plan: Plan, dataset: str, model: str) -> pd.DataFrame:
    """Return a row per picture and setting of the plan, pictures that are given included."""
    branches: list[Branch] = []
    for group in plan.groups:
        for branch in group.branches:
            branches.append(given(branch, "source", branch.source_record_key))
            if group.inverts:
                branches.append(given(branch, "reconstruction", branch.reconstruction_record_key))
            if branch.ideal_digest:
                branches.append(given(branch, "ideal", branch.ideal_key))
            branches.append(branch)
    rows = [labels(branch, dataset, model) for branch in (*branches, *plan.repeated_branches)]
    frame = pd.DataFrame(rows, columns=list(SETTING_TYPES)).astype(SETTING_TYPES)
    return frame.drop_duplicates([*RECORD_IDENTITY, "params"], ignore_index=True)
