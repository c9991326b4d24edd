"""Stable Diffusion 3 and 3.5: a transformer whose image and text tokens share one softmax.

Esser et al. 2024, "Scaling Rectified Flow Transformers for High-Resolution Image Synthesis".
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, ClassVar

from diffusers.models.attention_processor import JointAttnProcessor2_0
from torch import Tensor

from p2p.attention.injection import AnyInjection, injection_processors
from p2p.families.flow_matching import flow_options, shift
from p2p.families.joint_processors import SD3Processor
from p2p.families.model import Conditioning, on_device
from p2p.families.transformer import LatentTransformer


@dataclass
class StableDiffusion3(LatentTransformer):
    """Text is the two CLIPs' tokens, side by side in one channel axis, then T5's; see joint_attention.py.

    A pipeline without text_encoder_3 has zeros in the place of T5's tokens; they stand for no words.
    """

    self_max_side: int = 64
    blend_side: int = 64

    pipeline_name: ClassVar[str] = "StableDiffusion3Pipeline"
    text_blocks: ClassVar[Mapping[str, int | None]] = {"tokenizer": None, "tokenizer_3": 256}
    can_leave_out: ClassVar[Sequence[str]] = ("text_encoder_3",)
    joint_blocks: ClassVar[Mapping[str, str]] = {"double": "num_layers"}

    def attends_to_text(self, layer: str) -> bool:
        """Say whether an attention layer has text keys; SD 3.5's second ones have not."""
        return ".attn." in layer

    def _encode_prompt(self, prompt: str, negative: bool) -> Conditioning:
        embeds, _, pooled, _ = self.pipeline.encode_prompt(
            [prompt],
            None,
            None,
            device=self.device,
            do_classifier_free_guidance=False,
            max_sequence_length=self.text_blocks["tokenizer_3"],
        )
        return {"encoder_hidden_states": embeds, "pooled_projections": pooled}

    @classmethod
    def timestep_options(
        cls, scheduler: Any, num_inference_steps: int, image_tokens: int
    ) -> Mapping[str, Any]:
        """Return the shift of the schedule, where it depends on the image's tokens."""
        dynamic = scheduler.config.get("use_dynamic_shifting", False)
        return flow_options(scheduler, shift(scheduler.config, image_tokens, 1.16) if dynamic else None)

    def injection_processors(self) -> AbstractContextManager[tuple[str, ...]]:
        """Install the engine's attention processors, give the layers' names, restore the old ones."""
        return injection_processors(self.denoiser, SD3Processor, (JointAttnProcessor2_0,))

    def predict(
        self,
        latents: Tensor,
        timestep: Tensor,
        conditioning: Conditioning,
        injection: AnyInjection | None = None,
        guidance_scale: float | Sequence[float] = 1.0,
    ) -> Tensor:
        """Return the predicted velocity for each row."""
        return self.network(injection)(
            latents,
            timestep=on_device(timestep, latents.device).expand(len(latents)),
            joint_attention_kwargs={"injection": injection} if injection else None,
            return_dict=False,
            **conditioning,
        )[0]
