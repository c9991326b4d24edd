"""Latent Diffusion's text-to-image model (LDM-256), the second backbone of Hertz et al. 2022."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from p2p.families.model import Conditioning
from p2p.families.stable_diffusion import StableDiffusion


@dataclass
class LatentDiffusion(StableDiffusion):
    """A UNet with cross-attention to a BERT, in the latents of an autoencoder, quantised or not.

    diffusers' pipeline has no negative prompt; here one is encoded as any other prompt.
    """

    self_max_side: int = 16
    blend_side: int = 16

    pipeline_name: ClassVar[str] = "LDMTextToImagePipeline"
    load_options: ClassVar[Mapping[str, Any]] = {"use_safetensors": None}  # the published weights are not
    text_blocks: ClassVar[Mapping[str, int | None]] = {"tokenizer": 77}
    expands_tokens: ClassVar[bool] = False
    scheduler_corrections: ClassVar[Mapping[str, Any]] = {}

    @property
    def vae(self) -> Any:
        """The autoencoder."""
        return self.pipeline.vqvae

    @torch.no_grad()
    def _encode_prompt(self, prompt: str, negative: bool) -> Conditioning:
        [tokenizer] = self.tokenizers
        ids = tokenizer(prompt, padding="max_length", return_tensors="pt")["input_ids"]
        return {"encoder_hidden_states": self.pipeline.bert(ids.to(self.device))[0]}
