"""Blocks of a transformer whose image and text share one softmax, by short names such as "double-0..7".

A double-stream block has weights of its own for image and text, a single-stream block the same for both.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

PLACES = {"double": ("transformer_blocks",), "single": ("single_transformer_blocks", "layers")}
"""By stream, in the order in which they are called, where diffusers' transformers have their blocks; Z-Image
has `layers`.
"""

JOINT_MODELS = "Stable Diffusion 3 and 3.5, Flux, Flux.2, Qwen-Image and Z-Image"
"""The transformers whose image and text share one softmax, for errors."""
NO_BLOCKS = (
    "blocks: only a transformer whose image and text share one softmax has them, allowed are " + JOINT_MODELS
)
NO = "no-"  # before the name of what is left out
_EXAMPLES = "double-3, double-0..7 and single-32..37"
_NUMBER = "(0|[1-9][0-9]{0,5})"
_NAME = re.compile(f"({'|'.join(PLACES)})-{_NUMBER}(?:\\.\\.{_NUMBER})?")


@dataclass(frozen=True)
class Blocks:
    """Some blocks of a transformer, or all of them; equal for equal blocks, however they were named."""

    ranges: tuple[tuple[str, int, int], ...] | None
    """Of stream, first and last number, counted from 0, in the order of calls and apart; None: all."""
    left_out: bool = False  # whether these are the blocks that are left out, and all others meant

    @classmethod
    def named(cls, names: str | Sequence[str] | None, parameter: str = "blocks") -> Blocks:
        """Return the blocks of names such as "double-3" and "single-32..37", or of one; None: all.

        "no-double-3" is all but that block, and several such are all but these. `parameter` is whose value
        they are, for errors.
        Raises ValueError for what is no name, a range that runs backwards, and a block that is named twice.
        """
        if names is None:
            return cls(None)
        several = [names] if isinstance(names, str) else names
        if not isinstance(several, Sequence) or not several:
            raise ValueError(f"{parameter}: {names!r} names no block, allowed are null (all) and {_EXAMPLES}")
        several, left_out = without_no(parameter, several)
        found = (_range(name, parameter) for name in several)
        ranges = sorted(found, key=lambda one: (list(PLACES).index(one[0]), one))
        joined = ranges[:1]
        for stream, first, last in ranges[1:]:
            before = joined[-1]
            if stream != before[0] or first > before[2] + 1:
                joined.append((stream, first, last))
            elif first == before[2] + 1:
                joined[-1] = (stream, before[1], last)
            else:
                raise ValueError(f"{parameter}: {stream}-{first} is named twice in {', '.join(several)}")
        return cls(tuple(joined), left_out)

    @property
    def key(self) -> str:
        """A short text that is equal for equal blocks."""
        if self.ranges is None:
            return "all"
        return " ".join(f"{NO if self.left_out else ''}{_told(*one)}" for one in self.ranges)

    def check(self, counts: Mapping[str, int | None], parameter: str = "blocks") -> None:
        """Raise ValueError where a model has not these blocks.

        `counts` are its blocks by stream, {} where it has none such; None is a number that is not known.
        """
        if not counts:
            raise ValueError(NO_BLOCKS)
        for stream, first, last in self.ranges or ():
            count = counts.get(stream, 0)
            if count is not None and last >= count:
                there = [_told(s, 0, n - 1) if n else f"those of {s}" for s, n in counts.items() if n != 0]
                raise ValueError(
                    f"{parameter}: {stream}-{max(first, count)} is no block of this model, allowed are "
                    f"{' and '.join(there)}"
                )

    def prefixes(self) -> Iterator[str]:
        """Yield what the names of the ranges' layers begin with, in diffusers; nothing where it is all."""
        for stream, first, last in self.ranges or ():
            for number in range(first, last + 1):
                yield from (f"{place}.{number}." for place in PLACES[stream])

    def taken(
        self,
        counts: Mapping[str, int | None],
        layers: Iterable[str],
        tensors: Sequence[str] = ("query", "key"),
    ) -> tuple[str, ...]:
        """Return the names of the tensors that are taken: "<attention layer>/query", of each of `tensors`.

        `counts` are the model's blocks by stream, `layers` its attention layers of image and text; a block's
        second attention, of the image alone, is not taken from. Raises ValueError for blocks that the model
        has not.
        """
        self.check(counts)
        named = tuple(self.prefixes())
        meant = [one for one in layers if self.ranges is None or one.startswith(named) != self.left_out]
        if not meant:
            raise ValueError(f"blocks: {self.key} leaves no block of this model")
        return tuple(f"{layer}/{tensor}" for layer in meant for tensor in tensors)


def without_no(parameter: str, names: Sequence[str]) -> tuple[list[str], bool]:
    """Return names without the "no-" that all of them begin with, and whether they do.

    Raises ValueError where some do and others do not.
    """
    left_out = [isinstance(name, str) and name.startswith(NO) for name in names]
    if any(left_out) and not all(left_out):
        raise ValueError(
            f"{parameter}: {', '.join(map(str, names))} says of some what is meant and of others what is "
            f'left out ("{NO}"), allowed is one of the two'
        )
    return [name.removeprefix(NO) if isinstance(name, str) else name for name in names], all(left_out)


def _range(name: object, parameter: str) -> tuple[str, int, int]:
    """Return stream, first and last number of a name."""
    found = _NAME.fullmatch(name) if isinstance(name, str) else None
    if found is None:
        raise ValueError(f"{parameter}: {name!r} is no block, allowed are such as {_EXAMPLES}")
    stream, first, last = found[1], int(found[2]), int(found[3] or found[2])
    if first > last:
        raise ValueError(f"{parameter}: {name!r} runs backwards, allowed is {_told(stream, last, first)}")
    return stream, first, last


def _told(stream: str, first: int, last: int) -> str:
    return f"{stream}-{first}" if first == last else f"{stream}-{first}..{last}"
