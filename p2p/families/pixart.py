"""PixArt-Alpha and PixArt-Sigma: a transformer with self-attention and masked cross-attention to T5's text.

Chen et al. 2023, "PixArt-alpha"; Chen et al. 2024, "PixArt-Sigma".
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from p2p.attention.injection import AnyInjection
from p2p.families.model import Conditioning, on_device
from p2p.families.transformer import LatentTransformer


@dataclass
class PixArtAlpha(LatentTransformer):
    """PixArt-Alpha. Captions are lowered but not cleaned, so that every word stays where it is aligned, and
    images have the size that is asked for, without a detour over the nearest trained one.
    """

    self_max_side: int = 64
    blend_side: int = 64

    pipeline_name: ClassVar[str] = "PixArtAlphaPipeline"
    text_blocks: ClassVar[Mapping[str, int | None]] = {"tokenizer": 120}
    lower_case: ClassVar[bool] = True

    def attends_to_text(self, layer: str) -> bool:
        """Say whether an attention layer has text keys."""
        return ".attn2." in layer

    def _encode_prompt(self, prompt: str, negative: bool) -> Conditioning:
        embeds, mask, _, _ = self.pipeline.encode_prompt(
            prompt, False, device=self.device, max_sequence_length=self.text_blocks["tokenizer"]
        )
        conditioning = {"encoder_hidden_states": embeds, "encoder_attention_mask": mask}
        if self.denoiser.use_additional_conditions:
            factor = self.pipeline.vae_scale_factor
            height, width = (side * factor for side in self.latent_shape[1:])
            conditioning["resolution"] = embeds.new_tensor([[height, width]])
            conditioning["aspect_ratio"] = embeds.new_tensor([[height / width]])
        return conditioning

    def predict(
        self,
        latents: Tensor,
        timestep: Tensor,
        conditioning: Conditioning,
        injection: AnyInjection | None = None,
        guidance_scale: float | Sequence[float] = 1.0,
    ) -> Tensor:
        """Return the predicted noise for each row; what a model says of its variance is not used."""
        output = self.network(injection)(
            latents,
            conditioning["encoder_hidden_states"],
            on_device(timestep, latents.device).expand(len(latents)),
            {name: conditioning.get(name) for name in ("resolution", "aspect_ratio")},
            {"injection": injection} if injection else None,
            encoder_attention_mask=conditioning["encoder_attention_mask"],
            return_dict=False,
        )[0]
        return output[:, : self.channels]


@dataclass
class PixArtSigma(PixArtAlpha):
    """PixArt-Sigma: as Alpha, for longer prompts."""

    pipeline_name: ClassVar[str] = "PixArtSigmaPipeline"
    text_blocks: ClassVar[Mapping[str, int | None]] = {"tokenizer": 300}
