"""The content keys of what a group's branches share: source, reconstruction, inversion and ideals."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from experiments.inputs.content_hash import Beginning
from experiments.inputs.real_images import RULE, RealImage

if TYPE_CHECKING:
    from p2p.inversion import Inversion


@dataclass(frozen=True)
class Source:
    """What a group's branches share, and the content keys made of it.

    `base` is what all content keys of the plan begin with, `judged` what they say of a pair's mask and ideal.
    """

    prompt: str
    seed: int
    image: RealImage | None
    inversion: Inversion | None

    @property
    def real(self) -> list[Any]:
        """The real image and its inversion as parts of the content key; [] where the source is generated."""
        if self.image is None:
            return []
        return [self.image.digest, RULE, self.inversion.settings if self.inversion else None]

    @property
    def path_seed(self) -> int | None:
        """The seed where the source's path depends on the seed, else None."""
        if self.image is None or (self.inversion and self.inversion.seeded):
            return self.seed
        return None

    def key(self, base: Beginning, judged: Sequence[str] = ()) -> str:
        """Return the key of the source image."""
        drawn = [self.seed] if self.image is None else []
        return base.hash([self.prompt, *drawn, "source", *self.real, *judged])

    def reconstruction_key(self, base: Beginning, judged: Sequence[str] = ()) -> str:
        """Return the key of the reconstruction, where the inversion leads back to; "" without one."""
        return self._path_key(base, "reconstruction", judged)

    def ideal_key(self, base: Beginning, target_prompt: str, judged: Sequence[str]) -> str:
        """Return the key of the record of a pair's ideal."""
        return base.hash([self.prompt, target_prompt, "ideal", *self.real, *judged])

    def inversion_key(self, base: Beginning) -> str:
        """Return the key of the inversion's path, as it is kept on disk; "" without an inversion."""
        return self._path_key(base, "inversion", ())

    def _path_key(self, base: Beginning, name: str, judged: Sequence[str]) -> str:
        if self.inversion is None:
            return ""
        return base.hash([self.prompt, self.path_seed, name, *self.real, *judged])
