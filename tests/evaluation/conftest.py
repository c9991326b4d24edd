"""Tiny models with random weights, in the layout of the shipped ones."""

import json
from pathlib import Path

import open_clip
import pytest
import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from tokenizers.processors import TemplateProcessing
from transformers import PreTrainedTokenizerFast

from evaluation import Edits, small_lpips
from tests.evaluation.pictures import edits_of

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
def lpips_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("weights") / "lpips"
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = small_lpips.SmallLpips()
        for weight in model.lins.parameters():
            torch.nn.init.uniform_(weight)
    small_lpips.save(model, folder)
    return folder


@pytest.fixture
def edits() -> Edits:
    return edits_of()
