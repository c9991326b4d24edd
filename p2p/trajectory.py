"""How one image is denoised: its prompt, what it takes from its source at each step, and where it starts.

A method (p2p/methods) makes a `Trajectory` of an `EditRequest`; the engine carries it out.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import astuple, dataclass, field
from functools import cached_property
from typing import Any, Protocol

from torch import Tensor

from p2p.alignment import Tokenizers
from p2p.attention.heads import Heads
from p2p.attention.joint_blocks import JOINT_MODELS
from p2p.attention.places import Places
from p2p.attention.single_layers import LayerInjection
from p2p.loading.pipeline_spec import ExternalCall
from p2p.local_blend import LocalBlend
from p2p.value_area import ValueArea
from p2p.word_readings import Watch


@dataclass(frozen=True)
class CrossInjection:
    """One step's cross-attention edit, `softmax(Q_s K_s^T) (W V_t) + softmax(Q_t K_t^T) (w * V_t)`."""

    source_mix: Tensor  # W = M diag(a c g), (source tokens, target tokens)
    own_share: Tensor  # w = (1 - a) c g + (1 - g), (target tokens,)
    key: str  # equal for equal tensors


NO_TEXT_QUERIES = (
    "weights_on: scores weights what a word's queries read of the image, and in this model text has no "
    f"queries; allowed are probabilities, and {JOINT_MODELS}"
)


@dataclass(frozen=True)
class WordScores:
    """Words whose queries' scores of the image are scaled before the softmax."""

    factors: tuple[tuple[int, float], ...]  # of the target prompt's tokens, by their place

    @property
    def key(self) -> str:
        """A short text that is equal for equal factors."""
        return hashlib.sha256(repr(self.factors).encode()).hexdigest()[:16]


@dataclass(frozen=True)
class Injection:
    """What one branch takes from the source at one step."""

    cross: CrossInjection | None
    self_attention: bool
    self_max_pixels: int | None = None  # None: the model's own
    layers: LayerInjection | None = None
    places: Places | None = None  # where maps are injected; None: in all layers
    heads: Heads | None = None  # in which maps are injected; None: in all heads
    scores: WordScores | None = None  # at these places, in these heads

    @property
    def takes(self) -> bool:
        """Whether it takes anything of the source; scaled scores are the target's own."""
        return self.cross is not None or self.self_attention or self.layers is not None

    @cached_property
    def key(self) -> str:
        """A short text that is equal for equal injections."""
        itself = f"self{self.self_max_pixels or ''}" if self.self_attention else ""
        layers = f"/{self.layers.key}" if self.layers else ""
        places = f"@{self.places.key}" if self.places else ""
        heads = f"#{self.heads.key}" if self.heads else ""
        scores = f"*{self.scores.key}" if self.scores else ""
        return f"{self.cross.key if self.cross else ''}/{itself}{layers}{places}{heads}{scores}"


@dataclass(frozen=True)
class Condition:
    """What one image's denoiser is told beside the prompt, by the family's own names."""

    rows: Mapping[str, Tensor]
    key: str  # equal for equal rows


@dataclass(frozen=True)
class FlowDifference:
    """How a picture is moved along the difference of two velocities, see `p2p.methods.flow_edit`."""

    source_prompt: str
    source_guidance_scale: float
    target_guidance_scale: float
    draws: int  # of noise, a step
    sampled_from: int  # the step from which on the target prompt is denoised instead

    @property
    def key(self) -> str:
        """A text that is equal for equal ones."""
        return repr(astuple(self))


@dataclass(frozen=True)
class FlowFusion:
    """How the velocities of two prompts are mixed along a flow, see `p2p.methods.uni_edit`."""

    source_prompt: str
    strength: float
    guidance_scale: float  # of both velocities

    @property
    def key(self) -> str:
        """A text that is equal for equal ones."""
        return f"fusion {astuple(self)!r}"


@dataclass(frozen=True)
class Trajectory:
    """How one image is denoised: the prompt, what is injected at each step, and where it starts."""

    prompt: str
    injections: tuple[Injection | None, ...]  # one per row of the T + 1 table; None, or (), = plain denoising
    start: int | None = None  # None: from the seed's noise; else from the source image, noised to this step
    blend: LocalBlend | None = None
    watch: Watch | None = None  # maps to keep; no part of the pixels
    area: ValueArea | None = None  # outside of which injections take values
    record: Mapping[str, Any] = field(default_factory=dict)  # the effective operator, for tables
    condition: Condition | None = None  # of a later stage; the stages before determine it
    external: ExternalCall | None = None  # another pipeline makes the image, from the source image
    before: tuple[str, int] | None = None  # another prompt, in place of `prompt` in so many first steps
    difference: FlowDifference | None = None  # from `start` on the source image is moved, nothing denoised
    fusion: FlowFusion | None = None  # the source image is inverted to `start`, without its group's inversion

    def __post_init__(self) -> None:
        own = (self.injections, *self.readers, self.condition, self.before, self.along_flow)
        if self.external is not None and (any(own) or self.start is not None):
            raise ValueError(
                "external: another pipeline's image has no injections, start, blend, watch or condition"
            )

    def prompt_at(self, step: int) -> str:
        """Return the prompt that is denoised at a step, counted from 0."""
        return self.before[0] if self.before and step < self.before[1] else self.prompt

    @property
    def from_noise(self) -> bool:
        """Whether it starts from the source's noise, which of a real image only an inversion finds."""
        return self.start is None and self.external is None

    @property
    def along_flow(self) -> bool:
        """Whether two prompts' velocities make it, in a loop of its own, which asks for a flow."""
        return self.difference is not None or self.fusion is not None

    @property
    def layers(self) -> set[LayerInjection]:
        """What it takes from single layers, at any step."""
        return {i.layers for i in self.injections if i and i.layers}

    @property
    def places(self) -> set[Places]:
        """Where it injects or reads maps, where that is not in all layers, at any step."""
        read = {one.layers for one in (self.blend, self.area) if one and one.layers}
        return {i.places for i in self.injections if i and i.places} | read

    @property
    def heads(self) -> set[Heads]:
        """The heads in which it takes or reads, where those are not all, at any step."""
        taken = {i.heads for i in self.injections if i} | {layers.heads for layers in self.layers}
        return {one for one in taken | {reader.heads for reader in self.readers} if one}

    @property
    def readers(self) -> tuple[LocalBlend | Watch | ValueArea, ...]:
        """What reads maps of words while it is denoised."""
        return tuple(reader for reader in (self.blend, self.watch, self.area) if reader)

    @property
    def scores(self) -> bool:
        """Whether it scales scores of words, at any step."""
        return any(i.scores for i in self.injections if i)

    def digest(self, calls: int | None = None) -> str:
        """Return a hash of all that determines the pixels, given model, sampling settings and source.

        `calls` of the denoiser are made; a row of the table beyond them is not read.
        """
        if calls not in self._digests:
            injected = [f"{step}:{i.key}" for step, i in enumerate(self.injections[:calls]) if i]
            parts = [self.prompt, repr(self.start), *injected, *([self.blend.key] if self.blend else [])]
            parts += [self.external.digest()] if self.external else []
            parts += [f"before {self.before!r}"] if self.before else []
            parts += [own.key for own in (self.difference, self.fusion) if own]
            self._digests[calls] = hashlib.sha256("\n".join(parts).encode()).hexdigest()
        return self._digests[calls]

    def step_keys(self, steps: int) -> tuple[str, ...]:
        """Return for each of the first `steps` steps a text: equal where two trajectories take equal steps.

        The prompt and the condition, which is the same at every step, are left out.
        """
        if steps not in self._step_keys:
            keys = [i.key if i else "" for i in self.injections[:steps]] or [""] * steps
            if self.blend:
                blended = f" {self.blend.key}"
                keys[self.blend.start :] = [key + blended for key in keys[self.blend.start :]]
            self._step_keys[steps] = tuple(keys)
        return self._step_keys[steps]

    @cached_property
    def _step_keys(self) -> dict[int, tuple[str, ...]]:
        return {}

    @cached_property
    def _digests(self) -> dict[int | None, str]:
        return {}


@dataclass(frozen=True)
class EditRequest:
    """What is to be edited, whatever the method: two prompts, and factors for words of the target prompt."""

    source_prompt: str
    target_prompt: str
    weights: Mapping[str, float] = field(default_factory=dict)
    blend_words: tuple[str | None, str | None] | None = None
    """Of the source prompt, of the target prompt; None bounds no area, and of both keeps the source image."""
    instruction: str = ""  # the edit as a command, for methods that follow one

    def __post_init__(self) -> None:
        if self.blend_words is not None:
            check_word_pair("blend_words", self.blend_words)


def check_word_pair(name: str, words: Any) -> None:
    """Raise ValueError for what is no pair of texts (None: no word), such as two numbers or one text."""
    pair = isinstance(words, (tuple, list)) and len(words) == 2
    if not pair or not all(isinstance(word, str | None) for word in words):
        raise ValueError(f"{name}: {words!r} is no pair of texts (the source's, the target's)")


class Method(Protocol):
    """What every method is: a name, and the trajectory of an edit."""

    @property
    def name(self) -> str:
        """The method's name in records and tables."""

    @property
    def uses_mask(self) -> bool:
        """Whether the method is given the pair's mask: scores inside and outside it are then no surprise."""

    def trajectory(
        self, request: EditRequest, tokenizers: Tokenizers, num_inference_steps: int
    ) -> Trajectory:
        """Return how the edited image is denoised; ValueError where the edit cannot be made."""
