"""What the engine asks of a loaded pipeline, whatever its family: text, noise, one prediction, images.

One file per family beside this one answers; what several share stands here.
"""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import torch
from diffusers.utils.torch_utils import randn_tensor
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from p2p.alignment import encode
from p2p.attention import BatchInjection, injection_processors

Conditioning = Mapping[str, Tensor]
"""What the denoiser is told of prompts, by the family's own names; a batch of rows, or one row alone."""


@dataclass
class Model(ABC):
    """A loaded pipeline and the two sides (in tokens) at which its maps are injected or read.

    Self-attention is injected in layers of at most `self_max_side` tokens in height; LocalBlend reads
    cross-attention in those of `blend_side`. Raises ValueError for a side that no layer has.
    """

    pipeline: Any
    self_max_side: int
    blend_side: int
    height: int | None = None  # of images; None: the denoiser's own
    width: int | None = None

    pipeline_class: ClassVar[Any]
    load_options: ClassVar[Mapping[str, Any]] = {}  # of the pipeline class's from_pretrained
    text_blocks: ClassVar[Mapping[str, int | None]] = {"tokenizer": None}
    """The pipeline's tokenizers in the order in which their tokens stand in the denoiser's text, and to how
    many tokens each is padded (None: to the tokenizer's own limit)."""

    def __post_init__(self) -> None:
        sides = self.attention_sides()
        for name in ("self_max_side", "blend_side"):
            if getattr(self, name) not in sides:
                raise ValueError(
                    f"{name}: {getattr(self, name)} is no side of an attention layer, "
                    f"allowed are {', '.join(map(str, sides))}"
                )

    @property
    def denoiser(self) -> Any:
        """The network that is called at each step."""
        return self.pipeline.unet

    @property
    def device(self) -> torch.device:
        """Where the denoiser computes."""
        return self.pipeline.device

    @property
    def dtype(self) -> torch.dtype:
        """What the denoiser computes in."""
        dtype: torch.dtype = self.denoiser.dtype
        return dtype

    @cached_property
    def tokenizers(self) -> tuple[PreTrainedTokenizerBase, ...]:
        """The tokenizers whose positions the alignment refers to, one per block of text tokens."""
        return tuple(
            padded_to(getattr(self.pipeline, name), limit) for name, limit in self.text_blocks.items()
        )

    @property
    @abstractmethod
    def latent_shape(self) -> tuple[int, int, int]:
        """Channels, height and width of the latents."""

    @property
    def image_size(self) -> tuple[int, int]:
        """Height and width of the images."""
        factor = self.pipeline.vae_scale_factor
        return self.latent_shape[1] * factor, self.latent_shape[2] * factor

    @abstractmethod
    def attention_sides(self) -> list[int]:
        """Return the token-grid heights at which the denoiser attends, largest first."""

    @abstractmethod
    def pixels(self, side: int) -> int:
        """Return the tokens of the layer with this height: `side` x `side` for square images."""

    def encode_prompt(self, prompt: str, negative: bool = False) -> Conditioning:
        """Return what the denoiser is told of a prompt, or of a negative one where guidance differs in that.

        Raises ValueError for a prompt that is too long.
        """
        for tokenizer in self.tokenizers:
            encode(prompt, tokenizer)
        return {name: rows[0] for name, rows in self._encode_prompt(prompt, negative).items()}

    @abstractmethod
    def _encode_prompt(self, prompt: str, negative: bool) -> Conditioning:
        """Return one row of each tensor."""

    @classmethod
    def set_timesteps(cls, scheduler: Any, num_inference_steps: int, device: Any = None) -> int:
        """Set the timesteps and return their number. Raises ValueError where the T + 1 table does not fit."""
        scheduler.set_timesteps(num_inference_steps, device=device)
        calls = len(scheduler.timesteps)
        if calls not in (num_inference_steps, num_inference_steps + 1):
            raise ValueError(
                f"scheduler: {type(scheduler).__name__} calls the UNet {calls} times for "
                f"{num_inference_steps} steps, allowed are T or T + 1"
            )
        return calls

    def new_scheduler(self, num_inference_steps: int) -> Any:
        """Return a fresh scheduler, timesteps set. Raises ValueError where the T + 1 table does not fit."""
        scheduler = copy.deepcopy(self.pipeline.scheduler)
        self.set_timesteps(scheduler, num_inference_steps, self.device)
        return scheduler

    def draw_noise(self, generators: Sequence[torch.Generator]) -> Tensor:
        """Return standard normal latents (generators, channels, height, width), each from its generator."""
        shape = (1, *self.latent_shape)
        return torch.cat([randn_tensor(shape, g, self.device, self.dtype) for g in generators])

    def injection_processors(self) -> AbstractContextManager[tuple[str, ...]]:
        """Install the engine's attention processors, give the layers' names, restore the old ones."""
        return injection_processors(self.denoiser)

    @abstractmethod
    def predict(
        self,
        latents: Tensor,
        timestep: Tensor,
        conditioning: Conditioning,
        injection: BatchInjection | None = None,
    ) -> Tensor:
        """Return the denoiser's output for each row."""

    def guide(self, uncond: Tensor, text: Tensor, guidance_scale: float) -> Tensor:
        """Return the guided prediction (Ho and Salimans 2022)."""
        return uncond + guidance_scale * (text - uncond)

    @abstractmethod
    def decode(self, latents: Tensor) -> Tensor:
        """Return images (N, 3, height, width) float32 in [0, 1], rounded to 8 bits as a PNG would be."""

    @abstractmethod
    def encode(self, images: Tensor) -> Tensor:
        """Return scaled latent means of images (N, 3, height, width) in [0, 1]."""


def padded_to(tokenizer: PreTrainedTokenizerBase, limit: int | None) -> PreTrainedTokenizerBase:
    """Return the tokenizer with `limit` as its length, where one is given."""
    if limit is not None:
        tokenizer = copy.deepcopy(tokenizer)
        tokenizer.model_max_length = limit
    return tokenizer


def stack_rows(rows: Sequence[Conditioning]) -> Conditioning:
    """Return the conditioning of several prompts as one batch."""
    return {name: torch.stack([row[name] for row in rows]) for name in rows[0]}


def eight_bits(images: Tensor) -> Tensor:
    """Return images from [-1, 1] as float32 in [0, 1] with 8-bit values, on the CPU.

    Raises FloatingPointError where they are not finite.
    """
    if not images.isfinite().all():
        raise FloatingPointError("images: the autoencoder's output is not finite, try dtype=float32")
    return ((images.float() / 2 + 0.5).clamp(0, 1) * 255).round().cpu() / 255
