"""Measured numbers with their goals, and pictures to measure, for what is said of a world's models."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from tqdm import tqdm

from p2p import Edited, Group, Model, Sampling, generate
from p2p.groups import batches

SAMPLING = Sampling()


@dataclass(frozen=True)
class Figure:
    """One measured number and the goal it is held against, if there is one: `>=` or `<=`."""

    name: str
    value: float
    goal: str = ""

    @property
    def met(self) -> bool:
        """Whether the goal is reached; true where there is none."""
        if not self.goal:
            return True
        relation, bound = self.goal.split()
        return self.value >= float(bound) if relation == ">=" else self.value <= float(bound)


def generate_images(
    model: Model, prompts: Sequence[str], seeds: Sequence[int], sampling: Sampling = SAMPLING
) -> Tensor:
    """Return one image (3, 64, 64) in [0, 1] per prompt and seed."""
    groups = [Group(prompt, seed, ()) for prompt, seed in zip(prompts, seeds, strict=True)]
    return torch.stack([edited.source for edited in generate_groups(model, groups, sampling)])


def generate_groups(model: Model, groups: Sequence[Group], sampling: Sampling = SAMPLING) -> list[Edited]:
    """Return the groups' images, made in the order of the groups, many at a time."""
    edited: list[Edited] = []
    sampling = sampling if model.device.type == "cpu" else replace(sampling, max_batch=512)
    for numbers in tqdm(list(batches(groups, sampling)), desc="generating", unit="batch", mininterval=10):
        edited += generate(model, [groups[i] for i in numbers], sampling)
    return edited
