"""Tiny random pipelines of Flux.2's real classes, made offline."""

from collections.abc import Mapping
from typing import ClassVar

import torch
from diffusers import (
    AutoencoderKLFlux2,
    FlowMatchEulerDiscreteScheduler,
    Flux2KleinPipeline,
    Flux2Pipeline,
    Flux2Transformer2DModel,
)
from diffusers.pipelines.flux2.system_messages import SYSTEM_MESSAGE
from tokenizers import Tokenizer, decoders, pre_tokenizers
from tokenizers.models import BPE
from tokenizers.processors import TemplateProcessing
from transformers import (
    Mistral3Config,
    Mistral3ForConditionalGeneration,
    PixtralImageProcessor,
    PixtralProcessor,
    PreTrainedTokenizerFast,
)

from p2p import Flux2, Flux2Klein
from tests.p2p.families.tiny_parts import heed_context, heed_text
from tests.p2p.families.tiny_qwen import byte_pairs, tiny_qwen3_encoder, tiny_qwen3_tokenizer
from tests.tiny_text import WORDS

TEXT = 56
SPECIAL = ["<s>", "</s>", "<pad>", "[SYSTEM_PROMPT]", "[/SYSTEM_PROMPT]", "[INST]", "[/INST]"]
SPECIAL += ["[IMG]", "[IMG_BREAK]", "[IMG_END]"]
# What Mistral's does with a system message and one of a user.
CHAT_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}"
    "{% set name = 'SYSTEM_PROMPT' if message.role == 'system' else 'INST' %}"
    "[{{ name }}]{% for part in message.content %}{{ part.text }}{% endfor %}[/{{ name }}]{% endfor %}"
)


def tiny_flux2_transformer(guidance_embeds: bool, sharpness: float) -> Flux2Transformer2DModel:
    """Return a random transformer of two double- and one single-stream block, for texts of width 16."""
    transformer = Flux2Transformer2DModel(
        in_channels=16,
        num_layers=2,
        num_single_layers=1,
        attention_head_dim=8,
        num_attention_heads=2,
        joint_attention_dim=3 * 16,
        axes_dims_rope=(2, 2, 2, 2),
        guidance_embeds=guidance_embeds,
    )
    heed_text(transformer, sharpness)
    return transformer


def tiny_flux2_vae() -> AutoencoderKLFlux2:
    """Return a random autoencoder of two pixels per latent and direction, with statistics of its patches."""
    vae = AutoencoderKLFlux2(
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        block_out_channels=(8, 16),
        layers_per_block=1,
        norm_num_groups=8,
        sample_size=32,
        latent_channels=4,
    )
    vae.bn.running_mean.normal_(0, 0.3)
    vae.bn.running_var.uniform_(0.5, 2)
    return vae.eval()


def tiny_klein(is_distilled: bool = False) -> Flux2KleinPipeline:
    """Return a random Klein in double precision: the text encoder has the 27 layers that are asked for."""
    torch.manual_seed(0)
    tokenizer = tiny_qwen3_tokenizer()
    pipeline = Flux2KleinPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True),
        vae=tiny_flux2_vae(),
        text_encoder=tiny_qwen3_encoder(tokenizer, layers=27),
        tokenizer=tokenizer,
        transformer=tiny_flux2_transformer(guidance_embeds=False, sharpness=3),
        is_distilled=is_distilled,
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline.to(torch.float64)


def tiny_mistral_processor(padding_side: str) -> PixtralProcessor:
    """Return a processor whose tokenizer begins every text with a token of its own, as Mistral's does."""
    ids, merges = byte_pairs([*SYSTEM_MESSAGE.replace(".", "").split(), *WORDS], SPECIAL)
    backend = Tokenizer(BPE(ids, merges))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.post_processor = TemplateProcessing(
        single="<s> $A", pair="<s> $A <s> $B", special_tokens=[("<s>", ids["<s>"])]
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
        padding_side=padding_side,
        extra_special_tokens=SPECIAL[3:],
        chat_template=CHAT_TEMPLATE,
    )
    return PixtralProcessor(PixtralImageProcessor(), tokenizer, chat_template=CHAT_TEMPLATE)


def tiny_mistral_encoder(tokens: int, layers: int, width: int = 16) -> Mistral3ForConditionalGeneration:
    """Return a random text encoder (rows, tokens, width); its part for images is not used."""
    config = Mistral3Config(
        text_config={
            "model_type": "mistral",
            "vocab_size": tokens,
            "hidden_size": width,
            "intermediate_size": 2 * width,
            "num_hidden_layers": layers,
            "num_attention_heads": 2,
            "num_key_value_heads": 2,
            "head_dim": width // 2,
        },
        vision_config={
            "model_type": "pixtral",
            "hidden_size": 16,
            "intermediate_size": 16,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "head_dim": 8,
        },
    )
    encoder = Mistral3ForConditionalGeneration(config)
    heed_context(encoder.model.language_model.layers)
    with torch.no_grad():  # or of 30 layers the last ones hardly know which token stands there
        encoder.get_input_embeddings().weight.mul_(30)
    return encoder.eval()


def tiny_dev(padding_side: str = "left") -> Flux2Pipeline:
    """Return a random dev in double precision: the text encoder has the 30 layers that are asked for."""
    torch.manual_seed(0)
    processor = tiny_mistral_processor(padding_side)
    pipeline = Flux2Pipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True),
        vae=tiny_flux2_vae(),
        text_encoder=tiny_mistral_encoder(len(processor.tokenizer), layers=30),
        tokenizer=processor,
        transformer=tiny_flux2_transformer(guidance_embeds=True, sharpness=5),
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline.to(torch.float64)


class ShortKlein(Flux2Klein):
    """Flux.2 Klein with less padding, for speed."""

    text_blocks: ClassVar[Mapping[str, int | None]] = {"tokenizer": TEXT}


class ShortDev(Flux2):
    """Flux.2 dev with less padding, for speed; a system message of 32 tokens is among them."""

    text_blocks: ClassVar[Mapping[str, int | None]] = {"tokenizer": TEXT}


def short_dev(pixels: int = 32, padding_side: str = "left") -> Flux2:
    side = pixels // 4
    return ShortDev(tiny_dev(padding_side), side, side, height=pixels, width=pixels)


def short_klein(pixels: int = 32, is_distilled: bool = False) -> Flux2:
    side = pixels // 4
    return ShortKlein(tiny_klein(is_distilled), side, side, height=pixels, width=pixels)
