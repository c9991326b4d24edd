"""What stays the same from the first step of a run to its last, and the predictions that are made of it.

Targets read their source's attention (attention/) in the same call of the denoiser, or from a bank where a
step takes several calls.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from p2p.attention.injection import BatchInjection
from p2p.attention.source_bank import SourceBank
from p2p.conditioning import Texts
from p2p.families.model import Model
from p2p.guidance import guide_nodes
from p2p.memory import attempt
from p2p.prepared import Preparation
from p2p.sampling import Calls, Sampling
from p2p.schedulers import scale_model_input
from p2p.source_path import SourcePath
from p2p.word_maps import WordMaps


@dataclass(frozen=True)
class DenoisingRun:
    """All that a prediction needs beside the latents and the step."""

    model: Model
    scheduler: Any
    sources: Sequence[SourcePath]  # one per group, all from one step on
    sampling: Sampling
    calls: Calls
    texts: Texts
    prepared: Preparation
    maps: WordMaps
    layers: Sequence[str]  # with the engine's processors

    def predict(self, latents: Tensor, number: int, timestep: Tensor) -> Tensor:
        """Return the guided noise prediction of every node of a level, sources first; levels count from 0.

        It takes calls of `calls.max_rows` rows, halved where memory runs out.
        """
        level, per_node = self.prepared.levels[number], self.prepared.per_node
        step = self.sources[0].start + number
        bank = SourceBank()
        scaled = scale_model_input(self.scheduler, latents, timestep)
        predictions = []
        begin = 0
        while begin < len(level):
            nodes = level[begin : begin + max(1, self.calls.max_rows // per_node)]
            rows = scaled[begin : begin + len(nodes)].repeat(per_node, 1, 1, 1)
            conditioning = self.texts.rows(nodes, self.sources, step)
            words = self.maps.words(begin, len(nodes), per_node)
            chunk = self.prepared.chunk(number, begin, len(nodes))
            injection = chunk.at_step(self.prepared.mixes, bank, words, self.maps.active_layers)
            bank.keep = begin + len(nodes) < len(level)
            kept = dict(bank.layers)
            scale = self.sampling.guidance_scale
            call = partial(self.model.predict, rows, timestep, conditioning, injection, scale)
            output = attempt(call, "denoiser: at one state" if len(nodes) == 1 else None)
            if output is None:
                bank.layers = kept  # what the broken call had added
                self.calls.max_rows = max(per_node, per_node * (len(nodes) // 2))
                continue
            if injection:
                self._check_visits(injection)
                self.maps.add(begin, len(nodes), injection)
            self.calls.on_rows(len(rows))
            begin += len(nodes)
            if self.texts.negative is not None:
                output = guide_nodes(self.model, output, nodes, self.sources, self.sampling)
            predictions.append(output)
        return torch.cat(predictions)

    def _check_visits(self, injection: BatchInjection) -> None:
        """Raise RuntimeError where a call passed a layer by, so that it edited less than was asked for."""
        if sorted(injection.visited) != sorted(self.layers):
            missed = set(self.layers) - set(injection.visited)
            raise RuntimeError(f"attention: {len(missed)} layers did not call their processor")
        if injection.taking:
            injection.taking.check()
