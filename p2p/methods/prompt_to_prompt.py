"""Prompt-to-Prompt as a method: from prompts and thresholds to what is injected at each denoising step.

Hertz et al. 2022, "Prompt-to-Prompt Image Editing with Cross Attention Control", Sec. 3.2 and Algorithm 1.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from typing import Any, ClassVar

import numpy as np
import torch

from p2p.alignment import Tokenizers, check_equal_padding, equalizer, token_limit
from p2p.attention.heads import HeadNames, Heads
from p2p.attention.joint_blocks import Blocks
from p2p.attention.places import Names, Places
from p2p.attention.single_layers import LayerInjection
from p2p.local_blend import LocalBlend
from p2p.methods.profiles import profile
from p2p.methods.windows import (
    Steps,
    check_tau,
    check_windows,
    gate_rows,
    self_window,
    window,
    windows_from_tau,
)
from p2p.numbers import check_finite
from p2p.operators import Alignment, block_alignment, find_operator, resolve_operator
from p2p.trajectory import (
    CrossInjection,
    EditRequest,
    Injection,
    Method,
    Trajectory,
    WordScores,
    check_word_pair,
)
from p2p.value_area import ValueArea
from p2p.word_readings import word_columns

WEIGHTS_ON = ("probabilities", "scores")


@dataclass(frozen=True)
class PromptToPrompt:
    """Edit by injecting the source's attention.

    Give `tau` or `cross_replace_steps`, not both; with neither, cross_replace_steps = 0.8. `weights`
    re-weights words of the target prompt: a mapping, or a number that replaces the factor of every word the
    request re-weights, or None for the request's own; `blend_weight` is the factor of the request's blend
    words in the target prompt (PnP Inversion's benchmark has 2). With `local_blend`, the request's blend
    words bound the edited area (blend.py): from `blend_start` of the steps on (None: the profile's), where
    their maps exceed `blend_threshold` of their peak, without the area of `substruct_words` (of source and
    target prompt). A request without blend words is not blended.

    `blocks` are the layers whose maps are injected: of a transformer such as ["double-0..7", "single-3"], of
    a UNet such as ["mid", "up-16"], a part, a height in tokens or both; None: all. `blend_layers` are those
    whose maps LocalBlend reads, all of one height (None: the model's `blend_side`), and `blend_smoothing` the
    deviation in tokens of a Gaussian over them. `heads` are the heads, of these layers, in which maps are
    injected, such as [0, "3..7"] or "no-2", and `blend_heads` those whose maps LocalBlend reads; None: all.
    In other heads a target's maps are its own.

    ColorCtrl's two parts (Yin et al. 2026, `p2p/value_area.py`), in joint attention. In
    `value_replace_steps`, a share or a window as `self_replace_steps` is one, conditional rows of the target
    have the source's values of the image outside the area where the source attends to its blend word: where
    the mean of its maps of the steps before, read as LocalBlend's are, is more than `value_threshold` of the
    way from its least to its largest value. At the first step all values are the target's own; without blend
    words they are so at every step, and a blend word that is None has no area. With `weights_on="scores"` a
    word's weight multiplies, at every step and before the softmax, its text queries' scores of the image's
    keys. With "probabilities" it multiplies what image queries read of the word, after the softmax, in the
    word's cross-attention window.

    ColorCtrl's mask is of all steps of the source, which is denoised once before. Its code was not published,
    and the paper does not say whether unconditional rows take values too.
    """

    operator: str = "auto"
    tau: float | Mapping[str, float] | None = None
    cross_replace_steps: Steps | Mapping[str, Steps] | None = None
    self_replace_steps: Steps = 0.4
    weights: float | Mapping[str, float] | None = None
    blend_weight: float | None = None
    profile: str = "fixed"
    local_blend: bool = True
    blend_start: float | None = None
    blend_threshold: float = 0.3
    substruct_words: tuple[str, str] | None = None
    substruct_threshold: float = 0.3
    blocks: Names = None
    blend_layers: Names = None
    blend_smoothing: float = 0.0
    heads: HeadNames = None
    blend_heads: HeadNames = None
    weights_on: str = "probabilities"
    value_replace_steps: Steps = 0.0
    value_threshold: float = 0.1
    name: ClassVar[str] = "p2p"
    uses_mask: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if self.operator != "auto":
            find_operator(self.operator)
        if self.tau is not None and self.cross_replace_steps is not None:
            raise ValueError(
                f"tau: {self.tau!r} and cross_replace_steps: {self.cross_replace_steps!r} given, "
                "allowed is one of them"
            )
        if self.tau == {}:
            raise ValueError("tau: {} names no word, allowed are a number, or numbers by word")
        self._windows()
        if not (self.weights is None or isinstance(self.weights, Mapping)):
            check_finite("weights", self.weights, note=" or a mapping of words to numbers")
        if self.blend_weight is not None:
            check_finite("blend_weight", self.blend_weight)
        start = profile(self.profile).blend_start if self.blend_start is None else self.blend_start
        shares = {
            "blend_start": start,
            "blend_threshold": self.blend_threshold,
            "substruct_threshold": self.substruct_threshold,
            "value_threshold": self.value_threshold,
        }
        for name, share in shares.items():
            check_finite(name, share)
            if not 0 <= share < 1:
                raise ValueError(f"{name}: {share!r} is not in [0, 1)")
        if self.substruct_words is not None:
            check_word_pair("substruct_words", self.substruct_words)
        for name in ("blocks", "blend_layers"):
            Places.named(name, getattr(self, name))
        for name in ("heads", "blend_heads"):
            Heads.named(name, getattr(self, name))
        check_finite("blend_smoothing", self.blend_smoothing, 0)
        window("value_replace_steps", self.value_replace_steps)
        if self.weights_on not in WEIGHTS_ON:
            raise ValueError(
                f"weights_on: {self.weights_on!r} is no such thing, allowed are {' and '.join(WEIGHTS_ON)}"
            )

    def _windows(self) -> tuple[Steps | Mapping[str, Steps], Steps]:
        if self.tau is not None:
            return windows_from_tau(self.tau, self.self_replace_steps)
        self_window(self.self_replace_steps, 1)  # validates
        return 0.8 if self.cross_replace_steps is None else self.cross_replace_steps, self.self_replace_steps

    def trajectory(
        self, request: EditRequest, tokenizers: Tokenizers, num_inference_steps: int
    ) -> Trajectory:
        """Return what to inject at each step. Raises ValueError where words or prompts do not allow it, and
        for a share of the steps, above 0, that comes to no step.
        """
        cross_steps, (self_start, self_end) = self._steps(num_inference_steps)
        chosen = profile(self.profile)
        source_prompt, target_prompt = request.source_prompt, request.target_prompt
        operator = resolve_operator(self.operator, source_prompt, target_prompt)
        alignment = block_alignment(operator, source_prompt, target_prompt, tokenizers, chosen.tail)
        if isinstance(self.weights, Mapping):
            weights = dict(self.weights)
        else:
            weights = {
                word: factor if self.weights is None else float(self.weights)
                for word, factor in request.weights.items()
            }
        scaled = dict(weights)
        blend_word = request.blend_words[1] if request.blend_words is not None else None
        if self.blend_weight is not None and blend_word is not None:
            scaled = {blend_word: float(self.blend_weight), **weights}
        if chosen.one_weight and len(set(scaled.values())) > 1:
            raise ValueError(
                f"weights: {scaled} are several factors, allowed is one under profile {self.profile!r}"
            )
        gate = gate_rows(cross_steps, target_prompt, tokenizers, num_inference_steps)
        sizes = tuple(token_limit(tokenizer) for tokenizer in tokenizers)
        scales, scores = _unscaled(sizes), None
        if scaled and self.weights_on == "scores":
            scores = _scores(_scales(target_prompt, tokenizers, scaled))
        elif scaled:
            scales = _scales(target_prompt, tokenizers, scaled)
        taken = [(row, self_start <= step < self_end) for step, row in enumerate(gate)]
        known = {one: _injection(alignment, scales, *one, chosen.self_max_pixels) for one in set(taken)}
        places, heads = Places.named("blocks", self.blocks), Heads.named("heads", self.heads)
        if scores:
            known = {one: made or Injection(None, False) for one, made in known.items()}
        if places or heads or scores:
            known = {
                one: made and replace(made, places=places, heads=heads, scores=scores)
                for one, made in known.items()
            }
        injections = [known[one] for one in taken]
        if area := self._area(request, tokenizers):
            blocks = places.blocks if places and places.blocks else Blocks(None)
            values = LayerInjection(projections=blocks, shared=("value",), heads=heads, outside=area.key)
            for step in self._value_steps(num_inference_steps):
                injections[step] = replace(injections[step] or Injection(None, False), layers=values)
        if any(one and one.takes for one in injections):
            check_equal_padding(source_prompt, target_prompt, tokenizers)
        active = [step for step, row in enumerate(gate) if 1 in row]
        record: dict[str, Any] = {
            "operator": operator,
            "tau": self._tau(self_start, self_end, num_inference_steps),
            "cross_start": active[0] if active else 0,
            "cross_end": min(active[-1] + 1, num_inference_steps) if active else 0,
            "self_start": self_start if self_start < self_end else 0,
            "self_end": self_end if self_start < self_end else 0,
            "weights": weights,
        }
        blend = self._blend(request, tokenizers, num_inference_steps)
        if blend is not None and request.blend_words is not None:
            source_words, target_words = request.blend_words
            record["blend"] = {
                "source_words": source_words,
                "target_words": target_words,
                "start": blend.start,
                "threshold": blend.threshold,
            }
        if scaled != weights:  # not among `weights`, by which tables part edits
            record["blend"] = {**record.get("blend", {}), "weight": float(self.blend_weight or 0)}
        return Trajectory(target_prompt, tuple(injections), blend=blend, area=area, record=record)

    def _steps(self, num_inference_steps: int) -> tuple[Steps | Mapping[str, Steps], tuple[int, int]]:
        """Return the window of cross-attention and the steps of self-attention, alike for all prompts."""
        if num_inference_steps not in self._known_steps:
            self._check_steps(num_inference_steps)
            cross, itself = self._windows()
            self._known_steps[num_inference_steps] = cross, self_window(itself, num_inference_steps)
        return self._known_steps[num_inference_steps]

    @cached_property
    def _known_steps(self) -> dict[int, tuple[Steps | Mapping[str, Steps], tuple[int, int]]]:
        return {}

    def _check_steps(self, num_inference_steps: int) -> None:
        """Raise ValueError for a share that comes to no step.

        Defaults may, as the self-attention window's 0.4 of two steps does, and what tau caps to none is none.
        """
        self._value_steps(num_inference_steps)
        if self.tau is not None:
            check_tau(self.tau, num_inference_steps)
        if self.tau != 1:
            cross = self._windows()[0] if self.tau is None else 0
            usual = self.self_replace_steps == PromptToPrompt.self_replace_steps
            check_windows(cross, 0 if usual else self.self_replace_steps, num_inference_steps)
        if self.blend_start and not int(self.blend_start * num_inference_steps):
            raise ValueError(
                f"blend_start: {self.blend_start} of {num_inference_steps} steps is no step, allowed are 0, "
                f"1/{num_inference_steps} or more, and null (the profile's, which may come to 0)"
            )

    def _blend(
        self, request: EditRequest, tokenizers: Tokenizers, num_inference_steps: int
    ) -> LocalBlend | None:
        if request.blend_words is None or not self.local_blend:
            return None
        prompts, words = (request.source_prompt, request.target_prompt), []
        for index, prompt in enumerate(prompts):
            substruct = self.substruct_words[index] if self.substruct_words is not None else None
            words.append(word_columns(prompt, [request.blend_words[index], substruct], tokenizers))
        share = profile(self.profile).blend_start if self.blend_start is None else self.blend_start
        start = int(share * num_inference_steps)
        layers = Places.named("blend_layers", self.blend_layers)
        thresholds = self.blend_threshold, self.substruct_threshold
        heads = Heads.named("blend_heads", self.blend_heads)
        return LocalBlend(words[0], words[1], start, *thresholds, layers, float(self.blend_smoothing), heads)

    def _value_steps(self, num_inference_steps: int) -> range:
        """Return the steps of value replacement. Raises ValueError for a share that comes to no step."""
        shares = window("value_replace_steps", self.value_replace_steps)
        start, end = (int(share * num_inference_steps) for share in shares)
        if start == end and shares[0] < shares[1]:
            raise ValueError(
                f"value_replace_steps: {self.value_replace_steps!r} of {num_inference_steps} steps is no "
                f"step, allowed are 0 and windows of 1/{num_inference_steps} or more"
            )
        return range(start, end)

    def _area(self, request: EditRequest, tokenizers: Tokenizers) -> ValueArea | None:
        start, end = window("value_replace_steps", self.value_replace_steps)
        if request.blend_words is None or start == end:
            return None
        words = word_columns(request.source_prompt, request.blend_words[:1], tokenizers)
        layers = Places.named("blend_layers", self.blend_layers)
        heads = Heads.named("blend_heads", self.blend_heads)
        return ValueArea(words, self.value_threshold, layers, float(self.blend_smoothing), heads)

    def _tau(self, self_start: int, self_end: int, num_inference_steps: int) -> float | None:
        """Return the one number that describes both windows, or None."""
        if isinstance(self.tau, (int, float)):
            return float(self.tau)
        cross = self._windows()[0]
        if not isinstance(cross, (int, float)) or self_start:
            return None
        tau = round(1 - cross, 9)
        capped = windows_from_tau(tau)[1]
        return tau if self_window(capped, num_inference_steps) == (0, self_end) else None


def check_substruct_words(method: Method, request: EditRequest) -> None:
    """Raise ValueError for substruct words of a request without blend words, where they do nothing.

    Not part of `trajectory`: in a data set some pairs may have no blend words.
    """
    words = method.substruct_words if isinstance(method, PromptToPrompt) else None
    if words is not None and request.blend_words is None:
        raise ValueError(f"substruct_words: {words!r} given without blend_words, allowed is to give both")


def _injection(
    alignment: Alignment, factors: bytes, gate: bytes, self_attention: bool, self_max_pixels: int | None
) -> Injection | None:
    """Return what one step takes from the source, None for nothing; the bytes are `_cross_injection`'s."""
    cross = _cross_injection(alignment, factors, gate) if 1 in gate else None
    return Injection(cross, self_attention, self_max_pixels) if cross or self_attention else None


def _scales(prompt: str, tokenizers: Tokenizers, weights: Mapping[str, float]) -> bytes:
    """Return the equalizer (float64) over all tokenizers' tokens."""
    factors: bytes = torch.cat([equalizer(prompt, weights, one) for one in tokenizers]).numpy().tobytes()
    return factors


def _scores(factors: bytes) -> WordScores | None:
    """Return what words' scores are scaled by, of an equalizer's bytes; None where it scales none."""
    by_token = enumerate(np.frombuffer(factors, np.float64).tolist())
    scaled = tuple((token, factor) for token, factor in by_token if factor != 1)
    return WordScores(scaled) if scaled else None


@lru_cache(maxsize=4)
def _unscaled(sizes: tuple[int, ...]) -> bytes:
    """Return what `_scales` is without weights."""
    return np.ones(sum(sizes)).tobytes()


@lru_cache(maxsize=16)  # of one pair, over the taus of a sweep
def _cross_injection(alignment: Alignment, factors: bytes, gate: bytes) -> CrossInjection:
    """Return the linear form of an operator, equalizer (float64) and gate (bool) at one step.

    Equalizer and gate are the bytes of one value a token.
    """
    matrix, aligned = alignment.matrix.double(), alignment.aligned.double()
    scales = torch.from_numpy(np.frombuffer(factors, np.float64).copy())
    opened = torch.from_numpy(np.frombuffer(gate, np.bool_).astype(np.float64))
    source_mix = matrix * (aligned * scales * opened)  # in double: 1/3 of a word, five times, is not 5/3
    own_share = (1 - aligned) * scales * opened + (1 - opened)
    content = torch.cat([source_mix, own_share[None]]).numpy().tobytes()
    return CrossInjection(source_mix, own_share, hashlib.sha256(content).hexdigest()[:16])
