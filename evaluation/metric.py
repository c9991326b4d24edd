"""What a metric is, and what it gives: one value per image, or a reason why there is none."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from evaluation.edits import Edits


@dataclass(frozen=True, eq=False)
class Scores:
    """Hold one column: a value per image, NaN with a reason where the metric is undefined."""

    values: Tensor  # (N,) float64
    reasons: tuple[str, ...]  # N, "" where the value is defined

    def __post_init__(self) -> None:
        if self.values.dtype != torch.float64 or self.values.dim() != 1:
            raise ValueError(
                f"values is {self.values.dtype}, {tuple(self.values.shape)}; allowed: torch.float64, (N,)"
            )
        if len(self.reasons) != len(self.values):
            raise ValueError(f"reasons has {len(self.reasons)} entries; allowed: {len(self.values)}")
        for index, (value, reason) in enumerate(zip(self.values.tolist(), self.reasons, strict=True)):
            if value in (float("inf"), float("-inf")):
                raise ValueError(f"values[{index}] is {value}; allowed: finite, or NaN with a reason")
            if (value != value) != bool(reason):
                raise ValueError(
                    f"values[{index}] is {value}, its reason {reason!r}; allowed: NaN just with a reason"
                )

    @classmethod
    def of(cls, values: Tensor, reasons: tuple[str, ...] | None = None) -> "Scores":
        """Build a column from raw values (N,); a value that has a reason becomes NaN."""
        reasons = reasons or ("",) * len(values)
        missing = torch.tensor([bool(reason) for reason in reasons])
        return cls(values.cpu().double().masked_fill(missing, float("nan")), reasons)


def first_reasons(*columns: tuple[str, ...]) -> tuple[str, ...]:
    """Return for each image the first reason that any of the columns has, "" where none has one."""
    return tuple(next(filter(None, reasons), "") for reasons in zip(*columns, strict=True))


class Metric(Protocol):
    """A family of columns computed together. Values do not depend on batch size or order."""

    name: str  # of the family, safe as a folder name: "clip_embedded@1"
    higher_is_better: Mapping[str, bool]  # per column; a column that is not in it has no better direction

    @property
    def names(self) -> tuple[str, ...]:
        """Name the columns: backbone and version included."""

    def check(self) -> None:
        """Raise WeightsUnavailable, in one line, if a weight cannot be had; cheap, also without a network."""

    def __call__(self, edits: Edits) -> dict[str, Scores]:
        """Score every edit; load the weights first if they are not."""
