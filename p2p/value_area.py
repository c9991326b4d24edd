"""Where a target keeps its own values of the image; outside it has the source's (ColorCtrl).

Yin et al. 2026, "Training-Free Text-Guided Color Editing with Multi-Modal Diffusion Transformer", ICLR 2026,
arXiv:2508.09131, Sec. 3.4 ("Color preservation").
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import torch
from torch import Tensor

from p2p.attention.heads import Heads
from p2p.attention.places import Places
from p2p.local_blend import smoothed
from p2p.word_readings import Reading


@dataclass(frozen=True)
class ValueArea:
    """Whose word of the source prompt bounds the area, and how strongly it must be attended to."""

    source_words: Tensor  # (tokens, 1): 1 at the word
    threshold: float
    layers: Places | None = None  # whose maps are read; None: those of the model's blend_side
    smoothing: float = 0.0  # standard deviation, in tokens, of the Gaussian that maps are smoothed by
    heads: Heads | None = None  # whose maps are read; None: the mean of all

    @property
    def target_words(self) -> Tensor:
        """The words that are read of a target prompt: none, (tokens, 0)."""
        return self.source_words[:, :0]

    @property
    def readings(self) -> tuple[Reading, ...]:
        """What is read: one mean over layers."""
        return (Reading(self.layers.key if self.layers else None),)

    @property
    def key(self) -> str:
        """A short text that is equal for equal areas."""
        settings = f"values {self.threshold!r} {self.layers.key if self.layers else None}"
        settings += f" {self.smoothing!r} {self.heads.key if self.heads else None}"
        return hashlib.sha256(self.source_words.numpy().tobytes() + settings.encode()).hexdigest()[:16]

    def inside(self, source_maps: Tensor) -> Tensor:
        """Return where maps (1, height, width), in any unit, are above the threshold: bool (pixels,).

        The threshold is a share of the way from a map's least value to its largest. Equal values are no area.
        """
        maps = smoothed(source_maps[None].double(), self.smoothing).flatten()
        least, largest = torch.aminmax(maps)
        return maps - least > self.threshold * (largest - least)
