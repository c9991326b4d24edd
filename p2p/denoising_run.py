"""What stays the same from the first step of a run to its last, and the predictions that are made of it.

Targets read their source's attention (attention/) in the same call of the denoiser, or from a bank where a
step takes several calls.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import torch
from torch import Tensor

from p2p.attention.dense import DenseInjection
from p2p.attention.injection import AnyInjection
from p2p.attention.source_bank import SourceBank
from p2p.compiling import call_size
from p2p.conditioning import Texts
from p2p.dense_calls import DenseCalls, Part
from p2p.families.model import Model
from p2p.flow_solvers import Velocity, flow_timestep
from p2p.guidance import guide_nodes, told_scales
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
    dense: DenseCalls | None  # of a compiled denoiser

    @cached_property
    def _dtype(self) -> torch.dtype:
        """The denoiser's precision, asked once: diffusers walks through all modules for it."""
        return self.model.dtype

    def velocity(self, number: int) -> Velocity:
        """Return the velocity of every node of a level at any noise level, in the precision of the latents.

        Words are read in a step's last evaluation alone, so that every step adds as much to their maps.
        """

        def predicted(latents: Tensor, sigma: float, last: bool) -> Tensor:
            timestep = flow_timestep(self.scheduler, sigma)
            return self.predict(latents, number, timestep, last).to(latents.dtype)

        return predicted

    def predict(self, latents: Tensor, number: int, timestep: Tensor, reading: bool = True) -> Tensor:
        """Return the guided noise prediction of every node of a level, sources first; levels count from 0.

        It takes calls of `calls.max_rows` rows, halved where memory runs out. Those of a compiled denoiser
        are padded to few sizes; a step in which rows take from chosen layers or heads, or read some heads,
        is not compiled. `reading` says whether the maps of words are added to their sums.
        """
        level, per_node = self.prepared.levels[number], self.prepared.per_node
        step = self.sources[0].start + number
        taken = [node.injection for node in level if node.injection]
        chosen = any(i.layers or i.places or i.heads or i.scores for i in taken) or (
            reading and self.maps.heads
        )
        dense = None if chosen else self.dense
        bank, own_values = SourceBank(), self.maps.own_values(level)
        scaled = scale_model_input(self.scheduler, latents, timestep).to(self._dtype)
        predictions = []
        begin = 0
        while begin < len(level):
            left, most = len(level) - begin, max(1, self.calls.max_rows // per_node)
            count, size = call_size(left, most) if dense else (min(left, most),) * 2
            part = Part(level, begin, count, size)
            rows = part.filled(scaled[begin : begin + count]).repeat(per_node, 1, 1, 1)
            conditioning = self.texts.rows(part.nodes, self.sources, step)
            words = self.maps.words(begin, count, per_node) if reading else None
            injection: AnyInjection | None
            if dense:
                injection = dense.injection(part, bank, words, self.maps.active_layers)
            else:
                chunk = self.prepared.chunk(number, begin, count)
                heads = self.maps.read_heads(begin, count, per_node) if reading else {}
                layers, mixes = self.maps.active_layers, self.prepared.mixes
                own = None if own_values is None else self._rows(own_values[begin : begin + count])
                injection = chunk.at_step(mixes, bank, words, layers, heads, own)
            bank.keep = begin + count < len(level)
            kept = dict(bank.layers)
            told = (
                told_scales(part.nodes, self.sources, self.sampling) if self.model.guidance_embedded else 1.0
            )
            call = partial(self.model.predict, rows, timestep, conditioning, injection, told)
            output = attempt(call, "denoiser: at one state" if count == 1 else None)
            if output is None:
                bank.layers = kept  # what the broken call had added
                self.calls.max_rows = max(per_node, per_node * (count // 2))
                continue
            if injection:
                self._check_visits(injection)
                if isinstance(injection, DenseInjection):
                    part.take_in(injection, bank, self.maps.width)
                    output = output.unflatten(0, (per_node, size))[:, :count].flatten(0, 1)
                if reading:
                    self.maps.add(begin, count, injection)
            self.calls.on_rows(per_node * count)
            begin += count
            if self.texts.negative is not None:
                nodes = level[begin - count : begin]
                output = guide_nodes(self.model, output, nodes, self.sources, self.sampling)
            predictions.append(output)
        return torch.cat(predictions)

    def _rows(self, own_values: Tensor) -> Tensor:
        """Return where the rows of a call keep their own values, bool (rows, 1, pixels, 1)."""
        return own_values.repeat(self.prepared.per_node, 1)[:, None, :, None]

    def _check_visits(self, injection: AnyInjection) -> None:
        """Raise RuntimeError where a call passed a layer by, so that it edited less than was asked for."""
        if sorted(injection.visited) != sorted(self.layers):
            missed = set(self.layers) - set(injection.visited)
            raise RuntimeError(f"attention: {len(missed)} layers did not call their processor")
        if injection.taking:
            injection.taking.check()
