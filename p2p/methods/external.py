"""Any editing pipeline of diffusers as a method: its class, its weights, and the arguments of its calls.

It is given the source image, generated or real, keeps its own scheduler, and makes one image at a time.
Placeholders in its arguments, `{source_image}` or `{target_prompt}`, stand for what the edit brings.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from p2p.alignment import Tokenizers, encode
from p2p.loading.pipeline_spec import ExternalCall, Pipelines, PipelineSpec
from p2p.loading.placeholders import TEXTS, check_placeholders, filled, placeholders
from p2p.numbers import check_finite
from p2p.pictures import to_pil
from p2p.sampling import Sampling
from p2p.trajectory import EditRequest, Trajectory

OURS = ("generator", "output_type", "return_dict")  # arguments that the run gives

Arguments = Mapping[str, Any]


@dataclass(frozen=True)
class External:
    """Edit by a pipeline of its own: `call` are its call's arguments, `prepare` those of methods before it.

    `path` is a folder or a model-hub name. The run's own numbers are `{num_inference_steps}` and
    `{guidance_scale}`; texts may stand inside others, "a photo, {target_prompt}". `rows_per_step` is how many
    rows of its denoiser a step of the run takes, for the plan's estimate. `made_by` is the command that makes
    the folder `path`, for an error where it is not there. Raises ValueError for a class that
    diffusers does not export, and for arguments that its methods do not take, or lack.
    """

    pipeline: str
    path: str
    call: Arguments
    prepare: Mapping[str, Arguments] = field(default_factory=dict)
    rows_per_step: float = 2
    dtype: str = "float32"
    revision: str | None = None
    variant: str | None = None
    made_by: str = ""
    name: ClassVar[str] = "external"
    uses_mask: ClassVar[bool] = False

    def __post_init__(self) -> None:
        kind = self.spec.kind
        check_finite("rows_per_step", self.rows_per_step)
        if not self.rows_per_step > 0:
            raise ValueError(f"rows_per_step: {self.rows_per_step!r} is not a number above 0")
        if not isinstance(self.prepare, Mapping):
            raise ValueError(f"prepare: {self.prepare!r} does not map methods to their arguments")
        for label, name, arguments in self.calls:
            if not isinstance(arguments, Mapping):
                raise ValueError(f"{label}: {arguments!r} does not map arguments to values")
            _check_arguments(label, self.pipeline, _parameters(label, kind, name), arguments)
            check_placeholders(label, arguments)
        if "output_type" not in _parameters("call", kind, "__call__"):
            raise ValueError(f"pipeline: the call of {self.pipeline} takes no output_type, so gives no image")

    @property
    def calls(self) -> list[tuple[str, str, Arguments]]:
        """What is called, in order: how errors name it, the pipeline's method, its arguments."""
        before = [(f"prepare.{name}", name, arguments) for name, arguments in self.prepare.items()]
        return [*before, ("call", "__call__", self.call)]

    @property
    def spec(self) -> PipelineSpec:
        """Where the pipeline comes from."""
        return PipelineSpec(self.pipeline, self.path, self.dtype, self.revision, self.variant, self.made_by)

    @cached_property
    def identity(self) -> str:
        """A hash of the pipeline, as it is on this machine at the first use."""
        return self.spec.identity()

    def settings(self) -> dict[str, Any]:
        """Return what makes its images, as plain values for the record of a run."""
        own = {"call": self.call, "prepare": self.prepare, "dtype": self.dtype, "revision": self.revision}
        return {"pipeline": self.pipeline, "path": self.path, **own, "identity": self.identity}

    def trajectory(
        self, request: EditRequest, tokenizers: Tokenizers, num_inference_steps: int
    ) -> Trajectory:
        """Return a call of the pipeline. Raises ValueError for a text that it needs and the pair lacks.

        Texts are as long as the run's own tokenizers allow; what the pipeline's allow shows when it is there.
        """
        used = {name for _, _, arguments in self.calls for name in placeholders(arguments)}
        texts = {name: getattr(request, name) for name in TEXTS if name in used}
        for name, text in texts.items():
            if not text:
                raise ValueError(
                    f"{name}: the pair has none, which {self.pipeline} is told; allowed are pairs with one"
                )
            for tokenizer in tokenizers:
                encode(text, tokenizer)
        call = ExternalCall(self.spec, self.calls, texts, self.identity, self.rows_per_step)
        return Trajectory(request.target_prompt, (), external=call)


def carry_out(
    call: ExternalCall, source: Tensor, seed: int, sampling: Sampling, pipelines: Pipelines
) -> Tensor:
    """Return the edited image (3, height, width), float32 in [0, 1] with 8-bit values, on the CPU.

    `source` is of the same form. One CPU generator with this seed goes through all calls that take one.
    Raises ValueError for a text that is too long for the pipeline and for an image of another size,
    FloatingPointError for one that is not finite.
    """
    pipeline, kind = pipelines.get(call.spec), call.spec.kind
    _check_length(call.spec.pipeline, pipeline, call.texts.values())
    generator = torch.Generator().manual_seed(seed)
    values = {
        **call.texts,
        "source_image": to_pil(source),
        "num_inference_steps": sampling.num_inference_steps,
        "guidance_scale": sampling.guidance_scale,
    }
    output: Any = None
    for label, name, arguments in call.calls:
        given = {argument: filled(value, values) for argument, value in arguments.items()}
        if "generator" in _parameters(label, kind, name):
            given["generator"] = generator
        if name == "__call__":
            given["output_type"] = "np"  # unrounded, so that what is not finite still shows
        output = getattr(pipeline, name)(**given)
    return _image(call.spec.pipeline, output, source)


def _image(pipeline: str, output: Any, source: Tensor) -> Tensor:
    images: Any = getattr(output, "images", ())
    if len(images) != 1:
        raise ValueError(f"{pipeline}: gives {len(images)} images, allowed is one")
    image = torch.from_numpy(np.asarray(images[0], np.float32)).permute(2, 0, 1)
    if image.shape != source.shape:
        (height, width), (own_height, own_width) = source.shape[1:], image.shape[1:]
        raise ValueError(
            f"{pipeline}: gives an image of {own_width}x{own_height} for a source of {width}x{height}, "
            "allowed is the same size (by the arguments of its call, where it has some for that)"
        )
    if not image.isfinite().all():
        raise FloatingPointError(f"{pipeline}: its image is not finite, try dtype=float32")
    return (image.clamp(0, 1) * 255).round() / 255


def _check_length(name: str, pipeline: Any, texts: Iterable[str]) -> None:
    """Raise ValueError for a text that each of the pipeline's tokenizers would cut."""
    parts = pipeline.components.items()
    tokenizers = [part for label, part in parts if label.startswith("tokenizer") and part is not None]
    for text in texts:
        counts = [
            (len(t(_expanded(pipeline, text, t), verbose=False).input_ids), t.model_max_length)
            for t in tokenizers
        ]
        if counts and all(count > limit for count, limit in counts):
            limit = max(limit for _, limit in counts)
            raise ValueError(f"{name}: prompt {text!r} is too long, allowed are {limit} tokens")


def _expanded(pipeline: Any, text: str, tokenizer: Any) -> str:
    """Return a text with the tokens of several vectors written out, where the pipeline loads such tokens."""
    if not hasattr(pipeline, "maybe_convert_prompt"):
        return text
    return str(pipeline.maybe_convert_prompt(text, tokenizer))


def _parameters(label: str, kind: Any, name: str) -> Mapping[str, inspect.Parameter]:
    """Return what a pipeline's method takes by name. Raises ValueError for one that it lacks."""
    methods = [vars(parent)[name] for parent in kind.__mro__ if name in vars(parent)]
    if not methods or not inspect.isfunction(methods[0]) or (name.startswith("_") and name != "__call__"):
        raise ValueError(f"{label}: {kind.__name__} has no such method")
    taken = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    parameters = list(inspect.signature(methods[0]).parameters.values())[1:]
    return {parameter.name: parameter for parameter in parameters if parameter.kind in taken}


def _check_arguments(
    label: str, pipeline: str, parameters: Mapping[str, inspect.Parameter], arguments: Arguments
) -> None:
    allowed = [name for name in parameters if name not in OURS]
    if given := sorted(set(arguments) & set(OURS)):
        raise ValueError(f"{label}.{given[0]}: the run gives it, allowed are {', '.join(allowed)}")
    if unknown := sorted(set(arguments) - set(allowed)):
        raise ValueError(
            f"{label}: {', '.join(unknown)} is no argument of {pipeline}, allowed are {', '.join(allowed)}"
        )
    needed = [name for name in allowed if parameters[name].default is inspect.Parameter.empty]
    if missing := [name for name in needed if name not in arguments]:
        raise ValueError(f"{label}: {pipeline} also needs {', '.join(missing)}")
