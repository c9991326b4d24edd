"""DINO similarity of an edit and its source image: features learned without captions.

As DreamBooth has it (Ruiz et al. 2023): the cosine between the class tokens of DINO ViT-S/16 (Caron et al.
2021), with the preprocessing of MagicBrush's `image_eval.py` (Zhang et al. 2023), DINO's own.
"""

import re
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from evaluation.batches import in_batches
from evaluation.edits import Edits
from evaluation.metric import Scores
from evaluation.structure import LAYER_NORM_EPS
from evaluation.weights import Pinned, hub_arguments, require_files, require_hub, weights_folder

PUBLISHED = {
    "dino-vits16": Pinned("facebook/dino-vits16", "abe3b354cb6a9b6f146096b14a4a9d7eecbcb4bd"),
    "dinov2-base": Pinned("facebook/dinov2-base", "f9e44c814b77203eaa57a6bdbbd535f21ede1415"),
}
_WEIGHTS = ("model.safetensors", "pytorch_model.bin")
_RESIZED, _SIDE = 256, 224  # of the shorter side; of the square in the middle
_MEAN, _STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]


class Dino:
    """Compare edited images with their source by a ViT's class token: a cosine in [-1, 1], 1 means alike.

    `backbone` is a name in PUBLISHED, whose weights are read at one commit, or any name for the model in
    `folder`, a ViT (DINO) or DINOv2 as transformers saves it. The published weights were never run by this
    project. Images are resized by PIL, bicubic, and cut to the square in their middle: what an edit changes
    outside it is not seen.
    """

    def __init__(
        self,
        backbone: str = "dino-vits16",
        folder: str | Path | None = None,
        device: str = "cpu",
        batch_size: int = 32,
    ) -> None:
        if folder is None and backbone not in PUBLISHED:
            raise ValueError(
                f"backbone is {backbone!r}; allowed: {', '.join(PUBLISHED)}, or any name with a folder"
            )
        self.backbone = backbone
        self.folder = None if folder is None else weights_folder(folder)
        self.device, self.batch_size = device, batch_size
        label = re.sub(r"[^\w.-]+", "-", backbone)
        self.name = f"dino_image_{label}@1"
        self.names = (self.name,)
        self.higher_is_better: Mapping[str, bool] = {self.name: True}

    def check(self) -> None:
        """Raise in one line if the weights cannot be had."""
        if self.folder is None:
            require_hub(self.name, PUBLISHED[self.backbone], _WEIGHTS)
        else:
            require_files(self.name, self.folder, ("config.json",))
            if not (self.folder / _WEIGHTS[1]).exists():
                require_files(self.name, self.folder, _WEIGHTS[:1])

    def load(self) -> None:
        """Load the weights now rather than at the first call."""
        self.model  # noqa: B018

    @cached_property
    def model(self) -> Any:
        """The loaded model, in float32."""
        from transformers import AutoConfig, AutoModel

        self.check()
        source = hub_arguments(self.folder or PUBLISHED[self.backbone])
        # DINO's checkpoints have no pooling layer, which would be drawn at random; DINOv2's class has none.
        more = (
            {"add_pooling_layer": False} if AutoConfig.from_pretrained(**source).model_type == "vit" else {}
        )
        model = AutoModel.from_pretrained(
            **source, **more, dtype=torch.float32, layer_norm_eps=LAYER_NORM_EPS
        )
        return model.eval().to(self.device)

    def __call__(self, edits: Edits) -> dict[str, Scores]:
        """Score every edit; each source goes through the model once."""
        edit, source = self._features(edits.images), self._features(edits.source_images)
        return {self.name: Scores.of((edit * source[edits.source_index]).sum(dim=-1))}

    @torch.inference_mode()
    def _features(self, images: Tensor) -> Tensor:
        """Return the class tokens (N, D) of images (N, 3, H, W): float64 unit vectors on the CPU."""
        from torchvision.transforms import InterpolationMode
        from torchvision.transforms.functional import center_crop, normalize, resize, to_pil_image, to_tensor

        def encode(rows: Tensor) -> Tensor:
            pictures = (to_pil_image(image) for image in (images[rows] * 255).round().to(torch.uint8))
            resized = (resize(picture, [_RESIZED], InterpolationMode.BICUBIC) for picture in pictures)
            pixels = torch.stack([to_tensor(center_crop(picture, [_SIDE])) for picture in resized])
            given = normalize(pixels, _MEAN, _STD).to(self.device)
            tokens = self.model(pixel_values=given).last_hidden_state
            return torch.nn.functional.normalize(tokens[:, 0].cpu().double(), dim=-1)

        return in_batches(encode, torch.arange(len(images)), self.batch_size)
