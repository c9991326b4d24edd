"""The sweep as a tree: which states to denoise at each step, shared until branches part.

Two branches of a group share a state as long as prompt and injection have been equal at every step so far.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from p2p.edits import Injection, Trajectory


@dataclass(frozen=True)
class Node:
    """One state to denoise at one step."""

    group: int
    parent: int  # its position among the nodes of the step before; at the first step its group
    prompt: str
    injection: Injection | None
    branches: tuple[int, ...]  # of the group; 0 is the source


def build_tree(groups: Sequence[Sequence[Trajectory]], steps: int) -> list[list[Node]]:
    """Return the nodes of each step. Each group's first trajectory is its source and comes before its edits.

    At every step, node i < len(groups) is the one that carries the source of group i.
    """
    levels: list[list[Node]] = []
    for step in range(steps):
        parents = (
            levels[-1]
            if levels
            else [Node(g, g, "", None, tuple(range(len(b)))) for g, b in enumerate(groups)]
        )
        sources: list[Node] = []
        edits: list[Node] = []
        for position, parent in enumerate(parents):
            split: dict[tuple[str, str], list[int]] = {}
            for branch in parent.branches:
                trajectory = groups[parent.group][branch]
                injection = trajectory.injections[step]
                split.setdefault((trajectory.prompt, injection.key if injection else ""), []).append(branch)
            for (prompt, _), branches in split.items():
                injection = groups[parent.group][branches[0]].injections[step]
                node = Node(parent.group, position, prompt, injection, tuple(branches))
                (sources if 0 in branches else edits).append(node)
        levels.append(sources + edits)
    return levels


def count_evaluations(levels: Sequence[Sequence[Node]], guided: bool) -> int:
    """Return the UNet evaluations (batch rows) that a tree costs; guidance doubles them."""
    return sum(map(len, levels)) * (2 if guided else 1)
