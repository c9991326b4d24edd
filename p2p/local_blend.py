"""LocalBlend: outside the area that the named words attend to, the latents stay the source's.

Hertz et al. 2022, Sec. 4 ("Local editing"); google/prompt-to-prompt, the null-text notebook's version, of
which the first notebook's is the case start = 0 without substruct words.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import conv2d, interpolate, max_pool2d, pad

from p2p.attention.heads import Heads
from p2p.attention.places import Places
from p2p.word_readings import Reading


@dataclass(frozen=True)
class LocalBlend:
    """Whose words bound the edited area, from which step on, and how strongly they must attend."""

    source_words: Tensor  # (tokens, 2): 1 at the blend words of the source prompt, and at its substruct words
    target_words: Tensor  # the same of the target prompt
    start: int  # first step after which latents are blended
    threshold: float
    substruct_threshold: float
    layers: Places | None = None  # whose maps are read; None: those of the model's blend_side
    smoothing: float = 0.0  # standard deviation, in tokens, of the Gaussian that maps are smoothed by
    heads: Heads | None = None  # whose maps are read; None: the mean of all

    def __post_init__(self) -> None:
        for name in ("threshold", "substruct_threshold"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name}: {getattr(self, name)!r} is not in [0, 1)")

    @property
    def readings(self) -> tuple[Reading, ...]:
        """What is read: one mean over layers."""
        return (Reading(self.layers.key if self.layers else None),)

    @property
    def key(self) -> str:
        """A short text that is equal for equal blends."""
        words = torch.cat([self.source_words, self.target_words]).numpy().tobytes()
        settings = f"{self.start} {self.threshold!r} {self.substruct_threshold!r}"
        settings += f" {self.layers.key}" if self.layers else ""
        settings += f" smoothed {self.smoothing!r}" if self.smoothing else ""
        settings += f" heads {self.heads.key}" if self.heads else ""
        return hashlib.sha256(words + settings.encode()).hexdigest()[:16]

    def mask(self, source_maps: Tensor, target_maps: Tensor, size: tuple[int, int]) -> Tensor:
        """Return where the target's latents are kept: bool of `size`.

        Maps (2, height, width) are attention to the blend and to the substruct words, in any unit: each is
        divided by its own peak. The area is the union of source's and target's, grown by one token of the
        map, less the union of the substruct words' areas.
        """
        maps = smoothed(torch.stack([source_maps, target_maps]).double(), self.smoothing)
        kept = _above(max_pool2d(maps[:, :1], 3, 1, 1), size, self.threshold)
        taken = _above(maps[:, 1:], size, self.substruct_threshold)
        return kept & ~taken


def smoothed(maps: Tensor, deviation: float) -> Tensor:
    """Return maps (rows, columns, height, width) after a Gaussian of this deviation in tokens; 0: as they
    are.

    It reaches three deviations far and, at the border, reads the border's own value outside of it.
    """
    if not deviation:
        return maps
    reach = math.ceil(3 * deviation)
    distances = torch.arange(-reach, reach + 1, device=maps.device, dtype=maps.dtype)
    kernel = (-(distances**2) / (2 * deviation**2)).exp()
    kernel = (kernel / kernel.sum()).expand(maps.shape[1], 1, -1)
    padded = pad(maps, (reach,) * 4, mode="replicate")
    rows = conv2d(padded, kernel[:, :, None], groups=maps.shape[1])
    return conv2d(rows, kernel[:, :, :, None], groups=maps.shape[1])


def _above(maps: Tensor, size: tuple[int, int], threshold: float) -> Tensor:
    maps = interpolate(maps, size=size)
    peak = maps.amax((2, 3), keepdim=True)
    # A word that nothing attends to (a weight of 0, say) has no area; the reference divides 0 by 0.
    return ((maps / torch.where(peak == 0, 1.0, peak)) > threshold).any(0)[0]
