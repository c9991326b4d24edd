"""A bare UNet call between the engine's own: what `sweep_vs_bound` and `overhead` divide by."""

from __future__ import annotations

import copy
from dataclasses import dataclass, field
from typing import Any

import torch
from diffusers.models.attention_processor import AttnProcessor2_0

from experiments.bench.measuring import Clock
from p2p.families.model import Model


@dataclass
class BareCalls:
    """Told of each of the engine's calls (`Calls.on_rows`), makes a bare one of as many rows every so often.

    Bare is the pipeline's UNet with diffusers' own processors, on the same machine a moment later; its time
    is taken out of the engine's.
    """

    model: Model
    clock: Clock
    every: int = 1
    counts: dict[int, int] = field(default_factory=dict)  # of the engine's calls, by rows
    bare: dict[int, list[float]] = field(default_factory=dict)  # seconds, by rows
    between: list[float] = field(
        default_factory=list
    )  # seconds of the engine from one call's end to the next
    spent: float = 0.0  # seconds here

    def __post_init__(self) -> None:
        self.unet: Any = copy.deepcopy(self.model.denoiser)
        self.unet.set_attn_processor(AttnProcessor2_0())
        self.left = self.clock.now()

    def on_rows(self, rows: int) -> None:
        """Note a call of the engine."""
        began = self.clock.now()
        self.between.append(began - self.left)
        number = self.counts.get(rows, 0)
        self.counts[rows] = number + 1
        if number % self.every == 0:
            self.bare.setdefault(rows, []).append(self.call(rows))
        self.left = self.clock.now()
        self.spent += self.left - began

    @torch.no_grad()
    def call(self, rows: int) -> float:
        """Return the seconds of one bare call."""
        latents = torch.randn(rows, *self.model.latent_shape, generator=torch.Generator().manual_seed(0))
        tokens, channels = (
            sum(t.model_max_length for t in self.model.tokenizers),
            self.unet.config.cross_attention_dim,
        )
        embeds = torch.randn(rows, tokens, channels, generator=torch.Generator().manual_seed(1))
        latents, embeds = (
            latents.to(self.clock.device, self.unet.dtype),
            embeds.to(self.clock.device, self.unet.dtype),
        )
        timestep = torch.tensor(500, device=self.clock.device)
        began = self.clock.now()
        self.unet(latents, timestep, encoder_hidden_states=embeds, return_dict=False)
        return self.clock.now() - began

    def bound(self) -> float:
        """Return the seconds that the engine's calls would have taken bare: by rows, calls x mean time."""
        return sum(n * sum(self.bare[rows]) / len(self.bare[rows]) for rows, n in self.counts.items())
