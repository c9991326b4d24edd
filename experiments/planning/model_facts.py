"""What a plan needs to know of a model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from p2p.alignment import Tokenizers
from p2p.loading.model_spec import ModelSpec


@dataclass(frozen=True)
class ModelFacts:
    """What a plan needs to know of a model; it can be had without the weights."""

    identity: str  # stands for the model in content keys
    tokenizers: Tokenizers
    calls: int  # of the denoiser, in one trajectory
    guidance_embedded: bool = False
    upscaler_calls: int = 0  # of the model's upscaler, in one trajectory; 0 where it has none
    scheduler: Any = None  # with its timesteps set, or, where no image is inverted, perhaps a `PlainDDIM`
    single_layers: bool = True  # whether edits can take from single layers of a UNet
    layer_groups: bool = False  # whether layers stand in parts of a UNet
    joint_blocks: Mapping[str, int | None] = field(default_factory=dict)
    """By stream, how many blocks of joint attention there are; None where the files do not say."""
    heads: int | None = None  # of every attention layer; None where the files do not say, and of UNets

    @classmethod
    def of(cls, spec: ModelSpec, num_inference_steps: int, inverts: bool = True) -> ModelFacts:
        """Ask a model's files. `inverts` says whether any image is inverted, by diffusers' own scheduler.

        Raises ValueError for a scheduler that cannot work, and for another pipeline's files.
        """
        spec.check()
        calls = spec.unet_calls(num_inference_steps)
        scheduler: Any = None if inverts else spec.plain_scheduler()
        if scheduler is None:
            scheduler = spec.load_scheduler()
            spec.family.set_timesteps(scheduler, num_inference_steps)
        return cls(
            spec.identity(),
            spec.load_tokenizers(),
            calls,
            spec.guidance_embedded(),
            spec.upscaler_calls(num_inference_steps),
            scheduler,
            spec.family.single_layers,
            spec.family.layer_groups,
            spec.joint_blocks(),
            spec.attention_heads(),
        )
