"""Other pipelines of diffusers: where their weights come from, what they are, and each loaded once.

Only classes that diffusers exports and only safetensors: no code of a repository is run.
"""

from __future__ import annotations

import hashlib
import inspect
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from p2p.loading.pipeline_files import DTYPES, PipelineFiles, hash_files
from p2p.loading.placeholders import plain


@dataclass(frozen=True)
class PipelineSpec:
    """Where a pipeline comes from: diffusers' class, and a folder or a name on the model hub.

    A safety checker, which would blacken images, is left out. Raises ValueError for what is no pipeline class
    of diffusers.
    """

    pipeline: str
    path: str
    dtype: str = "float32"
    revision: str | None = None
    variant: str | None = None
    made_by: str = ""  # the command that makes the folder, where nobody publishes it; part of no identity

    def __post_init__(self) -> None:
        import diffusers

        kind = getattr(diffusers, str(self.pipeline), None)
        if not (isinstance(kind, type) and issubclass(kind, diffusers.DiffusionPipeline)):
            raise ValueError(
                f"pipeline: {self.pipeline!r} is no pipeline of diffusers, allowed are classes that it "
                "exports, such as StableDiffusionInstructPix2PixPipeline"
            )
        if self.dtype not in DTYPES:
            raise ValueError(f"dtype: {self.dtype!r} is not one of {', '.join(map(repr, DTYPES))}")

    @property
    def kind(self) -> Any:
        """The pipeline class."""
        import diffusers

        return getattr(diffusers, self.pipeline)

    @property
    def left_out(self) -> dict[str, Any]:
        """Arguments of `from_pretrained` by which the pipeline has no safety checker."""
        off = {"safety_checker": None, "requires_safety_checker": False}
        known = inspect.signature(self.kind.__init__).parameters
        return {name: value for name, value in off.items() if name in known}

    @property
    def files(self) -> PipelineFiles:
        """Where the pipeline is and how it is read."""
        own = {"revision": self.revision, "variant": self.variant, "use_safetensors": True}
        options = {**own, **self.left_out}
        return PipelineFiles(self.pipeline, self.path, lambda: self.kind, options, made_by=self.made_by)

    def fetch(self) -> None:
        """Bring the weights here, so that `identity` speaks of them. Raises OSError in one line."""
        self.files.fetch()

    def identity(self) -> str:
        """Return a hash of all that the pipeline contributes to the pixels.

        Weights that are not on this machine yet are named by path, revision and variant.
        """
        folder = self.files.folder()
        weights: Any = [self.path, self.revision, self.variant]
        if folder is not None:
            # Its scheduler is its own, and some classes keep switches in the index.
            weights = [
                hash_files(folder, self.variant, ("safety_checker",)),
                (folder / "model_index.json").read_text(),
            ]
        facts = [self.pipeline, weights, self.dtype, self.variant]
        return hashlib.sha256(json.dumps(facts).encode()).hexdigest()

    def load(self, device: torch.device | str) -> Any:
        """Load the pipeline. Raises OSError in one line where its weights cannot be had."""
        pipeline = self.files.read(self.dtype)
        self.files.place(pipeline, device)
        return pipeline


@dataclass
class Pipelines:
    """Pipelines beside a model, on its device; each stays loaded from its first call on."""

    device: torch.device | str = "cpu"
    loaded: dict[PipelineSpec, Any] = field(default_factory=dict)

    def load(self, specs: Iterable[PipelineSpec]) -> None:
        """Load these now rather than at their first call. Raises OSError where one cannot be had."""
        for spec in specs:
            self.get(spec)

    def get(self, spec: PipelineSpec) -> Any:
        """Return the loaded pipeline."""
        if spec not in self.loaded:
            self.loaded[spec] = spec.load(self.device)
        return self.loaded[spec]


@dataclass(frozen=True)
class ExternalCall:
    """One image's calls of another pipeline: all that is known of them before the source image is."""

    spec: PipelineSpec
    calls: Sequence[tuple[str, str, Mapping[str, Any]]]
    """In order: how errors name a call, the pipeline's method, its arguments with placeholders."""
    texts: Mapping[str, str]  # those that the arguments name
    identity: str  # a hash of the pipeline
    rows_per_step: float  # of its denoiser, about

    def digest(self) -> str:
        """Return a hash of all that determines the pixels, given source image, seed and sampling settings."""
        calls = [[name, plain(arguments)] for _, name, arguments in self.calls]
        content = [self.identity, calls, dict(self.texts)]
        return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()

    def evaluations(self, num_inference_steps: int) -> int:
        """Return about how many rows of its denoiser the image takes."""
        return round(self.rows_per_step * num_inference_steps)
