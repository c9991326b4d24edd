"""Prompt-to-Prompt as a method: from prompts and thresholds to what is injected at each denoising step.

Hertz et al. 2022, "Prompt-to-Prompt Image Editing with Cross Attention Control", Sec. 3.2 and Algorithm 1.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from p2p.alignment import OPERATORS, Tail, alignment_matrix, equalizer, resolve_operator
from p2p.schedule import Steps, cross_gate, self_window, windows_from_tau


@dataclass(frozen=True)
class CrossInjection:
    """One step's cross-attention edit, `softmax(Q_s K_s^T) (W V_t) + softmax(Q_t K_t^T) (w * V_t)`."""

    source_mix: Tensor  # W = M diag(a c g), (source tokens, target tokens)
    own_share: Tensor  # w = (1 - a) c g + (1 - g), (target tokens,)
    key: str  # equal for equal tensors


@dataclass(frozen=True)
class Injection:
    """What one branch takes from the source's attention at one step."""

    cross: CrossInjection | None
    self_attention: bool

    @property
    def key(self) -> str:
        """A short text that is equal for equal injections."""
        return f"{self.cross.key if self.cross else ''}/{int(self.self_attention)}"


@dataclass(frozen=True)
class Trajectory:
    """How one image is denoised: the prompt, what is injected at each step, and where it starts."""

    prompt: str
    injections: tuple[Injection | None, ...]  # one per row of the T + 1 table; None, or (), = plain denoising
    start: int | None = None  # None: from the seed's noise; else from the source image, noised to this step
    record: Mapping[str, Any] = field(default_factory=dict)  # the effective operator, for tables

    def digest(self) -> str:
        """Return a hash of all that determines the pixels, given model, sampling settings and source."""
        injected = [f"{step}:{i.key}" for step, i in enumerate(self.injections) if i]
        parts = [self.prompt, repr(self.start), *injected]
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()


@dataclass(frozen=True)
class EditRequest:
    """What is to be edited, whatever the method: two prompts, and factors for words of the target prompt."""

    source_prompt: str
    target_prompt: str
    weights: Mapping[str, float] = field(default_factory=dict)


class Method(Protocol):
    """What every method is: a name, and the trajectory of an edit."""

    @property
    def name(self) -> str:
        """The method's name in records and tables."""

    def trajectory(
        self, request: EditRequest, tokenizer: PreTrainedTokenizerBase, num_inference_steps: int
    ) -> Trajectory:
        """Return how the edited image is denoised; ValueError where the edit cannot be made."""


@dataclass(frozen=True)
class PromptToPrompt:
    """Edit by injecting the source's attention.

    Give `tau` or `cross_replace_steps`, not both; with neither, cross_replace_steps = 0.8. `weights`
    re-weights words of the target prompt: a mapping, or a number that replaces the factor of every word the
    request re-weights, or None for the request's own.
    """

    operator: str = "auto"
    tau: float | Mapping[str, float] | None = None
    cross_replace_steps: Steps | Mapping[str, Steps] | None = None
    self_replace_steps: Steps = 0.4
    weights: float | Mapping[str, float] | None = None
    tail: Tail = "shifted"
    name: ClassVar[str] = "p2p"

    def __post_init__(self) -> None:
        if self.operator not in OPERATORS:
            raise ValueError(f"operator: {self.operator!r} is not one of {', '.join(map(repr, OPERATORS))}")
        if self.tau is not None and self.cross_replace_steps is not None:
            raise ValueError(
                f"tau: {self.tau!r} and cross_replace_steps: {self.cross_replace_steps!r} given, "
                "allowed is one of them"
            )
        self._windows()
        number = isinstance(self.weights, (int, float)) and not isinstance(self.weights, bool)
        if not (self.weights is None or isinstance(self.weights, Mapping) or number):
            raise ValueError(f"weights: {self.weights!r} is not a number or a mapping of words to numbers")

    def _windows(self) -> tuple[Steps | Mapping[str, Steps], Steps]:
        if self.tau is not None:
            return windows_from_tau(self.tau, self.self_replace_steps)
        self_window(self.self_replace_steps, 1)  # validates
        return 0.8 if self.cross_replace_steps is None else self.cross_replace_steps, self.self_replace_steps

    def trajectory(
        self, request: EditRequest, tokenizer: PreTrainedTokenizerBase, num_inference_steps: int
    ) -> Trajectory:
        """Return what to inject at each step. Raises ValueError where words or prompts do not allow it."""
        cross_steps, self_steps = self._windows()
        source_prompt, target_prompt = request.source_prompt, request.target_prompt
        operator = resolve_operator(self.operator, source_prompt, target_prompt)
        matrix, aligned = alignment_matrix(operator, source_prompt, target_prompt, tokenizer, self.tail)
        if isinstance(self.weights, Mapping):
            weights = dict(self.weights)
        else:
            weights = {
                word: factor if self.weights is None else float(self.weights)
                for word, factor in request.weights.items()
            }
        factors = equalizer(target_prompt, weights, tokenizer)
        gate = cross_gate(cross_steps, target_prompt, tokenizer, num_inference_steps)
        self_start, self_end = self_window(self_steps, num_inference_steps)
        cross: dict[bytes, CrossInjection | None] = {}
        injections: list[Injection | None] = []
        for step, row in enumerate(gate):
            bits = row.numpy().tobytes()
            if bits not in cross:
                cross[bits] = _cross_injection(matrix, aligned, factors, row.float()) if row.any() else None
            injected = Injection(cross[bits], self_start <= step < self_end)
            injections.append(injected if injected.cross or injected.self_attention else None)
        active = gate.any(1).nonzero().flatten().tolist()
        record = {
            "operator": operator,
            "tau": self._tau(self_start, self_end, num_inference_steps),
            "cross_start": active[0] if active else 0,
            "cross_end": min(active[-1] + 1, num_inference_steps) if active else 0,
            "self_start": self_start if self_start < self_end else 0,
            "self_end": self_end if self_start < self_end else 0,
            "weights": weights,
        }
        return Trajectory(target_prompt, tuple(injections), record=record)

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


def _cross_injection(matrix: Tensor, aligned: Tensor, factors: Tensor, gate: Tensor) -> CrossInjection:
    """Return the linear form of replace or refine, equalizer and gate (tokens,) at one step."""
    source_mix = matrix * (aligned * factors * gate)
    own_share = (1 - aligned) * factors * gate + (1 - gate)
    content = torch.cat([source_mix, own_share[None]]).numpy().tobytes()
    return CrossInjection(source_mix, own_share, hashlib.sha256(content).hexdigest()[:16])
