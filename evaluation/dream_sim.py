"""DreamSim (Fu et al. 2023): how unlike two pictures look to people, as a vision transformer learned it.

Through the authors' package, version 0.2.1 (`pip install 'p2p-bench[dreamsim]'`); the published weights
themselves were never run by this project.
"""

import importlib.util
import warnings
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from evaluation.batches import in_batches
from evaluation.edits import Edits
from evaluation.metric import Scores
from evaluation.weights import WeightsUnavailable, require_files, require_reachable, weights_folder

BACKBONES = ("open_clip_vitb32", "clip_vitb32")
"""What the package makes of its own files alone. For the others, the ensemble among them, it runs the code
that GitHub has for DINO on that day, or reads a pickle."""
_ADDRESS = (
    "https://github.com/ssundaram21/dreamsim/releases/download/v0.2.0-checkpoints/dreamsim_{}_checkpoint.zip"
)


class DreamSim:
    """Measure the distance of edited images from their source: 1 less a cosine, 0 means alike, at most 2.

    Images are made 224 x 224 by PIL, bicubic, as the package does it, whatever their shape. Without a
    `folder` the weights are the published ones, which the package fetches and unpacks once, beside torch's
    own; a folder holds what such an archive does.
    """

    def __init__(
        self,
        backbone: str = BACKBONES[0],
        folder: str | Path | None = None,
        device: str = "cpu",
        batch_size: int = 32,
    ) -> None:
        if backbone not in BACKBONES:
            raise ValueError(f"backbone is {backbone!r}; allowed: {', '.join(BACKBONES)}")
        self.backbone = backbone
        self.folder = None if folder is None else weights_folder(folder)
        self.device, self.batch_size = device, batch_size
        self.name = f"dreamsim_{backbone}@1"
        self.names = (self.name,)
        self.higher_is_better: Mapping[str, bool] = {self.name: False}

    def check(self) -> None:
        """Raise in one line if the package is not installed or the weights cannot be had."""
        if importlib.util.find_spec("dreamsim") is None:
            raise WeightsUnavailable(
                f"{self.name}: the package dreamsim is not installed; pip install 'p2p-bench[dreamsim]'"
            )
        if self.folder is not None:
            require_files(self.name, self.folder, self._files)
        else:
            files = [self._kept / file for file in self._files]
            missing = next((file for file in files if not file.is_file()), files[-1])
            require_reachable(self.name, _ADDRESS.format(self.backbone), missing)

    def load(self) -> None:
        """Load the weights now rather than at the first call."""
        self.model  # noqa: B018

    @property
    def _files(self) -> tuple[str, str]:
        """What an archive holds: the vision transformer and what people's answers changed in it."""
        return f"{self.backbone}_pretrain.pth.tar", f"{self.backbone}_single_lora/adapter_config.json"

    @property
    def _kept(self) -> Path:
        return self.folder or Path(torch.hub.get_dir()) / "dreamsim" / self.backbone

    @cached_property
    def model(self) -> tuple[Any, Any]:
        """The loaded model, and what makes its input of one of Pillow's pictures."""
        self.check()
        from dreamsim import dreamsim

        self._kept.mkdir(parents=True, exist_ok=True)
        with warnings.catch_warnings():
            # It gives the network its adapters, then reads them into the same ones: equal to 1e-6.
            warnings.filterwarnings("ignore", message="Already found a `peft_config` attribute")
            model, given = dreamsim(
                device=self.device, cache_dir=str(self._kept), dreamsim_type=self.backbone
            )
        return model, given

    def __call__(self, edits: Edits) -> dict[str, Scores]:
        """Score every edit; each source goes through the model once."""
        edit, source = self._features(edits.images), self._features(edits.source_images)
        return {self.name: Scores.of(1 - (edit * source[edits.source_index]).sum(dim=-1))}

    @torch.inference_mode()
    def _features(self, images: Tensor) -> Tensor:
        """Return what the model makes of images (N, 3, H, W): float64 unit vectors (N, D) on the CPU."""
        from torchvision.transforms.functional import to_pil_image

        model, given = self.model

        def encode(rows: Tensor) -> Tensor:
            pictures = (to_pil_image(image) for image in (images[rows] * 255).round().to(torch.uint8))
            pixels = torch.cat([given(picture) for picture in pictures]).to(self.device)
            return torch.nn.functional.normalize(model.embed(pixels).cpu().double(), dim=-1)

        return in_batches(encode, torch.arange(len(images)), self.batch_size)
