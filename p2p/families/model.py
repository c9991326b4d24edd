"""What the engine asks of a loaded pipeline, whatever its family: text, noise, one prediction, images.

One file per family beside this one answers; what several share stands here.
"""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from tokenizers.normalizers import Lowercase
from tokenizers.normalizers import Sequence as NormalizerSequence
from torch import Tensor, nn

from p2p.alignment import ExpandingTokenizer, NoText, Tokenizers, encode
from p2p.attention.dense import DenseInjection
from p2p.attention.heads import Heads
from p2p.attention.injection import AnyInjection, injection_processors
from p2p.attention.places import Places
from p2p.attention.single_layers import NO_LAYERS, LayerInjection, UNetLayers
from p2p.compiling import compiled
from p2p.denoiser_hooks import unasked_parts
from p2p.schedulers import set_timesteps

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Conditioning = Mapping[str, Tensor]
"""What the denoiser is told of prompts, by the family's own names; a batch of rows, or one row alone."""
KEPT_TEXTS = 32
"""Prompts whose conditioning `Model.unchanged` holds: of T5's 512 tokens in bfloat16 134 MB."""


@dataclass
class Known:
    """What is asked of a model once, while nothing changes it: diffusers walks through all modules for it."""

    device: torch.device
    dtype: torch.dtype
    texts: OrderedDict[tuple[str, bool], Conditioning] = field(default_factory=OrderedDict)


@dataclass
class Model(ABC):
    """A loaded pipeline, and the two sides (in tokens) at which attention maps are injected and read.

    Self-attention is injected in layers of at most `self_max_side` tokens in height; LocalBlend reads
    cross-attention in layers of `blend_side` tokens. Raises ValueError for a side that no layer has, and for
    a pipeline with a part that no family asks (a ControlNet, say).
    """

    pipeline: Any
    self_max_side: int
    blend_side: int
    height: int | None = None  # of images; None: the denoiser's own
    width: int | None = None
    upscaler: Model | None = None  # runs on the images of this model
    warnings: Sequence[str] = ()  # what its loading has to tell, for the records of its images
    compile: bool = False  # whether steps call the denoiser compiled
    _known: Known | None = field(default=None, init=False, repr=False, compare=False)  # within `unchanged`

    pipeline_name: ClassVar[str]  # of diffusers' class
    load_options: ClassVar[Mapping[str, Any]] = {}  # of the pipeline class's from_pretrained
    half_precision: ClassVar[str] = "float16"  # the precision on a GPU where none is asked for
    text_blocks: ClassVar[Mapping[str, int | None]] = {"tokenizer": None}
    """By tokenizer, in the order in which their tokens stand in the denoiser's text: to how many tokens its
    prompts are padded (None: to the tokenizer's own limit)."""
    can_leave_out: ClassVar[Sequence[str]] = ()  # text encoders without which the pipeline works too
    compiles: ClassVar[bool] = True  # whether calls of the denoiser can be one graph
    lower_case: ClassVar[bool] = False  # whether the pipeline lower-cases prompts before it tokenizes them
    expands_tokens: ClassVar[bool] = False  # whether the pipeline writes tokens of several vectors out
    # Settings of the folder's scheduler that the pipeline's class replaces by its own when it is made.
    scheduler_corrections: ClassVar[Mapping[str, Any]] = {}
    own_parts: ClassVar[Sequence[str]] = ()  # of its pipelines, which no other family here asks
    latents_per_token: ClassVar[int] = 1  # whose channels stand side by side in the denoiser's input
    single_layers: ClassVar[bool] = False  # whether edits can take from single layers, see `unet_layers`
    layer_groups: ClassVar[bool] = False  # whether its layers stand in parts of a UNet
    joint_blocks: ClassVar[Mapping[str, str]] = {}
    """By stream of joint attention, the entry of the denoiser's config that says how many blocks it has."""

    def __post_init__(self) -> None:
        parts = {name for name, part in self.pipeline.components.items() if isinstance(part, nn.Module)}
        for name in unasked_parts(parts, self.own_parts):
            raise ValueError(
                f"pipeline: has the part {name!r}, which no edit would ask; allowed is one without, as by "
                f"{self.pipeline_name}.from_pipe(pipeline)"
            )
        sides = self.attention_sides()
        for name in ("self_max_side", "blend_side"):
            if getattr(self, name) not in sides:
                raise ValueError(
                    f"{name}: {getattr(self, name)} is no side of an attention layer, "
                    f"allowed are {', '.join(map(str, sides))}"
                )

    @classmethod
    def pipeline_class(cls) -> Any:
        """Return diffusers' class; importing it takes seconds."""
        import diffusers

        return getattr(diffusers, cls.pipeline_name)

    @property
    def denoiser(self) -> Any:
        """The network that is called at each step."""
        return self.pipeline.unet

    def network(self, injection: AnyInjection | None) -> Callable[..., Any]:
        """Return what `predict` calls: the denoiser, or it compiled where the injection is of such a call."""
        return self._compiled if isinstance(injection, DenseInjection) else self.denoiser

    @cached_property
    def _compiled(self) -> Callable[..., Any]:
        return compiled(self.denoiser)

    @torch.no_grad()
    def check_compiles(self) -> None:
        """Raise ValueError, in one line, where the denoiser with the engine's processors is not one graph.

        One row is traced, and nothing compiled.
        """
        latents = torch.zeros(1, *self.latent_shape, device=self.device, dtype=self.dtype)
        own = torch.zeros(1, dtype=torch.int64, device=self.device)
        kept, self._compiled = self._compiled, compiled(self.denoiser, "eager")
        try:
            with self.injection_processors():
                conditioning = stack_rows([self.encode_prompt("")])
                self.predict(latents, torch.tensor(500), conditioning, DenseInjection(0, False, own, ()))
        finally:
            self._compiled = kept

    @property
    def device(self) -> torch.device:
        """Where the denoiser computes."""
        if self._known:
            return self._known.device
        return execution_device(self.denoiser) or self.pipeline.device

    @property
    def dtype(self) -> torch.dtype:
        """What the denoiser computes in."""
        if self._known:
            return self._known.dtype
        dtype: torch.dtype = self.denoiser.dtype
        return dtype

    @property
    def noise_dtype(self) -> torch.dtype:
        """What noise is drawn in: another precision may have other numbers."""
        return self.dtype

    @classmethod
    def embeds_guidance(cls, config: Mapping[str, Any]) -> bool:
        """Say, from its config, whether the denoiser is told the guidance scale or can use none.

        No state then takes an unconditional row. Beside the denoiser's own entries `config` has those of the
        pipeline's index.
        """
        return False

    @property
    def guidance_embedded(self) -> bool:
        """Whether no state takes an unconditional row, whatever the guidance scale."""
        return self.embeds_guidance({**self.pipeline.config, **self.denoiser.config})

    @cached_property
    def tokenizers(self) -> Tokenizers:
        """The tokenizers whose positions the alignment refers to, one per block of text tokens."""
        missing = {tokenizer_of(n) for n in self.can_leave_out if getattr(self.pipeline, n) is None}
        names = self.text_blocks
        return self.aligned_tokenizers(
            {n: None if n in missing else getattr(self.pipeline, n) for n in names}
        )

    @classmethod
    def aligned_tokenizers(cls, tokenizers: Mapping[str, PreTrainedTokenizerBase | None]) -> Tokenizers:
        """Return the tokenizers set up as the pipeline uses them, in block order: length limit, lower case,
        tokens of several vectors written out.

        `tokenizers` are the pipeline's, by name. None marks a text encoder that is not loaded; the block of
        its tokens then holds no words.
        """
        used = [_as_used(tokenizers[name], n, cls.lower_case) for name, n in cls.text_blocks.items()]
        if cls.expands_tokens:
            return tuple(one if isinstance(one, NoText) else ExpandingTokenizer(one) for one in used)
        return tuple(used)

    def condition(self, images: Tensor, noise: Tensor) -> Conditioning:
        """Return N rows of conditioning for images (N, 3, height, width) in [0, 1] that are to be enlarged.

        `noise` (N, channels, height, width) has the size of the enlarged images. Raises TypeError for a model
        that enlarges no images.
        """
        raise TypeError(f"{type(self).__name__}: is no upscaler, so takes no images")

    @property
    @abstractmethod
    def latent_shape(self) -> tuple[int, int, int]:
        """Channels, height and width of the latents."""

    @property
    def pixels_per_latent(self) -> int:
        """Pixels of an image's side per latent."""
        factor: int = self.pipeline.vae_scale_factor
        return factor

    @property
    def image_size(self) -> tuple[int, int]:
        """Height and width of the images, before an upscaler enlarges them."""
        factor = self.pixels_per_latent
        return self.latent_shape[1] * factor, self.latent_shape[2] * factor

    @cached_property
    def attention_layers(self) -> tuple[str, ...]:
        """The denoiser's attention layers in which something can be injected; diffusers walks all modules."""
        return tuple(self.denoiser.attn_processors)

    @abstractmethod
    def attention_sides(self) -> list[int]:
        """Return the token-grid heights at which the denoiser attends, largest first."""

    @abstractmethod
    def cross_layers(self) -> dict[str, tuple[str, int]]:
        """Return where each layer that attends to text stands: the network's part, the tokens' height."""

    @cached_property
    def unet_layers(self) -> UNetLayers:
        """The single layers that edits can take from. Raises ValueError where there are none."""
        if not self.single_layers:
            raise ValueError(f"edit: {NO_LAYERS}")
        return UNetLayers.of(self.denoiser)

    @classmethod
    def count_blocks(cls, config: Mapping[str, Any]) -> dict[str, int | None]:
        """Return how many blocks of joint attention a denoiser has, by stream; {} in other families.

        None where its config does not say.
        """
        found = {stream: config.get(entry) for stream, entry in cls.joint_blocks.items()}
        return {stream: count if isinstance(count, int) else None for stream, count in found.items()}

    def taken(self, wanted: LayerInjection) -> tuple[str, ...]:
        """Return the names of the tensors that an injection takes, see `p2p.attention.taking`.

        Raises ValueError where the model has not the layers.
        """
        if wanted.projections is not None:
            counts = self.count_blocks(self.denoiser.config)
            wanted.check_blocks(counts)
            return wanted.projections.taken(counts, self.cross_layers(), wanted.shared)
        return self.unet_layers.taken(wanted)

    def layer_stands(self) -> Mapping[str, tuple[str, int]]:
        """Return where each attention layer of a UNet stands: part and height in tokens; {} elsewhere."""
        return {}

    def layers_at(self, places: Places) -> frozenset[str]:
        """Return the attention layers that stand at places. Raises ValueError where the model has none."""
        places.check(self.count_blocks(self.denoiser.config), self.layer_groups)
        return places.among(self.attention_layers, self.layer_stands())

    @cached_property
    def layer_heads(self) -> Mapping[str, int]:
        """How many heads each attention layer has."""
        names = self.attention_layers
        return {n: self.denoiser.get_submodule(n.removesuffix(".processor")).heads for n in names}

    @classmethod
    def count_heads(cls, config: Mapping[str, Any]) -> int | None:
        """Return how many heads every layer of a transformer has; None where its config does not say.

        Those of a UNet differ from layer to layer, and show in `layer_heads`.
        """
        count = None if cls.layer_groups else config.get("num_attention_heads")
        return count if isinstance(count, int) else None

    def check_heads(self, heads: Heads, layers: Iterable[str] | None = None) -> None:
        """Raise ValueError where one of these attention layers (None: of all) has not the heads."""
        heads.check(min(self.layer_heads[layer] for layer in layers or self.layer_heads))

    def check_layers(self, wanted: Iterable[LayerInjection]) -> None:
        """Raise ValueError where the model has not the single layers, or heads, that edits take from."""
        for one in dict.fromkeys(wanted):
            names = self.taken(one)
            if one.heads:
                self.check_heads(one.heads, [name.split("/")[0] for name in names])

    @abstractmethod
    def pixels(self, side: int) -> int:
        """Return the tokens of a layer that is `side` tokens high: `side` x `side` for square images."""

    def encode_prompt(self, prompt: str, negative: bool = False) -> Conditioning:
        """Return one row of conditioning for a prompt; `negative` where it is for the unconditional rows.

        SDXL's is zero for an empty negative prompt. Raises ValueError for a prompt that is too long.
        """
        kept = self._known.texts if self._known else OrderedDict()
        if (prompt, negative) in kept:
            kept.move_to_end((prompt, negative))
            return kept[prompt, negative]
        for tokenizer in self.tokenizers:
            encode(prompt, tokenizer)
        text = {name: rows[0] for name, rows in self._encode_prompt(prompt, negative).items()}
        kept[prompt, negative] = text
        if len(kept) > KEPT_TEXTS:
            kept.popitem(last=False)
        return text

    @contextmanager
    def unchanged(self) -> Iterator[None]:
        """Ask device and precision once, and encode the last `KEPT_TEXTS` prompts once.

        Within it nothing may change the model: where and in what it computes, encoders, LoRAs, tokenizers.
        """
        stages = [stage for stage in (self, self.upscaler) if stage is not None]
        for stage in stages:
            stage._known = Known(stage.device, stage.dtype)
        try:
            yield
        finally:
            for stage in stages:
                stage._known = None

    @abstractmethod
    def _encode_prompt(self, prompt: str, negative: bool) -> Conditioning:
        """Return the conditioning of a prompt, each tensor as a batch of one."""

    @classmethod
    def timestep_options(
        cls, scheduler: Any, num_inference_steps: int, image_tokens: int
    ) -> Mapping[str, Any]:
        """Return further arguments of `scheduler.set_timesteps`.

        Raises ValueError for a scheduler of flow matching with a model that is not, or the other way round.
        """
        if hasattr(scheduler, "scale_noise"):
            raise ValueError(f"scheduler: {type(scheduler).__name__} is for flow matching, this model is not")
        return {}

    @classmethod
    def set_timesteps(
        cls, scheduler: Any, num_inference_steps: int, device: Any = None, image_tokens: int = 4096
    ) -> int:
        """Set a scheduler's timesteps and return how many there are.

        `image_tokens`, known once the denoiser is loaded, move timesteps and do not change their number.
        Raises ValueError for a scheduler that cannot work.
        """
        options = cls.timestep_options(scheduler, num_inference_steps, image_tokens)
        return set_timesteps(scheduler, num_inference_steps, device, options)

    def new_scheduler(self, num_inference_steps: int) -> Any:
        """Return a fresh scheduler, timesteps set. Raises ValueError for one that cannot work.

        Timesteps stay on the CPU, where its coefficients are: diffusers' pipelines set them on the GPU, and
        DDIM and others then read them back at every step, and wait for the GPU.
        """
        scheduler = copy.deepcopy(self.pipeline.scheduler)
        tokens = self.pixels(self.attention_sides()[0])
        self.set_timesteps(scheduler, num_inference_steps, image_tokens=tokens)
        return scheduler

    def draw_noise(self, generators: Sequence[torch.Generator]) -> Tensor:
        """Return standard normal latents (generators, channels, height, width), each from its generator."""
        from diffusers.utils.torch_utils import randn_tensor

        shape, device, dtype = (1, *self.latent_shape), self.device, self.noise_dtype
        return torch.cat([randn_tensor(shape, g, device, dtype) for g in generators])

    def injection_processors(self) -> AbstractContextManager[tuple[str, ...]]:
        """Install the engine's attention processors, give the layers' names, restore the old ones."""
        return injection_processors(self.denoiser)

    @abstractmethod
    def predict(
        self,
        latents: Tensor,
        timestep: Tensor,
        conditioning: Conditioning,
        injection: AnyInjection | None = None,
        guidance_scale: float | Sequence[float] = 1.0,
    ) -> Tensor:
        """Return the denoiser's output for each row of `latents` (rows, channels, height, width).

        `timestep` is the scheduler's, on the CPU. `guidance_scale`, one or each row's, is read by
        denoisers that are told it.
        """

    def guide(self, uncond: Tensor, text: Tensor, guidance_scale: float, guidance_rescale: float) -> Tensor:
        """Return the guided prediction, `uncond + guidance_scale * (text - uncond)` (Ho and Salimans 2022).

        A share `guidance_rescale`, in [0, 1], of the result has the standard deviation of `text` (Lin et al.
        2023, Sec. 3.4).
        """
        return rescaled(uncond + guidance_scale * (text - uncond), text, guidance_rescale)

    @abstractmethod
    def decode(self, latents: Tensor) -> Tensor:
        """Return images (N, 3, height, width) float32 in [0, 1], rounded to 8 bits as a PNG would be."""

    @abstractmethod
    def encode(self, images: Tensor) -> Tensor:
        """Return scaled latent means of images (N, 3, height, width) in [0, 1]."""


def execution_device(network: nn.Module) -> torch.device | None:
    """Return the device on which accelerate lets an offloaded network compute; None for any other network.

    diffusers' `_execution_device` asks all networks of a pipeline in this way.
    """
    if not hasattr(network, "_hf_hook"):
        return None
    hooks = [getattr(part, "_hf_hook", None) for part in network.modules()]
    devices = [getattr(hook, "execution_device", None) for hook in hooks]
    return next((torch.device(device) for device in devices if device is not None), None)


def tokenizer_of(text_encoder: str) -> str:
    """Return the name of a text encoder's tokenizer, in diffusers' pipelines."""
    return text_encoder.replace("text_encoder", "tokenizer")


def encoder_of(tokenizer: str) -> str:
    """Return the name of a tokenizer's text encoder, in diffusers' pipelines."""
    return tokenizer.replace("tokenizer", "text_encoder")


def _as_used(
    tokenizer: PreTrainedTokenizerBase | None, limit: int | None, lower_case: bool
) -> PreTrainedTokenizerBase | NoText:
    """Return the tokenizer with `limit` as its length where one is given, and lower-casing where asked."""
    if tokenizer is None:
        return NoText(limit or 0)
    if limit is None and not lower_case:
        return tokenizer
    tokenizer = copy.deepcopy(tokenizer)
    if limit is not None:
        tokenizer.model_max_length = limit
    if lower_case:
        own = tokenizer.backend_tokenizer.normalizer
        steps = [Lowercase(), *([own] if own else [])]
        tokenizer.backend_tokenizer.normalizer = NormalizerSequence(steps)
    return tokenizer


def on_device(timestep: Tensor, device: torch.device) -> Tensor:
    """Return a scheduler's timestep (a CPU scalar) on a device. It is filled in there: a copy would wait."""
    return torch.full((), timestep.item(), dtype=timestep.dtype, device=device)


def rescaled(guided: Tensor, text: Tensor, guidance_rescale: float) -> Tensor:
    """Return guided predictions of which a share, in [0, 1], has the standard deviation of the text's own."""
    if not guidance_rescale:
        return guided
    rows = tuple(range(1, guided.ndim))
    deviating = guided * (text.std(rows, keepdim=True) / guided.std(rows, keepdim=True))
    return guidance_rescale * deviating + (1 - guidance_rescale) * guided


def each_row(guidance_scale: float | Sequence[float], rows: int) -> list[float]:
    """Return the guidance scale of each of so many rows."""
    return list(guidance_scale) if isinstance(guidance_scale, Sequence) else [guidance_scale] * rows


def told_guidance(guidance_scale: float | Sequence[float], rows: int, device: torch.device) -> Tensor:
    """Return the guidance scale of each row (rows,) in float32, filled in on a device: a copy would wait."""
    scales = (torch.full((1,), float(scale), device=device) for scale in each_row(guidance_scale, rows))
    return torch.cat(list(scales))


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
