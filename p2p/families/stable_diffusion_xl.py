"""Stable Diffusion XL: two text encoders over one block of tokens, a pooled text and the image's size."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from p2p.families.model import Conditioning
from p2p.families.stable_diffusion import StableDiffusion


@dataclass
class StableDiffusionXL(StableDiffusion):
    """SDXL's base model. Raises ValueError where its two tokenizers do not split prompts alike.

    As by default in diffusers, original and target size are the image's own, and there is no crop.
    An autoencoder in float16 that would overflow (`force_upcast`) is cast to float32 in the very pipeline
    that is given, for good; diffusers casts it for each call and back.
    """

    self_max_side: int = 32
    blend_side: int = 32

    pipeline_name: ClassVar[str] = "StableDiffusionXLPipeline"
    load_options: ClassVar[Mapping[str, Any]] = {"add_watermarker": False}
    scheduler_corrections: ClassVar[Mapping[str, Any]] = {}

    def __post_init__(self) -> None:
        super().__post_init__()
        first, second = self.pipeline.tokenizer, self.pipeline.tokenizer_2
        if first is None or first.get_vocab() != second.get_vocab():
            raise ValueError("tokenizer: it and tokenizer_2 differ, allowed are two of one vocabulary")
        vae = self.pipeline.vae
        if vae.config.force_upcast and vae.dtype == torch.float16:  # it overflows
            vae.to(torch.float32)

    def _encode_prompt(self, prompt: str, negative: bool) -> Conditioning:
        embeds, _, pooled, _ = self.pipeline.encode_prompt(
            prompt, device=self.device, do_classifier_free_guidance=False
        )
        if negative and not prompt and self.pipeline.config.force_zeros_for_empty_prompt:
            embeds, pooled = torch.zeros_like(embeds), torch.zeros_like(pooled)
        height, width = (side * self.pixels_per_latent for side in self.latent_shape[1:])
        sizes = torch.tensor([[height, width, 0, 0, height, width]], dtype=embeds.dtype, device=self.device)
        return {"encoder_hidden_states": embeds, "text_embeds": pooled, "time_ids": sizes}

    def denoiser_inputs(self, conditioning: Conditioning) -> Mapping[str, Any]:
        """Return the conditioning by the names of the UNet's arguments."""
        added = {name: conditioning[name] for name in ("text_embeds", "time_ids")}
        hidden = conditioning["encoder_hidden_states"]
        return {"encoder_hidden_states": hidden, "added_cond_kwargs": added}
