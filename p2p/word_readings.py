"""What is read of the cross-attention while an image is made: which words, in which layers, at which steps.

LocalBlend reads the maps that bound its area, `p2p.heat_maps` the maps that a user asks for.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from p2p.alignment import Tokenizers, word_column
from p2p.attention.heads import Heads


@dataclass(frozen=True)
class Reading:
    """Layers whose maps are averaged, and a range of steps over which the averages are summed."""

    layers: (
        str | None
    )  # a group of layers such as "16" or "up-16" (`layer_groups`); None: the model's blend_side
    steps: tuple[int, int] | None = None  # [start, end) in calls of the denoiser; None: all of them


@dataclass(frozen=True)
class Watch:
    """Words whose maps are kept while a trajectory and its source are denoised, for heat-maps."""

    source_words: Tensor  # (tokens, columns), see `word_columns`
    target_words: Tensor  # (tokens, columns), of the trajectory's prompt
    readings: tuple[Reading, ...]
    heads: Heads | None = None  # whose maps are read; None: the mean of all

    @property
    def key(self) -> str:
        """A short text that is equal for equal watches."""
        words = torch.cat([self.source_words, self.target_words], dim=1)
        settings = f"{self.source_words.shape[1]} {self.readings}"
        settings += f" heads {self.heads.key}" if self.heads else ""
        return hashlib.sha256(words.numpy().tobytes() + settings.encode()).hexdigest()[:16]


def word_columns(prompt: str, words: Sequence[str | None], tokenizers: Tokenizers) -> Tensor:
    """Return a column for each word or phrase: 1 at its tokens, of every occurrence; float32 (tokens, words).

    None gives a column of zeros. Raises ValueError for a word that is not in the prompt.
    """
    nothing = word_column(prompt, None, tokenizers)[:, None]
    columns = [word_column(prompt, word, tokenizers)[:, None] for word in words]
    return torch.cat([nothing[:, :0], *columns], dim=1)
