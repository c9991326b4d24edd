"""Tiny vision-language models of two real classes, with their processors and a tokenizer of letters."""

from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel
from transformers import (
    CLIPImageProcessorPil,
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedTokenizerFast,
    Qwen2VLConfig,
    Qwen2VLForConditionalGeneration,
    Qwen2VLImageProcessorPil,
    Qwen2VLProcessor,
    Qwen2VLVideoProcessor,
)

_SPECIAL = ["<pad>", "<s>", "<end>", "<image>"]
_QWEN = ["<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>"]
_TEMPLATE = (
    "{{% for message in messages %}}<s>{{% for part in message['content'] %}}"
    "{{% if part['type'] == 'image' %}}{image}{{% else %}}{{{{ part['text'] }}}}{{% endif %}}{{% endfor %}}"
    "<end>{{% endfor %}}"
    "{{% if add_generation_prompt %}}<s>{{% endif %}}"
)


def tokenizer_of(
    words: tuple[str, ...] = ("Yes", "yes", "Ġyes", "No", "yesterday"),
) -> PreTrainedTokenizerFast:
    """Return a byte-level BPE that knows these words, and letters; Ġ is a space before a word."""
    vocab = {letter: index for index, letter in enumerate(sorted(ByteLevel.alphabet()))}
    merges: list[tuple[str, str]] = []
    for word in words:
        for end in range(2, len(word) + 1):
            if word[:end] not in vocab:
                vocab[word[:end]] = len(vocab)
                merges.append((word[: end - 1], word[end - 1]))
    tokenizer = Tokenizer(BPE(vocab=vocab, merges=merges))
    tokenizer.pre_tokenizer, tokenizer.decoder = ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    special = {"pad_token": "<pad>", "eos_token": "<end>", "additional_special_tokens": [*_SPECIAL, *_QWEN]}
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special)


def save_llava(folder: Path, tokenizer: PreTrainedTokenizerFast, template: bool = True) -> Path:
    """Save a Llava of two layers in bfloat16, as judges are published."""
    vision = CLIPVisionConfig(
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        image_size=32,
        patch_size=8,
    )
    text = LlamaConfig(
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        vocab_size=len(tokenizer),
    )
    image = tokenizer.convert_tokens_to_ids("<image>")
    config = LlavaConfig(vision_config=vision, text_config=text, image_token_index=image)
    _save(LlavaForConditionalGeneration, config, folder)
    LlavaProcessor(
        CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}),
        tokenizer,
        patch_size=8,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=_TEMPLATE.format(image="<image>") if template else None,
    ).save_pretrained(folder)
    return folder


def save_qwen(folder: Path, tokenizer: PreTrainedTokenizerFast) -> Path:
    """Save a Qwen2-VL of two layers in bfloat16."""
    start, end, image, video = tokenizer.convert_tokens_to_ids(_QWEN)
    config = Qwen2VLConfig(
        text_config={
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "num_key_value_heads": 2,
            "vocab_size": len(tokenizer),
            "rope_parameters": {"rope_type": "default", "mrope_section": [2, 3, 3], "rope_theta": 1e4},
        },
        vision_config={"depth": 2, "embed_dim": 32, "hidden_size": 32, "num_heads": 2, "mlp_ratio": 2},
        image_token_id=image,
        video_token_id=video,
        vision_start_token_id=start,
        vision_end_token_id=end,
    )
    _save(Qwen2VLForConditionalGeneration, config, folder)
    Qwen2VLProcessor(
        Qwen2VLImageProcessorPil(),
        tokenizer,
        Qwen2VLVideoProcessor(),
        chat_template=_TEMPLATE.format(image="<|vision_start|><|image_pad|><|vision_end|>"),
    ).save_pretrained(folder)
    return folder


def _save(kind: type, config: LlavaConfig | Qwen2VLConfig, folder: Path) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = kind(config)
        for name, weight in model.named_parameters():
            if weight.dim() > 1:  # louder than its initialisation: answers must differ from image to image
                torch.nn.init.normal_(weight, std=0.02 if "embed" in name else 0.3)
    model.bfloat16().save_pretrained(folder)
