"""A world's denoiser and text encoder: what is trained, and how it is kept as a pipeline of diffusers'.

The text encoder is context-free (its self-attention is zeroed and frozen): in a jointly trained causal
encoder a word's meaning moves into the words after it, and the word's own attention map is inverted.
"""

import copy
import shutil
from collections.abc import Sequence
from pathlib import Path

import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    StableDiffusionInstructPix2PixPipeline,
    StableDiffusionPipeline,
    UNet2DConditionModel,
)
from diffusers.models.attention_processor import AttnProcessor, AttnProcessor2_0
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from experiments.embedded.input_errors import InputError
from experiments.embedded.recorded_attention import RecordingProcessor
from experiments.embedded.training import write_card

FILLERS = ("a", "an", "and", "of", "with", "in", "the", "on", "at")
PADDING_SIZE = 1_000  # of the padding's token embedding, beside position embeddings of 0.04 after training


def check_channels(channels: Sequence[int]) -> None:
    """Raise InputError unless there are two widths, each a multiple of 16."""
    if len(channels) != 2 or any(c < 16 or c % 16 for c in channels):
        raise InputError(f"channels: {','.join(map(str, channels))}, allowed are two multiples of 16")


def build_unet(channels: Sequence[int], text_width: int) -> UNet2DConditionModel:
    """Return the untrained denoiser, with cross-attention at 16x16 and 8x8 to tokens of `text_width`.

    Raises InputError for what `check_channels` does not allow.
    """
    check_channels(channels)
    return UNet2DConditionModel(
        sample_size=16,
        in_channels=4,
        out_channels=4,
        down_block_types=("CrossAttnDownBlock2D",) * 2,
        up_block_types=("CrossAttnUpBlock2D",) * 2,
        block_out_channels=tuple(channels),
        layers_per_block=1,
        attention_head_dim=2,
        cross_attention_dim=text_width,
        norm_num_groups=16,
    )


def build_text_encoder(tokenizer: CLIPTokenizer, sizes: tuple[int, int, int]) -> CLIPTextModel:
    """Return the untrained text encoder, each token blind to the others; `sizes`: width, layers, heads."""
    width, layers, heads = sizes
    config = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=4 * width,
        projection_dim=width,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        max_position_embeddings=tokenizer.model_max_length,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    encoder = CLIPTextModel(config)
    for name, module in encoder.named_modules():
        if name.endswith("self_attn.out_proj"):
            for parameter in module.parameters():
                nn.init.zeros_(parameter).requires_grad_(False)
    return encoder


@torch.no_grad()
def share_padding(encoder: CLIPTextModel) -> None:
    """Give all padding one embedding, whatever its position.

    A context-free encoder's output at a padding position is a function of the padding's token embedding plus
    the position's, and the layer norms see directions alone. So a token embedding a thousand times the size
    of the positions' leaves nothing of those, in an ordinary CLIPTextModel. Padding that knew its positions
    drew sinks of attention to some of them, and an edit that moves padding then breaks the picture. The end
    token is the padding token and shares the embedding.
    """
    weight = encoder.get_input_embeddings().weight
    drawn = torch.randn(weight.shape[1], generator=torch.Generator().manual_seed(0))
    weight[encoder.config.pad_token_id] = PADDING_SIZE * drawn.to(weight)


def idle_tokens(tokenizer: CLIPTokenizer) -> Tensor:
    """Return (vocabulary,) bool: padding, the end token and filler words, where attention is not to rest."""
    idle = torch.zeros(len(tokenizer), dtype=torch.bool)
    idle[[tokenizer.pad_token_id, tokenizer.eos_token_id]] = True
    pieces = tokenizer.get_vocab()
    idle[[pieces[f"{word}</w>"] for word in FILLERS if f"{word}</w>" in pieces]] = True
    return idle


def build_scheduler() -> DDIMScheduler:
    """Return the noise schedule; beta_end 0.018 as 0.012 leaves a readable mean in latents this small."""
    return DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.018,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
    )


def skip_attention(encoder: CLIPTextModel) -> None:
    """Do not compute the attention of a context-free encoder while it is trained: it adds exactly nothing."""
    for name, module in encoder.named_modules():
        if name.endswith("self_attn"):
            module.forward = lambda hidden_states, **_: (torch.zeros_like(hidden_states), None)


def recording_processors(unet: UNet2DConditionModel) -> list[RecordingProcessor]:
    """Let the denoiser's cross-attention keep its maps; return the processors that do."""
    cross = {name: RecordingProcessor() for name in unet.attn_processors if "attn2" in name}
    plain = (
        AttnProcessor() if unet.device.type == "cpu" else AttnProcessor2_0()
    )  # SDPA's CPU backward is slow
    unet.set_attn_processor({name: cross.get(name, plain) for name in unet.attn_processors})
    return list(cross.values())


def save_pipeline(
    folder: Path,
    model: nn.ModuleDict,
    vae: AutoencoderKL,
    tokenizer: CLIPTokenizer,
    title: str,
    facts: dict[str, object],
    kind: type[StableDiffusionPipeline]
    | type[StableDiffusionInstructPix2PixPipeline] = StableDiffusionPipeline,
) -> None:
    """Write the whole pipeline in float16 with its card, in place of what the folder held."""
    new, old = (folder.with_name(f"{folder.name}.{state}") for state in ("new", "old"))
    for leftover in (new, old):
        shutil.rmtree(leftover, ignore_errors=True)

    def half(part: nn.Module) -> nn.Module:
        return copy.deepcopy(part).cpu().half()

    pipeline = kind(
        vae=half(vae),
        text_encoder=half(model["text_encoder"]),
        tokenizer=tokenizer,
        unet=half(model["unet"]),
        scheduler=build_scheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    for part in (pipeline.vae, pipeline.unet):
        part.register_to_config(_name_or_path="")  # else it says where this machine keeps the weights
    pipeline.save_pretrained(new)
    write_card(new, title, facts)
    if folder.exists():
        folder.rename(old)
    new.rename(folder)
    shutil.rmtree(old, ignore_errors=True)
