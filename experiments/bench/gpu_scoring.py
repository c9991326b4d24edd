"""CLIP and LPIPS of a group's edits, sources and prompts seen once, against torchmetrics column by column.

Both sides have one network, one preprocessing and one batch size, so that a ratio tells what is shared. What
torchmetrics has no metric for, the directional similarity, is computed from features of its own there.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity

# The public clip_score and LPIPS average over images, clip at 0 and fetch published weights; these do not.
from torchmetrics.functional.image.lpips import _lpips_update, _NoTrainLpips
from torchmetrics.functional.multimodal.clip_score import _clip_score_update
from torchvision.transforms.functional import to_pil_image

from evaluation.clip import Clip
from evaluation.edits import Edits
from evaluation.encoder import Encoder
from evaluation.perceptual import Lpips
from experiments.bench.scoring import Families


def families(device: str, batch_size: int, backbone: str, net: str) -> Families:
    """Return CLIP and LPIPS with random weights, and their columns from torchmetrics."""
    clip = Clip(backbone, "random", None, device, batch_size)
    lpips = Lpips(net, "random", None, device, batch_size)
    clip.load()
    theirs = _NoTrainLpips(net=net, pnet_rand=True)
    weights = lpips.model.state_dict()
    theirs.load_state_dict({k: v for k, v in weights.items() if not k.startswith("scaling_layer")})
    theirs = theirs.to(device)
    return {
        "clip": (clip, lambda edits: _clip(clip.encoder, edits)),
        "lpips": (lpips, lambda edits: _lpips(theirs, device, edits)),
    }


def _clip(encoder: Encoder, edits: Edits) -> Iterator[Tensor]:
    """Yield the four columns of `Clip`."""
    network, processor = _Network(encoder), _Processor(encoder)
    images = edits.images.to(encoder.device)
    sources = edits.source_images[edits.source_index].to(encoder.device)
    before, after = list(edits.source_prompts), list(edits.target_prompts)

    def score(a: Any, b: Any) -> Tensor:
        values: Tensor = _clip_score_update(a, b, network, processor)[0] / 100
        return values

    yield score(images, before)
    yield score(images, after)
    pictures = [_features(network, processor, images=list(some)) for some in (sources, images)]
    words = [_features(network, processor, text=some) for some in (before, after)]
    yield cosine_similarity(pictures[1] - pictures[0], words[1] - words[0])
    yield score(images, sources)


def _features(network: _Network, processor: _Processor, **given: Any) -> Tensor:
    inputs = processor(**given)
    if "pixel_values" in inputs:
        features = network.get_image_features(inputs["pixel_values"])
    else:
        features = network.get_text_features(inputs["input_ids"])
    return features / features.norm(dim=-1, keepdim=True)


def _lpips(network: _NoTrainLpips, device: str, edits: Edits) -> Iterator[Tensor]:
    sources = edits.source_images[edits.source_index].to(device)
    yield _lpips_update(sources, edits.images.to(device), network, normalize=True).flatten()


class _Network:
    """The network as torchmetrics calls one of transformers."""

    config = SimpleNamespace()

    def __init__(self, encoder: Encoder) -> None:
        self.encoder = encoder

    def to(self, device: torch.device) -> _Network:
        """Return the network, which is on its device."""
        return self

    def get_image_features(self, pixel_values: Tensor) -> Tensor:
        """Return features (N, D), not normalised."""
        features: Tensor = self.encoder.model.encode_image(pixel_values.to(self.encoder.device))
        return features

    def get_text_features(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """Return features (N, D), not normalised."""
        features: Tensor = self.encoder.model.encode_text(input_ids.to(self.encoder.device))
        return features


class _Processor:
    """open_clip's preprocessing as torchmetrics calls that of transformers."""

    def __init__(self, encoder: Encoder) -> None:
        self.encoder = encoder

    def __call__(
        self,
        images: Sequence[Tensor] = (),
        text: Sequence[str] = (),
        return_tensors: str = "pt",
        padding: bool = True,
    ) -> Mapping[str, Tensor]:
        """Return the network's inputs for images in [0, 1], or for texts."""
        if images:
            pictures = [(image.cpu() * 255).round().to(torch.uint8) for image in images]
            return {"pixel_values": torch.stack([self.encoder.transform(to_pil_image(p)) for p in pictures])}
        tokens = self.encoder.tokenizer(list(text), context_length=self.encoder.context_length)
        return {"input_ids": tokens, "attention_mask": torch.ones_like(tokens)}
