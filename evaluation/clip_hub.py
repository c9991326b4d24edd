"""CLIP (Radford et al. 2021) through transformers, as torchmetrics' CLIPScore takes it.

torchmetrics 1.9 itself cannot run on transformers 5, whose features come wrapped in a model output.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from evaluation.encoder import Encoder
from evaluation.weights import Pinned, hub_arguments, require_files, require_hub

CONFIG = "config.json"
PREPROCESSING = ("preprocessor_config.json", "tokenizer_config.json")
_WEIGHTS = ("model.safetensors", "pytorch_model.bin")


def load_hub(
    source: str | Path | Pinned, device: str, batch_size: int, preprocessing: Pinned | None = None
) -> Encoder:
    """Load a CLIP model from a Hugging Face repository or a folder, in float32.

    Preprocessing and tokenizer come from there, too, or from a repository of their own, `preprocessing`.

    Images are resized by PIL (bicubic), as CLIPProcessor did until transformers 4; its present default, on
    tensors, gives other pixels. A prompt that does not fit is refused, where torchmetrics cuts it with a
    warning, the end token included.
    """
    from transformers import CLIPImageProcessorPil, CLIPModel, CLIPTokenizer

    # Since transformers 5 weights stay in the precision that they were saved in, unless it is said.
    model = CLIPModel.from_pretrained(**hub_arguments(source), dtype=torch.float32).eval().to(device)
    processor = CLIPImageProcessorPil.from_pretrained(**hub_arguments(preprocessing or source))
    tokenizer = CLIPTokenizer.from_pretrained(**hub_arguments(preprocessing or source))

    def transform(image: Any) -> Tensor:
        pixels: Tensor = processor(image, return_tensors="pt")["pixel_values"][0]
        return pixels

    def tokens(prompts: Sequence[str], context_length: int) -> Tensor:
        # What stands behind the end token has no effect: attention is causal, the end token's state counts.
        padded = tokenizer(list(prompts), padding="max_length", truncation=True, max_length=context_length)
        return torch.tensor(padded["input_ids"])

    longest = model.config.text_config.max_position_embeddings
    return Encoder(_Projected(model), transform, tokens, longest, device, batch_size)


class _Projected:
    """A transformers CLIP with open_clip's two methods and its scale of cosines."""

    def __init__(self, model: Any) -> None:
        self.model = model

    def encode_image(self, pixels: Tensor) -> Tensor:
        features: Tensor = self.model.get_image_features(pixel_values=pixels).pooler_output
        return features

    def encode_text(self, tokens: Tensor) -> Tensor:
        features: Tensor = self.model.get_text_features(input_ids=tokens).pooler_output
        return features

    @property
    def scale(self) -> float:
        """What the model multiplies cosines by."""
        return float(self.model.logit_scale.detach().double().exp())


def check_hub(name: str, repo: str | Pinned) -> None:
    """Raise if the weights of the repository are neither cached nor reachable."""
    require_hub(name, repo, _WEIGHTS)


def check_hub_folder(name: str, folder: Path) -> None:
    """Raise if the folder lacks configuration, preprocessing, tokenizer or weights."""
    require_files(name, folder, (CONFIG, *PREPROCESSING))
    if not (folder / _WEIGHTS[1]).exists():
        require_files(name, folder, _WEIGHTS[:1])
