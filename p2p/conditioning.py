"""What the denoiser is told in each call of a run: the prompts of its rows, and the negative one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from p2p.families.model import Conditioning, Model, stack_rows
from p2p.sampling import Sampling
from p2p.source_path import SourcePath
from p2p.tree import Node


@dataclass(frozen=True)
class Texts:
    """The conditioning of every prompt of a tree, each encoded once."""

    prompts: Mapping[str, Conditioning]
    negative: Conditioning | None  # None: there are no unconditional rows

    @classmethod
    def of(cls, levels: Sequence[Sequence[Node]], model: Model, sampling: Sampling) -> Texts:
        """Encode the prompts of all levels. Raises ValueError for one that is too long."""
        prompts = sorted({node.prompt for level in levels for node in level})
        texts = {prompt: model.encode_prompt(prompt) for prompt in prompts}
        if sampling.rows_per_state(model.guidance_embedded) == 1:
            return cls(texts, None)
        return cls(texts, model.encode_prompt(sampling.negative_prompt, negative=True))

    def rows(self, nodes: Sequence[Node], sources: Sequence[SourcePath], step: int) -> Conditioning:
        """Return one call's conditioning: unconditional rows, each as its source has it, before the others.

        `sources` are one per group. What a node is told beside its prompt is told in both of its rows.
        """
        uncond = []
        if self.negative is not None:
            uncond = [sources[node.group].negative(step, self.negative) for node in nodes]
        text = [self.prompts[node.prompt] for node in nodes]
        beside = [node.condition.rows if node.condition else {} for node in nodes]
        repeated = beside * (2 if uncond else 1)
        return stack_rows([{**row, **own} for row, own in zip([*uncond, *text], repeated, strict=True)])
