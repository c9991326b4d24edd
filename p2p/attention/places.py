"""Where in the network a method injects or reads maps: blocks of joint attention (joint_blocks.py), or groups
of a UNet's layers by their part and height in tokens, "up-16".
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from p2p.attention.joint_blocks import NO, Blocks, without_no

_GROUP = re.compile("(?:down|mid|up)(?:-[1-9][0-9]{0,5})?|[1-9][0-9]{0,5}")
_EXAMPLES = "double-0..7 and single-3 of a transformer, up, 16 and up-16 of a UNet"


Names = str | int | Sequence[str | int] | None


@dataclass(frozen=True)
class Places:
    """Some layers of a network; equal for equal names, in whatever order."""

    parameter: str  # that names them, for errors
    blocks: Blocks | None = None  # of a transformer; None: of a UNet
    groups: tuple[str, ...] = ()  # of a UNet: "up", "16" or "up-16"
    left_out: bool = False  # whether the groups are those that are left out, and all other layers meant

    @classmethod
    def named(cls, parameter: str, names: Names) -> Places | None:
        """Return the layers of names such as "double-0..7", or "mid" and "up-16", or of one; None: all.

        "no-mid" is all layers but those, and several such are all but these; a height may be a number, as
        YAML reads it. Raises ValueError for what is no name, and for names of both kinds of network.
        """
        if names is None:
            return None
        several: Any = [names] if isinstance(names, str) or _whole(names) else names
        if not isinstance(several, Sequence) or not several:
            raise ValueError(
                f"{parameter}: {names!r} names no layer, allowed are null and such as {_EXAMPLES}"
            )
        several = [str(name) if _whole(name) else name for name in several]
        bare, left_out = without_no(parameter, several)
        groups = [name for name in bare if isinstance(name, str) and _GROUP.fullmatch(name)]
        if not groups:
            return cls(parameter, Blocks.named(several, parameter))
        if len(groups) < len(bare):
            [other, *_] = [name for name in bare if name not in groups]
            raise ValueError(
                f"{parameter}: {other!r} beside {groups[0]!r}, which a UNet has, allowed are such as "
                f"{_EXAMPLES}"
            )
        if len(set(groups)) < len(groups):
            raise ValueError(f"{parameter}: {', '.join(groups)} names a group twice")
        return cls(parameter, None, tuple(sorted(groups)), left_out)

    @property
    def key(self) -> str:
        """A short text that is equal for equal layers: their names, apart by a space."""
        if self.blocks is not None:
            return self.blocks.key
        return " ".join(f"{NO if self.left_out else ''}{group}" for group in self.groups)

    def check(self, counts: Mapping[str, int | None], grouped: bool) -> None:
        """Raise ValueError where a model has no such layers; which groups a UNet has shows in `among`.

        `counts` are its blocks of joint attention by stream, {} where it has none; `grouped` says that its
        layers stand in a UNet.
        """
        if not counts and not grouped:
            raise ValueError(
                f"{self.parameter}: this model's layers have no such names, allowed is null (all)"
            )
        if self.blocks is not None and counts:
            self.blocks.check(counts, self.parameter)
        elif self.blocks is not None:
            raise ValueError(
                f"{self.parameter}: {self.key} is of a transformer, allowed are down, mid and up of this "
                "UNet, heights in tokens, and both, as in up-16"
            )
        elif not grouped:
            raise ValueError(
                f"{self.parameter}: {', '.join(self.groups)} is of a UNet, allowed are this transformer's "
                f"{' and '.join(counts)} blocks, as in {next(iter(counts))}-0..1"
            )

    def among(self, layers: Iterable[str], stands: Mapping[str, tuple[str, int]]) -> frozenset[str]:
        """Return those of a model's attention layers that stand here.

        `stands` are part and height in tokens of a UNet's layers. Raises ValueError for a group without any,
        and where nothing is left.
        """
        if self.blocks is not None:
            named, left_out = tuple(self.blocks.prefixes()), self.blocks.left_out
            inside = frozenset(layer for layer in layers if layer.startswith(named))
        else:
            inside, left_out = self._grouped(stands), self.left_out
        found = frozenset(layers) - inside if left_out else inside
        if not found:
            raise ValueError(f"{self.parameter}: {self.key} leaves no layer of this model")
        return found

    def _grouped(self, stands: Mapping[str, tuple[str, int]]) -> frozenset[str]:
        """Return the layers of a UNet's groups."""
        named: dict[str, list[str]] = {}
        for layer, (part, side) in stands.items():
            for name in (part, f"{side}", f"{part}-{side}"):
                named.setdefault(name, []).append(layer)
        if missing := [group for group in self.groups if group not in named]:
            raise ValueError(
                f"{self.parameter}: no layer of this UNet is in {missing[0]}, allowed are {', '.join(named)}"
            )
        return frozenset(layer for group in self.groups for layer in named[group])


def _whole(name: object) -> bool:
    return isinstance(name, int) and not isinstance(name, bool)
