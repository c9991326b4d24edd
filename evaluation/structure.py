"""Structure distance of an edit from its source image (Tumanyan et al. 2022), as PIE-Bench has it.

PIE-Bench (Ju et al. 2024) takes block 11 of DINO ViT-B/8 (Caron et al. 2021) and pixels of 0 to 255.
"""

import re
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from evaluation.batches import double, in_batches
from evaluation.edits import Edits
from evaluation.metric import Scores
from evaluation.weights import require_files, require_hub, weights_folder

PUBLISHED = "dino-vitb8"
SIDE, LONGEST = 224, 480  # of the resized image: its shorter side, and the limit of the longer one
LAYER_NORM_EPS = 1e-6  # DINO's own; transformers' default, which the hub's configuration may hold, is 1e-12
_REPOSITORY, _WEIGHTS = "facebook/dino-vitb8", ("model.safetensors", "pytorch_model.bin")
_MEAN, _STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]


class StructureDistance:
    """Measure how far an edit's self-similarity is from its source's: 0 means alike.

    The keys of the last self-attention (all heads together, class token included) give a matrix of cosines
    between all places of an image. The distance is the mean squared difference of source's and edit's matrix.
    As published, pixels are 0 to 255 when ImageNet's mean and deviation are applied, and the image is resized
    without antialiasing to a shorter side of 224.

    `backbone` "dino-vitb8" with `pretrained` "facebook" is the published column; "random" takes seeded random
    weights, to try a pipeline, and the column says so. `folder` holds a ViT as transformers saves it: the
    published weights under the published name, or another backbone under its own.
    """

    def __init__(
        self,
        backbone: str = PUBLISHED,
        pretrained: str | None = None,
        folder: str | Path | None = None,
        device: str = "cpu",
        batch_size: int = 8,
    ) -> None:
        if (pretrained is None) == (folder is None):
            raise ValueError(f"pretrained is {pretrained!r} and folder {folder!r}; allowed: just one of them")
        if pretrained not in (None, "facebook", "random"):
            raise ValueError(f"pretrained is {pretrained!r}; allowed: facebook, random")
        if folder is None and backbone != PUBLISHED:
            raise ValueError(f"backbone is {backbone!r}; allowed: {PUBLISHED}, or any name with a folder")
        self.backbone, self.pretrained = backbone, pretrained
        self.folder = None if folder is None else weights_folder(folder)
        self.device, self.batch_size = device, batch_size
        label = "" if backbone == PUBLISHED else "_" + re.sub(r"[^\w.-]+", "-", backbone)
        self.name = f"pie/structure_distance{label}{'_random' if pretrained == 'random' else ''}@1"
        self.names = (self.name,)
        self.higher_is_better: Mapping[str, bool] = {self.name: False}

    def check(self) -> None:
        """Raise in one line if the weights cannot be had."""
        if self.folder is not None:
            require_files(self.name, self.folder, ("config.json",))
            if not (self.folder / _WEIGHTS[1]).exists():
                require_files(self.name, self.folder, _WEIGHTS[:1])
        elif self.pretrained == "facebook":
            require_hub(self.name, _REPOSITORY, _WEIGHTS)

    def load(self) -> None:
        """Load the weights now rather than at the first call."""
        self.model  # noqa: B018

    @cached_property
    def model(self) -> Any:
        """The loaded model."""
        from transformers import ViTConfig, ViTModel

        self.check()
        if self.pretrained == "random":
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(0)
                config = ViTConfig(patch_size=8, layer_norm_eps=LAYER_NORM_EPS)
                model = ViTModel(config, add_pooling_layer=False)
        else:
            source = _REPOSITORY if self.folder is None else self.folder
            options = {"add_pooling_layer": False, "layer_norm_eps": LAYER_NORM_EPS, "dtype": torch.float32}
            model = ViTModel.from_pretrained(source, **options)
        return model.eval().to(self.device)

    @torch.inference_mode()
    def __call__(self, edits: Edits) -> dict[str, Scores]:
        """Score every edit; each source goes through the backbone once."""
        known: dict[int, Tensor] = {}

        def compare(rows: Tensor) -> Tensor:
            nonlocal known
            sources = edits.source_index[rows].tolist()
            new = sorted(set(sources) - set(known))
            fresh = dict(zip(new, self._keys(edits.source_images[new]), strict=True)) if new else {}
            known = {source: (known | fresh)[source] for source in sources}
            pairs = zip(sources, self._keys(edits.images[rows]), strict=True)
            return torch.stack([_distance(known[source], keys).cpu() for source, keys in pairs])

        # Ordered by source, so that a source's keys are kept only while its edits are at hand.
        by_source = edits.source_index.argsort(stable=True)
        distances = torch.empty(len(edits), dtype=torch.float64)
        distances[by_source] = in_batches(compare, by_source, self.batch_size)
        return {self.name: Scores.of(distances)}

    def _keys(self, images: Tensor) -> Tensor:
        """Return the last layer's keys of images (N, 3, H, W), unit vectors (N, 1 + patches, width)."""
        from torchvision.transforms.functional import normalize, resize

        pixels = resize((images * 255).to(self.device), [SIDE], max_size=LONGEST, antialias=False)
        caught: list[Tensor] = []
        handle = self._key_projection.register_forward_hook(lambda module, given, keys: caught.append(keys))
        try:
            self.model(normalize(pixels, _MEAN, _STD), interpolate_pos_encoding=True)
        finally:
            handle.remove()
        return torch.nn.functional.normalize(caught[0], dim=-1)

    @property
    def _key_projection(self) -> torch.nn.Module:
        return [module for name, module in self.model.named_modules() if name.endswith("k_proj")][-1]


def _distance(a: Tensor, b: Tensor) -> Tensor:
    """Return the mean squared difference of the self-similarities of unit keys (places, width)."""
    return double(a @ a.T - b @ b.T).square().mean()
