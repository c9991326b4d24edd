"""Tokenizers of the engine's tests: CLIP's own vocabulary, as open_clip ships it, in transformers' class."""

import gzip
import json
from importlib.util import find_spec
from pathlib import Path

import pytest
from transformers import CLIPTokenizerFast


def _merges() -> list[str]:
    spec = find_spec("open_clip")
    assert spec is not None
    assert spec.origin is not None
    packed = (Path(spec.origin).parent / "bpe_simple_vocab_16e6.txt.gz").read_bytes()
    # The file goes on after CLIP's last merge: 49,408 tokens = 512 bytes + merges + 2.
    return gzip.decompress(packed).decode().split("\n")[1 : 49152 - 256 - 2 + 1]


@pytest.fixture(scope="session")
def clip_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with CLIP's vocab.json and merges.txt."""
    merges = _merges()
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    alphabet = [chr(byte) for byte in printable] + [chr(256 + k) for k in range(256 - len(printable))]
    pieces = [*alphabet, *(c + "</w>" for c in alphabet), *(merge.replace(" ", "") for merge in merges)]
    pieces += ["<|startoftext|>", "<|endoftext|>"]
    assert len(set(pieces)) == 49408
    folder = tmp_path_factory.mktemp("clip_tokenizer")
    (folder / "vocab.json").write_text(json.dumps({piece: k for k, piece in enumerate(pieces)}))
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *merges]))
    return folder


@pytest.fixture(scope="session")
def clip_tokenizer(clip_folder: Path) -> CLIPTokenizerFast:
    """The tokenizer of Stable Diffusion 1.x: 49,408 tokens, 77 positions."""
    return CLIPTokenizerFast.from_pretrained(clip_folder, model_max_length=77)


@pytest.fixture(scope="session")
def short_clip_tokenizer(clip_folder: Path) -> CLIPTokenizerFast:
    """The same vocabulary with 16 positions."""
    return CLIPTokenizerFast.from_pretrained(clip_folder, model_max_length=16)
