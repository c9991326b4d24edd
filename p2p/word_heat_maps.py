"""Heat-maps: where the words of a prompt are attended to, in the source image and in an edit of it.

Hertz et al. 2022, Sec. 3.1 and Fig. 4. The maps are read while the images are made, in the same calls.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from p2p.alignment import split_words, word_column
from p2p.attention.heads import HeadNames, Heads
from p2p.engine import denoise_tree
from p2p.families.model import Model
from p2p.groups import Group
from p2p.methods.prompt_to_prompt import check_substruct_words
from p2p.sampling import Sampling, with_fields
from p2p.trajectory import EditRequest, Method, Trajectory
from p2p.word_maps import layer_group, layer_groups
from p2p.word_readings import Reading, Watch, word_columns


@dataclass(frozen=True)
class WordHeat:
    """One image and where its words are attended to."""

    prompt: str
    image: Tensor = field(repr=False)  # (3, height, width) float32 in [0, 1]
    words: tuple[str, ...]  # those of the asked-for ones that are in the prompt
    maps: Mapping[tuple[str, tuple[int, int]], np.ndarray] = field(repr=False)
    """By (layers, steps): float64 (words, height, width) in units of probability.

    Summed over the tokens of a word, mean over heads, layers and steps of the conditional rows. Of an edit
    they are the maps it was made with: injected ones are the source's, re-weighted ones may exceed 1.
    """


@dataclass(frozen=True)
class HeatMaps:
    """The heat-maps of a source image and, where one was asked for, of its edit."""

    source: WordHeat
    edited: WordHeat | None


@torch.no_grad()
def heat_maps(
    model: Model,
    source_prompt: str,
    words: Sequence[str],
    edit: tuple[str, Method] | None = None,
    *,
    seed: int = 0,
    sampling: Sampling | None = None,
    layers: Sequence[str] | None = None,
    steps: Sequence[tuple[int, int]] | None = None,
    heads: HeadNames = None,
    weights: Mapping[str, float] | None = None,
    blend_words: tuple[str, str] | None = None,
    **sampling_fields: Any,
) -> HeatMaps:
    """Make an image (and its edit: a target prompt and a method) and return where `words` are attended to.

    A word, or a phrase, is looked for in both prompts. `layers` are groups such as "16" (tokens' height) or
    "down-16", "mid-8", "up-16"; None: every height. `steps` are ranges [start, end) of the denoiser's calls,
    `heads` those whose maps are averaged, such as [0, "3..7"]; None: all of them. `weights` and `blend_words`
    are the edit's, as in `p2p.edit`, and `sampling_fields` too are as there. Raises ValueError for a word in
    neither prompt, a group that no layer is in, a range that is empty, heads that a layer has not, and an
    edit that does not start from the source's noise (SDEdit).
    """
    sampling = with_fields(sampling, sampling_fields)
    calls = len(model.new_scheduler(sampling.num_inference_steps).timesteps)
    if layers is None:
        layers = [name for name in layer_groups(model) if name.isdecimal()]
    steps = [(0, calls)] if steps is None else steps
    _check(layers, steps, calls, model)
    target_prompt = edit[0] if edit else source_prompt
    own = [_words_of(prompt, words, model) for prompt in (source_prompt, target_prompt)]
    absent = [repr(word) for word in words if word not in own[0] + own[1]]
    if absent or not words:
        prompts = " or ".join(map(repr, dict.fromkeys([source_prompt, target_prompt])))
        raise ValueError(f"words: {', '.join(absent) or 'none'} given, allowed are words of {prompts}")
    readings = {(name, (start, end)): Reading(name, (start, end)) for name in layers for start, end in steps}
    source_words, target_words = (
        word_columns(prompt, kept, model.tokenizers)
        for prompt, kept in zip((source_prompt, target_prompt), own, strict=True)
    )
    read = Heads.named("heads", heads)
    watch = Watch(source_words, target_words, tuple(readings.values()), read)
    trajectory = Trajectory(source_prompt, ())  # without an edit: the source's own state, at no cost
    if edit:
        request = EditRequest(source_prompt, target_prompt, weights or {}, blend_words)
        check_substruct_words(edit[1], request)
        trajectory = edit[1].trajectory(request, model.tokenizers, sampling.num_inference_steps)
        if not trajectory.from_noise:
            raise ValueError(
                f"edit: {edit[1].name} starts from an image, allowed are methods that start from noise"
            )
    group = Group(source_prompt, seed, (replace(trajectory, watch=watch),))
    nodes, latents, recorded = denoise_tree(model, [group], sampling)
    images = model.decode(latents)
    row = next(row for row, node in enumerate(nodes) if 1 in node.branches)
    found = {key: recorded.read(row, nodes[row], watch, reading) for key, reading in readings.items()}
    both = []
    for which, prompt in enumerate((source_prompt, target_prompt)):
        maps = {key: _mean(sums[which], key[1]) for key, sums in found.items()}
        both.append(WordHeat(prompt, images[(0, row)[which]], tuple(own[which]), maps))
    return HeatMaps(both[0], both[1] if edit else None)


def _mean(sums: Tensor, steps: tuple[int, int]) -> np.ndarray:
    return (sums.double() / (steps[1] - steps[0])).cpu().numpy()


def _words_of(prompt: str, words: Sequence[str], model: Model) -> list[str]:
    """Return the words that are in the prompt."""
    split_words(prompt)  # validates it, so that below only a word can be wrong
    found = []
    for word in dict.fromkeys(words):
        try:
            word_column(prompt, word, model.tokenizers)
        except ValueError:
            continue
        found.append(word)
    return found


def _check(layers: Sequence[str], steps: Sequence[tuple[int, int]], calls: int, model: Model) -> None:
    if not layers or not steps:
        raise ValueError(f"{'steps' if layers else 'layers'}: none given, at least one is needed")
    for name in layers:
        layer_group(name, model)
    for start, end in steps:
        if not 0 <= start < end <= calls:
            raise ValueError(
                f"steps: ({start}, {end}) is no range of steps, allowed is 0 <= start < end <= {calls}"
            )
