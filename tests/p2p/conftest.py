"""What the engine's tests share: a calm tiny model, and CLIP's own vocabulary in transformers' class, as
open_clip ships it.
"""

import copy
import gzip
import json
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from torch import Tensor
from transformers import CLIPTokenizerFast

from p2p import StableDiffusion
from tests.tiny import load_tiny_model, save_tiny_pipeline


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


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny pipeline with all of CLIP's words."""
    return save_tiny_pipeline(tmp_path_factory.mktemp("tiny") / "pipeline")


@pytest.fixture(scope="session")
def tiny_model(tiny_folder: Path) -> StableDiffusion:
    """That pipeline in double precision.

    The fixture of all tests would not do: pytest keeps one value of it, of whichever folder the first test
    to ask for it has, here or elsewhere.
    """
    return load_tiny_model(tiny_folder)


@pytest.fixture(scope="session")
def calm_model(tiny_model: StableDiffusion) -> StableDiffusion:
    """The tiny pipeline with calmer attention: at full strength guidance makes it chaotic."""
    pipeline = copy.deepcopy(tiny_model.pipeline)
    with torch.no_grad():
        for name, parameter in pipeline.unet.named_parameters():
            if "attn" in name and name.endswith(("to_q.weight", "to_k.weight", "to_v.weight")):
                parameter.mul_(0.5)
    return StableDiffusion(pipeline, self_max_side=16, blend_side=16)


@pytest.fixture(scope="session")
def picture() -> Tensor:
    """A smooth image (3, 32, 32) with 8-bit values."""
    x = torch.linspace(0, 1, 32)
    waves = 0.5 + 0.4 * torch.sin(9 * x + x[:, None])
    return (torch.stack([x.expand(32, 32), x[:, None].expand(32, 32), waves]) * 255).round() / 255


@pytest.fixture
def padded_calls(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have a model with `compile` make the calls of a compiled denoiser, without waiting for a compiler."""
    monkeypatch.setattr("p2p.families.model.compiled", lambda network: network)
