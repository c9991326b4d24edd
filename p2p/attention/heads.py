"""Which heads of its layers a method injects or reads, by numbers and ranges such as "0..3"."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from p2p.attention.joint_blocks import NO, without_no

HeadNames = str | int | Sequence[str | int] | None
_NAME = re.compile("(0|[1-9][0-9]{0,3})(?:\\.\\.(0|[1-9][0-9]{0,3}))?")
_EXAMPLES = "0, 3..7 and no-2"


@dataclass(frozen=True)
class Heads:
    """Some heads of every layer, counted from 0; equal for equal heads, however they were named."""

    parameter: str  # that names them, for errors
    numbers: tuple[int, ...]  # in order
    left_out: bool = False  # whether these are the heads that are left out, and all others meant

    @classmethod
    def named(cls, parameter: str, names: HeadNames) -> Heads | None:
        """Return the heads of names such as 0 and "3..7", or of one; None: all.

        "no-2" is all heads but that, and several such are all but these. Raises ValueError for what is no
        name, a range that runs backwards, and a head that is named twice.
        """
        if names is None:
            return None
        several: Any = [names] if isinstance(names, str | int) else names
        if not isinstance(several, Sequence) or not several:
            raise ValueError(
                f"{parameter}: {names!r} names no head, allowed are null and such as {_EXAMPLES}"
            )
        whole = [str(name) if type(name) is int else name for name in several]
        bare, left_out = without_no(parameter, whole)
        numbers = [number for name in bare for number in _range(parameter, name)]
        for number in numbers:
            if numbers.count(number) > 1:
                raise ValueError(f"{parameter}: {number} is named twice in {', '.join(whole)}")
        return cls(parameter, tuple(sorted(numbers)), left_out)

    @property
    def key(self) -> str:
        """A short text that is equal for equal heads: their ranges, apart by a space."""
        begins = [number for number in self.numbers if number - 1 not in self.numbers]
        ends = [number for number in self.numbers if number + 1 not in self.numbers]
        told = (f"{a}" if a == b else f"{a}..{b}" for a, b in zip(begins, ends, strict=True))
        return " ".join(f"{NO if self.left_out else ''}{one}" for one in told)

    def check(self, count: int | None) -> None:
        """Raise ValueError where a layer of so many heads has not these; None is an unknown number."""
        if count is None:
            return
        if self.numbers[-1] >= count:
            raise ValueError(
                f"{self.parameter}: {next(n for n in self.numbers if n >= count)} is no head of every layer "
                f"that is meant, the least has {count}, allowed are 0 to {count - 1}"
            )
        if not any(self.chosen(count)):
            raise ValueError(f"{self.parameter}: {self.key} leaves none of {count} heads")

    def chosen(self, count: int) -> list[bool]:
        """Return for each head of a layer of so many whether it is meant."""
        return [(number in self.numbers) is not self.left_out for number in range(count)]


def _range(parameter: str, name: object) -> range:
    """Return the numbers of a name."""
    found = _NAME.fullmatch(name) if isinstance(name, str) else None
    if found is None:
        raise ValueError(f"{parameter}: {name!r} is no head, allowed are such as {_EXAMPLES}")
    first, last = int(found[1]), int(found[2] or found[1])
    if first > last:
        raise ValueError(f"{parameter}: {name!r} runs backwards, allowed is {last}..{first}")
    return range(first, last + 1)
