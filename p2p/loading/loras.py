"""LoRA weights on top of a pipeline's own (Hu et al. 2022), loaded by diffusers itself."""

from __future__ import annotations

import hashlib
import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Lora:
    """A safetensors file and its weight, diffusers' adapter weight: 1 as trained, 0 without effect."""

    path: str
    scale: float = 1.0

    def __post_init__(self) -> None:
        if not isinstance(self.path, str) or Path(self.path).suffix != ".safetensors":
            raise ValueError(f"loras: path {self.path!r} is no .safetensors file")
        number = isinstance(self.scale, (int, float)) and not isinstance(self.scale, bool)
        if not number or not math.isfinite(self.scale):
            raise ValueError(f"loras: scale {self.scale!r} of {self.path!r} is not a finite number")

    @classmethod
    def of(cls, entry: Mapping[str, Any]) -> Lora:
        """Return the LoRA of a configuration's entry. Raises ValueError for a key it does not know."""
        if not isinstance(entry, Mapping) or not {"path"} <= set(entry) <= {"path", "scale"}:
            raise ValueError(f"loras: {entry!r} is no mapping of path and, optionally, scale")
        return cls(**entry)

    def identity(self) -> list[Any]:
        """Return what it contributes to the pixels. Raises OSError for a file that is not there."""
        return [hashlib.sha256(self.file().read_bytes()).hexdigest(), float(self.scale)]

    def file(self) -> Path:
        """Return the file. Raises OSError where there is none."""
        if not Path(self.path).is_file():
            raise OSError(f"loras: no file {self.path!r}")
        return Path(self.path)


def load_loras(pipeline: Any, loras: Sequence[Lora]) -> None:
    """Add the LoRAs to a pipeline, each with its scale; their layers stay apart from the pipeline's own.

    Raises OSError for a file that is not there.
    """
    names = [f"lora_{number}" for number in range(len(loras))]
    for name, lora in zip(names, loras, strict=True):
        file = lora.file()
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Already found a `peft_config`")  # several are meant
            pipeline.load_lora_weights(file.parent, weight_name=file.name, adapter_name=name)
    if names:
        pipeline.set_adapters(names, [float(lora.scale) for lora in loras])
