"""Flux: double- and single-stream blocks whose image and text share one softmax; guidance is distilled.

Black Forest Labs 2024; the text is T5's alone, of CLIP only the pooled embedding is used.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import torch
from diffusers.models.transformers.transformer_flux import FluxAttnProcessor
from torch import Tensor

from p2p.attention.injection import AnyInjection, injection_processors
from p2p.families.joint_processors import FluxProcessor
from p2p.families.model import Conditioning, on_device, told_guidance
from p2p.families.packed import PackedTransformer, packed, unpacked


@dataclass
class Flux(PackedTransformer):
    """Flux. `guidance_scale` is told to the network (dev) or unused (schnell), so no row is unconditional."""

    pipeline_name: ClassVar[str] = "FluxPipeline"
    text_blocks: ClassVar[Mapping[str, int | None]] = {"tokenizer_2": 512}
    expands_tokens: ClassVar[bool] = True
    joint_blocks: ClassVar[Mapping[str, str]] = {"double": "num_layers", "single": "num_single_layers"}

    def _encode_prompt(self, prompt: str, negative: bool) -> Conditioning:
        embeds, pooled, _ = self.pipeline.encode_prompt(
            [prompt], device=self.device, max_sequence_length=self.text_blocks["tokenizer_2"]
        )
        return {"encoder_hidden_states": embeds, "pooled_projections": pooled}

    @classmethod
    def embeds_guidance(cls, config: Mapping[str, Any]) -> bool:
        """Say that no state takes an unconditional row: dev is told the scale, schnell has no use for one."""
        return True

    def injection_processors(self) -> AbstractContextManager[tuple[str, ...]]:
        """Install the engine's attention processors, give the layers' names, restore the old ones."""
        text_tokens = sum(tokenizer.model_max_length for tokenizer in self.tokenizers)
        processor = partial(FluxProcessor, text_tokens=text_tokens)
        return injection_processors(self.denoiser, processor, (FluxAttnProcessor,))

    def predict(
        self,
        latents: Tensor,
        timestep: Tensor,
        conditioning: Conditioning,
        injection: AnyInjection | None = None,
        guidance_scale: float | Sequence[float] = 1.0,
    ) -> Tensor:
        """Return the predicted velocity for each row."""
        rows, _, height, width = latents.shape
        told = self.denoiser.config.guidance_embeds
        sides = (torch.arange(side // 2, device=latents.device) for side in (height, width))
        grid = torch.meshgrid(*sides, indexing="ij")
        places = torch.stack([torch.zeros_like(grid[0]), *grid], -1).flatten(0, 1)
        text = conditioning["encoder_hidden_states"]
        output = self.network(injection)(
            packed(latents),
            timestep=on_device(timestep, latents.device).to(latents.dtype).expand(rows) / 1000,
            img_ids=places.to(latents.dtype),
            guidance=told_guidance(guidance_scale, rows, latents.device) if told else None,
            txt_ids=text.new_zeros(text.shape[1], 3),
            joint_attention_kwargs={"injection": injection} if injection else None,
            return_dict=False,
            **conditioning,
        )[0]
        return unpacked(output, height)


@dataclass
class FluxSchnell(Flux):
    """Flux.1 schnell, which was distilled on 256 tokens of text: padding is attended, so that 512 of them,
    the default of diffusers' call, make another picture.
    """

    text_blocks: ClassVar[Mapping[str, int | None]] = {"tokenizer_2": 256}
