"""A tiny random pipeline of Qwen-Image's real classes, and the text parts of pipelines that read Qwen3."""

from collections.abc import Sequence

import torch
from diffusers import (
    AutoencoderKLQwenImage,
    FlowMatchEulerDiscreteScheduler,
    QwenImagePipeline,
    QwenImageTransformer2DModel,
)
from tokenizers.pre_tokenizers import ByteLevel
from transformers import (
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2Tokenizer,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from tests.p2p.families.tiny_parts import heed_context, heed_text
from tests.tiny_text import WORDS

# As in Qwen's own vocabulary the system message is 34 tokens then, the number that is dropped.
TEMPLATE = (
    "system assistant user Describe the image by detailing the color shape size texture quantity text "
    "spatial relationships of objects and background"
)
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]


# What Qwen3's does with one message of a user.
CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n"
    "{% if enable_thinking is defined and not enable_thinking %}<think>\n\n</think>\n\n{% endif %}{% endif %}"
)


def tiny_qwen3_tokenizer() -> Qwen2Tokenizer:
    """Return the tokenizer with Qwen3's marks of thoughts and a chat template."""
    tokenizer = tiny_qwen_tokenizer()
    tokenizer.add_tokens(["<think>", "</think>"])
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


def tiny_qwen3_encoder(tokenizer: Qwen2Tokenizer, layers: int, width: int = 16) -> Qwen3ForCausalLM:
    """Return a random text encoder (rows, tokens, width) of so many layers."""
    config = Qwen3Config(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=2 * width,
        num_hidden_layers=layers,
        num_attention_heads=2,
        num_key_value_heads=2,
        head_dim=width // 2,
        bos_token_id=None,
        eos_token_id=0,
    )
    encoder = Qwen3ForCausalLM(config)
    heed_context(encoder.model.layers)
    return encoder.eval()


def tiny_qwen_tokenizer() -> Qwen2Tokenizer:
    """Return a byte-pair tokenizer of some whole words, alone and after a space; all else is bytes.

    "chinchilla" is two tokens.
    """
    ids, merges = byte_pairs([*TEMPLATE.split(), *WORDS], SPECIAL)
    return Qwen2Tokenizer(vocab=ids, merges=merges, extra_special_tokens=SPECIAL[1:])


def byte_pairs(words: Sequence[str], special: Sequence[str]) -> tuple[dict[str, int], list[tuple[str, str]]]:
    """Return ids and merges of special tokens, bytes, and whole words, alone and after a space."""
    merges: dict[tuple[str, str], None] = {("Ċ", "Ċ"): None}  # two newlines are one token, as in Qwen's
    for word in [f"Ġ{word}" for word in words] + list(words):
        for end in range(1, len(word)):
            merges[word[:end], word[end]] = None
    vocab = [*special, *sorted(ByteLevel.alphabet()), *("".join(pair) for pair in merges)]
    return {piece: i for i, piece in enumerate(dict.fromkeys(vocab))}, list(merges)


def tiny_qwen_encoder(tokenizer: Qwen2Tokenizer, width: int = 32) -> Qwen2_5_VLForConditionalGeneration:
    """Return a random text encoder of two layers (rows, tokens, width); its part for images is not used."""
    config = Qwen2_5_VLConfig(
        text_config={
            "vocab_size": len(tokenizer),
            "hidden_size": width,
            "intermediate_size": 2 * width,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "num_key_value_heads": 2,
            "bos_token_id": None,
            "eos_token_id": 0,
            "rope_parameters": {"rope_type": "default", "mrope_section": [2, 3, 3], "rope_theta": 1e6},
        },
        vision_config={
            "depth": 1,
            "hidden_size": 16,
            "intermediate_size": 16,
            "num_heads": 2,
            "out_hidden_size": width,
        },
    )
    encoder = Qwen2_5_VLForConditionalGeneration(config)
    heed_context(encoder.model.language_model.layers)
    return encoder.eval()


def tiny_pipeline() -> QwenImagePipeline:
    """Return a random pipeline in double precision: two blocks, two pixels per latent and direction."""
    torch.manual_seed(0)
    transformer = QwenImageTransformer2DModel(
        in_channels=16,
        out_channels=4,
        num_layers=2,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=32,
        axes_dims_rope=(4, 6, 6),
    )
    heed_text(transformer)
    tokenizer = tiny_qwen_tokenizer()
    pipeline = QwenImagePipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True, shift_terminal=0.02),
        vae=AutoencoderKLQwenImage(
            base_dim=8,
            z_dim=4,
            dim_mult=[1, 2],
            num_res_blocks=1,
            temperal_downsample=[False],
            latents_mean=[0.1, -0.2, 0.3, 0.0],
            latents_std=[1.5, 0.8, 1.0, 1.2],
        ).eval(),
        text_encoder=tiny_qwen_encoder(tokenizer),
        tokenizer=tokenizer,
        transformer=transformer,
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline.to(torch.float64)
