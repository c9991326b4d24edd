"""LoRA weights on top of a pipeline's own (Hu et al. 2022), loaded by diffusers itself."""

from __future__ import annotations

import hashlib
import logging
import re
import textwrap
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import nn

from p2p.numbers import is_finite

_LAYER = re.compile(r"lora_A|lora_down|lora\.down|lora_linear_layer\.down|lokr_w1|hada_w1_a")
"""What one key of each of a file's layers contains, in the forms of PEFT, diffusers, kohya and LyCORIS."""


@dataclass(frozen=True)
class Lora:
    """A safetensors file and its weight, diffusers' adapter weight: 1 as trained, 0 without effect."""

    path: str
    scale: float = 1.0

    def __post_init__(self) -> None:
        if not isinstance(self.path, str) or Path(self.path).suffix != ".safetensors":
            raise ValueError(f"loras: path {self.path!r} is no .safetensors file")
        if not is_finite(self.scale):
            raise ValueError(f"loras: scale {self.scale!r} of {self.path!r} is not a finite number")

    @classmethod
    def of(cls, entry: Mapping[str, Any]) -> Lora:
        """Return the LoRA of a configuration's entry. Raises ValueError for a key it does not know."""
        if not isinstance(entry, Mapping) or not {"path"} <= set(entry) <= {"path", "scale"}:
            raise ValueError(f"loras: {entry!r} is no mapping of path and, optionally, scale")
        return cls(**entry)

    def identity(self) -> list[Any]:
        """Return what it contributes to the pixels. Raises as `layers` does."""
        self.layers()
        return [hashlib.sha256(self.file().read_bytes()).hexdigest(), float(self.scale)]

    def file(self) -> Path:
        """Return the file. Raises OSError where there is none."""
        if not Path(self.path).is_file():
            raise OSError(f"loras: no file {self.path!r}")
        return Path(self.path)

    def layers(self) -> int:
        """Return how many layers the file has; only its header is read.

        Raises OSError where there is no such file, ValueError for one that holds no LoRA, or a DoRA whose
        scales diffusers 0.42.1 would leave out: `dora_scale`, kohya's name for them.
        """
        try:
            with safe_open(self.file(), "pt") as weights:
                keys = list(weights.keys())
        except SafetensorError as error:
            raise ValueError(f"loras: {self.path!r} is no safetensors file ({error})") from error
        if any("dora_scale" in key for key in keys):
            raise ValueError(
                f"loras: {self.path!r} is a DoRA in kohya's form, of which diffusers leaves the scales out; "
                "allowed are LoRAs, and DoRAs in PEFT's form"
            )
        layers = {key[: found.start()] for key in keys if (found := _LAYER.search(key))}
        if not layers:
            raise ValueError(
                f"loras: {self.path!r} holds no LoRA, its first key is {min(keys, default='')!r}"
            )
        return len(layers)


def load_loras(pipeline: Any, loras: Sequence[Lora]) -> list[str]:
    """Add the LoRAs to a pipeline, each with its scale; their layers stay apart from the pipeline's own.

    Returns what is to be told: of which files some layers fit nothing in the pipeline. Raises OSError for a
    file that is not there, ValueError for one that does not fit.
    """
    names, told = [f"lora_{number}" for number in range(len(loras))], []
    for name, lora in zip(names, loras, strict=True):
        file, layers = lora.file(), lora.layers()
        what = f"loras: {lora.path!r} does not fit this {type(pipeline).__name__}"
        try:
            with warnings.catch_warnings(), _quiet():
                warnings.filterwarnings("ignore", "Already found a `peft_config`")  # several are meant
                pipeline.load_lora_weights(file.parent, weight_name=file.name, adapter_name=name)
        except Exception as error:  # of whatever kind: it comes of what the file holds
            raise ValueError(f"{what}: {textwrap.shorten(str(error), 240, placeholder=' ...')}") from error
        if not (fitting := _layers_with(pipeline, name)):
            raise ValueError(f"{what}: none of its {layers} layers is there")
        if missing := sum(parameter.is_meta for parameter in _parameters(pipeline)):
            # diffusers leaves on the meta device what the file lacks.
            raise ValueError(f"{what}: it has no values for {missing} parameters of its layers")
        if fitting < layers:
            told.append(f"{lora.path}: {layers - fitting} of {layers} layers of this LoRA fit nothing")
    if names:
        pipeline.set_adapters(names, [float(lora.scale) for lora in loras])
    return told


def _networks(pipeline: Any) -> list[nn.Module]:
    return [part for part in pipeline.components.values() if isinstance(part, nn.Module)]


def _parameters(pipeline: Any) -> Iterator[nn.Parameter]:
    return (parameter for network in _networks(pipeline) for parameter in network.parameters())


def _layers_with(pipeline: Any, adapter: str) -> int:
    """Return how many layers of a pipeline have an adapter of this name."""
    layers = [layer for network in _networks(pipeline) for layer in network.modules()]
    held = [
        getattr(layer, name, ()) for layer in layers for name in getattr(layer, "adapter_layer_names", ())[:1]
    ]
    return sum(adapter in adapters for adapters in held)


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep diffusers from telling what we tell, in one line for each key, and what is nothing to tell."""
    logger = logging.getLogger("diffusers")
    before = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(before)
