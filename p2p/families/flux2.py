"""Flux.2: double- and single-stream blocks over a chat model's padded text, latents of patches.

Black Forest Labs 2025. Klein's text is Qwen3's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from diffusers.models.transformers.transformer_flux2 import Flux2AttnProcessor, Flux2ParallelSelfAttnProcessor
from diffusers.pipelines.flux2.pipeline_flux2 import compute_empirical_mu
from torch import Tensor

from p2p.alignment import Tokenizers
from p2p.attention.injection import AnyInjection, injection_processors
from p2p.families.flow_matching import flow_options
from p2p.families.joint_processors import Flux2SingleProcessor, FluxProcessor
from p2p.families.model import Conditioning, on_device, told_guidance
from p2p.families.transformer import LatentTransformer
from p2p.templated_tokenizer import ChatTemplate, TemplatedTokenizer

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass
class Flux2Klein(LatentTransformer):
    """Flux.2 Klein, guided by unconditional rows unless the pipeline's index says that it was distilled.

    Padding is attended, so that every prompt has as many tokens as diffusers' call gives it. A latent is a
    normalised patch of 2 x 2 of the autoencoder's, and one token.
    """

    self_max_side: int = 64
    blend_side: int = 64

    pipeline_name: ClassVar[str] = "Flux2KleinPipeline"
    text_blocks: ClassVar[Mapping[str, int | None]] = {"tokenizer": 512}
    joint_blocks: ClassVar[Mapping[str, str]] = {"double": "num_layers", "single": "num_single_layers"}
    patch_size: ClassVar[int] = 1
    latents_per_token: ClassVar[int] = 4

    @property
    def pixels_per_latent(self) -> int:
        """Pixels of the image per latent and direction."""
        factor: int = self.pipeline.vae_scale_factor
        return 2 * factor

    @property
    def sample_size(self) -> int:
        """Height and width of the latents where none is asked for."""
        size: int = self.pipeline.default_sample_size
        return size // 2

    @classmethod
    def aligned_tokenizers(cls, tokenizers: Mapping[str, PreTrainedTokenizerBase | None]) -> Tokenizers:
        """Return the tokenizer as the pipeline uses it: with its chat template, which says not to think.

        Raises ValueError for one that pads before the prompt.
        """
        tokenizer: Any = super().aligned_tokenizers(tokenizers)[0]
        if tokenizer.padding_side != "right":
            raise ValueError(f"tokenizer: padding_side is {tokenizer.padding_side!r}, allowed is 'right'")
        options = (("add_generation_prompt", True), ("enable_thinking", False))
        return (TemplatedTokenizer(tokenizer, ChatTemplate(tokenizer, options)),)

    @classmethod
    def embeds_guidance(cls, config: Mapping[str, Any]) -> bool:
        """Say whether no state takes an unconditional row: a distilled pipeline has no use for one."""
        return bool(config.get("is_distilled", False))

    def _encode_prompt(self, prompt: str, negative: bool) -> Conditioning:
        [length] = self.text_blocks.values()
        embeds, _ = self.pipeline.encode_prompt([prompt], device=self.device, max_sequence_length=length)
        return {"encoder_hidden_states": embeds}

    @classmethod
    def timestep_options(
        cls, scheduler: Any, num_inference_steps: int, image_tokens: int
    ) -> Mapping[str, Any]:
        """Return evenly spaced noise levels and the shift, which depends on their number too."""
        sigmas = np.linspace(1.0, 1 / num_inference_steps, num_inference_steps)
        return flow_options(
            scheduler, compute_empirical_mu(image_tokens, num_inference_steps), sigmas.tolist()
        )

    def injection_processors(self) -> AbstractContextManager[tuple[str, ...]]:
        """Install the engine's attention processors, give the layers' names, restore the old ones."""
        [tokenizer] = self.tokenizers
        tokens = tokenizer.model_max_length

        def processor(layer: str) -> Any:
            kind = Flux2SingleProcessor if layer.startswith("single_") else FluxProcessor
            return kind(layer, tokens)

        replaced = (Flux2AttnProcessor, Flux2ParallelSelfAttnProcessor)
        return injection_processors(self.denoiser, processor, replaced)

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
        device, told = latents.device, self.denoiser.config.guidance_embeds
        zero = torch.arange(1, device=device)
        rows_and_columns = (torch.arange(side, device=device) for side in (height, width))
        tokens = torch.arange(conditioning["encoder_hidden_states"].shape[1], device=device)
        output = self.network(injection)(
            hidden_states=latents.flatten(2).transpose(1, 2),
            timestep=on_device(timestep, device).to(latents.dtype).expand(rows) / 1000,
            img_ids=torch.cartesian_prod(zero, *rows_and_columns, zero),
            txt_ids=torch.cartesian_prod(zero, zero, zero, tokens),
            guidance=told_guidance(guidance_scale, rows, device) if told else None,
            joint_attention_kwargs={"injection": injection} if injection else None,
            return_dict=False,
            **conditioning,
        )[0]
        return output.transpose(1, 2).unflatten(2, (height, width))
