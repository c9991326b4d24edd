"""The sweep as a tree: which states to denoise at each step, shared until branches part.

Two branches of a group share a state as long as prompt, condition, injection and blend have been equal at
every step so far.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from p2p.local_blend import LocalBlend
from p2p.trajectory import Condition, Injection, Trajectory
from p2p.value_area import ValueArea
from p2p.word_readings import Watch

Watched = LocalBlend | Watch | ValueArea
"""A reader of maps; it has `source_words`, `target_words`, `readings`, `heads` and `key`."""


@dataclass(frozen=True)
class Node:
    """One state to denoise at one step, for all branches that have been equal so far.

    Branches are numbered within their group: 0 is the source, i the group's i-th trajectory.
    """

    group: int
    parent: int  # position of the node it continues in the level before; at the first step its group
    prompt: str
    injection: Injection | None
    branches: tuple[int, ...]
    blend: LocalBlend | None = None  # applied after this step
    # Readers (LocalBlend, Watch, ValueArea) of any of its branches. The node's cross-attention is added to
    # their sums even before they need them.
    watched: tuple[Watched, ...] = ()
    condition: Condition | None = None


def build_tree(
    groups: Sequence[Mapping[int, Trajectory]], steps: int, start: int = 0, apart: Collection[int] = ()
) -> list[list[Node]]:
    """Return the nodes of each step from `start` on, of each group's trajectories by branch.

    Branch 0 is the source and comes first; other branches may have any numbers. In the groups `apart` no edit
    shares a state with the source. At every step, node i < len(groups) carries the source of group i. A
    trajectory without injections is plain throughout. Raises ValueError for a trajectory that was made for
    another number of steps.
    """
    _check_steps((t for group in groups for t in group.values()), steps)
    roots = []
    for g, group in enumerate(groups):
        everyone = tuple(group)
        parts = [everyone[:1], everyone[1:]] if g in apart and everyone[1:] else [everyone]
        roots += [Node(g, g, "", None, part) for part in parts]
    levels: list[list[Node]] = []
    for step in range(start, steps):
        parents = levels[-1] if levels else roots
        sources: list[Node] = []
        edits: list[Node] = []
        for position, parent in enumerate(parents):
            split: dict[tuple[str, str, str], list[int]] = {}
            for branch in parent.branches:
                one = groups[parent.group][branch]
                split.setdefault((*_told(one, step), one.step_keys(steps)[step]), []).append(branch)
            for branches in split.values():
                trajectories = [groups[parent.group][branch] for branch in branches]
                prompt, injection, blend = _operator(trajectories[0], step)
                watched = {w.key: w for t in trajectories for w in t.readers}
                node = Node(
                    parent.group,
                    position if levels else parent.group,
                    prompt,
                    injection,
                    tuple(branches),
                    blend,
                    tuple(watched.values()),
                    trajectories[0].condition,
                )
                (sources if 0 in branches else edits).append(node)
        levels.append(sources + edits)
    return levels


def count_states(group: Mapping[int, Trajectory], steps: int, start: int = 0, apart: bool = False) -> int:
    """Return how many nodes `build_tree` has for one group, all steps together, without making them.

    With trajectories sorted by what they inject step by step, each adds as many states as there are steps
    from the first at which it differs from the trajectory before it in the sorted order.
    """
    everyone = list(group.values())
    _check_steps(everyone, steps)
    alike: dict[tuple[bool, str, str], list[tuple[Any, ...]]] = {}
    switched = any(trajectory.before for trajectory in everyone)
    for position, trajectory in enumerate(everyone):
        prompt, condition = _told(trajectory, start)
        keys: tuple[Any, ...] = trajectory.step_keys(steps)[start:]
        if switched:  # what shares its first steps need not share its prompt
            keys = tuple((trajectory.prompt_at(step), key) for step, key in enumerate(keys, start))
        alike.setdefault((apart and position > 0, prompt, condition), []).append(keys)
    count = 0
    for rows in alike.values():
        count += steps - start
        for before, row in pairwise(sorted(rows)):
            same = next((i for i, (a, b) in enumerate(zip(before, row)) if a != b), len(row))
            count += len(row) - same
    return count


def count_first_states(
    group: Mapping[int, Trajectory], steps: int, start: int = 0, apart: bool = False
) -> int:
    """Return how many nodes the first step of `build_tree` has for one group."""
    told = [
        (apart and position > 0, *_told(one, start), one.step_keys(steps)[start])
        for position, one in enumerate(group.values())
    ]
    return len(set(told))


def _check_steps(trajectories: Iterable[Trajectory], steps: int) -> None:
    wrong = {len(trajectory.injections) for trajectory in trajectories} - {0, steps, steps + 1}
    if wrong:
        raise ValueError(f"trajectories: made for {min(wrong) - 1} steps, denoised in {steps}")


def _told(trajectory: Trajectory, step: int) -> tuple[str, str]:
    """Return the key of what the denoiser is told at a step: prompt and condition."""
    return trajectory.prompt_at(step), trajectory.condition.key if trajectory.condition else ""


def _operator(trajectory: Trajectory, step: int) -> tuple[str, Injection | None, LocalBlend | None]:
    injection = trajectory.injections[step] if trajectory.injections else None
    blend = trajectory.blend if trajectory.blend and step >= trajectory.blend.start else None
    return trajectory.prompt_at(step), injection, blend
