"""Z-Image: blocks of one stream over image and text, each padded to a multiple of 32 by learned tokens.

Z-Image team 2025, "Z-Image: An Efficient Image Generation Foundation Model with Single-Stream Diffusion
Transformer", arXiv:2511.22699.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from diffusers.models.transformers.transformer_z_image import SEQ_MULTI_OF, ZSingleStreamAttnProcessor
from torch import Tensor
from torch.nn.functional import pad

from p2p.alignment import Tokenizers
from p2p.attention.injection import AnyInjection, injection_processors
from p2p.families.autoencoder import encode_images
from p2p.families.flow_matching import flow_options, shift
from p2p.families.joint_processors import Z_IMAGE_INJECTION, ZImageProcessor
from p2p.families.model import Conditioning, on_device
from p2p.families.transformer import LatentTransformer
from p2p.templated_tokenizer import ChatTemplate, TemplatedTokenizer

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass
class ZImage(LatentTransformer):
    """Z-Image. `guidance_scale` is what it is elsewhere, one more than diffusers' of this family: 1 is off.

    An image's position moves with the length of its prompt, in steps of 32 tokens, so that maps are taken
    between prompts of one such length alone. Latents are in single precision at least, whatever the model's.
    """

    self_max_side: int = 64
    blend_side: int = 64

    pipeline_name: ClassVar[str] = "ZImagePipeline"
    text_blocks: ClassVar[Mapping[str, int | None]] = {"tokenizer": 512}
    joint_blocks: ClassVar[Mapping[str, str]] = {"single": "n_layers"}
    compiles: ClassVar[bool] = False
    patch_size: ClassVar[int] = 2

    @classmethod
    def count_heads(cls, config: Mapping[str, Any]) -> int | None:
        """Return how many heads every layer has; None where the config does not say."""
        count = config.get("n_heads")
        return count if isinstance(count, int) else None

    @property
    def sample_size(self) -> int:
        """Height and width of the latents where none is asked for: those of 1024 pixels."""
        return 1024 // self.pixels_per_latent

    @property
    def noise_dtype(self) -> torch.dtype:
        """What noise is drawn in."""
        return torch.float32

    @classmethod
    def aligned_tokenizers(cls, tokenizers: Mapping[str, PreTrainedTokenizerBase | None]) -> Tokenizers:
        """Return the tokenizer as the pipeline uses it: with its chat template, which lets it think."""
        tokenizer: Any = super().aligned_tokenizers(tokenizers)[0]
        written = ChatTemplate(tokenizer, (("add_generation_prompt", True), ("enable_thinking", True)))
        return (TemplatedTokenizer(tokenizer, written, multiple=SEQ_MULTI_OF),)

    def _encode_prompt(self, prompt: str, negative: bool) -> Conditioning:
        [limit] = (tokenizer.model_max_length for tokenizer in self.tokenizers)
        # The pipeline writes its template into the list that it is given.
        [embeds], _ = self.pipeline.encode_prompt([prompt], self.device, False, max_sequence_length=limit)
        tokens = len(embeds)  # kept on the CPU: to read it on the device would wait
        return {"cap_feats": pad(embeds, (0, 0, 0, limit - tokens))[None], "tokens": torch.tensor([tokens])}

    @classmethod
    def timestep_options(
        cls, scheduler: Any, num_inference_steps: int, image_tokens: int
    ) -> Mapping[str, Any]:
        """Return evenly spaced noise levels and the shift, which dynamic schedules apply."""
        sigmas = torch.linspace(1.0, 1 / num_inference_steps, num_inference_steps).tolist()
        return flow_options(scheduler, shift(scheduler.config, image_tokens, 1.15), sigmas)

    @cached_property
    def attention_layers(self) -> tuple[str, ...]:
        """The layers of image and text; refiners, of either alone, keep what they are."""
        return tuple(f"layers.{number}.attention.processor" for number in range(len(self.denoiser.layers)))

    @contextmanager
    def injection_processors(self) -> Iterator[tuple[str, ...]]:
        """Install the engine's attention processors, give the layers' names, restore the old ones."""
        [tokenizer] = self.tokenizers
        limit, pixels = tokenizer.model_max_length, self.pixels(self.attention_sides()[0])
        image_tokens = -(-pixels // SEQ_MULTI_OF) * SEQ_MULTI_OF
        refiners = len(self.denoiser.context_refiner)
        of_text = [f"context_refiner.{number}.attention.processor" for number in range(refiners)]
        replaced = (ZSingleStreamAttnProcessor,)
        refining = partial(ZImageProcessor, pixels=0, image_tokens=0, text_tokens=limit)
        joining = partial(ZImageProcessor, pixels=pixels, image_tokens=image_tokens, text_tokens=limit)
        with (
            injection_processors(self.denoiser, refining, replaced, of_text),
            injection_processors(self.denoiser, joining, replaced, self.attention_layers) as layers,
        ):
            yield layers

    def predict(
        self,
        latents: Tensor,
        timestep: Tensor,
        conditioning: Conditioning,
        injection: AnyInjection | None = None,
        guidance_scale: float | Sequence[float] = 1.0,
    ) -> Tensor:
        """Return the predicted velocity for each row, in single precision at least.

        The network is told how far it is from noise, and gives the velocity towards the image.
        """
        tokens = conditioning["tokens"].tolist()
        texts = [row[:count] for row, count in zip(conditioning["cap_feats"], tokens, strict=True)]
        told = (1000 - on_device(timestep, latents.device).expand(len(latents))) / 1000
        token = Z_IMAGE_INJECTION.set(injection)
        try:
            output = self.denoiser(list(latents[:, :, None]), told, texts, return_dict=False)[0]
        finally:
            Z_IMAGE_INJECTION.reset(token)
        return -torch.stack(output)[:, :, 0].to(self._latents_dtype)

    @property
    def _latents_dtype(self) -> torch.dtype:
        return torch.promote_types(self.dtype, torch.float32)

    @torch.no_grad()
    def encode(self, images: Tensor) -> Tensor:
        """Return scaled latent means of images (N, 3, height, width) in [0, 1]."""
        return encode_images(self.pipeline.vae, images, self._latents_dtype)
