"""Tiny models with random weights, in the layout of the shipped ones."""

import json
from pathlib import Path

import open_clip
import pytest
import torch
from safetensors.torch import save_file
from timm.models.vision_transformer import VisionTransformer
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import ByteLevel, Whitespace
from tokenizers.processors import TemplateProcessing
from transformers import CLIPConfig, CLIPImageProcessorPil, CLIPModel, CLIPTokenizer, PreTrainedTokenizerFast

from evaluation import Edits, small_lpips
from tests.evaluation.pictures import edits_of, masked_edits

WORDS = ["a", "cat", "dog", "fox", "on", "the", "beach", "snow", "in", "of", "red", "big"]
CONTEXT = 8


@pytest.fixture(scope="session")
def clip_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("weights") / "clip"
    vocabulary = {word: index for index, word in enumerate(["<unk>", *WORDS, "<start>", "<end>"])}
    tokenizer = Tokenizer(WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = Whitespace()
    tokenizer.post_processor = TemplateProcessing(
        single="<start> $A <end>", special_tokens=[(word, vocabulary[word]) for word in ("<start>", "<end>")]
    )
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<start>",
        eos_token="<end>",
        pad_token="<end>",
        unk_token="<unk>",
    )
    wrapped.save_pretrained(folder / "tokenizer")
    config = {
        "model_cfg": {
            "embed_dim": 16,
            # 48 and not the images' 64, so that resizing is part of what is tested.
            "vision_cfg": {"image_size": 48, "layers": 2, "width": 32, "head_width": 16, "patch_size": 8},
            "text_cfg": {
                "context_length": CONTEXT,
                "vocab_size": len(vocabulary),
                "hf_tokenizer_name": "tokenizer",
                "width": 32,
                "heads": 2,
                "layers": 2,
            },
        },
        "preprocess_cfg": {"mean": [0.5, 0.4, 0.3], "std": [0.2, 0.3, 0.4], "interpolation": "bicubic"},
    }
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = open_clip.create_model(f"local-dir:{folder}", load_weights=False)
    state = {key: value.half().contiguous() for key, value in model.state_dict().items()}
    save_file(state, folder / "open_clip_model.safetensors")
    return folder


@pytest.fixture(scope="session")
def hub_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny CLIP as transformers saves it; its tokenizer is CLIP's without merges, a token per letter."""
    folder = tmp_path_factory.mktemp("weights") / "hub"
    letters = sorted(ByteLevel.alphabet())
    pieces = [*letters, *(f"{letter}</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    tokenizer = CLIPTokenizer(
        vocab={piece: index for index, piece in enumerate(pieces)}, merges=[], model_max_length=77
    )
    ends = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
    small = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    text = {**small, **ends, "vocab_size": len(tokenizer)}
    vision = {**small, "image_size": 48, "patch_size": 8}
    with torch.random.fork_rng():
        torch.manual_seed(1)  # cosines of both signs
        model = CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=16))
        for name, weight in model.named_parameters():
            if weight.dim() > 1:  # louder than its initialisation: features of two images must differ
                torch.nn.init.normal_(weight, std=0.02 if "embedding" in name else 0.2)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    crop = {"height": 48, "width": 48}
    CLIPImageProcessorPil(size={"shortest_edge": 48}, crop_size=crop).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def lpips_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("weights") / "lpips"
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = small_lpips.SmallLpips()
        for weight in model.lins.parameters():
            torch.nn.init.uniform_(weight)
    small_lpips.save(model, folder)
    return folder


@pytest.fixture(scope="session")
def vit() -> VisionTransformer:
    """A tiny ViT of timm's class, which is DINO's: fused projections, norms with an epsilon of 1e-6."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = VisionTransformer(
            img_size=224, patch_size=32, embed_dim=32, depth=3, num_heads=4, mlp_ratio=2, num_classes=0
        )
        for name, weight in model.named_parameters():
            if weight.dim() > 1 and "pos" not in name:  # louder than its initialisation: attention matters
                torch.nn.init.normal_(weight, std=0.2)
    return model.eval()


@pytest.fixture(scope="session")
def vit_folder(tmp_path_factory: pytest.TempPathFactory, vit: VisionTransformer) -> Path:
    """The same weights under the names that the hub's DINO checkpoints have."""
    folder = tmp_path_factory.mktemp("weights") / "vit"
    folder.mkdir()
    config = {
        "model_type": "vit",
        "hidden_size": 32,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "intermediate_size": 64,
        "patch_size": 32,
        "image_size": 224,
        "layer_norm_eps": 1e-12,
    }
    (folder / "config.json").write_text(json.dumps(config))
    renamed = {
        "cls_token": "embeddings.cls_token",
        "pos_embed": "embeddings.position_embeddings",
        "patch_embed.proj": "embeddings.patch_embeddings.projection",
        "blocks.": "encoder.layer.",
        "attn.proj": "attention.output.dense",
        "norm1": "layernorm_before",
        "norm2": "layernorm_after",
        "mlp.fc1": "intermediate.dense",
        "mlp.fc2": "output.dense",
    }
    state = {}
    for key, value in vit.state_dict().items():
        name = key.replace("norm.", "layernorm.") if key.startswith("norm.") else key
        for ours, theirs in renamed.items():
            name = name.replace(ours, theirs)
        if "qkv" in name:
            for kind, part in zip(("query", "key", "value"), value.chunk(3), strict=True):
                state[name.replace("attn.qkv", f"attention.attention.{kind}")] = part.contiguous()
        else:
            state[name] = value
    save_file(state, folder / "model.safetensors")
    return folder


@pytest.fixture
def masked() -> Edits:
    return masked_edits()


@pytest.fixture
def edits() -> Edits:
    return edits_of()
