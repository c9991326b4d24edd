"""Flux.2: double- and single-stream blocks over a chat model's padded text, latents of patches.

Black Forest Labs 2025. The text of dev is Mistral's, after a system message; that of Klein is Qwen3's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from diffusers.models.transformers.transformer_flux2 import Flux2AttnProcessor, Flux2ParallelSelfAttnProcessor
from diffusers.pipelines.flux2.pipeline_flux2 import compute_empirical_mu, format_input
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
class Flux2(LatentTransformer):
    """Flux.2 dev. `guidance_scale` is told to the network, so no row is unconditional.

    Padding is attended, so that every prompt has as many tokens as diffusers' call gives it. A latent is a
    normalised patch of 2 x 2 of the autoencoder's, and one token.
    """

    self_max_side: int = 64
    blend_side: int = 64

    pipeline_name: ClassVar[str] = "Flux2Pipeline"
    text_blocks: ClassVar[Mapping[str, int | None]] = {"tokenizer": 512}
    joint_blocks: ClassVar[Mapping[str, str]] = {"double": "num_layers", "single": "num_single_layers"}
    tells_guidance: ClassVar[bool] = True  # whether the pipeline tells its transformer the guidance scale
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
        """Return the tokenizer as the pipeline uses it: with its chat template and a system message.

        A loaded pipeline has it in a processor, and a plan by itself.
        """
        [given] = tokenizers.values()
        bare = getattr(given, "tokenizer", given)
        tokenizer: Any = super().aligned_tokenizers({"tokenizer": bare})[0]
        template: Any = getattr(given, "chat_template", None)  # several, by name, are the tokenizer's alone
        options = (("chat_template", template),) if isinstance(template, str) else ()
        written = ChatTemplate(tokenizer, options, _with_system_message)
        padding = tokenizer.padding_side
        return (TemplatedTokenizer(tokenizer, written, padding=padding, begun_once=True),)

    @classmethod
    def embeds_guidance(cls, config: Mapping[str, Any]) -> bool:
        """Say that no state takes an unconditional row."""
        return True

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
        device, told = latents.device, self.tells_guidance and self.denoiser.config.guidance_embeds
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


@dataclass
class Flux2Klein(Flux2):
    """Flux.2 Klein, guided by unconditional rows unless the pipeline's index says that it was distilled."""

    pipeline_name: ClassVar[str] = "Flux2KleinPipeline"
    tells_guidance: ClassVar[bool] = False

    @classmethod
    def aligned_tokenizers(cls, tokenizers: Mapping[str, PreTrainedTokenizerBase | None]) -> Tokenizers:
        """Return the tokenizer as the pipeline uses it: with its chat template, which says not to think."""
        tokenizer: Any = super(Flux2, cls).aligned_tokenizers(tokenizers)[0]
        written = ChatTemplate(tokenizer, (("add_generation_prompt", True), ("enable_thinking", False)))
        return (TemplatedTokenizer(tokenizer, written, padding=tokenizer.padding_side),)

    @classmethod
    def embeds_guidance(cls, config: Mapping[str, Any]) -> bool:
        """Say whether no state takes an unconditional row: a distilled pipeline has no use for one."""
        return bool(config.get("is_distilled", False))


def _with_system_message(prompt: str) -> list[dict[str, Any]]:
    messages: list[dict[str, Any]] = format_input([prompt])[0]
    return messages
