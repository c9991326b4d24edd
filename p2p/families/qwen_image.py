"""Qwen-Image: double-stream blocks whose image and text share one softmax, and a chat model's masked text.

Wu et al. 2025, "Qwen-Image Technical Report", arXiv:2508.02324.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from diffusers.models.transformers.transformer_qwenimage import QwenDoubleStreamAttnProcessor2_0
from torch import Tensor
from torch.nn.functional import pad

from p2p.alignment import Tokenizers
from p2p.attention.injection import AnyInjection, injection_processors
from p2p.families.joint_processors import QwenProcessor
from p2p.families.model import Conditioning, on_device, rescaled
from p2p.families.packed import PackedTransformer, packed, unpacked
from p2p.templated_tokenizer import TemplatedTokenizer

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass
class QwenImage(PackedTransformer):
    """Qwen-Image. `guidance_scale` is diffusers' `true_cfg_scale`: each token of the guided velocity has the
    norm of the conditional one.

    Every prompt is padded to one length and masked, also where it is alone in a call, where diffusers does
    neither: a source is then the same whatever it shares a call with.
    """

    pipeline_name: ClassVar[str] = "QwenImagePipeline"
    text_blocks: ClassVar[Mapping[str, int | None]] = {"tokenizer": 512}
    joint_blocks: ClassVar[Mapping[str, str]] = {"double": "num_layers"}

    @classmethod
    def aligned_tokenizers(cls, tokenizers: Mapping[str, PreTrainedTokenizerBase | None]) -> Tokenizers:
        """Return the tokenizer as the pipeline uses it: with its template, of which the beginning is dropped.

        A pipeline without parts holds the template.
        """
        [tokenizer] = super().aligned_tokenizers(tokenizers)
        bare = cls.pipeline_class()(
            scheduler=None, vae=None, text_encoder=None, tokenizer=None, transformer=None
        )
        template, dropped = bare.prompt_template_encode, bare.prompt_template_encode_start_idx
        return (TemplatedTokenizer(tokenizer, template.format, dropped),)

    @classmethod
    def embeds_guidance(cls, config: Mapping[str, Any]) -> bool:
        """Say that guided states take an unconditional row.

        Raises ValueError for a transformer that is told more than text-to-image pipelines tell it.
        """
        for entry in ("guidance_embeds", "use_additional_t_cond"):
            if config.get(entry):  # diffusers 0.42.1 raises TypeError in a guided one's forward
                raise ValueError(f"{entry}: {config[entry]!r} in the transformer's config, allowed is false")
        return False

    def _encode_prompt(self, prompt: str, negative: bool) -> Conditioning:
        [tokenizer] = self.tokenizers
        embeds, _ = self.pipeline.encode_prompt([prompt], device=self.device)
        tokens, limit = embeds.shape[1], tokenizer.model_max_length
        mask = torch.arange(limit, device=embeds.device)[None] < tokens
        return {
            "encoder_hidden_states": pad(embeds, (0, 0, 0, limit - tokens)),
            "encoder_hidden_states_mask": mask,
        }

    def injection_processors(self) -> AbstractContextManager[tuple[str, ...]]:
        """Install the engine's attention processors, give the layers' names, restore the old ones."""
        return injection_processors(self.denoiser, QwenProcessor, (QwenDoubleStreamAttnProcessor2_0,))

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
        output = self.network(injection)(
            hidden_states=packed(latents),
            timestep=on_device(timestep, latents.device).to(latents.dtype).expand(rows) / 1000,
            img_shapes=[[(1, height // 2, width // 2)]] * rows,
            attention_kwargs={"injection": injection} if injection else None,
            return_dict=False,
            **conditioning,
        )[0]
        return unpacked(output, height)

    def guide(self, uncond: Tensor, text: Tensor, guidance_scale: float, guidance_rescale: float) -> Tensor:
        """Return `uncond + guidance_scale * (text - uncond)`, each token set back to the norm of the text's.

        A share `guidance_rescale` of the result then has the standard deviation of `text`.
        """
        tokens = packed(super().guide(uncond, text, guidance_scale, 0.0))
        own = packed(text).norm(dim=-1, keepdim=True)
        guided = unpacked(tokens * (own / tokens.norm(dim=-1, keepdim=True)), text.shape[2])
        return rescaled(guided, text, guidance_rescale)
