"""Classifier-free guidance of a call's rows, where an inverted source is guided unlike its edits."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from p2p.families.model import Model
from p2p.sampling import Sampling
from p2p.source_path import SourcePath
from p2p.tree import Node


def told_scales(
    nodes: Sequence[Node], sources: Sequence[SourcePath], sampling: Sampling
) -> float | list[float]:
    """Return what a denoiser that is told the guidance scale is told, for each node where they differ.

    An inverted source may have a guidance scale of its own.
    """
    scales = []
    for node in nodes:
        own = sources[node.group].guidance_scale if 0 in node.branches else None
        scales.append(sampling.guidance_scale if own is None else own)
    return scales if len(set(scales)) > 1 else scales[0]


def guide_nodes(
    model: Model, output: Tensor, nodes: Sequence[Node], sources: Sequence[SourcePath], sampling: Sampling
) -> Tensor:
    """Return the nodes' guided predictions, of an output with unconditional rows before the others.

    An inverted source may have a guidance scale of its own, its edits a shrunk guidance.
    """
    uncond, text = output.chunk(2)
    scale, rescale = sampling.guidance_scale, sampling.guidance_rescale
    guided = model.guide(uncond, text, scale, rescale)
    for i, node in enumerate(nodes):
        path, row = sources[node.group], slice(i, i + 1)
        if 0 in node.branches and path.guidance_scale is not None:
            guided[row] = model.guide(uncond[row], text[row], path.guidance_scale, rescale)
        elif 0 not in node.branches and path.shrink is not None:
            shrunk = uncond[row] + path.shrink(text[row] - uncond[row])
            guided[row] = model.guide(uncond[row], shrunk, scale, rescale)
    return guided
