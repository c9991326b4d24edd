"""Which pictures stand on one card of the gallery: a pair's source with one seed, and all its edits."""

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import pandas as pd

from results.labels import natural_order
from results.tables.cells import CONTEXT, GIVEN, made_elsewhere

PAIR = ["dataset", "pair_id", "source_prompt", "target_prompt", "edit_type", "difficulty", "instruction"]
_SCENE = [*(name for name in CONTEXT if name != "inversion"), "pair_id", "source_prompt", "seed"]


def distinct_pairs(rows: pd.DataFrame) -> tuple[pd.DataFrame, list[int]]:
    """Return the distinct pairs of rows, pair-2 before pair-10, and the place of each row's among them."""
    distinct = rows[PAIR].drop_duplicates()
    order = sorted(distinct.index, key=lambda place: natural_order(str(distinct["pair_id"][place])))
    distinct = distinct.loc[order]
    places = {tuple(row): number for number, row in enumerate(distinct.to_numpy(object))}
    return distinct, [places[tuple(row)] for row in rows[PAIR].to_numpy(object)]


def scene_columns(rows: pd.DataFrame, pair_of: Sequence[int]) -> dict[str, list[Any]]:
    """Return a card per entry: its pair (a place among the pairs), its seed, and the places of its pictures.

    `rows` have the index 0, 1, ... What other tools made stands on every card of its pair. Pictures without
    any edit beside them have no card.
    """
    elsewhere = made_elsewhere(rows)
    prompts = rows["pair_id"].astype(str) + "\n" + rows["source_prompt"].astype(str)
    scenes = [list(part.index) for _, part in rows[~elsewhere].groupby(_SCENE, sort=False, dropna=False)]
    of_pair = defaultdict(list)
    for scene in scenes:
        of_pair[prompts[scene[0]]].append(scene)
    for name, part in rows[elsewhere].groupby(prompts[elsewhere], sort=False):
        if name not in of_pair:
            scenes.append(list(part.index))
        for scene in of_pair[name]:
            scene += list(part.index)
    given = rows["method"].isin(GIVEN)
    # A source records its own prompt as the target: only an edit tells the pair.
    edits = [(scene, next((place for place in scene if not given[place]), None)) for scene in scenes]
    kept = [(pair_of[edit], int(rows["seed"][edit]), scene) for scene, edit in edits if edit is not None]
    kept.sort(key=lambda card: card[:2])
    return {
        "pair": [pair for pair, _, _ in kept],
        "seed": [seed for _, seed, _ in kept],
        "edits": [[int(place) for place in scene] for _, _, scene in kept],
    }
